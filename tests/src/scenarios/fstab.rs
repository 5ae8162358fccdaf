//! /etc/fstab: one line of ours, every other byte as it was, refused where it cannot be edited safely.

use anyhow::{Result, ensure};

use super::kit::{self, Picture, differences, ensure_ready, files, refuses, state, state_is};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "fstab-edited", tier: Tier::Full, run: edited },
    Scenario { name: "fstab-refused", tier: Tier::Normal, run: refused },
    Scenario { name: "fstab-read-only", tier: Tier::Normal, run: read_only },
];

const ROOT: &str = "PARTUUID=5eb5a0a2-6c1f-4d5e-9a3b-0c5a5e6f7a01 / ext4 defaults 0 1";
/// What the old script appends, once a run.
const OLD: &str = "/dev/md0 /tmp ext4 defaults,noatime,nofail 0 2";

/// Our line for the filesystem that is mounted.
fn ours(vm: &mut Vm) -> Result<String> {
    let uuid = state(vm)?["fs_uuid"].as_str().unwrap_or("?").to_owned();
    Ok(format!(
        "UUID={uuid} /tmp ext4 noatime,nosuid,nodev,nofail,x-systemd.device-timeout=90s,x-nvme-agent 0 0"
    ))
}

/// fstab, byte for byte.
fn text(vm: &mut Vm) -> Result<String> {
    let text = vm.ok("cat /etc/fstab; echo .")?;
    Ok(text.trim_end_matches('.').to_owned())
}

/// Texts before and after. `<root>`, `<old>` and `<ours>` stand for lines.
const EDITS: &[(&str, &str, &str)] = &[
    (
        "comments and tabs",
        "# one\n\n\t<root>\n  # two\nproc\t/proc\tproc\tdefaults\t0\t0\n",
        "# one\n\n\t<root>\n  # two\nproc\t/proc\tproc\tdefaults\t0\t0\n<ours>\n",
    ),
    ("no final newline", "<root>\n# end", "<root>\n<ours>\n# end"),
    ("old script's line", "<root>\n<old>\n# end\n", "<root>\n# nvme-agent: replaced: <old>\n<ours>\n# end\n"),
    (
        "old script's line, by every run of it",
        "<old>\n<root>\n<old>\n<old>",
        "# nvme-agent: replaced: <old>\n<ours>\n<root>\n# nvme-agent: replaced: <old>\n# nvme-agent: replaced: <old>\n",
    ),
    (
        "ours, disabled by a failed setup",
        "<root>\n# nvme-agent: disabled, setup failed: <ours>\n#\n",
        "<root>\n<ours>\n#\n",
    ),
    (
        "ours, twice, and ours of an older drive",
        "<ours>\nUUID=11111111-2222-4333-8444-555555555555 /tmp xfs noatime,nofail,x-nvme-agent 0 0\n<root>\n<ours>\n",
        "<ours>\n<root>\n",
    ),
    ("ours, aligned by somebody", "<root>\n", "<root>\n<ours>\n"),
    (
        "neighbours",
        "<root>\nnfs:/a\\040b /tmp/share nfs noauto 0 0\ntmpfs /tmpfs tmpfs noauto 0 0\n/dev/md7 /data xfs noauto\n",
        "<root>\n<ours>\nnfs:/a\\040b /tmp/share nfs noauto 0 0\ntmpfs /tmpfs tmpfs noauto 0 0\n/dev/md7 /data xfs noauto\n",
    ),
    ("empty", "", "<ours>\n"),
];

