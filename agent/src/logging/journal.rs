//! journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), on a socket that never blocks.
//!
//! Not the crate tracing-journald: its socket blocks. systemd listens on journald's socket long before journald
//! reads from it, and a journald that hangs keeps its queue full; at boot that would hang us, and the node.

use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::Level;

use super::layer::{Fields, word};
use super::line_to_stderr;

/// systemd's path of the socket.
pub const SOCKET_PATH: &str = "/run/systemd/journal/socket";
/// How long a process waits for a full queue, in all. Then it does without the journal.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longer values are cut, so that a datagram stays below the usual net.core.wmem_default of 208 KiB. In bytes.
const MAX_VALUE: usize = 16 << 10;

pub struct Journal {
    socket: UnixDatagram,
    path: &'static str,
    patience: Mutex<Duration>,
    /// Where the journal does not take a record: stderr, unless that is the journal too.
    fall_back: bool,
}

impl Journal {
    /// None where nobody listens on journald's socket.
    pub fn connect(fall_back: bool) -> Option<Journal> {
        Journal::at(SOCKET_PATH, fall_back)
    }

    fn at(path: &'static str, fall_back: bool) -> Option<Journal> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        // journald discards an empty datagram; a full queue (EAGAIN) means that it will be there.
        match socket.send_to(&[], path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        Some(Journal { socket, path, patience: Mutex::new(PATIENCE), fall_back })
    }

    /// Hands a record to journald, or gives it up.
    pub fn send(&self, level: Level, fields: &Fields) {
        if self.deliver(&record(level, fields)).is_err() && self.fall_back {
            line_to_stderr(word(level), &fields.text());
        }
    }

    fn deliver(&self, record: &[u8]) -> std::io::Result<()> {
        let mut patience = self.patience.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            match self.socket.send_to(record, self.path) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !patience.is_zero() => {
                    let start = Instant::now();
                    std::thread::sleep(Duration::from_millis(5));
                    *patience = patience.saturating_sub(start.elapsed());
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// A record: `MESSAGE` with the fields in words, `PRIORITY`, and each field by itself, such as `STEP`, `DEVICE`,
/// `SERIAL`, `DURATION_MS`.
fn record(level: Level, fields: &Fields) -> Vec<u8> {
    // Priorities of syslog(3).
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    let mut record = Vec::with_capacity(512);
    put(&mut record, "SYSLOG_IDENTIFIER", "nvme-agent");
    put(&mut record, "PRIORITY", priority);
    put(&mut record, "MESSAGE", &fields.text());
    for (name, value) in &fields.pairs {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .take(64)
            .collect();
        // journald drops names that start otherwise; and a field must not pass for one of those above.
        let name = name.trim_start_matches(|c: char| !c.is_ascii_uppercase());
        if !name.is_empty() && !matches!(name, "SYSLOG_IDENTIFIER" | "PRIORITY" | "MESSAGE") {
            put(&mut record, name, value);
        }
    }
    record
}

fn put(record: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(MAX_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = &value.as_bytes()[..end];
    record.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        record.push(b'\n');
        record.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        record.push(b'=');
    }
    record.extend_from_slice(value);
    record.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (tempfile::TempDir, &'static str, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let path: &'static str = dir.path().join("socket").to_string_lossy().into_owned().leak();
        let listener = UnixDatagram::bind(path).unwrap();
        (dir, path, listener)
    }

    #[test]
    fn fields_arrive_by_name_and_in_the_message() {
        let (_dir, path, listener) = listener();
        let journal = Journal::at(path, false).unwrap();
        let fields = Fields {
            message: "made it".into(),
            pairs: vec![
                ("step", "make-filesystem".into()),
                ("duration_ms", "12".into()),
                ("output", "a\nb".into()),
            ],
        };
        journal.send(Level::INFO, &fields);
        let mut buffer = [0; 4096];
        assert_eq!(listener.recv(&mut buffer).unwrap(), 0, "the probe");
        let n = listener.recv(&mut buffer).unwrap();
        let mut expected = b"SYSLOG_IDENTIFIER=nvme-agent\nPRIORITY=6\nMESSAGE\n".to_vec();
        let message = "made it (step=make-filesystem, duration_ms=12, output=a\nb)";
        expected.extend((message.len() as u64).to_le_bytes());
        expected.extend(message.as_bytes());
        expected.extend(b"\nSTEP=make-filesystem\nDURATION_MS=12\nOUTPUT\n\x03\0\0\0\0\0\0\0a\nb\n");
        assert_eq!(String::from_utf8_lossy(&buffer[..n]), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn a_journald_that_does_not_read_costs_half_a_second_and_no_more() {
        let (_dir, path, _listener) = listener();
        let journal = Journal::at(path, false).unwrap();
        let fields = Fields { message: "x".into(), pairs: Vec::new() };
        let start = Instant::now();
        for _ in 0..2000 {
            journal.send(Level::INFO, &fields);
        }
        assert!(journal.deliver(b"MESSAGE=x\n").is_err(), "the queue is full");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[test]
    fn no_listener_no_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path: &'static str = dir.path().join("socket").to_string_lossy().into_owned().leak();
        assert!(Journal::at(path, true).is_none());
        drop(UnixDatagram::bind(path).unwrap());
        assert!(Journal::at(path, true).is_none(), "a socket that nobody listens on");
    }

    #[test]
    fn a_field_cannot_pass_for_the_message_or_for_a_trusted_field() {
        let fields = Fields {
            message: "m".into(),
            pairs: vec![("priority", "0".into()), ("_pid", "1".into()), ("a.b", "c".into())],
        };
        let text = String::from_utf8(record(Level::ERROR, &fields)).unwrap();
        assert!(text.contains("\nPID=1\nA_B=c\n") && !text.contains("PRIORITY=0"), "{text}");
        assert!(!text.contains("\n_"), "{text}");
    }
}
