//! userData as EC2 runs it: a script of cloud-final, in the instance's first boot, by real cloud-init.

use anyhow::{Result, ensure};

use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "cloud-init-first-boot", tier: Tier::Full, run: first_boot }];

const SEED: &str = "/var/lib/cloud/seed/nocloud";
const FETCHED: &str = "/var/lib/nvme-agent/nvme-agent";

/// What a launch template's userData does once the binary is fetched; it has a file open on the tmpfs that gets covered.
const USER_DATA: &str = "#!/bin/bash -ex
exec > /var/log/user-data.log 2>&1
findmnt -no FSTYPE /tmp > /var/log/before
echo busy > /tmp/open
exec 9<> /tmp/open
cd /tmp
ls -d /tmp/systemd-private-* > /var/log/private-tmp
/var/lib/nvme-agent/nvme-agent plan > /var/log/plan
/var/lib/nvme-agent/nvme-agent install
/usr/local/bin/nvme-agent setup --trigger user-data
cat <&9 > /var/log/still-open
cd /tmp
echo written > from-user-data
";

fn first_boot(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::TrixieCloudInit, |vm| {
        // cloud-init takes itself out of a boot without a data source: as in an image that has never been launched.
        vm.ok("[ ! -e /var/lib/cloud/instances ] || [ -z \"$(ls -A /var/lib/cloud/instances)\" ]")?;
        vm.ok(&format!("mkdir -p {FETCHED}; rmdir {FETCHED}; mv /usr/bin/nvme-agent {FETCHED}"))?;
        vm.write(&format!("{SEED}/user-data"), 0o600, USER_DATA.as_bytes())?;
        let id = format!("instance-id: {}\n", vm.instance.id);
        vm.write(&format!("{SEED}/meta-data"), 0o600, id.as_bytes())?;
        // There is no ssh here whose keys could be made.
        vm.write("/etc/cloud/cloud.cfg.d/99-scenario.cfg", 0o644, b"ssh_genkeytypes: []\n")?;
        vm.ok("sync")?;
        vm.crash()?;
        // Bytes without a signature on one: fresh by definition, since the instance has never had another boot.
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        vm.drives[1].write_at(1 << 16, &noise())?;
        vm.append = "ds=nocloud".into();
        let boot = vm.power_on(&[0, 1], BlankDrives::Keep)?;
        vm.ok("cat /var/log/user-data.log")?;
        boot.clean()?;
        ensure!(vm.ok("cloud-init status --wait")?.contains("status: done"));
        ensure!(vm.ok("cat /var/log/before")? == "tmpfs", "what this is about");
        ensure!(vm.ok("cat /var/log/still-open")? == "busy");
        ensure!(vm.ok("findmnt -no SOURCE,FSTYPE /tmp | tail -n 1")?.starts_with("/dev/md0"));
        ensure!(vm.ok("stat -c '%a %U' /tmp; cat /tmp/from-user-data")? == "1777 root\nwritten");
        ensure!(vm.ok("nvme-agent status")?.contains("ready"));
        ensure!(vm.ok("cat /run/nvme-agent/state.json")?.contains("\"trigger\": \"user-data\""));
        // Every service that had a private directory on the tmpfs has one on the drives, and can still be restarted.
        vm.ok("for dir in $(cat /var/log/private-tmp); do
                   [ \"$(stat -c '%a %u' $dir $dir/tmp)\" = $'700 0\\n1777 0' ] || { ls -laR /tmp; exit 1; }
               done")?;
        vm.ok("for unit in $(systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1); do
                   [ \"$(systemctl show -P PrivateTmp $unit)\" = no ] || systemctl restart $unit
               done
               [ -z \"$(systemctl --failed --no-legend)\" ]")?;
        ensure!(vm.ok("systemctl is-enabled nvme-agent.service")? == "enabled");
        later_refused(vm)
    })
}

/// The same bytes on the same instance, when its first boot is over.
fn later_refused(vm: &mut crate::vm::Vm) -> Result<()> {
    vm.ok("ls /var/lib/cloud/instance/boot-finished")?;
    // Services with a private /tmp have theirs on the mount.
    vm.ok("for unit in $(systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1); do
               [ \"$(systemctl show -P PrivateTmp $unit)\" = no ] || systemctl stop $unit
           done
           nvme-agent teardown --yes")?;
    let name = vm.device(1)?;
    vm.ok(&format!("head -c 4096 /dev/urandom | dd of=/dev/{name} bs=4096 seek=16 oflag=direct"))?;
    let before = vm.hashes()?;
    for command in ["plan", "setup"] {
        let refused = vm.fails(3, &format!("nvme-agent {command}"))?;
        ensure!(refused.err.contains("UnknownData") && refused.err.contains(&name), "{refused:?}");
    }
    ensure!(vm.hashes()? == before);
    vm.fails(11, "nvme-agent status")?;
    Ok(())
}

/// Bytes that no reader of signatures knows.
fn noise() -> Vec<u8> {
    (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect()
}