fn edited(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        // The old script's line is there, and the drives are blank, as after a stop and start.
        vm.write("/etc/fstab", 0o644, format!("{ROOT}\n{OLD}\n").as_bytes())?;
        vm.ok("nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        let line = ours(vm)?;
        ensure!(text(vm)? == format!("{ROOT}\n# nvme-agent: replaced: {OLD}\n{line}\n"), "{}", text(vm)?);
        let fill =
            |text: &str| text.replace("<root>", ROOT).replace("<old>", OLD).replace("<ours>", &line);
        for (label, before, after) in EDITS {
            let proof = |vm: &mut Vm| -> Result<()> {
                vm.ok("rm -f /etc/fstab")?;
                vm.write("/etc/fstab", 0o644, fill(before).as_bytes())?;
                // Lines of others may have faults of their own.
                let faults = vm.sh("findmnt --verify > /dev/null 2>&1")?.rc;
                vm.ok("chmod 640 /etc/fstab; chown 0:5 /etc/fstab; nvme-agent setup")?;
                let now = text(vm)?;
                ensure!(now == fill(after), "found\n{now}expected\n{}", fill(after));
                ensure!(vm.ok("stat -c '%a %u %g' /etc/fstab; ls -A /etc | grep fstab")? == "640 0 5\nfstab");
                ensure!(vm.sh("findmnt --verify > /dev/null 2>&1")?.rc <= faults);
                state_is(vm, "ready", "SetupComplete")?;
                // What is in order is not written again.
                let before = files(vm, "/etc/fstab")?;
                vm.ok("nvme-agent setup")?;
                let changed = differences(&before, &files(vm, "/etc/fstab")?);
                ensure!(changed.is_empty(), "{changed:?}");
                Ok(())
            };
            if let Err(error) = proof(vm) {
                ctx.note_failure(format!("{label}: {error:#}"));
            }
        }
        // Blanks that somebody aligned are no difference.
        let aligned = format!("{ROOT}\n{}\n", line.replace(' ', "   \t"));
        vm.write("/etc/fstab", 0o644, aligned.as_bytes())?;
        vm.ok("nvme-agent setup")?;
        ensure!(text(vm)? == aligned);

        // Windows' line ends: kept, ours has them too, and both systemd and mount(8) read it.
        let crlf = format!("# one\r\n{ROOT} \r\n# two\r\n");
        vm.write("/etc/fstab", 0o644, crlf.as_bytes())?;
        let verify = vm.sh("findmnt --verify")?;
        vm.ok("nvme-agent setup")?;
        ensure!(text(vm)? == format!("{crlf}{line}\r\n"), "{:?}", text(vm)?);
        ensure!(vm.sh("findmnt --verify")?.rc == verify.rc, "worse than before: {verify:?}");
        vm.ok("umount /tmp; systemctl daemon-reload; grep ^What=/dev/disk/by-uuid/ /run/systemd/generator/tmp.mount; mount /tmp; findmnt -t ext4 -O +noatime /tmp")?;

        // A symlink stays one, and so does the directory that it leads to.
        vm.ok(&format!("mkdir -p /opt/conf; echo '{ROOT}' > /opt/conf/fstab.real; ln -s fstab.real /opt/conf/fstab; ln -sf ../opt/conf/fstab /etc/fstab; nvme-agent setup"))?;
        ensure!(text(vm)? == format!("{ROOT}\n{line}\n"));
        ensure!(vm.ok("readlink /etc/fstab /opt/conf/fstab; ls -A /opt/conf")? == "../opt/conf/fstab\nfstab.real\nfstab\nfstab.real");

        // No fstab at all.
        vm.ok("rm /etc/fstab; nvme-agent setup")?;
        ensure!(text(vm)? == format!("{line}\n") && vm.ok("stat -c '%F %a %u' /etc/fstab")? == "regular file 644 0");
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        Ok(())
    })
}

