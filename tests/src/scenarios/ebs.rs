//! What only looks like a drive of ours: EBS volumes, the drive that carries the root filesystem, further paths to a drive.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{kit, rig::Rig};
use crate::boot::{BlankDrives, ROOT};
use crate::debian::{find_program, run};
use crate::drive::{DriveSpec, GIB, INSTANCE_STORE};
use crate::image::{Guest, ROOT_PARTUUID};
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "ebs-volumes", tier: Tier::Normal, run: volumes },
    Scenario { name: "ebs-nvme-loop", tier: Tier::Full, run: nvme_loop },
    Scenario { name: "ebs-root-on-instance-store", tier: Tier::Full, run: root_on_instance_store },
];

/// EBS data volumes, blank and not, are never touched: alone, beside drives, and under `--wipe-foreign`.
fn volumes(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        let names = ["blank", "with ext4", "with a partition", "with unknown data"];
        for number in 1..=names.len() {
            rig.vm.plug(&[DriveSpec::ebs(GIB, &format!("vol{number:017x}"))])?;
        }
        rig.prepare("mkfs.ext4 -q -E lazy_itable_init=0 $b; echo , | sfdisk -q $c; head -c 65536 /dev/urandom > $d; sync")?;
        rig.refused(&["nvme-agent setup", "nvme-agent setup --wipe-foreign --adopt"], 0, &[])
            .context("EBS volumes alone")?;
        ensure!(kit::state(rig.vm)?["state"] == "absent");
        let volumes = rig.vm.hashes()?;
        rig.vm.plug(&DriveSpec::many(2, GIB))?;
        rig.prepare("mkfs.xfs -q $f; sync")?;
        rig.vm.fails(3, "nvme-agent setup")?;
        rig.vm.ok("nvme-agent setup --wipe-foreign")?;
        kit::ensure_ready(rig.vm, "/tmp", "ext4", 2)?;
        rig.vm.ok("head -c 200M /dev/urandom > /tmp/much; sync")?;
        let after = rig.vm.hashes()?;
        for (index, name) in names.iter().enumerate() {
            ensure!(volumes[index] == after[index], "the EBS volume {name} was written to");
        }
        Ok(())
    })
}

/// A drive of the right model over fabrics, with two paths: no candidate, neither its head nor its hidden nodes.
fn nvme_loop(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let rig = Rig::new(vm)?;
        let seen = rig.vm.ok(&format!(
            "modprobe -a nvmet nvme-loop; truncate -s 1G /var/tmp/fabric
             cd /sys/kernel/config/nvmet; s=subsystems/nqn.2014-08.org.lab:a; mkdir $s ports/1
             echo 1 > $s/attr_allow_any_host; echo -n '{INSTANCE_STORE}' > $s/attr_model; echo -n AWS0FAB0000000000000 > $s/attr_serial
             mkdir $s/namespaces/1; echo -n /var/tmp/fabric > $s/namespaces/1/device_path; echo 1 > $s/namespaces/1/enable
             echo loop > ports/1/addr_trtype; ln -s $PWD/$s ports/1/subsystems/
             for x in 1 2; do echo transport=loop,nqn=nqn.2014-08.org.lab:a,duplicate_connect > /dev/nvme-fabrics; done
             udevadm settle; ls /sys/block; cat /sys/class/nvme/nvme1/model"
        ))?;
        ensure!(seen.contains("nvme1n1") && seen.contains("nvme1c1n1") && seen.contains("nvme1c2n1"), "{seen}");
        ensure!(seen.contains(INSTANCE_STORE), "{seen}");
        let sum = "sha256sum < /var/tmp/fabric";
        let before = rig.vm.ok(sum)?;
        rig.vm.ok("nvme-agent setup")?;
        ensure!(kit::state(rig.vm)?["state"] == "absent");
        rig.vm.plug(&DriveSpec::many(2, GIB))?;
        rig.vm.ok("nvme-agent setup --wipe-foreign")?;
        let state = kit::ensure_ready(rig.vm, "/tmp", "ext4", 2)?;
        ensure!(!state.to_string().contains("AWS0FAB"), "{state:#}");
        rig.vm.ok("sync")?;
        ensure!(rig.vm.ok(sum)? == before, "the drive over fabrics was written to");
        Ok(())
    })
}

