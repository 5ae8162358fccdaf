//! A failed setup's one line on the machine's console: a node that is gone within half a minute can still be read by
//! `aws ec2 get-console-output`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::ioctl::apart;
use crate::logging::one_line;
use crate::root::Root;
use crate::state::Trigger;
use crate::status::{Verdict, rules};

const CONSOLE_PATH: &str = "/dev/console";
/// Longest line, in characters, its end not counted.
const LINE: usize = 300;
/// Of it, for what to do next.
const NEXT: usize = 100;
/// How long a console may be full: a serial line takes some 11 characters a millisecond.
const ROOM_TIME: Duration = Duration::from_millis(500);
/// How long we wait for it all. Closing a serial line waits until it is sent, up to 30 s (`closing_wait`, setserial(8)).
const PATIENCE: Duration = Duration::from_secs(1);

/// Says why a setup that nobody watches has failed; nothing where somebody does, or under another root. What does not work
/// there is not worth a warning: the journal and the state file say it all.
pub(crate) fn tell(root: &Root, trigger: Trigger, error: &Error) {
    if root.is_host() && trigger != Trigger::Hand {
        let told = write(&root.join(CONSOLE_PATH), &line(error));
        if let Err(error) = told {
            tracing::debug!("the console was not told: {error}");
        }
    }
}

/// `nvme-agent: setup failed (Reason): message; next`, printable ASCII.
fn line(error: &Error) -> String {
    let reason = error.reason();
    let (message, next) = match error {
        Error::Refused(refusal) => (refusal.found.join("; "), refusal.next.clone()),
        other => (other.to_string(), rules::next(&reason, Verdict::Failed).unwrap_or_default()),
    };
    let head = format!("nvme-agent: setup failed ({}): ", one_line(&reason));
    let next = cut(one_line(&next), NEXT);
    let room = LINE.saturating_sub(head.len() + "; ".len() + next.len());
    let message = cut(one_line(&message).trim_end_matches('.').to_owned(), room);
    cut(format!("{head}{message}; {next}"), LINE)
}

/// ASCII of at most `limit` characters, dots in the place of what is left out.
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(limit.saturating_sub(3));
        text.push_str("...");
    }
    text
}

/// The line between empty ones. What comes before may be a prompt, or half a line. What comes after may be systemd's: where its
/// last line was about what it waits for, its next goes up by one and erases whatever has come between (`status_vprintf`),
/// and whoever prints the log on a terminal would not see ours.
fn alone(line: &str) -> String {
    format!("\n{line}\n\n")
}

/// Writes the line by a child, which is left behind where the console does not take it.
fn write(console: &Path, line: &str) -> Result<()> {
    let failed = |source: io::Error| Error::io(console, "write")(source);
    let text = alone(line);
    let child = apart::start(|answer| {
        let errno =
            print(console, &text).map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
        let _ = answer.write_all(&errno.to_le_bytes());
    })
    .map_err(failed)?;
    let mut errno = [0; 4];
    let answers = {
        let mut files = [PollFd::new(child.answer.as_fd(), PollFlags::POLLIN)];
        let millis = u16::try_from(PATIENCE.as_millis()).unwrap_or(u16::MAX);
        poll(&mut files, PollTimeout::from(millis)).is_ok_and(|ready| ready > 0)
    };
    let said = answers && File::from(child.answer).read_exact(&mut errno).is_ok();
    apart::end(child.pid);
    match i32::from_le_bytes(errno) {
        0 if said => Ok(()),
        0 => Err(failed(ErrorKind::TimedOut.into())),
        errno => Err(failed(io::Error::from_raw_os_error(errno))),
    }
}

/// In the child. The console must not become its controlling terminal, and may be gone, full or stopped.
fn print(console: &Path, text: &str) -> io::Result<()> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = OpenOptions::new().write(true).custom_flags(flags).open(console)?;
    let (mut rest, begun) = (text.as_bytes(), Instant::now());
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < ROOM_TIME => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::plan::{Reason, Refusal};

    fn refusal(found: &str) -> Error {
        let next = "Give --wipe-foreign to lose it all, or take the drive out of [match].".into();
        Error::Refused(Refusal { reason: Reason::ForeignData, found: vec![found.into()], next })
    }

    #[test]
    fn the_line_has_reason_message_and_what_to_do_and_fits() {
        assert_eq!(
            line(&refusal("/dev/nvme1n1: ntfs")),
            "nvme-agent: setup failed (ForeignData): /dev/nvme1n1: ntfs; Give --wipe-foreign to lose it all, or take the \
             drive out of [match]."
        );
        let step =
            Error::Step { step: "make-filesystem", cause: Box::new(Error::Other("it said no.".into())) };
        let said = line(&step);
        let expected =
            "nvme-agent: setup failed (MakeFilesystemFailed): step make-filesystem failed: it said no; ";
        let next = said.strip_prefix(expected).unwrap_or_else(|| panic!("{said}"));
        let whole = rules::find("MakeFilesystemFailed").unwrap().next;
        assert!(next.len() > 40 && whole.starts_with(next.trim_end_matches("...")), "{next}");
        let long = "\u{e4} \u{1b}[31m\n".repeat(200);
        for error in [refusal(&long), Error::Config(long.clone()), Error::Other(long)] {
            let line = line(&error);
            assert!(line.len() <= LINE && line.chars().all(|c| matches!(c, ' '..='~')), "{line}");
            assert!(line.contains("...; "), "{line}");
        }
    }

    #[test]
    fn a_console_that_takes_it_has_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console");
        fs::write(&console, "").unwrap();
        write(&console, "nvme-agent: setup failed").unwrap();
        assert_eq!(fs::read_to_string(&console).unwrap(), "\nnvme-agent: setup failed\n\n");
    }

    #[test]
    fn a_console_that_is_none_or_takes_nothing_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, missing) = (dir.path().join("fifo"), dir.path().join("missing"));
        assert!(write(&missing, "x").is_err() && !missing.exists());
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let begun = Instant::now();
        let error = write(&fifo, "x").unwrap_err().to_string();
        assert!(error.contains("fifo: cannot write"), "nobody reads: {error}");
        // Somebody who could read has it open, and it is full.
        let mut reader =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        while reader.write(&[b'x'; 4096]).is_ok() {}
        assert!(write(&fifo, "x").is_err());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        // And then has room.
        let mut text = vec![0; 1 << 20];
        while reader.read(&mut text).is_ok() {}
        write(&fifo, "there").unwrap();
        let n = reader.read(&mut text).unwrap();
        assert_eq!(&text[..n], b"\nthere\n\n");
    }

    #[test]
    fn nobody_is_told_of_another_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dev")).unwrap();
        let console = dir.path().join("dev/console");
        fs::write(&console, "").unwrap();
        for trigger in [Trigger::Boot, Trigger::UserData, Trigger::Hand] {
            tell(&Root::new(dir.path()), trigger, &refusal("x"));
        }
        assert_eq!(fs::read_to_string(&console).unwrap(), "");
    }
}