/// Nothing is made, and fstab stays byte for byte, where a line is malformed or puts something else at the target.
fn refused(ctx: &Ctx) -> Result<()> {
    const LINES: &[(&str, &[&str])] = &[
        ("just-one-word", &["line 3", "malformed", "just-one-word"]),
        ("UUID=x /data ext4 defaults zero 0", &["line 3", "field 5", "not a number"]),
        ("UUID=x /data ext4 noatime, nofail 0 2", &["line 3", "not a number"]),
        ("LABEL=other /tmp ext4 defaults 0 0", &["line 3", "LABEL=other", "something else at /tmp"]),
        (
            "UUID=11111111-2222-4333-8444-555555555555 /tmp/ xfs noauto 0 0",
            &["line 3", "something else at /tmp"],
        ),
        ("/dev/sdb1 //tmp ext4 password=secret", &["line 3", "/dev/sdb1", "something else"]),
        ("tmpfs /tmp tmpfs size=1G 0 0", &["line 3", "tmpfs at /tmp"]),
    ];
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        for (line, needles) in LINES {
            let text = format!("{ROOT}\n# two\n{line}\n");
            vm.write("/etc/fstab", 0o644, text.as_bytes())?;
            let before = Picture::take(vm)?;
            let words: Vec<&str> = needles.iter().copied().chain(["FstabConflict", "/etc/fstab"]).collect();
            let proof = |vm: &mut Vm| -> Result<()> {
                let said = refuses(vm, "nvme-agent setup", 3, &words)?;
                ensure!(!said.contains("secret"), "{said}");
                state_is(vm, "failed", "FstabConflict")?;
                before.ensure_same(vm)
            };
            if let Err(error) = proof(vm) {
                ctx.note_failure(format!("{line}: {error:#}"));
            }
        }
        kit::reset(vm)?;
        // On a node that is set up the mount stays, or is made; the file stays as it is, our line in force, and it is said.
        vm.ok("nvme-agent setup; echo kept > /tmp/file; echo broken >> /etc/fstab")?;
        let before = files(vm, "/etc")?;
        let line = format!("line {}", vm.ok("wc -l < /etc/fstab")?.trim());
        for (what, first) in
            [("by hand", "true"), ("at boot", "true"), ("not mounted", "umount /tmp"), ("again", "true")]
        {
            let trigger = if what == "at boot" { "boot" } else { "hand" };
            let said = vm.ok(&format!("{first}; nvme-agent setup --trigger {trigger}"))?;
            let state = state_is(vm, "degraded", "Incomplete")?;
            let message = state["message"].as_str().unwrap_or_default();
            ensure!(
                message.contains(&line) && message.contains("broken") && said.contains(&line),
                "{what}: {state:#}"
            );
            let changed = differences(&before, &files(vm, "/etc")?);
            ensure!(changed.is_empty() && vm.ok("cat /tmp/file")? == "kept", "{what}: {changed:#?}");
        }
        vm.fails(10, "nvme-agent status")?;
        vm.ok("sed -i '$d' /etc/fstab; nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        Ok(())
    })
}

/// A read-only /etc: mounted all the same, `degraded`, and in order as soon as it can be written.
fn read_only(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let before = files(vm, "/etc")?;
        vm.ok("mount --bind /etc /etc; mount -o remount,bind,ro /etc")?;
        let out = vm.ok("nvme-agent setup")?;
        let state = state_is(vm, "degraded", "Incomplete")?;
        for file in ["/etc/fstab", "/etc/mdadm/mdadm.conf", "/etc/tmpfiles.d/tmp.conf"] {
            let message = state["message"].as_str().unwrap_or_default();
            ensure!(message.contains(file) && out.contains(file), "{file} is not named: {state:#}");
        }
        ensure!(state["message"].as_str().is_some_and(|m| m.contains("Read-only file system")), "{state:#}");
        vm.ok("findmnt -O +noatime -t ext4 /tmp; echo kept > /tmp/file")?;
        vm.fails(10, "nvme-agent status")?;
        let changed = differences(&before, &files(vm, "/etc")?);
        ensure!(changed.is_empty(), "{changed:#?}");
        vm.ok("nvme-agent setup")?;
        state_is(vm, "degraded", "Incomplete")?;
        // The generators of the reload that setup asked for may still be reading it.
        vm.ok("until umount /etc; do sleep 0.2; done; nvme-agent setup; [ $(cat /tmp/file) = kept ]")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        Ok(())
    })
}
