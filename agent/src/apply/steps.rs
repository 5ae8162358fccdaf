//! What each step does.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::stage::{self, Place, Staged};
use super::uevents::{self, Settling};
use super::{Context, device, directories, hit, is_array, mkfs, systemd};
use crate::config::FsKind;
use crate::error::{Error, Result};
use crate::intent::{INTENT_PATH, Identity, RECORD_PATH};
use crate::md::array as md;
use crate::md::guard;
use crate::md::lock::Holds;
use crate::persist::atomic;
use crate::plan::{MemberRef, Plan, Step};
use crate::root::Root;

/// Does the step. What is returned are problems that do not end the run.
pub(super) fn execute(step: &Step, plan: &Plan, context: &mut Context) -> Result<Vec<Error>> {
    let root = context.root.clone();
    match step {
        Step::DropStaleIntent => {
            atomic::remove_durable(&root.join(INTENT_PATH))?;
        }
        Step::RecordIntent { intent } => {
            atomic::write_json_durable(&root.join(INTENT_PATH), intent)?;
            hit("record-intent-done")?;
        }
        Step::Wipe { devices, data_offset, .. } => device::wipe(&root, devices, *data_offset)?,
        Step::StopArray { array } => {
            md::stop(&root, array)?;
        }
        Step::CreateArray { array, uuid, name, chunk_bytes, members } => {
            require_intent(&root, |intent| intent.array_uuid == Some(*uuid), array)?;
            let spec = md::CreateSpec { array, uuid: *uuid, name, chunk_bytes: *chunk_bytes, members };
            let made = md::create(&root, &spec, holds(context)?)?;
            if made != *array {
                return Err(Error::Other(format!(
                    "the set {uuid} runs already, as {} and not as {}; run `nvme-agent setup` again",
                    made.display(),
                    array.display()
                )));
            }
            context.members_are_taken();
            hit("create-array-done")?;
        }
        Step::AssembleArray { array, uuid, members } => {
            let spec = md::AssembleSpec { array, uuid: *uuid, members, read_only: true };
            md::assemble(&root, &spec, holds(context)?)?;
            hit("assemble-array-done")?;
        }
        Step::ReadWrite { array } => md::restart_rw(&root, array)?,
        Step::MakeFilesystem { device, kind, uuid, label, size, stripe, blank } => {
            let make = mkfs::Make {
                device,
                kind: *kind,
                uuid: *uuid,
                label,
                size: *size,
                stripe: *stripe,
                blank: *blank,
            };
            if let Some(drive) = single_drive(plan, device, *size) {
                // The last look at a drive before mkfs: still that drive, nobody's, and empty.
                guard::claim(&root, &drive)?.ensure_free(None)?;
            }
            make_filesystem(&make, context)?;
            hit("make-filesystem-done")?;
        }
        Step::CreateTarget { path } => {
            make_path(&root.join(path))?;
            context.covered = place_at(&root, path)?;
        }
        Step::Stage { device, kind, options } => {
            // An error comes again when it counts.
            context.settling = begin_settling(&root, promised_array(plan)).ok().flatten();
            context.staged = Some(Staged::mount(&root.join(device), *kind, options)?);
        }
        Step::Prepare { target, mode, uid, gid, selinux, directories } => {
            let Some(staged) = &context.staged else { return Err(nothing_staged(target)) };
            let shown = Path::new(target);
            let owner = mode.map(|_| (*uid, *gid));
            stage::dress(staged.root(), shown, *mode, owner, selinux.as_deref())?;
            let mut problems = directories::make_all(&root, staged.root(), shown, directories);
            if target == "/tmp" {
                problems.extend(directories::carry_over(&root.join(target), staged.root()));
            }
            staged.sync(target)?;
            hit("prepare-done")?;
            return Ok(problems);
        }
        Step::ClearIntent => {
            atomic::remove_durable(&root.join(INTENT_PATH))?;
            hit("clear-intent-done")?;
        }
        Step::Expose { target } => {
            let problems = settle(&root, plan, context.settling.take()).err();
            let Some(staged) = context.staged.take() else { return Err(nothing_staged(target)) };
            let there = root.join(target);
            let covered = context.covered.ok_or_else(|| {
                Error::Other(format!(
                    "{} did not exist when this run looked; it was not mounted on",
                    there.display()
                ))
            })?;
            staged.expose(&there, covered)?;
            hit("expose-done")?;
            return Ok(problems.into_iter().collect());
        }
        Step::Remount { target, options } => {
            let there = root.join(target);
            let opened = open_mounted(&root, &there, plan)?;
            stage::remount(&there, opened.as_fd(), options)?;
        }
        Step::Directories { target, mode, directories } => {
            let there = root.join(target);
            let opened = open_mounted(&root, &there, plan)?;
            stage::dress(opened.as_fd(), &there, *mode, None, None)?;
            return Ok(directories::make_all(&root, opened.as_fd(), Path::new(target), directories));
        }
        Step::RecordSet { record } => atomic::write_json_durable(&root.join(RECORD_PATH), record)?,
        Step::Fstab { path, text, .. } => {
            atomic::replace_if(&root.join(path), context.files.fstab.as_deref(), text)?;
            context.files.fstab = Some(text.clone());
        }
        Step::MdadmConf { path, text, .. } => {
            atomic::replace_if(&root.join(path), context.files.mdadm_conf.as_deref(), text)?;
            context.files.mdadm_conf = Some(text.clone());
        }
        Step::Tmpfiles { path, text } => {
            let there = root.join(path);
            if let Some(directory) = there.parent() {
                std::fs::create_dir_all(directory).map_err(Error::io(directory, "make the directory"))?;
            }
            atomic::replace_if(&there, context.files.tmpfiles.as_deref(), text)?;
            context.files.tmpfiles = Some(text.clone());
        }
        // Only begun here: udev has its time while the run is verified.
        Step::ReloadSystemd => {
            context.reload = true;
            context.settling = begin_settling(&root, promised(plan))?;
        }
    }
    Ok(Vec::new())
}

