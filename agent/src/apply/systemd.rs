//! What we ask of systemd, without a child process.
//!
//! SIGHUP makes PID 1 do what `systemctl daemon-reload` does (systemd(1), SIGNALS: "mostly equivalent"; in the source
//! `case SIGHUP` of src/core/manager.c sets the same objective as the bus method Reload, which alone has the rate
//! limit that came with 253). PID 1 ignores it, with a line in the journal, where /run is nearly full.
//!
//! Done is told by `/run/systemd/systemd-units-load`: manager_ready() touches it as its last act (247 and later), with
//! the time at which loading the units began, so that a reload which had begun before ours does not pass for it.
//! Where there is no such file, by the directory of generator output being made anew and then left alone.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::root::Root;

const LOADED_MARK: &str = "/run/systemd/systemd-units-load";
const GENERATED: &str = "/run/systemd/generator";
/// How long a reload may take: it runs every generator and reads every unit, while the machine boots. A second or two;
/// 54 s were seen on a host with ten times more work than processors, and a node is not degraded for being slow.
pub const RELOAD_TIME: Duration = Duration::from_secs(75);
/// A clock that is set back meanwhile makes the mark look older than our request: then any change counts.
const CLOCK_GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// A reload that was asked for.
#[derive(Debug)]
#[must_use]
pub struct Reload {
    root: Root,
    asked: Instant,
    /// Seconds and nanoseconds since the epoch.
    asked_at: (i64, i64),
    before: Mark,
}

/// What changes when a reload is done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// mtime (seconds, nanoseconds), ctime, inode of [`LOADED_MARK`].
    Loaded { mtime: (i64, i64), ctime: (i64, i64), ino: u64 },
    /// Inode and ctime of [`GENERATED`], whose absence is a state too.
    Generated(Option<(u64, i64, i64)>),
}

fn mark(root: &Root) -> Mark {
    if let Ok(m) = std::fs::metadata(root.join(LOADED_MARK)) {
        return Mark::Loaded {
            mtime: (m.mtime(), m.mtime_nsec()),
            ctime: (m.ctime(), m.ctime_nsec()),
            ino: m.ino(),
        };
    }
    let generated = std::fs::metadata(root.join(GENERATED)).ok();
    Mark::Generated(generated.map(|m| (m.ino(), m.ctime(), m.ctime_nsec())))
}

/// True where systemd is PID 1 of this machine.
pub fn is_running(root: &Root) -> bool {
    // As sd_booted(3) says; the name, since a container may be given the directory.
    root.join("/run/systemd/system").is_dir()
        && std::fs::read_to_string(root.join("/proc/1/comm")).is_ok_and(|comm| comm.trim() == "systemd")
}

/// Asks PID 1 to read its configuration and fstab again; nothing happens and none is returned where that is not
/// systemd, or `root` is not this machine.
///
/// # Errors
/// Where the signal cannot be sent.
pub fn request_reload(root: &Root) -> Result<Option<Reload>> {
    if !root.is_host() || !is_running(root) {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let asked_at = (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), i64::from(now.subsec_nanos()));
    let reload = Reload { root: root.clone(), asked: Instant::now(), asked_at, before: mark(root) };
    kill(Pid::from_raw(1), Signal::SIGHUP).map_err(Error::io("/proc/1", "send SIGHUP (daemon-reload) to"))?;
    Ok(Some(reload))
}

/// Asks for a reload and waits for it.
///
/// # Errors
/// As [`request_reload`] and [`Reload::wait`].
pub fn reload(root: &Root) -> Result<()> {
    match request_reload(root)? {
        Some(reload) => reload.wait(RELOAD_TIME),
        None => Ok(()),
    }
}

impl Reload {
    /// Waits until the reload is done.
    ///
    /// # Errors
    /// Where it is not within `deadline`.
    pub fn wait(self, deadline: Duration) -> Result<()> {
        let mut settled: Option<(Mark, Instant)> = None;
        while self.asked.elapsed() < deadline {
            let now = mark(&self.root);
            if now != self.before {
                match &now {
                    Mark::Loaded { mtime, .. } => {
                        // touch_file() keeps microseconds only.
                        let asked_us = (self.asked_at.0, self.asked_at.1 / 1000 * 1000);
                        if *mtime >= asked_us || self.asked.elapsed() > CLOCK_GRACE {
                            return Ok(());
                        }
                    }
                    Mark::Generated(None) => {}
                    // The generators write one after the other; the units are read after them.
                    Mark::Generated(Some(_)) => match &settled {
                        Some((seen, since)) if *seen == now => {
                            if since.elapsed() > Duration::from_millis(300) {
                                return Ok(());
                            }
                        }
                        _ => settled = Some((now, Instant::now())),
                    },
                }
            }
            sleep(POLL);
        }
        Err(Error::Other(format!(
            "systemd did not reload its configuration within {} s of SIGHUP (is /run full?); \
             `systemctl daemon-reload` makes it read fstab again",
            deadline.as_secs()
        )))
    }
}

