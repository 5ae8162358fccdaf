//! What a person sees of bytes that went to a terminal: a line that erases itself is gone, and what systemd writes over is, too.

/// The lines that a terminal shows after these bytes; the last is the one that waits for more. It knows of escape codes what
/// systemd and the agent use: one line up (RI), and erase to the end of the line (EL). It is as wide as need be.
pub fn shown(bytes: &str) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut rest = bytes.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => column = 0,
            '\n' => {
                (row, column) = (row + 1, 0);
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\u{1b}' => match rest.next() {
                Some('M') => row = row.saturating_sub(1),
                Some('[') => {
                    // Parameters, then a letter.
                    let letter = rest.by_ref().find(|c| ('@'..='~').contains(c));
                    if letter == Some('K') {
                        lines[row].truncate(column);
                    }
                }
                // A text for the terminal itself, such as a title.
                Some(']') => {
                    let _ = rest.by_ref().find(|c| matches!(c, '\u{7}' | '\\'));
                }
                _ => {}
            },
            c => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    lines.into_iter().map(String::from_iter).collect()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn what_is_written_over_or_erased_is_gone() {
        assert_eq!(shown(""), [""]);
        assert_eq!(shown("one\r\ntwo"), ["one", "two"]);
        assert_eq!(shown("\r\u{1b}[Kstep 1\r\u{1b}[Kstep 2\r\u{1b}[Kdone\r\n"), ["done", ""]);
        assert_eq!(shown("\u{1b}[0;32m OK \u{1b}[0m\u{1b}]0;title\u{7}.\r\n"), [" OK .", ""]);
        // As systemd has a line of its own make way, or, where another has come between, that one.
        let running = "Job a.service/start running\r\n";
        assert_eq!(shown(&format!("{running}\u{1b}M\r\u{1b}[KFailed\r\n\u{1b}[K")), ["Failed", ""]);
        assert_eq!(
            shown(&format!("{running}other\r\n\u{1b}M\r\u{1b}[KFailed\r\n\u{1b}[K")),
            ["Job a.service/start running", "Failed", ""]
        );
    }
}
