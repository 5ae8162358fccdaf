//! A transcript as an SVG picture of a terminal, for the README: no script, no font of its own, nothing fetched, so that a
//! repository's page shows it.

use std::fmt::Write as _;

use super::transcript::{Kind, Line};

/// Pixels of a character at the font size below, in the usual monospace fonts.
const CHARACTER: f64 = 7.83;
const FONT_SIZE: u32 = 13;
const LINE: usize = 18;
const MARGIN: usize = 16;
const BAR: usize = 34;
/// Longer lines are cut: a picture does not wrap.
const COLUMNS: usize = 116;

/// Draws it.
pub fn render(title: &str, lines: &[Line]) -> String {
    let columns = lines.iter().map(|line| line.text.chars().count()).max().unwrap_or(0).clamp(60, COLUMNS);
    let width = (columns as f64 * CHARACTER) as usize + 2 * MARGIN;
    let height = BAR + lines.len() * LINE + MARGIN;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">
<rect width="{width}" height="{height}" rx="8" fill="#14181f"/>
<circle cx="20" cy="17" r="5" fill="#e0605a"/><circle cx="38" cy="17" r="5" fill="#dfb44a"/><circle cx="56" cy="17" r="5" fill="#5cb86a"/>
<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace" font-size="{FONT_SIZE}" xml:space="preserve">
<text x="{middle}" y="21" fill="#8b94a3" text-anchor="middle">{title}</text>
"##,
        title = escape(title),
        middle = width / 2,
    );
    for (row, line) in lines.iter().enumerate() {
        let text = cut(&line.text);
        if text.is_empty() {
            continue;
        }
        let (colour, weight) = style(line.kind);
        let _ = writeln!(
            svg,
            // The length makes columns line up whatever font the reader has.
            r#"<text x="{MARGIN}" y="{y}" fill="{colour}"{weight} textLength="{length:.0}" lengthAdjust="spacingAndGlyphs">{text}</text>"#,
            y = BAR + row * LINE + FONT_SIZE as usize,
            length = text.chars().count() as f64 * CHARACTER,
            text = escape(&text),
        );
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn style(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Heading => ("#6fc3df", r#" font-weight="bold""#),
        Kind::Command => ("#ffffff", r#" font-weight="bold""#),
        Kind::Output => ("#c8cfda", ""),
        Kind::Good => ("#7fd18b", ""),
        Kind::Bad => ("#f07a74", r#" font-weight="bold""#),
        Kind::Event => ("#8b94a3", ""),
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= COLUMNS {
        return text.to_owned();
    }
    text.chars().take(COLUMNS - 3).chain("...".chars()).collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Two spaces in a row are one in a reader that does not know xml:space.
            ' ' => escaped.push('\u{a0}'),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_cut() {
        let lines = [
            Line { kind: Kind::Command, text: "# echo \"a <b> & c\" \x1b".into() },
            Line { kind: Kind::Output, text: String::new() },
            Line { kind: Kind::Output, text: "x".repeat(300) },
        ];
        let svg = render("demo", &lines);
        assert!(
            svg.contains("#\u{a0}echo\u{a0}&quot;a\u{a0}&lt;b&gt;\u{a0}&amp;\u{a0}c&quot;\u{a0}</text>"),
            "{svg}"
        );
        assert!(svg.contains(&format!("{}...</text>", "x".repeat(COLUMNS - 3))), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), 3, "the title and two lines; an empty one needs none");
    }
}
