//! What goes wrong: one clear error each, the documented exit code, nothing changed; and the next run ends ready.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::kit::{self, Picture, differences, ensure_ready, files, refuses, state_is};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "errors-configuration", tier: Tier::Normal, run: configuration },
    Scenario { name: "errors-environment", tier: Tier::Normal, run: environment },
    Scenario { name: "errors-mkfs", tier: Tier::Full, run: mkfs },
    Scenario { name: "errors-raid0", tier: Tier::Normal, run: raid0 },
];

const CONFIG: &str = "/etc/nvme-agent/config.toml";

/// A text in the config file; a command; its exit code; what its one line of error must name.
type Wrong = (&'static str, &'static str, &'static [&'static str]);

fn configuration(ctx: &Ctx) -> Result<()> {
    const IN_FILE: &[Wrong] = &[
        (
            "# x\nfile_system = \"xfs\"\n",
            "nvme-agent setup",
            &["config.toml:2", "unknown key `file_system`", "`filesystem`"],
        ),
        ("expect_drives = \"two\"\n", "nvme-agent setup", &["config.toml:1", "expect_drives", "two"]),
        ("\ntarget = 7\n", "nvme-agent setup", &["config.toml:2", "target", "7"]),
        ("chunk = \"500K\"\n", "nvme-agent setup", &["config.toml:1", "chunk", "power of two", "500K"]),
        ("chunk = \"1Q\"\n", "nvme-agent plan", &["config.toml:1", "chunk", "1Q"]),
        ("drive_timeout = \"soon\"\n", "nvme-agent setup", &["config.toml:1", "drive_timeout", "soon"]),
        (
            "filesystem = \"zfs\"\n",
            "nvme-agent setup",
            &["config.toml:1", "filesystem", "ext4", "xfs", "zfs"],
        ),
        ("target = \"/tmp\n", "nvme-agent setup", &["config.toml:1", "not valid TOML"]),
        ("target = \"/etc/data\"\n", "nvme-agent setup", &["config.toml:1", "target", "/etc/data"]),
        ("wipe_foreign = true\n", "nvme-agent setup", &["config.toml:1", "wipe_foreign", "--wipe-foreign"]),
        (
            "[[directory]]\npath = \"../x\"\n",
            "nvme-agent setup",
            &["config.toml:2", "directory[0].path", "../x"],
        ),
        (
            "[[directory]]\npath = \"x\"\nmode = 755\n",
            "nvme-agent setup",
            &["config.toml:3", "directory[0].mode"],
        ),
        ("mount_options = \"noatime,ro\"\n", "nvme-agent setup", &["config.toml:1", "mount_options", "ro"]),
    ];
    const ELSEWHERE: &[(&str, &[&str])] = &[
        ("NVME_AGENT_TARGTE=/data nvme-agent setup", &["NVME_AGENT_TARGTE", "NVME_AGENT_TARGET"]),
        ("NVME_AGENT_CHUNK=7 nvme-agent setup", &["NVME_AGENT_CHUNK", "power of two", "7"]),
        ("NVME_AGENT_ADOPT=1 nvme-agent setup", &["NVME_AGENT_ADOPT", "--adopt"]),
        ("NVME_AGENT_LOG_LEVEL=loud nvme-agent setup", &["NVME_AGENT_LOG_LEVEL", "loud", "debug"]),
        ("nvme-agent setup --chunk 3", &["--chunk", "3"]),
        ("nvme-agent setup --mkfs-timeout 9h", &["--mkfs-timeout"]),
        ("nvme-agent setup --config /root/none.toml", &["/root/none.toml", "No such file"]),
        ("nvme-agent plan --config /etc", &["/etc", "is a directory"]),
    ];
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let before = Picture::take(vm)?;
        for (text, command, needles) in IN_FILE {
            vm.write(CONFIG, 0o644, text.as_bytes())?;
            if let Err(error) = refuses(vm, command, 4, needles) {
                ctx.note_failure(format!("{text:?}: {error:#}"));
            }
        }
        vm.ok("rm -r /etc/nvme-agent")?;
        for (command, needles) in ELSEWHERE {
            if let Err(error) = refuses(vm, command, 4, needles) {
                ctx.note_failure(format!("{command}: {error:#}"));
            }
        }
        let usage = vm.fails(2, "nvme-agent setup --colour red")?;
        ensure!(usage.err.contains("--colour") && usage.err.contains("Usage"), "{usage:?}");
        // /etc itself is newer by the directory that was made and removed.
        vm.ok("! [ -e /run/nvme-agent/state.json ]")?;
        same_but(&before, vm, &["/etc:"])
    })
}

