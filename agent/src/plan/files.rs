//! The steps that persist: our lines in the host's files. The edits are computed here, so that a file that cannot be
//! edited safely is a refusal before anything is destroyed.

use super::evidence::{self, Carrier};
use super::step::Step;
use super::{Promise, Reason, Refusal};
use crate::config::{Config, Tmpfiles};
use crate::observe::{Filesystem, Inventory};
use crate::persist::fstab::{self, Entry};
use crate::persist::mdadm_conf::{self, ArrayLine};
use crate::persist::{Edited, FSTAB_PATH, Problem, tmpfiles};

/// What is to be written, and what cannot be.
pub struct Persistence {
    pub steps: Vec<Step>,
    /// Why fstab is left as it is: a malformed line. No reason to keep a filesystem that is there from its users, but one
    /// not to make a filesystem.
    pub fstab_left: Option<Refusal>,
}

impl Persistence {
    /// For what is to be made: nothing may be in the way.
    ///
    /// # Errors
    /// fstab would have to be left as it is.
    pub fn whole(self) -> Result<Vec<Step>, Refusal> {
        self.fstab_left.map_or(Ok(self.steps), Err)
    }

    /// For what is there: the steps, and what then is not in order.
    pub fn possible(self) -> (Vec<Step>, Vec<String>) {
        let left = |r: Refusal| format!("{}, so the file is left as it is. {}", r.found.join("; "), r.next);
        (self.steps, self.fstab_left.map(left).into_iter().collect())
    }
}

/// Steps for fstab, mdadm.conf and tmpfiles.d, as far as they are not in order.
///
/// # Errors
/// A malformed line elsewhere than in fstab, or somebody else's line that says the opposite.
pub fn persist(inventory: &Inventory, config: &Config, promise: &Promise) -> Result<Persistence, Refusal> {
    let mut steps = Vec::new();
    steps.extend(mdadm_conf_step(inventory, promise)?);
    let (fstab, fstab_left) = fstab_step(inventory, config, promise)?;
    let reload = fstab.is_some() && inventory.host.systemd;
    steps.extend(fstab);
    steps.extend(tmpfiles_step(inventory, config)?);
    steps.extend(reload.then_some(Step::ReloadSystemd));
    Ok(Persistence { steps, fstab_left })
}

fn problem(reason: Reason, path: &str, problem: &Problem) -> Refusal {
    Refusal {
        reason,
        found: vec![format!("{path}: {problem}")],
        next: format!("Mend that line of {path}, then run `nvme-agent setup` again."),
    }
}

fn fstab_step(
    inventory: &Inventory,
    config: &Config,
    promise: &Promise,
) -> Result<(Option<Step>, Option<Refusal>), Refusal> {
    let want = fstab::Line {
        uuid: promise.fs_uuid.clone(),
        target: promise.target.clone(),
        fs_type: promise.filesystem.clone(),
        options: fstab::options(&config.options()),
    };
    let fs = Filesystem {
        kind: promise.filesystem.clone(),
        uuid: promise.fs_uuid.clone(),
        label: Some(config.fs_label()),
    };
    let carrier = match promise.serials.as_slice() {
        [serial] if promise.array_uuid.is_none() => Carrier::OnlyDrive { name: &promise.device, serial },
        _ => Carrier::Array { name: &promise.device, uuid: promise.array_uuid },
    };
    // A node that is somebody else's running array is not the one that the old script meant.
    let anothers = |entry: &Entry| match entry.source() {
        fstab::Source::Kernel(name) => {
            name != promise.device && inventory.arrays.iter().any(|a| a.name == name && a.is_running())
        }
        _ => false,
    };
    let ours = |entry: &Entry| evidence::names(entry, &fs, carrier) && !anothers(entry);
    let text = inventory.files.fstab.as_deref();
    let refusal = |p: &Problem| problem(Reason::FstabConflict, FSTAB_PATH, p);
    match fstab::edit(text, &want, &ours) {
        Ok(edited) => {
            let step = |e: Edited| Step::Fstab { path: FSTAB_PATH.into(), text: e.text, change: e.change };
            Ok((edited.map(step), None))
        }
        // The malformed line must not hide that another puts something else at the target.
        Err(malformed @ Problem::Malformed { .. }) => {
            match fstab::conflict(text.unwrap_or_default(), &want, &ours) {
                Some(conflict) => Err(refusal(&conflict)),
                None => Ok((None, Some(refusal(&malformed)))),
            }
        }
        Err(conflict) => Err(refusal(&conflict)),
    }
}

/// Only where mdadm is installed or the file exists: a new file would otherwise only wake mdmonitor.
fn mdadm_conf_step(inventory: &Inventory, promise: &Promise) -> Result<Option<Step>, Refusal> {
    let files = &inventory.files;
    let Some(uuid) = promise.array_uuid.filter(|_| files.has_mdadm || files.mdadm_conf.is_some()) else {
        return Ok(None);
    };
    // An array that runs under an accidental name (md127) gets md0 at the next boot, where nobody else claims that.
    let lines = mdadm_conf::evidence(files.mdadm_conf.as_deref().unwrap_or_default());
    let running = |name: &str| inventory.arrays.iter().any(|a| a.name == name && a.uuid != Some(uuid));
    let claimed = |name: &str| lines.iter().any(|l| l.is_device(name) && l.uuid != Some(uuid) && !l.owned);
    let name = match promise.device.as_str() {
        name if name.len() > 4 && !running("md0") && !claimed("md0") => "md0",
        name => name,
    };
    let set_name = format!("any:{name}");
    let made_by_us = inventory.fresh.array == uuid || set_is_named(inventory, &set_name, uuid);
    let want =
        mdadm_conf::Line { device: format!("/dev/{name}"), name: made_by_us.then_some(set_name), uuid };
    // The old script's line for /dev/md0 names a set that is gone when all drives came back blank.
    let stale =
        |line: &ArrayLine| line.uuid.is_some_and(|u| !inventory.arrays.iter().any(|a| a.uuid == Some(u)));
    let edited = mdadm_conf::edit(files.mdadm_conf.as_deref(), &want, &stale)
        .map_err(|p| problem(Reason::FileConflict, &files.mdadm_conf_path, &p))?;
    Ok(edited.map(|e| Step::MdadmConf {
        path: files.mdadm_conf_path.clone(),
        text: e.text,
        change: e.change,
    }))
}

/// True where no member says another name than `set_name`: a name that matches nothing makes mdadm ignore the line.
fn set_is_named(inventory: &Inventory, set_name: &str, uuid: uuid::Uuid) -> bool {
    use crate::observe::Content;
    inventory.drives.iter().all(|d| match &d.content {
        Content::Member(m) if m.set_uuid == uuid => m.set_name == set_name,
        _ => true,
    })
}

fn tmpfiles_step(inventory: &Inventory, config: &Config) -> Result<Option<Step>, Refusal> {
    if config.tmpfiles == Tmpfiles::Distro || !inventory.host.systemd {
        return Ok(None);
    }
    let (text, distro) = (inventory.files.tmpfiles.as_deref(), inventory.files.tmpfiles_distro.as_deref());
    let edited = tmpfiles::edit(text, distro, &config.target)
        .map_err(|p| problem(Reason::FileConflict, tmpfiles::PATH, &p))?;
    Ok(edited.map(|e| Step::Tmpfiles { path: tmpfiles::PATH.into(), text: e.text }))
}
