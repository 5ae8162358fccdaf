//! What the Node was last told, `/run/nvme-agent/reported.json`: a tick that would say the same asks nobody.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::diff::HEARTBEAT;
use super::wording::Wording;
use crate::error::{Error, Result};
use crate::node::Readiness;
use crate::persist::atomic;
use crate::root::Root;
use crate::state::State;

/// Where it is. On a tmpfs: after a boot the Node is read anyway, since kubelet may have registered it anew.
pub const MEMORY_PATH: &str = "/run/nvme-agent/reported.json";
/// The same, of whatever boot: what outlives a boot is what the Node was told in it, until it is told something else.
/// Written only where that changes.
pub const LASTING_PATH: &str = "/var/lib/nvme-agent/reported.json";
/// Format of the file.
const VERSION: u32 = 1;
/// After this the Node is read again, in seconds: somebody may have changed or recreated it, and the heartbeat is due.
const READ_AGAIN: i64 = HEARTBEAT.as_secs() as i64;
/// Ours has 2 or 3 KiB; a larger one is not ours. In bytes.
const MAX_FILE: u64 = 64 << 10;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    version: u32,
    pub node: String,
    /// The Node's UID when it was read.
    pub uid: String,
    /// Which run of kubelet there was then, see [`super::kubelet`]; empty where there was none.
    pub kubelet: String,
    pub boot_id: String,
    pub state: String,
    pub reason: String,
    /// Since when this state and reason hold, RFC 3339.
    pub since: String,
    /// When the Node was read, in seconds since 1970.
    pub read: i64,
    /// The heartbeat of its condition then, in seconds since 1970.
    pub beat: i64,
    /// When what it says was last changed by us, RFC 3339; empty where it never was.
    pub changed: String,
    /// Under which keys.
    pub wording: Wording,
    /// All that it was told, to compare with.
    words: String,
}

impl Memory {
    /// What `node` says now: `state`, told by `readiness`.
    pub fn new(node: &str, uid: &str, state: &State, readiness: &Readiness, read: Duration) -> Memory {
        Memory {
            version: VERSION,
            node: node.into(),
            uid: uid.into(),
            kubelet: String::new(),
            boot_id: state.boot_id.clone(),
            state: state.state.as_str().into(),
            reason: state.reason.clone(),
            since: state.since.clone(),
            read: i64::try_from(read.as_secs()).unwrap_or(i64::MAX),
            beat: i64::try_from(read.as_secs()).unwrap_or(i64::MAX),
            changed: String::new(),
            wording: Wording::default(),
            words: words(readiness),
        }
    }

    /// The memory at `path`; none where there is none, or none that is ours: then the Node is read.
    pub fn load(path: &Path) -> Option<Memory> {
        let mut bytes = Vec::new();
        atomic::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice::<Memory>(&bytes).ok().filter(|memory| memory.version == VERSION)
    }

    /// What the Node was told last, in this boot or an earlier one; none where it never was told anything.
    pub fn last(root: &Root) -> Option<Memory> {
        [MEMORY_PATH, LASTING_PATH].into_iter().find_map(|path| Memory::load(&root.join(path)))
    }

    /// Writes it where it outlives the boot, unless the same is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, path: &Path) -> Result<()> {
        let same = |there: &Memory| {
            (&there.node, &there.uid, &there.state, &there.wording)
                == (&self.node, &self.uid, &self.state, &self.wording)
        };
        match Memory::load(path) {
            Some(there) if same(&there) => Ok(()),
            _ => atomic::write_json_durable(path, self),
        }
    }

    /// Writes it: readers see the former or this one.
    ///
    /// # Errors
    /// It cannot be written; the next tick then asks the API server.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .map_err(Error::io(dir, "make the directory"))?;
        }
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Other(format!("{}: cannot write as JSON: {e}", path.display())))?;
        atomic::replace(path, &(text + "\n"))
    }

    /// True where the Node, read and its heartbeat renewed within the hour, was told the same in this boot already, and every
    /// run of `kubelet` that there is was there then: another one has registered a Node that somebody deleted, with the labels of its start.
    pub fn covers(
        &self,
        node: &str,
        kubelet: Option<&str>,
        state: &State,
        readiness: &Readiness,
        now: Duration,
    ) -> bool {
        let age = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_sub(self.read.min(self.beat));
        self.node == node
            && kubelet.is_none_or(|runs| {
                runs.split(' ').all(|run| self.kubelet.split(' ').any(|known| known == run))
            })
            && !self.boot_id.is_empty()
            && self.boot_id == state.boot_id
            && self.words == words(readiness)
            && (0..READ_AGAIN).contains(&age)
    }
}