/// The picture is the same but for files that the case itself touched.
fn same_but(before: &Picture, vm: &mut Vm, touched: &[&str]) -> Result<()> {
    let changed: Vec<String> = before
        .changes(vm)?
        .into_iter()
        .filter(|line| !touched.iter().any(|path| line.starts_with(path)))
        .collect();
    ensure!(changed.is_empty(), "changed: {changed:#?}");
    Ok(())
}

/// Not root, a target that is none, programs that are missing.
fn environment(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let before = Picture::take(vm)?;
        let user = "setpriv --reuid=1000 --regid=1000 --clear-groups nvme-agent";
        refuses(vm, &format!("{user} setup"), 5, &["root", "1000", "sudo"])?;
        refuses(vm, &format!("{user} teardown --yes"), 5, &["root", "1000"])?;
        vm.ok("! [ -e /run/nvme-agent/state.json ]")?;
        before.ensure_same(vm)?;

        vm.ok("echo precious > /opt/file; ln -s /root /opt/link; ln -s /nowhere /opt/dangling; mkfifo /opt/fifo")?;
        let before = Picture::take(vm)?;
        for (target, what) in [
            ("/opt/file", "is a file"),
            ("/opt/link", "is a symbolic link"),
            ("/opt/dangling", "is a symbolic link"),
            ("/opt/fifo", "is neither a directory"),
        ] {
            let words = ["TargetUnsuitable", target, what, "Nothing was changed", "`target`"];
            refuses(vm, &format!("nvme-agent setup --target {target}"), 3, &words)?;
            state_is(vm, "failed", "TargetUnsuitable")?;
            vm.fails(11, "nvme-agent status")?;
        }
        // A symlink or a file on the way to it: what would be made or covered is not what was asked for.
        let out = vm.sh("nvme-agent setup --target /opt/file/below")?;
        ensure!(out.rc != 0 && out.err.contains("/opt/file"), "{out:?}");
        before.ensure_same(vm)?;

        for (kind, package) in [("ext4", "e2fsprogs"), ("xfs", "xfsprogs")] {
            vm.ok(&format!("mv /usr/sbin/mkfs.{kind} /root/"))?;
            let mkfs = format!("mkfs.{kind}");
            refuses(vm, &format!("nvme-agent setup --filesystem {kind}"), 5, &["MkfsMissing", &mkfs, package])?;
            state_is(vm, "failed", "MkfsMissing")?;
            refuses(vm, &format!("nvme-agent plan --filesystem {kind}"), 5, &["MkfsMissing", &mkfs, package])?;
        }
        before.ensure_same(vm)?;
        vm.ok("mv /root/mkfs.ext4 /usr/sbin/; nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        // Without mkfs a node that is set up stays so.
        vm.ok("mv /usr/sbin/mkfs.ext4 /root/; nvme-agent setup; umount /tmp; nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        Ok(())
    })
}

/// mkfs that fails, hangs, or fails at its very end; the next run makes what the intent says.
fn mkfs(ctx: &Ctx) -> Result<()> {
    const STUBS: &[(&str, usize, &str, &[&str])] = &[
        (
            "fails",
            2,
            "echo 'stub: cannot' >&2; echo details; exit 1",
            &["failed with status 1", "stub: cannot; details"],
        ),
        ("fails on one", 1, "echo 'stub: cannot' >&2; exit 3", &["failed with status 3", "stub: cannot"]),
        ("dies", 2, "kill -SEGV $$", &["signal 11"]),
        (
            "hangs",
            2,
            "echo begun; trap '' TERM; sleep 4711 & sleep 4711",
            &["was not done within 2.0 s and was killed", "begun"],
        ),
        ("made it, and fails", 2, "/root/mkfs.ext4 \"$@\"; exit 1", &["failed with status 1"]),
        (
            "made half",
            1,
            "/root/mkfs.ext4 \"$@\"; for last; do :; done; dd if=/dev/zero of=$last bs=4096 count=1 conv=notrunc; exit 1",
            &["failed with status 1"],
        ),
        ("is no program", 2, "", &["could not be started"]),
    ];
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        vm.ok("cp -P /usr/sbin/mkfs.ext4 /root/; cp /usr/sbin/mke2fs /root/mke2fs; ln -sf mke2fs /root/mkfs.ext4")?;
        for (label, drives, stub, needles) in STUBS {
            while vm.drives.iter().filter(|d| d.plugged).count() > *drives {
                vm.unplug(1)?;
            }
            if vm.drives.is_empty() {
                vm.plug(&DriveSpec::many(2, 4 * GIB))?;
            } else if *drives == 2 && !vm.drives[1].plugged {
                vm.plug_again(&[1])?;
                vm.settled(&[1])?;
            }
            kit::case(ctx, vm, label, |vm| fails_then_works(vm, *drives, stub, needles))?;
        }
        Ok(())
    })
}

