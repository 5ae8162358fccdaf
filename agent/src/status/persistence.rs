//! Whether the host's files are as setup left them: what the next boot goes by, and what the Node registers with.

use super::live::{Kept, Live, Text};
use super::{FilePart, PersistencePart};
use crate::persist::{FSTAB_PATH, fstab, mdadm_conf, tmpfiles};
use crate::state::State;

/// What [`FilePart::what`] says.
pub(super) const FSTAB: &str = "fstab";
pub(super) const MDADM_CONF: &str = "mdadm-conf";
pub(super) const TMPFILES: &str = "tmpfiles";
pub(super) const REGISTRATION: &str = "registration";

/// What setup could not persist, and whether its files are as it left them. Nothing is said of files where nothing is set up.
pub(super) fn persistence(state: Option<&State>, target: &str, live: &Live) -> PersistencePart {
    let mut problems = state.map(|state| state.persistence.clone()).unwrap_or_default();
    let mut files = Vec::new();
    if let Some(state) = state.filter(|state| !state.fs_uuid.is_empty()) {
        files.push(fstab_file(state, target, live));
        files.push(mdadm_conf_file(state, &live.kept));
        files.push(tmpfiles_file(target, &live.kept));
    }
    // Where setup had something to say of them, this is that again.
    if problems.is_empty() {
        let wrong = files.iter().filter(|file| file.in_order == Some(false));
        problems.extend(wrong.map(|file| {
            format!("{}: {}", file.path, file.differs.as_deref().unwrap_or("is not as setup left it"))
        }));
    }
    files.extend(registration_file(&live.kept));
    PersistencePart { in_order: problems.is_empty(), problems, files }
}

/// Of a file that ought to be there: `lacks` says what is wrong with its text, or with there being none.
fn file(what: &str, path: &str, text: &Text, lacks: impl FnOnce(Option<&str>) -> Option<String>) -> FilePart {
    let (in_order, differs) = match text {
        Text::Unread => (None, None),
        Text::Missing => verdict(lacks(None)),
        Text::Is(text) => verdict(lacks(Some(text))),
    };
    FilePart { what: what.into(), path: path.into(), in_order, differs }
}

fn verdict(differs: Option<String>) -> (Option<bool>, Option<String>) {
    (Some(differs.is_none()), differs)
}

/// Of a file that this machine does not need.
fn unneeded(what: &str, path: &str) -> FilePart {
    FilePart { what: what.into(), path: path.into(), in_order: None, differs: None }
}

fn fstab_file(state: &State, target: &str, live: &Live) -> FilePart {
    let text = live.fstab.clone().map_or(Text::Unread, Text::Is);
    file(FSTAB, FSTAB_PATH, &text, |text| {
        fstab::lacks(text.unwrap_or_default(), &state.fs_uuid, target, &state.filesystem)
    })
}

/// For an array, where the file exists. A missing one is no fault: setup makes one only where mdadm is installed, which may have
/// been done since, and without it mdadm goes by the set's name.
fn mdadm_conf_file(state: &State, kept: &Kept) -> FilePart {
    let path = &kept.mdadm_conf_path;
    match state.array_uuid.filter(|_| kept.mdadm_conf != Text::Missing) {
        Some(set) => file(MDADM_CONF, path, &kept.mdadm_conf, |text| mdadm_conf::lacks(text?, set)),
        None => unneeded(MDADM_CONF, path),
    }
}

fn tmpfiles_file(target: &str, kept: &Kept) -> FilePart {
    if !kept.keeps_tmp || target.trim_end_matches('/') != "/tmp" {
        return unneeded(TMPFILES, tmpfiles::PATH);
    }
    file(TMPFILES, tmpfiles::PATH, &kept.tmpfiles, tmpfiles::lacks)
}

/// None where nothing was written in this boot.
fn registration_file(kept: &Kept) -> Option<FilePart> {
    let record = kept.registration.as_ref()?;
    let path = record.path.as_ref()?;
    Some(file(REGISTRATION, path, &kept.registered, |text| match text {
        None => Some("is gone".into()),
        Some(text) if text.contains(&record.labels) => None,
        Some(_) => Some("does not have the labels that were written".into()),
    }))
}
