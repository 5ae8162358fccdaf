//! The intent record: what licenses finishing or redoing an interrupted run, and the record of what a
//! finished run made. Both live on the root volume, under `/var/lib/nvme-agent`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where the intent is, from before the first destructive step until just before exposure.
pub const INTENT_PATH: &str = "/var/lib/nvme-agent/intent.json";
/// Where the record of the last finished setup is.
pub const RECORD_PATH: &str = "/var/lib/nvme-agent/record.json";

/// What is about to be made, or was made: exactly these drives, with these identities.
///
/// As an intent it says that the filesystem was never exposed; as a record it is evidence that a set is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Format of this file: 1.
    pub version: u32,
    /// Serial numbers of the drives, sorted.
    pub serials: Vec<String>,
    /// The md set UUID; none for a single drive.
    pub array_uuid: Option<Uuid>,
    /// The filesystem UUID handed to mkfs.
    pub fs_uuid: Uuid,
    /// `ext4` or `xfs`.
    pub filesystem: String,
    /// The directory the filesystem is for.
    pub target: String,
    /// What is on the drives is being wiped, and nothing carries these UUIDs yet: a run that wipes the rest may use them.
    /// Later it may not: below what came onto the drives since there may be a filesystem of this UUID, and whole it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wiping: bool,
}

impl Identity {
    /// True where this names exactly the drives with these serials (any order).
    pub fn names_exactly<'a>(&self, serials: impl IntoIterator<Item = &'a str>) -> bool {
        let mut theirs: Vec<&str> = serials.into_iter().collect();
        theirs.sort_unstable();
        let mut ours: Vec<&str> = self.serials.iter().map(String::as_str).collect();
        ours.sort_unstable();
        ours == theirs
    }
}