/// The unit that mounts `path`: `/opt/data` is `opt-data.mount`, `/` is `-.mount`.
///
/// Escaping as in systemd.unit(5): slashes at the ends go, repeated ones count once, `/` becomes `-`, and all but
/// letters, digits, `:`, `_` and `.` (not first) becomes `\xNN`.
pub fn unit_name_for_path(path: impl AsRef<Path>) -> String {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_ref().as_os_str().as_bytes();
    let parts: Vec<&[u8]> = bytes.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    if parts.is_empty() {
        return "-.mount".into();
    }
    let mut name = String::new();
    for (at, byte) in parts.join(&b'/').into_iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at > 0 => name.push('.'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' => name.push(char::from(byte)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name + ".mount"
}

/// Where systemd's fstab generator puts the unit for `target`.
pub fn generated_unit(root: &Root, target: &str) -> PathBuf {
    root.join(GENERATED).join(unit_name_for_path(target))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_are_escaped_as_systemd_does() {
        // Expected values are what `systemd-escape --path --suffix=mount` prints (systemd 252).
        for (path, unit) in [
            ("/tmp", "tmp.mount"),
            ("/opt/data", "opt-data.mount"),
            ("/opt/data/", "opt-data.mount"),
            ("//opt//data", "opt-data.mount"),
            ("/", "-.mount"),
            ("/mnt/my-disk", r"mnt-my\x2ddisk.mount"),
            ("/.hidden/a.b", r"\x2ehidden-a.b.mount"),
            ("/mnt/a b", r"mnt-a\x20b.mount"),
            ("/mnt/a_b:c", "mnt-a_b:c.mount"),
            ("/mnt/ü", r"mnt-\xc3\xbc.mount"),
            (r"/mnt/a\b", r"mnt-a\x5cb.mount"),
        ] {
            assert_eq!(unit_name_for_path(path), unit, "{path}");
        }
    }

    fn fixture() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(dir.path().join("run/systemd/system")).unwrap();
        std::fs::create_dir_all(dir.path().join("proc/1")).unwrap();
        std::fs::write(dir.path().join("proc/1/comm"), "systemd\n").unwrap();
        (dir, root)
    }

    fn asked(root: &Root) -> Reload {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Reload {
            root: root.clone(),
            asked: Instant::now(),
            asked_at: (now.as_secs() as i64, i64::from(now.subsec_nanos())),
            before: mark(root),
        }
    }

    #[test]
    fn no_signal_is_sent_for_another_root_or_another_init() {
        let (dir, root) = fixture();
        assert!(is_running(&root));
        assert!(request_reload(&root).unwrap().is_none());
        std::fs::write(dir.path().join("proc/1/comm"), "init\n").unwrap();
        assert!(!is_running(&root));
    }

    #[test]
    fn a_reload_is_done_when_the_units_were_loaded_after_the_request() {
        let (dir, root) = fixture();
        let file = dir.path().join("run/systemd/systemd-units-load");
        std::fs::write(&file, "").unwrap();
        // Nothing happens: the error names the remedy.
        let error = asked(&root).wait(Duration::from_millis(60)).unwrap_err().to_string();
        assert!(error.contains("systemctl daemon-reload"), "{error}");
        // A reload that began before the request ends after it: not ours.
        let reload = asked(&root);
        let touch = |at: SystemTime| {
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
        };
        touch(SystemTime::now() - Duration::from_secs(1));
        reload.wait(Duration::from_millis(60)).unwrap_err();
        // Ours.
        let reload = asked(&root);
        touch(SystemTime::now());
        reload.wait(Duration::from_secs(5)).unwrap();
        // The clock was set back.
        let reload = asked(&root);
        touch(SystemTime::now() - Duration::from_secs(3600));
        let started = Instant::now();
        reload.wait(Duration::from_secs(5)).unwrap();
        assert!(started.elapsed() >= CLOCK_GRACE);
    }

    #[test]
    fn before_247_new_generator_output_that_stays_as_it_is_means_done() {
        let (dir, root) = fixture();
        let generated = dir.path().join("run/systemd/generator");
        std::fs::create_dir(&generated).unwrap();
        let reload = asked(&root);
        std::fs::remove_dir(&generated).unwrap();
        std::fs::create_dir(&generated).unwrap();
        std::fs::write(generated.join("tmp.mount"), "").unwrap();
        reload.wait(Duration::from_secs(5)).unwrap();
        assert_eq!(generated_unit(&root, "/tmp"), generated.join("tmp.mount"));
    }
}
