//! What systemd takes the mount on the target for, and whether it is about to undo it.
//!
//! Where an array that was mounted there went away, systemd stops the mount that stood on it. It looks at the mount table
//! at most five times a second when much is mounted (since 249), so it may do that after the next filesystem is in its
//! place, and goes on unmounting until nothing is there. Only it can say that it has come to rest.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::systemd;
use crate::error::Result;
use crate::exec;
use crate::root::Root;

/// How long systemd may take to see the mount table as it is: a second where much is mounted, longer on a busy host.
const TIME: Duration = Duration::from_secs(15);
/// For one question.
const ANSWER_TIME: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// A mount unit, as systemd says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    /// `active`, `inactive`, `deactivating` ...
    state: String,
    /// What it takes to be mounted, such as `/dev/md0`.
    what: String,
    /// It has something to do with it.
    job: bool,
}

/// Waits until systemd has seen that `source` is mounted on `target`, and has nothing to do with it; a while at most.
/// Whether it is still there then has to be looked at.
pub fn wait_until_seen(root: &Root, target: &str, source: &str) {
    wait(root, target, |view| view.state == "active" && view.what == source);
}

/// Waits until systemd has seen that `source` is not mounted on `target` any more, and has nothing to do with it; a while at
/// most.
pub fn wait_until_gone(root: &Root, target: &str, source: &str) {
    wait(root, target, |view| match view.state.as_str() {
        "active" => view.what != source,
        state => matches!(state, "inactive" | "failed"),
    });
}

fn wait(root: &Root, target: &str, so: impl Fn(&View) -> bool) {
    if !root.is_host() || !systemd::is_running(root) {
        return;
    }
    let Some(systemctl) = exec::find_program(root, "systemctl") else { return };
    let unit = systemd::unit_name_for_path(target);
    let until = Instant::now() + TIME;
    loop {
        match ask(&systemctl, &unit) {
            Ok(view) if !view.job && so(&view) => return,
            Ok(view) if Instant::now() >= until => {
                tracing::warn!("systemd still takes {unit} for {view:?}");
                return;
            }
            Ok(_) => std::thread::sleep(POLL),
            Err(error) => {
                tracing::warn!("systemd does not say what became of {unit}: {error}");
                return;
            }
        }
    }
}

fn ask(systemctl: &Path, unit: &str) -> Result<View> {
    let args = ["show", "--property=ActiveState", "--property=What", "--property=Job", "--", unit];
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let output = exec::run(systemctl, &args, ANSWER_TIME)?.check(systemctl)?;
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines of `NAME=VALUE`; a property that is not set is left out, or 0.
fn parse(text: &str) -> View {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim().to_owned()
    };
    View { state: value("ActiveState"), what: value("What"), job: !matches!(value("Job").as_str(), "" | "0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_says_of_a_mount() {
        let view = parse("Job=4711\nWhat=/dev/md0\nActiveState=deactivating\n");
        assert_eq!(view, View { state: "deactivating".into(), what: "/dev/md0".into(), job: true });
        // Of systemd 219, and of a unit that there is not.
        assert!(!parse("What=tmpfs\nJob=0\nActiveState=active\n").job);
        assert_eq!(parse("ActiveState=inactive\n"), View { state: "inactive".into(), ..View::default() });
    }
}