/// What carries the filesystem that the plan mounts.
fn promised(plan: &Plan) -> Option<&Path> {
    plan.promise.as_ref().map(|promise| Path::new(&promise.device))
}

/// The same where that is an array.
fn promised_array(plan: &Plan) -> Option<&Path> {
    promised(plan).filter(|device| is_array(device))
}

/// Where there is such a device, and a systemd to be wrong about it.
fn begin_settling(root: &Root, device: Option<&Path>) -> Result<Option<Settling>> {
    let name = device.map(device::kernel_name).filter(|_| systemd::is_running(root));
    name.map(|name| Settling::begin(root, &name, uevents::TIME)).transpose()
}

/// Has systemd done with all that udev said of the array while it was made. Where it does not get there, a mount that
/// may be undone is still better than no storage, and `status` tells when it is.
fn settle(root: &Root, plan: &Plan, begun: Option<Settling>) -> Result<()> {
    let settling = match begun {
        Some(settling) => Some(settling),
        // Of a single drive udev has told nothing yet.
        None => begin_settling(root, promised_array(plan))?,
    };
    settling.map_or(Ok(()), |settling| settling.wait(root))
}

fn nothing_staged(target: &str) -> Error {
    Error::Other(format!("nothing is staged for {target}: the plan has no stage step before this one"))
}

/// The last gate before bytes are lost: on disk there is an intent, and it names what is about to be made.
fn require_intent(root: &Root, names: impl Fn(&Identity) -> bool, device: &Path) -> Result<()> {
    let path = root.join(INTENT_PATH);
    let text = atomic::read_text(&path)?.unwrap_or_default();
    match serde_json::from_str::<Identity>(&text) {
        Ok(intent) if names(&intent) => Ok(()),
        _ => Err(Error::Other(format!(
            "{}: there is no intent record for what would be made on {}; nothing is made without one",
            path.display(),
            device.display()
        ))),
    }
}

/// The drive that carries the filesystem by itself; none where that is an array.
fn single_drive(plan: &Plan, device: &Path, size: u64) -> Option<MemberRef> {
    let promise = plan.promise.as_ref().filter(|p| p.array_uuid.is_none())?;
    let [serial] = promise.serials.as_slice() else { return None };
    Some(MemberRef { path: device.to_path_buf(), serial: serial.clone(), sectors: size / 512 })
}

