//! The rows on the filesystem and what carries it.

use std::fmt::Write;

use super::units::{bytes, percent};
use super::{Page, Tone, shortened};
use crate::observe::mounts::ENTRIES_MAX;
use crate::status::{ArrayPart, FilePart, MountPart, PersistencePart, Report};

/// What md says of a member that does its part (Documentation/admin-guide/md.rst, `state`).
const IN_SYNC: &str = "in_sync";

impl Page {
    pub(super) fn storage(&mut self, report: &Report) {
        match &report.mount {
            // Then nothing is known of it.
            None if report.unreadable.iter().any(|part| part.contains("/mountinfo: ")) => {
                self.toned_row(Tone::Warning, "mount", "not known: the mount table cannot be read");
            }
            None => {
                let tone = if report.layout.is_empty() { Tone::Plain } else { Tone::Bad };
                self.toned_row(tone, "mount", &format!("nothing on {}", report.target));
            }
            Some(mount) => self.mount(mount, &report.target),
        }
        if let Some(array) = &report.array {
            self.array(array);
        }
        self.reboot(report);
    }

    fn mount(&mut self, mount: &MountPart, target: &str) {
        let mut text = format!("{} on {target}, {}", mount.source, mount.filesystem);
        if let (Some(size), Some(used)) = (mount.size_bytes, mount.used_bytes) {
            let _ = write!(text, ", {}, {}% used", bytes(size), percent(used, size));
        }
        if let (Some(inodes), Some(used)) = (mount.inodes, mount.inodes_used) {
            let _ = write!(text, ", {}% of inodes", percent(used, inodes));
        }
        // There can be many, and what follows matters more.
        let _ = write!(text, ", {}", shortened(&mount.options, self.limits.row / 2));
        if let Some(hidden @ 1..) = mount.hidden_files {
            let more = if hidden >= ENTRIES_MAX { " or more" } else { "" };
            let _ = write!(text, ", hides {hidden}{more} entries");
        }
        let mut tone = Tone::Plain;
        if let Some(errors @ 1..) = mount.errors {
            tone = Tone::Warning;
            let _ = write!(text, ", {errors} errors");
        }
        self.toned_row(tone, "mount", &text);
    }

    fn array(&mut self, array: &ArrayPart) {
        let mut text = format!(
            "{} {} {}, {} of {} members",
            array.device,
            array.level,
            array.state,
            array.members.len(),
            array.raid_disks,
        );
        let silent = array.members.iter().all(|member| member.state.is_empty());
        let other: Vec<String> = array
            .members
            .iter()
            .filter(|member| !silent && member.state != IN_SYNC)
            .map(|member| format!("{} {}", member.device, word(&member.state)))
            .collect();
        let short = array.members.len() < array.raid_disks as usize;
        let tone = if short || !other.is_empty() { Tone::Bad } else { Tone::Plain };
        match other.as_slice() {
            [] if silent => {}
            [] => text.push_str(" in sync"),
            other => {
                let _ = write!(text, ", not in sync: {}", other.join(", "));
            }
        }
        let _ = write!(text, ", chunk {}", bytes(array.chunk_bytes));
        if let Some(uuid) = array.uuid {
            let _ = write!(text, ", {uuid}");
        }
        self.toned_row(tone, "array", &text);
    }

    /// Whether the next boot has all that it needs: the files that are in order, then what differs.
    fn reboot(&mut self, report: &Report) {
        let PersistencePart { problems, files, .. } = &report.persistence;
        let paths = files.iter().filter(|file| file.in_order == Some(true)).map(|file| file.path.as_str());
        match paths.collect::<Vec<_>>().as_slice() {
            [] => {}
            paths => self.row("reboot", &format!("in order: {}", paths.join(", "))),
        }
        let told = |file: &&FilePart| problems.iter().any(|problem| problem.contains(&file.path));
        let other = files.iter().filter(|file| file.in_order == Some(false) && !told(file)).map(|file| {
            format!("{}: {}", file.path, file.differs.as_deref().unwrap_or("is not as setup left it"))
        });
        let all: Vec<String> = problems.iter().cloned().chain(other).collect();
        self.list(Tone::Warning, "reboot", &all);
    }
}

fn word(state: &str) -> &str {
    if state.is_empty() { "without a state" } else { state }
}
