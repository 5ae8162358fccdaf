//! What scenarios of several topics use: many cases in one VM, files compared to the nanosecond, the machine as it was.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::runner::Ctx;
use crate::vm::Vm;

/// Runs one of many cases in a VM that they share, then [`reset`]s it. A failure is noted, and the next case runs.
pub fn case(ctx: &Ctx, vm: &mut Vm, label: &str, proof: impl FnOnce(&mut Vm) -> Result<()>) -> Result<()> {
    vm.note(&format!("=== {label}"));
    if let Err(error) = proof(vm) {
        ctx.note_failure(format!("{label}: {error:#}"));
        vm.note(&format!("=== FAILED: {error:#}"));
        vm.sh("nvme-agent status; cat /run/nvme-agent/state.json; journalctl -t nvme-agent -o short-monotonic --no-pager | tail -60")?;
    }
    reset(vm).with_context(|| format!("reset after {label}"))
}

/// Remembers /etc/fstab, mdadm.conf and what else [`reset`] brings back. Call it before the first case.
pub fn remember(vm: &mut Vm) -> Result<()> {
    vm.ok("mkdir -p /root/was; cp -a /etc/fstab /etc/mdadm/mdadm.conf /root/was/").map(drop)
}

/// The machine as it was: drives blank, nothing mounted from them, no file of ours, the distribution's /tmp.
pub fn reset(vm: &mut Vm) -> Result<()> {
    vm.ok("cd /
         umount -q /etc/fstab /etc 2>/dev/null || :
         while target=$(awk '$1 ~ \"^/dev/(md|nvme)\" && $1 !~ \"n1p1$\" && $2 != \"/\" { t = $2 } END { print t }' /proc/mounts)
               [ -n \"$target\" ]; do umount \"$target\"; done
         for md in /sys/block/md*; do [ ! -e $md ] || mdadm --quiet --stop /dev/${md##*/}; done
         for c in /sys/class/nvme/nvme*; do
             read -r model < $c/model
             case $model in *Instance*) for n in $c/nvme*n*; do blkdiscard -f /dev/${n##*/} & done;; esac
         done; wait
         rm -rf /var/lib/nvme-agent /run/nvme-agent /etc/nvme-agent /etc/tmpfiles.d/tmp.conf /opt/data /etc/fstab
         cp -a /root/was/fstab /etc/fstab; cp -a /root/was/mdadm.conf /etc/mdadm/mdadm.conf
         systemctl daemon-reload; grep -q ' /tmp tmpfs ' /proc/mounts || systemctl start tmp.mount")
        .map(drop)
}

/// Everything about the files below these directories but the times of reading: type, mode, owner, size, times of
/// change of content and of inode, content. By path.
pub fn files(vm: &mut Vm, directories: &str) -> Result<BTreeMap<String, String>> {
    let text = vm.ok(&format!(
        "for d in {directories}; do
             [ -e $d ] || continue
             find $d -xdev -printf '%p|%y %m %U:%G %s %T@ %C@ %l\\n'
             find $d -xdev -type f -exec sha256sum {{}} + | sed 's/^\\(.*\\)  \\(.*\\)/\\2#|\\1/'
         done"
    ))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(path, rest)| (path.into(), rest.into()))
        .collect())
}

/// What differs between two of [`files`].
pub fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let show = |value: Option<&String>| value.map_or("absent".to_owned(), Clone::clone);
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| format!("{path}: {} -> {}", show(before.get(path)), show(after.get(path))))
        .collect()
}

/// What must not change when a run is said to change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    files: BTreeMap<String, String>,
    mounts: String,
    arrays: String,
    hashes: Vec<String>,
}

impl Picture {
    /// Files of /etc and of ours, mounts, arrays, systemd's last reload, every byte of every drive.
    pub fn take(vm: &mut Vm) -> Result<Picture> {
        let directories = "/etc /opt /var/lib/nvme-agent /run/systemd/systemd-units-load /run/mdadm";
        Ok(Picture {
            files: files(vm, directories)?,
            mounts: vm.ok("cat /proc/1/mountinfo; ls -la --time-style=full-iso /tmp")?,
            arrays: vm.ok("cat /proc/mdstat 2> /dev/null | grep ^md || :; ls /sys/block")?,
            hashes: vm.hashes()?,
        })
    }

    /// Demands that everything is as it was.
    pub fn ensure_same(&self, vm: &mut Vm) -> Result<()> {
        let changed = self.changes(vm)?;
        ensure!(changed.is_empty(), "changed: {changed:#?}");
        Ok(())
    }

    /// What is not as it was: paths, mounts, arrays, drives.
    pub fn changes(&self, vm: &mut Vm) -> Result<Vec<String>> {
        let now = Picture::take(vm)?;
        let mut changed = differences(&self.files, &now.files);
        for (what, before, now) in
            [("mounts", &self.mounts, &now.mounts), ("arrays", &self.arrays, &now.arrays)]
        {
            if before != now {
                changed.push(format!("{what}:\n{before}\n->\n{now}"));
            }
        }
        let drives =
            self.hashes.iter().zip(&now.hashes).enumerate().filter(|(_, (before, now))| before != now);
        changed.extend(drives.map(|(index, _)| format!("drive {index} was written to")));
        Ok(changed)
    }
}

