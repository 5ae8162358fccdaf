//! teardown: everything of ours goes, nothing else is touched.
//!
//! What is ours is told by our own records alone ([`Licence`]): the record and the intent under
//! `/var/lib/nvme-agent`, our line in fstab, our line in mdadm.conf. The order is such that whatever stops it halfway,
//! the same command goes on from there: unmount (never lazily), stop the array, wipe, take our lines out, and
//! the records last.
//!
//! nvme-agent.service stays: it is `install` that put it there. Where it is enabled, the next boot sets up anew.
//!
//! `--at-next-boot` leaves a mark and takes our fstab line out at once, so that nothing mounts the filesystem before
//! that boot's `setup`, which tears down instead of setting up ([`at_boot`]) and then reports `absent`, reason
//! [`REASON`]. The mark is gone then: a later setup, by hand or in the boot after, sets up again. A setup in the boot
//! in which the mark was left is the opposite wish, and calls the teardown off.

mod judge;
mod pins;
mod wipe;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use judge::{Expect, FileChange, Licence, Work, judge};
pub use pins::{Pin, find as find_pins};

use crate::apply::rest;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::intent::{INTENT_PATH, RECORD_PATH};
use crate::node::gate::JOINED_PATH;
use crate::node::registration;
use crate::observe::{DevNum, Examine, How, observe};
use crate::persist::atomic;
use crate::plan::MemberRef;
use crate::root::Root;
use crate::setup;
use crate::state::{STATE_PATH, boot_id};

/// The mark of a teardown that the next boot is to do.
pub const MARK_PATH: &str = "/var/lib/nvme-agent/teardown.json";
/// Reason in the state file after a boot that tore down.
pub const REASON: &str = "TornDown";
/// So many holders are named in an error.
const NAMED: usize = 50;

/// The content of [`MARK_PATH`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// Format of this file: 1.
    version: u32,
    /// The boot in which it was asked for: it is due in any other.
    boot_id: String,
    /// What our records said then; the line in fstab is gone since.
    licence: Licence,
}

/// What of the machine teardown changes; a trait so that tests can watch.
pub trait Machine {
    /// # Errors
    /// The processes cannot be looked at.
    fn pins(&self, device: DevNum, targets: &[String]) -> Result<Vec<Pin>>;
    /// umount2(2), not lazily.
    ///
    /// # Errors
    /// The system's.
    fn unmount(&self, target: &str) -> std::io::Result<()>;
    /// # Errors
    /// The array is in use.
    fn stop(&self, array: &Path) -> Result<()>;
    /// Wipes drives after a last look; returns notes.
    ///
    /// # Errors
    /// A drive is not what it was: nothing was written.
    fn wipe(&self, drives: &[(MemberRef, Expect)]) -> Result<Vec<String>>;
    /// Has systemd read fstab again.
    ///
    /// # Errors
    /// It does not.
    fn reload(&self) -> Result<()>;
}

/// This machine.
struct Host<'a>(&'a Root);

impl Machine for Host<'_> {
    fn pins(&self, device: DevNum, targets: &[String]) -> Result<Vec<Pin>> {
        pins::find(self.0, device, targets)
    }

    fn unmount(&self, target: &str) -> std::io::Result<()> {
        nix::mount::umount2(target, nix::mount::MntFlags::UMOUNT_NOFOLLOW).map_err(Into::into)
    }

    fn stop(&self, array: &Path) -> Result<()> {
        crate::md::array::stop(self.0, array)
    }

    fn wipe(&self, drives: &[(MemberRef, Expect)]) -> Result<Vec<String>> {
        wipe::wipe(self.0, drives)
    }

    fn reload(&self) -> Result<()> {
        crate::apply::systemd::reload(self.0)
    }
}

/// What [`run`] would do, a line each; empty where there is nothing of ours. Changes nothing.
///
/// # Errors
/// As [`run`], but for what is found out by doing only.
pub fn preview(root: &Root, config: &Config) -> Result<Vec<String>> {
    let (work, _) = look(root, config, false)?;
    let records = records(root).into_iter().map(|path| format!("remove {path}"));
    Ok(work.lines().into_iter().chain(records).collect())
}

