//! What outlives a step.

use std::path::PathBuf;
use std::time::Duration;

use super::stage::{Place, Staged};
use super::{StepTime, device, systemd, uevents};
use crate::config::Config;
use crate::error::Result;
use crate::md::lock::Holds;
use crate::observe::{Files, Inventory};
use crate::root::Root;

/// What apply needs to know, and what it holds.
#[derive(Debug)]
pub struct Context {
    pub(super) root: Root,
    pub(super) mkfs_timeout: Duration,
    pub(super) kernel: String,
    /// Texts that the new ones were made from: a file that changed since is not overwritten.
    pub(super) files: Files,
    /// Locks and mark that keep udev and systemd off, while there is something half-ready.
    pub(super) holds: Option<Holds>,
    /// Kernel name of the array that the mark is for.
    pub(super) marked: Option<String>,
    /// Devices that udev has to look at when the holds are gone.
    pub(super) touched: Vec<PathBuf>,
    pub(super) staged: Option<Staged>,
    /// Begun when the filesystem was there and waited for before it is exposed; then again when the array was let go,
    /// and waited for before systemd reads fstab again.
    pub(super) settling: Option<uevents::Settling>,
    /// The target as it was when this run began to work on it.
    pub(super) covered: Option<Place>,
    /// systemd has to read fstab again.
    pub(super) reload: bool,
    pub(super) times: Vec<StepTime>,
}

impl Context {
    pub fn new(root: Root, config: &Config, inventory: &Inventory) -> Context {
        Context {
            root,
            mkfs_timeout: config.mkfs_timeout,
            kernel: inventory.host.kernel.clone(),
            files: inventory.files.clone(),
            holds: None,
            marked: None,
            touched: Vec::new(),
            staged: None,
            settling: None,
            covered: None,
            reload: false,
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

    /// Has systemd read fstab again where that is due, and waits for it if told to. To be called after verify, so that
    /// udev has time for the device meanwhile: a line of fstab whose device systemd does not know yet has it unmount
    /// what is there. An error means `degraded`, not `failed`.
    ///
    /// # Errors
    /// Where udev, or systemd, did not come to an end in time.
    pub fn finish(&mut self, wait: bool) -> Result<()> {
        self.release();
        let reloaded = self.reload(wait);
        self.announce();
        reloaded
    }

    fn reload(&mut self, wait: bool) -> Result<()> {
        if !std::mem::take(&mut self.reload) {
            return Ok(());
        }
        if let Some(settling) = self.settling.take() {
            settling.wait(&self.root)?;
        }
        match systemd::request_reload(&self.root)? {
            Some(reload) if wait => reload.wait(systemd::RELOAD_TIME),
            _ => Ok(()),
        }
    }

    /// Unmounts what is staged, lets go of locks and marks, and has udev look at what carries the filesystem.
    pub(super) fn release(&mut self) {
        self.staged = None;
        let array = self.marked.take().is_some();
        // Of an array udev is told by the mark's end; of its members when all is done, for nobody waits for that, and
        // among 24 drives' events those of the array would be late.
        if self.holds.take().is_some() && !array {
            self.announce();
        }
    }

    /// The kernel keeps the members of a running array from everybody else. So udev may look at them while mkfs works, and
    /// is through with them when it is to look at the array.
    pub(super) fn members_are_taken(&mut self) {
        if let Some(holds) = &mut self.holds {
            holds.release_drives();
        }
        self.announce();
    }

    /// Has udev look at what we had locked.
    pub(super) fn announce(&mut self) {
        for device in std::mem::take(&mut self.touched) {
            device::announce(&self.root, &device);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.release();
        self.announce();
    }
}