/// `/run/nvme-agent/state.json`.
pub fn state(vm: &mut Vm) -> Result<Value> {
    let text = vm.ok("cat /run/nvme-agent/state.json")?;
    serde_json::from_str(&text).with_context(|| format!("state.json is no JSON: {text}"))
}

/// The state is this one, for this reason; returns the whole of it.
pub fn state_is(vm: &mut Vm, word: &str, reason: &str) -> Result<Value> {
    let state = state(vm)?;
    ensure!(
        state["state"] == word && state["reason"] == reason,
        "expected {word} ({reason}), found {state:#}"
    );
    Ok(state)
}

/// What an operator expects at `target` after a good run: ready, one mount of ours with the options, a filesystem with the
/// UUID that state and fstab name, users can write and not delete each other's files (at /tmp), nothing failed.
pub fn ensure_ready(vm: &mut Vm, target: &str, kind: &str, drives: usize) -> Result<Value> {
    // One script: a process costs 30 ms in the guest, and seconds on a busy host.
    let text = vm.ok(&format!(
        "while read -r _ _ _ _ at options rest; do
             [ $at = {target} ] || continue
             set -- ${{rest##*- }}
             [ $1 = tmpfs ] || echo \"mount $options $1 $2\"
             source=$2
         done < /proc/1/mountinfo
         echo uuid $(blkid -p -o value -s UUID $source)
         while read -r line; do case $line in \\#*) ;; *' {target} '*) echo \"fstab $line\";; esac; done < /etc/fstab
         findmnt --verify > /dev/null
         systemctl --failed --no-legend --plain
         if [ {target} = /tmp ]; then
             user=1000; as() {{ setpriv --reuid=$user --regid=$user --clear-groups \"$@\"; }}
             stat -c 'root %a %u %g' /tmp
             as sh -c 'echo mine > /tmp/of-1000; chmod 666 /tmp/of-1000'
             user=1001
             ! as rm -f /tmp/of-1000 2> /dev/null
             read -r mine < /tmp/of-1000; [ $mine = mine ]; rm /tmp/of-1000
         fi
         nvme-agent status > /dev/null
         echo state; cat /run/nvme-agent/state.json"
    ))?;
    let (facts, state) = text.split_once("\nstate\n").with_context(|| text.clone())?;
    let state: Value =
        serde_json::from_str(state).with_context(|| format!("state.json is no JSON: {state}"))?;
    ensure!(state["state"] == "ready" && state["reason"] == "SetupComplete", "not ready: {state:#}");
    ensure!(state["drives"] == drives && state["target"] == target, "{state:#}");
    ensure!(state["layout"] == if drives == 1 { "single" } else { "raid0" }, "{state:#}");
    let (device, uuid) = (state["device"].as_str().unwrap_or("?"), state["fs_uuid"].as_str().unwrap_or("?"));
    ensure!(device.starts_with(if drives == 1 { "nvme" } else { "md0" }), "on {device}");
    let of = |word: &str| -> Vec<Vec<&str>> {
        facts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).filter(|l| l[0] == word).collect()
    };
    let mounts = of("mount");
    ensure!(mounts.len() == 1 && mounts[0][2..] == [kind, &format!("/dev/{device}")], "{facts}");
    let options: Vec<&str> = mounts[0][1].split(',').collect();
    ensure!(["rw", "noatime", "nosuid", "nodev"].iter().all(|o| options.contains(o)), "{facts}");
    ensure!(!options.contains(&"relatime"), "{facts}");
    ensure!(of("uuid") == [["uuid", uuid]], "expected the UUID {uuid}: {facts}");
    let fstab = of("fstab");
    ensure!(fstab.len() == 1 && fstab[0][1..4] == [&format!("UUID={uuid}"), target, kind], "{facts}");
    ensure!(fstab[0][4].starts_with("noatime,nosuid,nodev,") && fstab[0][4].contains(",nofail,"), "{facts}");
    ensure!(target != "/tmp" || of("root") == [["root", "1777", "0", "0"]], "{facts}");
    let known = ["mount", "uuid", "fstab", "root"];
    let failed: Vec<&str> =
        facts.lines().filter(|l| !known.contains(&l.split(' ').next().unwrap_or_default())).collect();
    ensure!(failed.is_empty(), "failed units: {failed:?}");
    Ok(state)
}

/// `nvme-agent ARGUMENTS` must end with `rc` and say one line on stderr that holds all of `needles`; returns it.
pub fn refuses(vm: &mut Vm, arguments: &str, rc: i32, needles: &[&str]) -> Result<String> {
    let output = vm.fails(rc, arguments)?;
    let err = output.err.trim_end();
    ensure!(output.out.is_empty(), "something on stdout: {output:?}");
    ensure!(
        err.lines().count() == 1 && err.starts_with("nvme-agent: error: "),
        "not one line of error: {err}"
    );
    for needle in needles {
        ensure!(err.contains(needle), "`{needle}` is not in: {err}");
    }
    Ok(err.to_owned())
}
