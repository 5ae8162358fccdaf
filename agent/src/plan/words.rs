//! What was found, in words, for refusals.

use super::{Reason, Refusal};
use crate::observe::{Content, Drive, Use};

pub type Judgement<T> = Result<T, Refusal>;

pub fn refuse<T>(reason: Reason, found: Vec<String>, next: impl Into<String>) -> Judgement<T> {
    Err(Refusal { reason, found, next: next.into() })
}

/// `/dev/nvme1n1 (AWS...)`.
pub fn who(drive: &Drive) -> String {
    format!("{} ({})", drive.path().display(), drive.serial)
}

pub fn content_in_words(content: &Content) -> String {
    match content {
        Content::Blank => "nothing on it".into(),
        Content::Unknown => "data without a known signature".into(),
        Content::Member(m) => format!("a superblock of md set {} `{}`", m.set_uuid, m.set_name),
        Content::Filesystem(fs) => format!(
            "an {} filesystem, UUID {}{}",
            fs.kind,
            fs.uuid,
            fs.label.as_ref().map(|l| format!(", label `{l}`")).unwrap_or_default()
        ),
        Content::HalfMade(fs) => {
            format!("an {} filesystem that mkfs did not finish, UUID {}", fs.kind, fs.uuid)
        }
        Content::Foreign { signature } => format!("the signature `{signature}`"),
        Content::Unreadable { error } => format!("a read error: {error}"),
        Content::Unexamined => "unexamined content".into(),
    }
}

pub fn use_in_words(by: &Use) -> String {
    match by {
        Use::Mounted { at } => format!("is mounted at {at}"),
        Use::Swap => "is swap in use".into(),
        Use::Holder { name } => format!("is held by {name}"),
        Use::Partitions { names } => format!("has partitions: {}", names.join(", ")),
        Use::Exclusive => "is opened exclusively by another program".into(),
        Use::Root => "carries the root filesystem".into(),
    }
}