/// The machine boots from an instance-store drive; beside it is a PCI drive that the kernel has twice (two controllers,
/// one namespace). The first is never touched, the second is one drive.
fn root_on_instance_store(ctx: &Ctx) -> Result<()> {
    const COPY: &str = "5eb5a0a2-6c1f-4d5e-9a3b-0c5a5e6f7a02";
    const TWICE: &str = "AWS0A0A0000000000000";
    ctx.vm(Guest::Trixie, |vm| {
        let size = 6 * GIB;
        vm.ok(&format!("sed -i s/{ROOT_PARTUUID}/{COPY}/ /etc/fstab; sync"))?;
        vm.power_off()?;
        let root = vm.add(&[DriveSpec::new(size).serial("AWS0B00700000000000")])?[0];
        let image = vm.host_image(root).to_owned();
        run(vm
            .lab
            .qemu
            .img()
            .args(["convert", "-n", "-f", "qcow2", "-O", "raw"])
            .arg(vm.root())
            .arg(&image))?;
        let sfdisk = find_program("sfdisk").context("sfdisk")?;
        run(Command::new(sfdisk).arg("-q").arg("--part-uuid").arg(&image).args(["1", COPY]))?;
        let twice = vm.add(&[DriveSpec::new(GIB)])?[0];
        // The ports after those of the root volume and of the root drive are free; drives plugged in later take the first.
        let controller = |id: &str, port: usize| {
            format!("nvme,id={id},subsys=two,serial={TWICE},model={INSTANCE_STORE},bus=p{port}")
        };
        let file = vm.host_image(twice).display().to_string();
        vm.extra = [
            ("-device", "nvme-subsys,id=two,nqn=two".to_owned()),
            ("-device", controller("two0", 4)),
            ("-device", controller("two1", 5)),
            (
                "-blockdev",
                format!(
                    "raw,node-name=two,discard=unmap,file.driver=file,file.locking=off,file.filename={file}"
                ),
            ),
            ("-device", "nvme-ns,drive=two,bus=two0,nsid=1,shared=on".to_owned()),
        ]
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect();
        vm.append = format!("root=PARTUUID={COPY}");
        vm.power_on(&[ROOT, root], BlankDrives::Keep)?.clean()?;
        let source = vm.ok("findmnt -no SOURCE /; ls /sys/block")?;
        let carrier = vm.device(root)?;
        ensure!(source.starts_with(&format!("/dev/{carrier}p1\n")), "the root filesystem is on {source}");
        let hidden = source.lines().filter(|name| name.starts_with("nvme") && name.contains('c')).count();
        ensure!(hidden == 2, "expected two hidden paths: {source}");

        // Alone with the root drive, the doubled drive is one drive.
        vm.ok("nvme-agent setup --wipe-foreign")?;
        let state = kit::ensure_ready(vm, "/tmp", "ext4", 1)?;
        ensure!(state["serials"] == serde_json::json!([TWICE]), "{state:#}");
        vm.ok("nvme-agent teardown --yes")?;
        let beside = vm.plug(&[DriveSpec::new(GIB)])?[0];
        vm.ok("nvme-agent setup --wipe-foreign")?;
        let state = kit::ensure_ready(vm, "/tmp", "ext4", 2)?;
        let serials = [TWICE, vm.drives[beside].serial.as_str()];
        ensure!(serials.iter().all(|s| state.to_string().contains(s)), "{state:#}");
        ensure!(!state.to_string().contains("AWS0B007"), "{state:#}");
        let plan = vm.ok("nvme-agent plan --output json")?;
        ensure!(!plan.contains(&format!("/dev/{carrier}\"")), "{plan}");

        vm.power_off()?;
        let e2fsck = find_program("e2fsck").context("e2fsck")?;
        run(Command::new(e2fsck).arg("-fn").arg(format!("{}?offset=1048576", image.display())))
            .context("the root filesystem is damaged")
            .map(drop)
    })
}
