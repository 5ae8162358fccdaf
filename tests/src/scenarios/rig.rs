//! What the scenarios about data on drives share: one VM for many cases, drives made blank again between them, and the
//! proof that a refusal changed nothing.

use anyhow::{Context, Result, ensure};

use crate::vm::Vm;

/// A VM whose drives serve one case after the other.
pub struct Rig<'v, 'lab> {
    pub vm: &'v mut Vm<'lab>,
    /// `a=/dev/nvme1n1; b=...`, for the scripts of cases; as of the last [`Rig::prepare`].
    names: String,
}

/// Run once: what a reset brings back.
const KEEP: &str = "mkdir -p /run/rig; cp -a /etc/fstab /etc/mdadm/mdadm.conf /run/rig";

/// Back to blank drives and to a host that has never seen nvme-agent. Starting a program takes 30 ms and more in the
/// guest, so bash does what it can.
const RESET: &str = r#"
while read -r source at rest; do
    case $at:$source in /:*) ;; *:/dev/nvme*|*:/dev/md*|*:/dev/mapper/*) mounted=$(printf %b "$at")" $mounted";; esac
done < /proc/self/mounts
[ -z "$mounted" ] || umount $mounted
[ "$(wc -l < /proc/swaps)" = 1 ] || swapoff -a
[ ! -e /sys/block/dm-0 ] || dmsetup remove_all
for md in /sys/block/md*; do [ ! -d $md/md ] || { udevadm settle; mdadm -q --stop /dev/${md##*/}; }; done
for c in /sys/class/nvme/nvme*; do
    read -r model < $c/model
    case $model in "Amazon EC2 NVMe Instance Storage"*) ;; *) continue;; esac
    for n in $c/nvme*n*; do
        d=/dev/${n##*/}
        [ "$(< $n/ro)" = 0 ] || blockdev --setrw $d
        [ -z "$(compgen -G "${d}p*")" ] || partx -d $d
        blkdiscard -fq $d
    done
done
rm -rf /var/lib/nvme-agent /run/nvme-agent /var/lib/cloud /etc/tmpfiles.d/tmp.conf
cp -a /run/rig/fstab /etc/fstab; cp -a /run/rig/mdadm.conf /etc/mdadm/mdadm.conf
udevadm settle
"#;

/// What must be as it was after a refusal, besides the drives: arrays, mounts, and everything that lasts over a boot.
const STATE: &str = r#"
udevadm settle; sync
grep ^md /proc/mdstat || :; echo /dev/md*; cat /proc/partitions /proc/swaps /proc/self/mounts; echo /sys/block/dm-*
find /etc /var /boot /root /opt /srv /home /tmp -xdev -path /var/log -prune -o -printf '%p %i %m %s %T@\n'
"#;

impl<'v, 'lab> Rig<'v, 'lab> {
    pub fn new(vm: &'v mut Vm<'lab>) -> Result<Rig<'v, 'lab>> {
        vm.ok(KEEP)?;
        Ok(Rig { vm, names: String::new() })
    }

    /// Back to blank drives and to a host that has never seen nvme-agent.
    pub fn reset(&mut self) -> Result<()> {
        self.vm.ok(RESET).map(drop).context("reset")
    }

    /// Runs a case's script with `$a`, `$b`, `$c` for the nodes of the plugged drives, in the order of plugging.
    pub fn prepare(&mut self, script: &str) -> Result<String> {
        self.look_up_names()?;
        self.ok(script).context("prepare the drives")
    }

    /// The same with the names as they were; returns what it prints.
    pub fn ok(&mut self, script: &str) -> Result<String> {
        let script = format!("{}\n{script}", self.names);
        self.vm.ok(&script)
    }

    fn look_up_names(&mut self) -> Result<()> {
        let devices = self.vm.devices()?;
        let plugged = self.vm.drives.iter().filter(|drive| drive.plugged);
        let named = plugged.zip('a'..='z').map(|(drive, letter)| {
            let name = devices.get(&drive.serial).with_context(|| format!("{} has no node", drive.serial))?;
            Ok(format!("{letter}=/dev/{name}"))
        });
        self.names = named.collect::<Result<Vec<_>>>()?.join("; ");
        Ok(())
    }

    /// Every byte of every drive, and everything on the host that lasts.
    fn everything(&mut self) -> Result<(Vec<String>, String)> {
        let state = self.vm.ok(STATE)?;
        Ok((self.vm.hashes()?, state))
    }

    /// Each command must end with `code` and say all of `words` (`$a` stands for that drive's node and serial); afterwards
    /// every byte of every drive, and everything that lasts on the host, is as before.
    pub fn refused(&mut self, commands: &[&str], code: i32, words: &[&str]) -> Result<()> {
        let before = self.everything()?;
        for command in commands {
            let output = self.vm.fails(code, command)?;
            for word in words.iter().flat_map(|word| self.spelled_out(word)) {
                ensure!(output.err.contains(&word), "the message says nothing of {word:?}:\n{}", output.err);
            }
        }
        let after = self.everything()?;
        ensure!(before.0 == after.0, "{commands:?} changed bytes of a drive");
        ensure!(before.1 == after.1, "{commands:?} changed the host:\n{}", difference(&before.1, &after.1));
        Ok(())
    }

    /// `$b` is a drive: the message must have its node and its serial.
    fn spelled_out(&self, word: &str) -> Vec<String> {
        let Some(letter) = word.strip_prefix('$') else { return vec![word.to_owned()] };
        let node = self.names.split("; ").find_map(|pair| pair.strip_prefix(letter)?.strip_prefix('='));
        let at = letter.bytes().next().unwrap_or(b'a') - b'a';
        let drive = self.vm.drives.iter().filter(|drive| drive.plugged).nth(at.into());
        [node.map(str::to_owned), drive.map(|drive| drive.serial.clone())].into_iter().flatten().collect()
    }

    /// setup with these arguments ends ready, and nothing but ours is on the drives and on what they make.
    pub fn becomes_ours(&mut self, arguments: &str) -> Result<()> {
        self.vm.ok(&format!("nvme-agent setup {arguments}"))?;
        let nodes: Vec<&str> =
            self.names.split("; ").filter_map(|pair| pair.split_once('=')).map(|p| p.1).collect();
        let seen = self.vm.ok(&format!(
            "udevadm settle; read -r source at type rest < <(grep ' /tmp ' /proc/self/mounts | tail -1); echo $type
             d='{0}'; [ \"$source\" = '{0}' ] || d=\"$d $source\"; wipefs -nO TYPE $d | sort | uniq -c
             for d in {0}; do compgen -G \"${{d}}p*\" || :; done
             grep -o '\"state\": *\"ready\"' /run/nvme-agent/state.json",
            nodes.join(" ")
        ))?;
        let lines: Vec<String> =
            seen.lines().map(|l| l.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let members = format!("{} linux_raid_member", nodes.len());
        let (single, ready) = (nodes.len() == 1, "\"state\": \"ready\"");
        let wanted: Vec<&str> = if single {
            vec!["ext4", "1 TYPE", "1 ext4", ready]
        } else {
            vec!["ext4", "1 TYPE", "1 ext4", &members, ready]
        };
        ensure!(lines == wanted, "expected {wanted:?} after setup {arguments}:\n{seen}");
        Ok(())
    }
}

/// Lines that only one of two has.
fn difference(before: &str, after: &str) -> String {
    let only = |one: &str, other: &str, sign: char| -> Vec<String> {
        one.lines()
            .filter(|line| !other.lines().any(|o| o == *line))
            .map(|line| format!("{sign} {line}"))
            .collect()
    };
    [only(before, after, '-'), only(after, before, '+')].concat().join("\n")
}
