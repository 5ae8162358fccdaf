//! Terminals: whether one wants colours, and how much fits on it.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// True where `file` is a terminal that takes escape codes, and nobody wants it without colours: `NO_COLOR`
/// (no-color.org) and `TERM` of the `environment`.
pub fn is_coloured(file: &impl IsTerminal, environment: impl Fn(&str) -> Option<OsString>) -> bool {
    let plain = environment("NO_COLOR").is_some_and(|value| !value.is_empty());
    !plain && takes_codes(file, environment)
}

/// True where `file` is a terminal that takes escape codes.
pub fn takes_codes(file: &impl IsTerminal, environment: impl Fn(&str) -> Option<OsString>) -> bool {
    let dumb = environment("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    !dumb && file.is_terminal()
}

/// Rows and columns of the terminal `file`; none where it does not say, as serial lines do not.
pub fn size(file: impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(file).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row.into(), size.ws_col.into()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::pty::{Winsize, openpty};

    use super::*;

    #[test]
    fn only_a_terminal_that_wants_them_has_colours() {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // Both ends: where one is closed the other is no terminal any more.
        let pair = openpty(&size, None).unwrap();
        let terminal = File::from(pair.slave);
        let file = tempfile::tempfile().unwrap();
        type Environment = [(&'static str, &'static str)];
        let coloured = |file: &File, set: &Environment| {
            is_coloured(file, |name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        let term = ("TERM", "xterm-256color");
        assert!(coloured(&terminal, &[term]) && coloured(&terminal, &[term, ("NO_COLOR", "")]));
        for set in [&[][..], &[("TERM", "dumb")], &[("TERM", "")], &[term, ("NO_COLOR", "1")]] {
            assert!(!coloured(&terminal, set), "{set:?}");
        }
        assert!(!coloured(&file, &[term]));
    }

    #[test]
    fn a_terminal_says_its_size_and_a_file_none() {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        assert_eq!(super::size(&pair.slave), Some((24, 80)));
        let unsized_one = openpty(None, None).unwrap();
        assert_eq!(super::size(&unsized_one.slave), None);
        assert_eq!(super::size(tempfile::tempfile().unwrap()), None);
    }
}