fn words(readiness: &Readiness) -> String {
    let condition = &readiness.condition;
    let words = (
        &readiness.labels,
        &readiness.annotation,
        (&condition.kind, condition.status.as_str(), &condition.reason, &condition.message),
    );
    serde_json::to_string(&words).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Keys;
    use crate::state::Health;

    fn state(reason: &str, message: &str) -> State {
        State {
            state: Health::Failed,
            reason: reason.into(),
            message: message.into(),
            boot_id: "one".into(),
            ..State::default()
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    /// As long as nobody is asked.
    const LONG: Duration = Duration::from_secs(54 * 60);

    #[test]
    fn it_covers_the_same_words_on_the_same_node_in_the_same_boot_within_the_hour() {
        let said = |state: &State| Readiness::of(state, &Keys::default(), "");
        let at = 10 * HOUR;
        let now = state("DriveLost", "drive A is gone");
        let memory = Memory { kubelet: "7/1".into(), ..Memory::new("n", "u", &now, &said(&now), at) };
        let covers =
            |node: &str, state: &State, time| memory.covers(node, Some("7/1"), state, &said(state), time);
        assert!(covers("n", &now, at) && covers("n", &now, at + LONG - Duration::from_secs(1)));
        assert!(!covers("n", &now, at + LONG));
        // Read, but its heartbeat was not renewed then.
        let older = Memory { beat: memory.beat - 60, ..memory.clone() };
        let ends = |memory: &Memory| {
            (0..120).find(|minutes| {
                !memory.covers("n", Some("7/1"), &now, &said(&now), at + Duration::from_secs(minutes * 60))
            })
        };
        assert_eq!((ends(&memory), ends(&older)), (Some(54), Some(53)));
        assert!(!covers("n", &now, at - Duration::from_secs(1)), "a clock that went back proves nothing");
        assert!(!covers("m", &now, at));
        assert!(!covers("n", &state("DriveLost", "drive B is gone"), at));
        assert!(!covers("n", &state("MountGone", "drive A is gone"), at));
        assert!(!covers("n", &State { boot_id: "two".into(), ..now.clone() }, at));
        let with = |kubelet| memory.covers("n", kubelet, &now, &said(&now), at);
        assert!(with(None), "one that is down registers nothing");
        assert!(!with(Some("7/2")));
        assert!(
            !with(Some("7/1 9/3")),
            "one that was started since registers the Node, whatever else is there"
        );
        let both = Memory { kubelet: "7/1 9/3".into(), ..memory.clone() };
        let with = |runs| both.covers("n", Some(runs), &now, &said(&now), at);
        assert!(with("7/1 9/3") && with("9/3") && !with("7/1 9/4"));
        let none = Memory { kubelet: String::new(), ..memory.clone() };
        assert!(!none.covers("n", Some("7/1"), &now, &said(&now), at), "it was down when the Node was read");
        let nowhere = State { boot_id: String::new(), ..now };
        let memory = Memory::new("n", "u", &nowhere, &said(&nowhere), at);
        assert!(!memory.covers("n", None, &nowhere, &said(&nowhere), at));
    }

    #[test]
    fn what_outlives_the_boot_is_written_only_where_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = root.join(LASTING_PATH);
        let of = |state: &State, read| {
            Memory::new("n", "u", state, &Readiness::of(state, &Keys::default(), ""), read)
        };
        let failed = state("DriveLost", "x");
        let first = of(&failed, HOUR);
        first.keep(&path).unwrap();
        of(&failed, 2 * HOUR).keep(&path).unwrap();
        assert_eq!(Memory::last(&root), Some(first.clone()));
        let ready = of(&State { state: Health::Ready, ..failed.clone() }, 3 * HOUR);
        ready.keep(&path).unwrap();
        assert_eq!(Memory::last(&root), Some(ready.clone()));
        Memory { uid: "v".into(), ..ready }.keep(&path).unwrap();
        assert_eq!(Memory::last(&root).unwrap().uid, "v");
        // This boot's is newer.
        first.save(&root.join(MEMORY_PATH)).unwrap();
        assert_eq!(Memory::last(&root), Some(first));
    }

    #[test]
    fn what_is_saved_is_loaded_and_rubbish_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/reported.json");
        assert_eq!(Memory::load(&path), None);
        let state = state("DriveLost", "x");
        let memory = Memory::new("n", "u", &state, &Readiness::of(&state, &Keys::default(), ""), HOUR);
        memory.save(&path).unwrap();
        assert_eq!(Memory::load(&path), Some(memory));
        for rubbish in ["", "{", "[]", "{}", "{\"version\": 2}", "\u{0}"] {
            fs::write(&path, rubbish).unwrap();
            assert_eq!(Memory::load(&path), None, "{rubbish}");
        }
    }
}