fn fails_then_works(vm: &mut Vm, drives: usize, stub: &str, needles: &[&str]) -> Result<()> {
    let device = if drives == 1 { format!("/dev/{}", vm.device(0)?) } else { "/dev/md0".into() };
    let text = if stub.is_empty() { "\x7fELF".into() } else { format!("#!/bin/sh\n{stub}\n") };
    vm.ok("rm /usr/sbin/mkfs.ext4")?;
    vm.write("/usr/sbin/mkfs.ext4", 0o755, text.as_bytes())?;
    let before = (files(vm, "/etc")?, vm.ok("cat /proc/1/mountinfo")?);
    let started = Instant::now();
    let words: Vec<&str> =
        needles.iter().copied().chain(["make-filesystem", "/usr/sbin/mkfs.ext4"]).collect();
    let said = refuses(vm, "nvme-agent setup --mkfs-timeout 2s", 7, &words)?;
    ensure!(
        stub.is_empty() || stub.contains("sleep") || said.contains(&device),
        "{device} is not named: {said}"
    );
    ensure!(started.elapsed() < Duration::from_secs(90), "{:?}", started.elapsed());
    vm.ok("! pgrep -f 'sleep 4711'")?;
    let changed = differences(&before.0, &files(vm, "/etc")?);
    ensure!(changed.is_empty() && vm.ok("cat /proc/1/mountinfo")? == before.1, "{changed:#?}");
    let state = state_is(vm, "failed", "MakeFilesystemFailed")?;
    ensure!(
        needles.iter().all(|n| state["message"].as_str().is_some_and(|m| m.replace('\n', "; ").contains(n))),
        "{state:#}"
    );
    vm.fails(11, "nvme-agent status")?;
    let intent: Value = serde_json::from_str(&vm.ok("cat /var/lib/nvme-agent/intent.json")?)?;
    vm.ok("rm /usr/sbin/mkfs.ext4; ln -s mke2fs /usr/sbin/mkfs.ext4; nvme-agent setup")?;
    let state = ensure_ready(vm, "/tmp", "ext4", drives)?;
    ensure!(
        state["fs_uuid"] == intent["fs_uuid"] && state["array_uuid"] == intent["array_uuid"],
        "{intent:#} {state:#}"
    );
    vm.ok("! [ -e /var/lib/nvme-agent/intent.json ]; umount /tmp; e2fsck -fn $(blkid -U $(sed -n 's/.*\"fs_uuid\": \"\\(.*\\)\".*/\\1/p' /run/nvme-agent/state.json))")?;
    Ok(())
}

/// A kernel without raid0: module not there, or not allowed. Told before anything is written, or taken back.
fn raid0(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("modprobe -r raid0; ! grep raid0 /proc/modules")?;
        let file = vm.ok("modinfo -F filename raid0")?;
        let before = Picture::take(vm)?;
        vm.ok(&format!("mv {file} /root/raid0.ko"))?;
        refuses(vm, "nvme-agent setup", 5, &["raid0 module missing", "raid0.ko", "modprobe raid0"])?;
        state_is(vm, "failed", "CreateArrayFailed")?;
        before.ensure_same(vm)?;
        // One drive needs no raid0.
        vm.unplug(1)?;
        vm.ok("nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 1)?;
        kit::reset(vm)?;
        vm.plug_again(&[1])?;
        vm.settled(&[1])?;
        vm.ok(&format!(
            "mv /root/raid0.ko {file}; echo 'install raid0 /bin/false' > /etc/modprobe.d/no-raid0.conf"
        ))?;
        let before = Picture::take(vm)?;
        refuses(vm, "nvme-agent setup", 5, &["raid0 module missing", "/dev/md0", "modprobe raid0"])?;
        vm.ok("sync; udevadm settle")?;
        // The intent was recorded by then: it names what the next run will make.
        same_but(&before, vm, &["/var/lib/nvme-agent", "/run/mdadm"])?;
        vm.ok("rm /etc/modprobe.d/no-raid0.conf")?;
        vm.ok("nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        Ok(())
    })
}
