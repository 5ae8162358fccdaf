//! Results on stdout: printable ASCII, no escape codes, and no complaint when the reader has gone.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::logging::ascii;
use crate::status::Report;
use crate::terminal;

/// Prints text. A reader that left (`status | head`) is no error.
pub fn text(text: &str) -> Result<()> {
    write(&ascii(text))
}

fn write(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("stdout: cannot write the result"),
    }
}

/// Prints the report for people, in colours where stdout is a terminal that wants them.
pub fn screen(report: &Report) -> Result<()> {
    let colour = terminal::is_coloured(&std::io::stdout(), |name| std::env::var_os(name));
    // Printable ASCII by itself, and else the codes of the colours.
    write(&report.screen(colour))
}

/// Prints a value as JSON, one line feed at its end.
pub fn json(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
    // Beyond ASCII only strings have anything, and there JSON knows an escape.
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        match c {
            '\n' | ' '..='~' => text.push(c),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    text.push('\n');
    self::text(&text)
}
