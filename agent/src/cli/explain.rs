//! `nvme-agent status --explain`: what a reason code means, from the one table of them.

use anyhow::Result;
use clap::CommandFactory;
use clap::error::ErrorKind;

use super::{Cli, Format, output};
use crate::status::rules::{self, Rule};

/// Prints the row of `code`, or all of them where that is empty. An unknown code is wrong usage.
pub fn run(code: &str, format: Format) -> Result<u8> {
    let rows: Vec<&Rule> = match (code, rules::find(code)) {
        ("", _) => rules::all().collect(),
        (_, Some(rule)) => vec![rule],
        (_, None) => {
            let word: String = code.chars().take(64).collect();
            let (word, nearest) = (word.escape_default(), rules::nearest(code));
            let message = format!(
                "unknown reason code `{word}`; the nearest one is `{nearest}`; --explain without a code lists them all"
            );
            Cli::command().error(ErrorKind::InvalidValue, message).exit()
        }
    };
    match (format, rows.as_slice()) {
        (Format::Json, rows) => output::json(&rows)?,
        (Format::Text, [rule]) => output::text(&page(rule))?,
        (Format::Text, rows) => output::text(&rows.iter().map(|rule| line(rule)).collect::<String>())?,
    }
    Ok(0)
}

fn page(rule: &Rule) -> String {
    let mut text = format!("{} ({})\nmeans   {}\n", rule.code, rule.weight.as_str(), plain(rule.meaning));
    if !rule.next.is_empty() {
        text.push_str(&format!("next    {}\n", plain(rule.next)));
    }
    for command in rule.look.split("; ") {
        text.push_str(&format!("look    {}\n", plain(command)));
    }
    text
}

fn line(rule: &Rule) -> String {
    let first = rule.meaning.split_inclusive(". ").next().unwrap_or_default();
    format!("{:<21} {:<10} {}\n", rule.code, rule.weight.as_str(), plain(first.trim_end()))
}

/// Without the marks that a page of documentation has.
fn plain(text: &str) -> String {
    text.replace('`', "")
}