fn make_filesystem(make: &mkfs::Make<'_>, context: &Context) -> Result<()> {
    let root = &context.root;
    require_intent(root, |intent| intent.fs_uuid == make.uuid, make.device)?;
    let size = device::size(root, make.device)?;
    if size != make.size {
        return Err(Error::Other(format!(
            "{} has {size} bytes, the plan was made for {}; nothing was written, run `nvme-agent setup` again",
            make.device.display(),
            make.size
        )));
    }
    let (timeout, kernel) = (context.mkfs_timeout, context.kernel.as_str());
    let locked = context.holds.as_ref().is_some_and(|h| h.covers(&root.join(make.device)));
    if make.kind == FsKind::Xfs && locked {
        let node = device::PrivateNode::of(root, make.device)?;
        return mkfs::run(root, make, node.path(), kernel, timeout);
    }
    mkfs::run(root, make, &root.join(make.device), kernel, timeout)
}

/// Makes `path` and what is missing above it, mode 0755 whatever our umask is (cloud-init's may be 077).
fn make_path(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| p.symlink_metadata().is_err()).collect();
    for directory in missing.into_iter().rev() {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::create_dir(directory)
            .and_then(|()| std::fs::set_permissions(directory, open))
            .map_err(Error::io(directory, "make the directory"))?;
    }
    Ok(())
}

/// Where the target leads to now; none where there is nothing.
pub(super) fn place_at(root: &Root, target: &str) -> Result<Option<Place>> {
    let there = root.join(target);
    if !there.exists() {
        return Ok(None);
    }
    let opened = stage::open_target(&there)?;
    stage::place_of(opened.as_fd()).map(Some).map_err(Error::io(there, "look at"))
}

/// Opens the target where what is mounted there is the device of the promise.
fn open_mounted(root: &Root, target: &Path, plan: &Plan) -> Result<OwnedFd> {
    let promise = plan.promise.as_ref().ok_or_else(|| {
        Error::Other(format!("{}: the plan does not say what is mounted there", target.display()))
    })?;
    let opened = stage::open_target(target)?;
    let place = stage::place_of(opened.as_fd()).map_err(Error::io(target, "look at"))?;
    let expected = device::number(root, Path::new(&promise.device))?;
    if place.dev != expected {
        return Err(Error::Other(format!(
            "{} is on device {}:{}, not on {} ({}:{}); nothing was made in it",
            target.display(),
            place.dev.0,
            place.dev.1,
            promise.device,
            expected.0,
            expected.1
        )));
    }
    // An O_PATH descriptor will do for what is made below it, but not for what is asked of it itself.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(&opened, ".", flags, rustix::fs::Mode::empty())
        .map_err(Error::io(target, "open the directory"))
}

fn holds(context: &Context) -> Result<&Holds> {
    context.holds.as_ref().ok_or_else(|| Error::Other("no lock is held on the drives".into()))
}

/// What a step is about, for the journal: device and serial numbers.
pub(super) fn about(step: &Step) -> (String, String) {
    let serials =
        |members: &[MemberRef]| members.iter().map(|m| m.serial.as_str()).collect::<Vec<_>>().join(" ");
    match step {
        Step::Wipe { devices, .. } => (
            devices.iter().map(|m| m.path.display().to_string()).collect::<Vec<_>>().join(" "),
            serials(devices),
        ),
        Step::CreateArray { array, members, .. } | Step::AssembleArray { array, members, .. } => {
            (array.display().to_string(), serials(members))
        }
        Step::StopArray { array } | Step::ReadWrite { array } => (array.display().to_string(), String::new()),
        Step::MakeFilesystem { device, .. } | Step::Stage { device, .. } => {
            (device.display().to_string(), String::new())
        }
        Step::RecordIntent { intent } => (String::new(), intent.serials.join(" ")),
        Step::RecordSet { record } => (String::new(), record.serials.join(" ")),
        _ => (String::new(), String::new()),
    }
}

/// The step in words, with the device, where the step's own words do not have it.
pub(super) fn in_words(step: &Step) -> String {
    let (words, device) = (step.to_string(), about(step).0);
    if device.is_empty() || words.contains(&device) { words } else { format!("{words} ({device})") }
}
