//! apply: executes steps in order; decides nothing.
//!
//! What outlives a step (locks, the mark that keeps systemd off the array, the staged mount, an unfinished systemd
//! reload) is in the [`Context`], which outlives an `apply`: after a plan that ends in "look again" the next one goes
//! on with it.
//!
//! ```text
//! let mut context = Context::new(root, &config, &inventory);
//! loop { plan; apply(&plan, &mut context)?; if !plan.look_again { break } observe; context.observed(&inventory) }
//! verify; context.finish()
//! ```

pub mod device;
pub mod directories;
pub mod mkfs;
pub mod stage;
pub mod systemd;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{Config, FsKind};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::intent::{INTENT_PATH, Identity, RECORD_PATH};
use crate::md::array as md;
use crate::md::lock::{CreatingMark, Holds};
use crate::observe::{Files, Inventory};
use crate::persist::atomic;
use crate::plan::{MemberRef, Plan, Step};
use crate::root::Root;

use stage::{Place, Staged};
use systemd::Reload;

/// Every failpoint of apply, in the order in which a fresh array meets them: the name of a step is hit before it.
pub const FAILPOINTS: [&str; 29] = [
    "drop-stale-intent",
    "record-intent",
    "record-intent-done",
    "wipe",
    "stop-array",
    "create-array",
    "md-superblock",
    "md-superblocks",
    "md-added",
    "create-array-done",
    "assemble-array",
    "assemble-array-done",
    "read-write",
    "make-filesystem",
    "make-filesystem-done",
    "create-target",
    "stage",
    "prepare",
    "prepare-done",
    "clear-intent",
    "clear-intent-done",
    "expose",
    "expose-done",
    "directories",
    "record-set",
    "fstab",
    "mdadm-conf",
    "tmpfiles",
    "reload-systemd",
];

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepTime {
    /// [`Step::name`].
    pub step: &'static str,
    /// The step in words.
    pub what: String,
    pub millis: u64,
    pub ok: bool,
    /// What did not work; where the run went on after it, the state is `degraded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What apply needs to know, and what it holds.
#[derive(Debug)]
pub struct Context {
    root: Root,
    mkfs_timeout: Duration,
    kernel: String,
    /// Texts that the new ones were made from: a file that changed since is not overwritten.
    files: Files,
    /// Locks and mark that keep udev and systemd off, while there is something half-ready.
    holds: Option<Holds>,
    /// Devices that udev has to look at when the holds are gone.
    touched: Vec<PathBuf>,
    staged: Option<Staged>,
    /// The target as it was when this run began to work on it.
    covered: Option<Place>,
    reload: Option<Reload>,
    times: Vec<StepTime>,
}

impl Context {
    pub fn new(root: Root, config: &Config, inventory: &Inventory) -> Context {
        Context {
            root,
            mkfs_timeout: config.mkfs_timeout,
            kernel: inventory.host.kernel.clone(),
            files: inventory.files.clone(),
            holds: None,
            touched: Vec::new(),
            staged: None,
            covered: None,
            reload: None,
            times: Vec::new(),
        }
    }

    /// To be told what was seen when looking again.
    pub fn observed(&mut self, inventory: &Inventory) {
        self.files = inventory.files.clone();
    }

    /// Every step so far, of every plan, the failed one too.
    pub fn times(&self) -> &[StepTime] {
        &self.times
    }

    /// What did not work without ending the run.
    pub fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.times.iter().filter_map(|t| t.error.as_ref().map(|e| format!("{}: {e}", t.step)))
    }

    /// Waits for systemd's reload, which went on beside verify. An error means `degraded`, not `failed`.
    ///
    /// # Errors
    /// Where it did not end in time.
    pub fn finish(&mut self) -> Result<()> {
        self.release();
        match self.reload.take() {
            Some(reload) => reload.wait(systemd::RELOAD_TIME),
            None => Ok(()),
        }
    }

    /// Unmounts what is staged, lets go of locks and marks, and has udev look at what we had locked.
    fn release(&mut self) {
        self.staged = None;
        if self.holds.take().is_some() {
            for device in std::mem::take(&mut self.touched) {
                device::announce(&self.root, &device);
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.release();
    }
}

/// Executes the steps of `plan`, in order.
///
/// A persistence step that fails, and a directory that cannot be made, are noted in what is returned and do not end
/// the run. Locks stay held for a plan that ends in "look again".
///
/// # Errors
/// [`Error::Step`] for the first other step that fails. The staged mount is dropped, locks and marks are released, an
/// array that was made or assembled stays as it is; the intent stays too, so that the next run goes on from there.
pub fn apply(plan: &Plan, context: &mut Context) -> Result<Vec<StepTime>> {
    let before = context.times.len();
    let result = run(plan, context);
    if result.is_err() || !plan.look_again {
        context.release();
    }
    result?;
    Ok(context.times.get(before..).unwrap_or_default().to_vec())
}

fn run(plan: &Plan, context: &mut Context) -> Result<()> {
    if context.holds.is_none() {
        CreatingMark::remove_stale(&context.root);
    }
    let exposed = plan.steps.iter().find_map(|step| match step {
        Step::Expose { target } => Some(target),
        _ => None,
    });
    if let Some(target) = exposed
        && context.covered.is_none()
    {
        context.covered = place_at(&context.root, target)?;
    }
    for (at, step) in plan.steps.iter().enumerate() {
        if needs_lock(step) {
            // All at once, at the first step that needs one: a later one must not find a drive changed by udev.
            hold(&plan.steps[at..], context).map_err(|e| in_step(step, e))?;
        } else if step.is_persistence() && context.staged.is_none() {
            // The target is in place: udev and systemd may see the device before fstab names it.
            context.release();
        }
        execute_timed(step, plan, context)?;
    }
    Ok(())
}

fn execute_timed(step: &Step, plan: &Plan, context: &mut Context) -> Result<()> {
    let name = step.name();
    let started = Instant::now();
    let result = hit(name).and_then(|()| execute(step, plan, context));
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (device, serial) = about(step);
    let note = |ok, error: Option<String>| StepTime { step: name, what: step.to_string(), millis, ok, error };
    match result {
        Ok(problems) if problems.is_empty() => {
            tracing::info!(step = name, device, serial, duration_ms = millis, "{step}");
            context.times.push(note(true, None));
            Ok(())
        }
        Ok(problems) => {
            let error = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(step = name, device, serial, duration_ms = millis, error, "{step}: not all of it");
            context.times.push(note(false, Some(error)));
            Ok(())
        }
        Err(error) => {
            let text = error.to_string();
            context.times.push(note(false, Some(text.clone())));
            if step.is_persistence() {
                tracing::warn!(
                    step = name,
                    device,
                    serial,
                    duration_ms = millis,
                    error = text,
                    "{step}: failed"
                );
                return Ok(());
            }
            tracing::error!(
                step = name,
                device,
                serial,
                duration_ms = millis,
                error = text,
                "{step}: failed"
            );
            Err(in_step(step, error))
        }
    }
}

fn in_step(step: &Step, cause: Error) -> Error {
    Error::Step { step: step.name(), cause: Box::new(cause) }
}

fn hit(name: &str) -> Result<()> {
    failpoint::hit(name).map_err(|e| Error::Other(e.to_string()))
}

/// Does the step. What is returned are problems that do not end the run.
fn execute(step: &Step, plan: &Plan, context: &mut Context) -> Result<Vec<Error>> {
    let root = context.root.clone();
    match step {
        Step::DropStaleIntent => {
            atomic::remove_durable(&root.join(INTENT_PATH))?;
        }
        Step::RecordIntent { intent } => {
            atomic::write_json_durable(&root.join(INTENT_PATH), intent)?;
            hit("record-intent-done")?;
        }
        Step::Wipe { devices, .. } => {
            for member in devices {
                device::wipe(&root, member)?;
            }
        }
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
            make_filesystem(&make, context)?;
            hit("make-filesystem-done")?;
        }
        Step::CreateTarget { path } => {
            let there = root.join(path);
            std::fs::create_dir_all(&there).map_err(Error::io(&there, "make the directory"))?;
            context.covered = place_at(&root, path)?;
        }
        Step::Stage { device, kind, options } => {
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
        Step::ReloadSystemd => context.reload = systemd::request_reload(&root)?,
    }
    Ok(Vec::new())
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

fn place_at(root: &Root, target: &str) -> Result<Option<Place>> {
    let there = root.join(target);
    if !there.exists() {
        return Ok(None);
    }
    let opened = stage::open_target(&there)?;
    stage::place_of(opened.as_fd()).map(Some).map_err(Error::io(there, "look at"))
}

/// Opens the target where what is mounted there is the device of the promise.
fn open_mounted(root: &Root, target: &Path, plan: &Plan) -> Result<std::os::fd::OwnedFd> {
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

/// Steps during which udev, systemd and other programs must keep off the devices.
fn needs_lock(step: &Step) -> bool {
    matches!(
        step,
        Step::Wipe { .. }
            | Step::StopArray { .. }
            | Step::CreateArray { .. }
            | Step::AssembleArray { .. }
            | Step::ReadWrite { .. }
            | Step::MakeFilesystem { .. }
            | Step::Stage { .. }
    )
}

/// Holds the drives that `steps` name, and the array that they make or start.
fn hold(steps: &[Step], context: &mut Context) -> Result<()> {
    let mut drives: Vec<&Path> = Vec::new();
    let mut arrays: Vec<&Path> = Vec::new();
    let mut filesystems: Vec<&Path> = Vec::new();
    for step in steps {
        match step {
            Step::Wipe { devices, .. } => drives.extend(devices.iter().map(|m| m.path.as_path())),
            Step::CreateArray { array, members, .. } | Step::AssembleArray { array, members, .. } => {
                arrays.push(array);
                drives.extend(members.iter().map(|m| m.path.as_path()));
            }
            Step::StopArray { array } | Step::ReadWrite { array } => arrays.push(array),
            Step::MakeFilesystem { device, .. } | Step::Stage { device, .. } => filesystems.push(device),
            _ => {}
        }
    }
    // udev does not heed a lock on an md device, and we would only be in our own way; the mark is for those.
    let is_array = |device: &Path| arrays.contains(&device) || device::kernel_name(device).starts_with("md");
    drives.extend(filesystems.iter().filter(|d| !is_array(d)));
    drives.sort();
    drives.dedup();
    let array = arrays.iter().chain(filesystems.iter().filter(|d| is_array(d))).next();
    let root = &context.root;
    let enough = context.holds.as_ref().is_some_and(|holds| {
        drives.iter().all(|d| holds.covers(&root.join(d))) && (holds.is_marked() || array.is_none())
    });
    if !enough {
        // Let go first: a lock of ours on another descriptor would keep us off as well.
        context.holds = None;
        let name = array.map(|a| device::kernel_name(a));
        context.holds = Some(Holds::acquire(root, &drives, name.as_deref())?);
        context.touched = drives.iter().map(|d| d.to_path_buf()).collect();
    }
    Ok(())
}

fn holds(context: &Context) -> Result<&Holds> {
    context.holds.as_ref().ok_or_else(|| Error::Other("no lock is held on the drives".into()))
}

/// What a step is about, for the journal: device and serial numbers.
fn about(step: &Step) -> (String, String) {
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

#[cfg(test)]
mod tests;