/// Unmounts, stops, wipes what is ours, takes our lines out; or, with `at_next_boot`, leaves a mark for the next
/// boot to do so. Returns what was done, a line each; nothing where there is nothing of ours.
///
/// # Errors
/// The filesystem is in use (names by whom), or something of ours is used for what is not ours: nothing was changed. A
/// part that failed: what was done before it stays done, and running it again goes on from there.
pub fn run(root: &Root, config: &Config, at_next_boot: bool) -> Result<Vec<String>> {
    // Started from a shell in the target, we are not to be what pins it.
    let _ = std::env::set_current_dir("/");
    setup::suitable(root, &crate::observe::host::read(root))?;
    let _lock = setup::lock::take(root, config.lock_timeout)?;
    let (work, licence) = look(root, config, false)?;
    if at_next_boot {
        return postpone(root, &work, licence, &Host(root));
    }
    let mut done = act(root, &work, &Host(root))?;
    // A setup that comes next must not meet what systemd still has to do about this one.
    if !work.unmount.is_empty() && !work.stop.is_empty() {
        rest::wait(root);
    }
    // Also where there was nothing else of ours: a label of storage that is gone must not be registered again.
    done.extend(registration::withdraw(root, config)?);
    Ok(done)
}

/// Called by setup, under its lock, before anything else: does a teardown that was left for this boot. `None`: none was, go on.
///
/// # Errors
/// As [`run`]: setup has failed then, and the next boot tries again.
pub fn at_boot(root: &Root, config: &Config) -> Result<Option<Vec<String>>> {
    let Some(mark) = mark(root)? else { return Ok(None) };
    if mark.boot_id == boot_id(root) {
        tracing::warn!("the teardown that was to happen at the next boot is called off by this setup");
        atomic::remove_durable(&root.join(MARK_PATH))?;
        return Ok(None);
    }
    let (work, _) = look(root, config, true)?;
    act(root, &work, &Host(root)).map(Some)
}

fn mark(root: &Root) -> Result<Option<Mark>> {
    let path = root.join(MARK_PATH);
    let Some(text) = atomic::read_text(&path)? else { return Ok(None) };
    let mark: Mark = serde_json::from_str(&text).map_err(|e| {
        Error::Other(format!("{}: not the mark of a teardown ({e}); remove the file", path.display()))
    })?;
    if mark.version != 1 {
        return Err(Error::Other(format!(
            "{}: version {}, expected 1; remove the file",
            path.display(),
            mark.version
        )));
    }
    Ok(Some(mark))
}

/// `wait` for drives that a boot has not brought up yet.
fn look(root: &Root, config: &Config, wait: bool) -> Result<(Work, Licence)> {
    let inventory = observe(root, config, How { examine: Examine::Everything, wait })?;
    let mut licence = Licence::of(&inventory, &inventory.target.path);
    if let Some(mark) = mark(root)? {
        licence.join(mark.licence);
    }
    let work = judge(&inventory, &licence).map_err(|problems| {
        Error::Other(format!(
            "teardown is refused, nothing was changed:\n  {}\nTake that away first, then run it again",
            problems.join("\n  ")
        ))
    })?;
    Ok((work, licence))
}

/// The records that are there.
fn records(root: &Root) -> Vec<&'static str> {
    // The mark is the last: while it is there, a boot that was interrupted goes on.
    [STATE_PATH, INTENT_PATH, RECORD_PATH, JOINED_PATH, MARK_PATH]
        .into_iter()
        .filter(|path| root.join(path).exists())
        .collect()
}

