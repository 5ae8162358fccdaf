//! install: the binary, its units, its udev rule, and the links that enable the units.
//!
//! Everything is done by files, without systemctl, so that `--root` works on an image that is being built. The
//! binary goes to `/usr/local/bin`: a unit cannot run it from where userData fetched it, since SELinux keeps
//! systemd from executing files labelled as data (`/var/lib`); a file made in `/usr/local/bin` inherits that
//! directory's label.
//!
//! Where a package brought the unit, that one stays in force: only the link and the drop-in for another target
//! are written, and a unit of an earlier `install`, which would shadow it, is removed.

pub mod hook;
mod units;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::apply::systemd::unit_name_for_path;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::node::registration;
use crate::persist::atomic;
use crate::root::Root;

/// The unit, as packages ship it.
pub const UNIT: &str = include_str!("../../systemd/nvme-agent.service");
/// The udev rule for hosts without mdadm's.
pub const UDEV_RULE: &str = include_str!("../../packaging/udev/64-nvme-agent-md.rules");

const UNIT_PATH: &str = "/etc/systemd/system/nvme-agent.service";
const LINK_PATH: &str = "/etc/systemd/system/basic.target.wants/nvme-agent.service";
const DROP_IN_PATH: &str = "/etc/systemd/system/nvme-agent.service.d/50-target.conf";
const UDEV_RULE_PATH: &str = "/etc/udev/rules.d/64-nvme-agent-md.rules";
/// Where a package puts the binary, and what the unit names.
const PACKAGED_BINARY: &str = "/usr/bin/nvme-agent";
const OWN_BINARY: &str = "/usr/local/bin/nvme-agent";
/// Directories of packaged units; the second is its own only before the merge of /usr.
const PACKAGED_UNITS: [&str; 2] =
    ["/usr/lib/systemd/system/nvme-agent.service", "/lib/systemd/system/nvme-agent.service"];
/// First line of every text file that install writes: what has it may be replaced and removed.
const MARK: &str = "# Written by `nvme-agent install`, which overwrites it.";

/// What to install.
#[derive(Clone, Debug)]
pub struct Options {
    /// Another target than /tmp needs a drop-in, and some policies for a failed node need a gate.
    pub config: Config,
    /// Have the unit run at every boot.
    pub enable: bool,
    /// The binary to install, usually the running one.
    pub binary: PathBuf,
}

/// Installs, and says what changed, a line each; nothing where everything was in place.
///
/// # Errors
/// [`Error::Environment`] where the unit is masked, or a directory under `root` leads out of it; [`Error::Io`].
pub fn install(root: &Root, options: &Options) -> Result<Vec<String>> {
    let mut files = Files { root, done: Vec::new() };
    let masked = fs::read_link(root.join(UNIT_PATH)).is_ok_and(|to| to == Path::new("/dev/null"));
    if masked {
        return Err(Error::Environment(format!(
            "{UNIT_PATH} is masked (a link to /dev/null): somebody wants nvme-agent not to run; nothing was \
             changed; `systemctl unmask nvme-agent.service` allows it again"
        )));
    }
    let packaged = PACKAGED_UNITS.into_iter().find(|path| root.join(path).is_file());
    let (unit, binary) = match packaged {
        Some(unit) => {
            for path in [UNIT_PATH, UDEV_RULE_PATH] {
                files.remove_ours(path, "the package's own is in force")?;
            }
            (unit, None)
        }
        None => {
            let binary = files.binary(&options.binary)?;
            files.text(UNIT_PATH, &unit_for(root, UNIT, binary))?;
            files.text(UDEV_RULE_PATH, UDEV_RULE)?;
            (UNIT_PATH, Some(binary))
        }
    };
    match drop_in(&options.config.target) {
        Some(text) => files.text(DROP_IN_PATH, &text)?,
        None => files.remove_ours(DROP_IN_PATH, "the target is /tmp")?,
    }
    hook::apply(&mut files, &options.config)?;
    if !root.is_host() {
        files.forget_build_host(&options.config)?;
    }
    if options.enable {
        files.link(LINK_PATH, unit)?;
    }
    units::apply(&mut files, binary, options.enable)?;
    Ok(files.done)
}

/// The unit of this text for a binary at `binary` and for this root's systemd.
///
/// Amazon Linux 2 has systemd 219, which does not know groups of system calls (since 231; `@system-service` since
/// 238): it would take the filter for an empty list and forbid the agent every call.
fn unit_for(root: &Root, text: &str, binary: &str) -> String {
    let unit = text.replace(PACKAGED_BINARY, binary);
    let release = atomic::read_text(&root.join("/etc/os-release")).ok().flatten().unwrap_or_default();
    let says = |line: &str| release.lines().any(|l| l.replace('"', "") == line);
    if !(says("ID=amzn") && says("VERSION_ID=2")) {
        return unit;
    }
    unit.split_inclusive('\n').filter(|line| !line.starts_with("SystemCall")).collect()
}

