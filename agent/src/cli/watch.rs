//! `nvme-agent status --watch`: the screen drawn anew every few seconds, on a terminal, until interrupted.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::status::Report;
use crate::terminal;

/// To the first place of the terminal, what is there stays (ECMA-48, CUP).
const HOME: &str = "\x1b[H";
/// What is left of the line, and with it of the screen (EL, ED).
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Where the terminal does not say: what terminals had.
const SIZE: (usize, usize) = (24, 80);

/// Looks and draws again and again. Nothing of the terminal's is changed but what it shows, so that whoever interrupts it
/// finds it as it was.
///
/// # Errors
/// The terminal has gone.
pub fn watch(every: Duration, look: impl Fn() -> Report) -> Result<u8> {
    let stdout = std::io::stdout();
    let colour = terminal::is_coloured(&stdout, |name| std::env::var_os(name));
    loop {
        let report = look();
        let foot = format!("looked at {}, again every {} s until Ctrl-C", report.time, every.as_secs());
        let frame = frame(&report.screen(colour), &foot, terminal::size(&stdout).unwrap_or(SIZE));
        let mut out = stdout.lock();
        out.write_all(frame.as_bytes())
            .and_then(|()| out.flush())
            .context("stdout: cannot draw on the terminal")?;
        drop(out);
        std::thread::sleep(every);
    }
}

/// `text` from the top of a terminal of `rows` and `columns`, the first lines where not all have room, then `foot`. Each
/// line takes the place of what was there: a terminal that is cleared first flickers.
fn frame(text: &str, foot: &str, (rows, columns): (usize, usize)) -> String {
    // The foot, and the line below it that the cursor is left on.
    let mut room = rows.saturating_sub(1 + foot.len().div_ceil(columns));
    let mut frame = HOME.to_owned();
    for line in text.lines() {
        let takes = width(line).div_ceil(columns).max(1);
        if takes > room {
            break;
        }
        room -= takes;
        frame.push_str(line);
        frame.push_str(CLEAR_LINE);
        frame.push('\n');
    }
    // It ends with its last line: stdout would write what comes after it by itself, and Ctrl-C come between.
    frame + foot + CLEAR_BELOW + "\n"
}

/// In columns: all but escape codes, which end in `m` here.
fn width(line: &str) -> usize {
    let mut pieces = line.split('\x1b');
    let first = pieces.next().map_or(0, str::len);
    first + pieces.map(|piece| piece.split_once('m').map_or(0, |(_, rest)| rest.len())).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_left_out_from_the_end() {
        let text = "\u{1b}[31mfailed\u{1b}[0m (X)\n0123456789ab\nthird\nfourth\n";
        let lines = |rows| frame(text, "foot", (rows, 10)).matches('\n').count();
        assert_eq!(width("\u{1b}[31mfailed\u{1b}[0m (X)"), 10);
        // The second takes two rows; the foot and the cursor one each.
        assert_eq!([20, 7, 6, 5, 4, 3, 2].map(lines), [5, 5, 4, 3, 2, 2, 1]);
        let all = frame(text, "foot", (20, 10));
        assert!(
            all.starts_with("\u{1b}[H\u{1b}[31mfailed\u{1b}[0m (X)\u{1b}[K\n")
                && all.ends_with("foot\u{1b}[J\n"),
            "{all:?}"
        );
    }
}