fn postpone(root: &Root, work: &Work, licence: Licence, machine: &dyn Machine) -> Result<Vec<String>> {
    if work.is_empty() && records(root).is_empty() {
        return Ok(Vec::new());
    }
    let mark = Mark { version: 1, boot_id: boot_id(root), licence };
    atomic::write_json_durable(&root.join(MARK_PATH), &mark)?;
    let mut done = vec![format!("{MARK_PATH} is written: the next boot tears down instead of setting up")];
    for file in work.files.iter().filter(|file| file.path == crate::persist::FSTAB_PATH) {
        done.push(rewrite(root, file)?);
        done.extend(reload(machine));
    }
    Ok(done)
}

fn act(root: &Root, work: &Work, machine: &dyn Machine) -> Result<Vec<String>> {
    let mut done = work.notes.clone();
    if let Some(device) = work.mounted {
        let pins = machine.pins(device, &work.unmount)?;
        if !pins.is_empty() {
            return Err(in_use(&work.unmount, &pins));
        }
    }
    for (index, target) in work.unmount.iter().enumerate() {
        if let Err(error) = machine.unmount(target) {
            // Somebody came since.
            let pins = work.mounted.map_or(Ok(Vec::new()), |device| machine.pins(device, &work.unmount))?;
            if error.kind() == std::io::ErrorKind::ResourceBusy && index == 0 {
                return Err(in_use(&work.unmount, &pins));
            }
            return Err(Error::io(target, "unmount")(error));
        }
        done.push(format!("unmounted {target}"));
    }
    for array in &work.stop {
        machine.stop(array)?;
        done.push(format!("stopped {}", array.display()));
    }
    if !work.wipe.is_empty() {
        let notes = machine.wipe(&work.wipe)?;
        for (drive, _) in &work.wipe {
            done.push(format!("wiped {} (serial {})", drive.path.display(), drive.serial));
        }
        done.extend(notes);
    }
    for file in &work.files {
        done.push(rewrite(root, file)?);
        if file.path == crate::persist::FSTAB_PATH {
            done.extend(reload(machine));
        }
    }
    for path in records(root) {
        if atomic::remove_durable(&root.join(path))? {
            done.push(format!("removed {path}"));
        }
    }
    // Where something else of ours is in them (userData's download of the binary), they stay.
    for dir in [Path::new(MARK_PATH).parent(), Path::new(STATE_PATH).parent()].into_iter().flatten() {
        let _ = fs::remove_dir(root.join(dir));
    }
    Ok(done)
}

/// Systemd that goes on to think of the old line is no reason to leave the rest: a note.
fn reload(machine: &dyn Machine) -> Option<String> {
    machine
        .reload()
        .err()
        .map(|error| format!("systemd was not told: {error}; run `systemctl daemon-reload`"))
}

fn rewrite(root: &Root, file: &FileChange) -> Result<String> {
    let path = root.join(&file.path);
    match &file.after {
        Some(after) => {
            atomic::replace_if(&path, Some(&file.before), after)?;
            Ok(format!("took our line out of {}", file.path))
        }
        None => {
            if atomic::read_text(&path)?.is_some_and(|now| now != file.before) {
                return Err(Error::Other(format!(
                    "{}: somebody else changed it meanwhile, so it was left; run `nvme-agent teardown --yes` again",
                    file.path
                )));
            }
            atomic::remove_durable(&path)?;
            Ok(format!("removed {}", file.path))
        }
    }
}

fn in_use(targets: &[String], pins: &[Pin]) -> Error {
    let mut who: Vec<String> = pins.iter().take(NAMED).map(|pin| format!("\n  {pin}")).collect();
    if pins.len() > NAMED {
        who.push(format!("\n  and {} more", pins.len() - NAMED));
    }
    if pins.is_empty() {
        who.push(
            "\n  the kernel says so, but no process shows it (a thread, a bound namespace, an NFS export?)"
                .into(),
        );
    }
    Error::Other(format!(
        "teardown is refused, nothing was changed: {} is in use by{}\nStop these and run it again, or let the next boot \
         do it: `nvme-agent teardown --yes --at-next-boot`",
        targets.join(", "),
        who.concat()
    ))
}

#[cfg(test)]
mod tests;