/// What another target than /tmp needs: our unit before that mount's, and after the mount that its directory is
/// on, which would otherwise cover it.
fn drop_in(target: &str) -> Option<String> {
    if target == "/tmp" {
        return None;
    }
    let mut text = format!("[Unit]\nBefore={}\n", unit_name_for_path(target));
    match Path::new(target).parent() {
        Some(parent) if parent != Path::new("/") => {
            text.push_str(&format!("RequiresMountsFor={}\n", parent.display()));
        }
        _ => {}
    }
    Some(text)
}

/// Writes below a root, and remembers what it did.
struct Files<'a> {
    root: &'a Root,
    done: Vec<String>,
}

impl Files<'_> {
    /// Makes the running binary one that the unit can name; returns its path.
    fn binary(&mut self, binary: &Path) -> Result<&'static str> {
        let source = fs::metadata(binary).map_err(Error::io(binary, "look at the binary"))?;
        for there in [PACKAGED_BINARY, OWN_BINARY] {
            let same = fs::metadata(self.root.join(there))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (source.dev(), source.ino()));
            if same {
                return Ok(there);
            }
        }
        let bytes = fs::read(binary).map_err(Error::io(binary, "read the binary"))?;
        self.file(OWN_BINARY, &bytes, 0o755)?;
        Ok(OWN_BINARY)
    }

    fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.file(path, format!("{MARK}\n{text}").as_bytes(), 0o644)
    }

    /// Puts a file in place: whole or not at all, durably, and not where it is there already.
    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let at = self.place(path)?;
        if let Ok(meta) = fs::symlink_metadata(&at)
            && meta.is_file()
            && meta.mode() & 0o7777 == mode
            && atomic::read(&at).is_ok_and(|there| there == bytes)
        {
            return Ok(());
        }
        let temporary = at.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            file.write_all(bytes)?;
            // Whatever the umask.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&temporary, &at)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            Error::io(&at, "write the file")(e)
        })?;
        self.finish(&at, format!("wrote {path}"))
    }

    fn link(&mut self, path: &str, to: &str) -> Result<()> {
        let at = self.place(path)?;
        if fs::read_link(&at).is_ok_and(|there| there == Path::new(to)) {
            return Ok(());
        }
        let temporary = at.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        symlink(to, &temporary).and_then(|()| fs::rename(&temporary, &at)).map_err(|e| {
            let _ = fs::remove_file(&temporary);
            Error::io(&at, "make the link")(e)
        })?;
        self.finish(&at, format!("enabled by {path}"))
    }

    /// Removes a file that an earlier install wrote; leaves one that somebody else wrote.
    fn remove_ours(&mut self, path: &str, why: &str) -> Result<()> {
        let at = self.root.join(path);
        let ours = atomic::read(&at).is_ok_and(|bytes| bytes.starts_with(MARK.as_bytes()));
        if !ours {
            return Ok(());
        }
        let at = self.place(path)?;
        fs::remove_file(&at).map_err(Error::io(&at, "remove the file"))?;
        self.finish(&at, format!("removed {path}: {why}"))
    }

    fn finish(&mut self, at: &Path, what: String) -> Result<()> {
        if let Some(dir) = at.parent() {
            fs::File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(Error::io(dir, "flush the directory"))?;
        }
        self.done.push(what);
        Ok(())
    }

    /// In an image nothing is said of storage: what a setup on the machine that it was made of left is of other drives, and
    /// the unit writes its own first thing at every boot.
    fn forget_build_host(&mut self, config: &Config) -> Result<()> {
        for path in registration::FILES {
            self.stays_inside(&self.root.join(path))?;
        }
        self.done.extend(registration::withdraw(self.root, config)?);
        Ok(())
    }

    /// Where `path` is, its directory made. Refuses a directory that leads out of the root: in an image an
    /// absolute link would have us write to the machine that builds it.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let at = self.root.join(path);
        let dir = at.parent().unwrap_or(self.root.as_path());
        self.stays_inside(dir)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(Error::io(dir, "make the directory"))?;
        Ok(at)
    }

    /// What of `path` is there already does not lead out of the root: checked before anything is made below it.
    fn stays_inside(&self, path: &Path) -> Result<()> {
        let mut there = path;
        while fs::symlink_metadata(there).is_err() {
            there = there.parent().unwrap_or(self.root.as_path());
        }
        let real = there.canonicalize().map_err(Error::io(there, "resolve"))?;
        let top = self.root.as_path();
        let top = top.canonicalize().map_err(Error::io(top, "resolve the root"))?;
        if !real.starts_with(&top) {
            return Err(Error::Environment(format!(
                "{} leads to {}, outside of the root {}; make that link a relative one",
                there.display(),
                real.display(),
                top.display()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
