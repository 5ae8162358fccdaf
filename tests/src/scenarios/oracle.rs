//! mdadm, e2fsck and xfs_repair as oracles: what the agent makes is what they would have made, and they find no fault.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::kit;
use crate::debian::run;
use crate::drive::{Drive, DriveSpec, GIB, MIB, TIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier, cargo, watchdog};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "oracle-mdadm", tier: Tier::Normal, run: superblocks },
    Scenario { name: "oracle-mdadm-sizes", tier: Tier::Full, run: more_sizes },
    Scenario { name: "oracle-xfs", tier: Tier::Normal, run: xfs },
    Scenario { name: "oracle-md-kernel", tier: Tier::Normal, run: md_kernel },
];

/// Bytes of a drive's start that are compared in any case; more where the data begin later.
const HEAD: u64 = 2 * MIB;
/// Where a v1.2 superblock is.
const SUPERBLOCK: usize = 4096;
/// Of the superblock (facts.md section 2): set_uuid, ctime, device_uuid, utime, sb_csum. No two arrays share them.
const MASKED: [std::ops::Range<usize>; 5] = [16..32, 64..72, 168..184, 192..200, 216..220];

/// Member sizes from every step of mdadm's data offset, and unequal ones.
fn superblocks(ctx: &Ctx) -> Result<()> {
    let (small, middle, large) = (75_000_000_000, 150_000_000_000, 3_750_000_000_000);
    compare(
        ctx,
        &[
            (&[4 * GIB, 6 * GIB, 5 * GIB], Also::Assemble),
            (&[4 * GIB; 2], Also::Nothing),
            (&[small; 2], Also::Nothing),
            (&[middle; 2], Also::Nothing),
            (&[large; 2], Also::Nothing),
        ],
    )
}

/// An odd number of sectors, a member that is mostly left alone, many; all of it for large ones too.
fn more_sizes(ctx: &Ctx) -> Result<()> {
    let (odd, large) = (50_000_000_512, 3_750_000_000_000);
    let sizes: [&[u64]; 5] = [&[odd; 2], &[900_000_000_000, 4 * GIB], &[TIB; 3], &[large; 2], &[GIB; 24]];
    compare(ctx, &sizes.map(|sizes| (sizes, Also::Assemble)))
}

/// What is shown beside equal bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Also {
    Nothing,
    Assemble,
}

fn compare(ctx: &Ctx, cases: &[(&[u64], Also)]) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        for (sizes, also) in cases {
            let specs: Vec<DriveSpec> = sizes.iter().map(|size| DriveSpec::new(*size)).collect();
            vm.plug(&specs)?;
            compare_one(vm, *also).with_context(|| format!("members of {sizes:?} bytes"))?;
            vm.unplug_all()?;
        }
        Ok(())
    })
}

/// Ours against mdadm's, on the drives that are plugged in.
fn compare_one(vm: &mut Vm, also: Also) -> Result<()> {
    let nodes = nodes(vm)?;
    vm.ok("dmesg --clear; nvme-agent setup; echo kept > /tmp/file; sync")?;
    let ours = heads(vm)?;
    ensure!(ours.iter().all(|head| head.len() as u64 >= HEAD), "no superblock was written");
    mdadm_is_content(vm, &nodes)?;
    // It ends with 4 where it would have mended something; its version is all that it has for stderr.
    let fsck = vm.sh("umount /tmp; e2fsck -fn /dev/md0")?;
    ensure!(fsck.rc == 0 && fsck.err.lines().count() == 1, "e2fsck -fn: {fsck:?}");
    if also == Also::Assemble {
        comes_back(vm, &nodes)?;
    }
    no_warning(vm)?;

    // mdadm on drives that are blank again as far as it looks: data begin at 129 MiB at most.
    vm.ok(&format!(
        "mdadm --stop /dev/md0
         for d in {nodes}; do blkdiscard -f -l 268435456 $d; done
         mdadm --create /dev/md0 --run --homehost=any --name=md0 --level=0 --raid-devices={} {nodes}
         mdadm --stop /dev/md0; sync",
        vm.drives.len()
    ))?;
    let theirs = heads(vm)?;
    for (role, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        if let Some(at) = first_difference(ours, theirs) {
            let part = |bytes: &[u8]| format!("{:02x?}", bytes.get(at..(at + 16).min(bytes.len())));
            bail!(
                "member {role} differs from mdadm's at byte {at}: {} here, {} there",
                part(ours),
                part(theirs)
            );
        }
    }
    kit::reset(vm)
}

/// `--examine` of each member and `--detail`, without a word on stderr.
fn mdadm_is_content(vm: &mut Vm, nodes: &str) -> Result<()> {
    for (role, node) in nodes.split(' ').enumerate() {
        let output = vm.sh(&format!("mdadm --examine {node}"))?;
        ensure!(output.rc == 0 && output.err.is_empty(), "mdadm --examine {node}: {output:?}");
        for (key, value) in [("State", "clean"), ("Device Role", &*format!("Active device {role}"))] {
            ensure!(said(&output.out, key)? == value, "{key} of {node}: {}", output.out);
        }
        ensure!(said(&output.out, "Checksum")?.ends_with("correct"), "{}", output.out);
        ensure!(said(&output.out, "Name")?.starts_with("any:md0"), "{}", output.out);
    }
    let output = vm.sh("mdadm --detail /dev/md0")?;
    ensure!(output.rc == 0 && output.err.is_empty(), "mdadm --detail: {output:?}");
    for (key, value) in [("State", "clean"), ("Raid Level", "raid0"), ("Chunk Size", "512K")] {
        ensure!(said(&output.out, key)? == value, "{key}: {}", output.out);
    }
    let conf = vm.ok("grep ^ARRAY /etc/mdadm/mdadm.conf")?;
    ensure!(conf.lines().count() == 1 && conf.contains(&said(&output.out, "UUID")?), "mdadm.conf: {conf}");
    Ok(())
}

/// mdadm brings it back as /dev/md0, by our line in mdadm.conf and, as udev does it, member by member.
fn comes_back(vm: &mut Vm, nodes: &str) -> Result<()> {
    let there =
        "[ -b /dev/md0 ] && [ \"$(cat /sys/block/md0/md/array_state)\" = clean ] && [ ! -e /sys/block/md127 ]
                 mount -o ro /dev/md0 /mnt; cat /mnt/file; umount /mnt";
    let scan = vm.ok(&format!("mdadm --stop /dev/md0; mdadm --assemble --scan; udevadm settle\n{there}"))?;
    ensure!(scan.ends_with("kept"), "after mdadm --assemble --scan: {scan}");
    // Without its line only the name in the superblock says that it is md0; --no-udev-rules would not be what a boot does.
    let script = format!(
        "mv /etc/mdadm/mdadm.conf /etc/mdadm/aside; mdadm --stop /dev/md0
         for d in {nodes}; do mdadm --incremental $d; done; udevadm settle
         mv /etc/mdadm/aside /etc/mdadm/mdadm.conf
         {there}"
    );
    let incremental = vm.ok(&script)?;
    ensure!(incremental.ends_with("kept"), "after mdadm --incremental: {incremental}");
    Ok(())
}

fn xfs(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(3, 50_000_000_000))?;
        let nodes = nodes(vm)?;
        vm.ok("dmesg --clear; nvme-agent setup --filesystem xfs; echo kept > /tmp/file; sync")?;
        mdadm_is_content(vm, &nodes)?;
        vm.ok("umount /tmp; xfs_repair -n /dev/md0")?;
        comes_back(vm, &nodes)?;
        no_warning(vm)
    })
}

/// The agent's own tests of its array code, which need a kernel with md and mdadm: built here, run in the guest.
fn md_kernel(ctx: &Ctx) -> Result<()> {
    let mut build = cargo();
    build.args(["test", "--quiet", "--package", "nvme-agent", "--test", "md_kernel", "--no-run"]);
    let messages = watchdog::exempt(|| run(build.args(["--message-format", "json"])))?;
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "md_kernel")
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .context("cargo did not say where it put the test binary md_kernel")?;
    ctx.vm(Guest::Trixie, |vm| {
        vm.push(program.as_ref(), "/root/md_kernel")?;
        let tests =
            vm.spawn("modprobe loop; cd /root; TMPDIR=/root ./md_kernel --ignored --test-threads=1 2>&1")?;
        let output = vm.wait_within(Duration::from_secs(400), tests)?;
        ensure!(output.rc == 0, "{}", output.out);
        // A filter that matches nothing passes too.
        let all =
            output.out.contains(" passed; 0 failed; 0 ignored") && !output.out.contains("running 0 tests");
        ensure!(all, "{}", output.out);
        Ok(())
    })
}

/// The drives' nodes in the order of their serials, which is that of the roles.
fn nodes(vm: &mut Vm) -> Result<String> {
    let nodes = (0..vm.drives.len()).map(|index| Ok(format!("/dev/{}", vm.device(index)?)));
    Ok(nodes.collect::<Result<Vec<_>>>()?.join(" "))
}

fn said(text: &str, key: &str) -> Result<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim().strip_prefix(':'));
    Ok(value.with_context(|| format!("mdadm says nothing of {key}: {text}"))?.trim().to_owned())
}

/// Of each drive all that is before the data, masked.
fn heads(vm: &Vm) -> Result<Vec<Vec<u8>>> {
    vm.drives.iter().map(head).collect()
}

fn head(drive: &Drive) -> Result<Vec<u8>> {
    let file = File::open(&drive.file).with_context(|| format!("open {}", drive.file.display()))?;
    let mut first = vec![0; 2 * SUPERBLOCK];
    file.read_exact_at(&mut first, 0)?;
    let superblock = &mut first[SUPERBLOCK..];
    ensure!(superblock[..4] == 0xa92b_4efc_u32.to_le_bytes(), "no md superblock on {}", drive.serial);
    for range in MASKED {
        superblock[range].fill(0);
    }
    let data = u64::from_le_bytes(superblock[128..136].try_into()?) * 512;
    ensure!((HEAD..512 * MIB).contains(&data), "data begin at byte {data} of {}", drive.serial);
    let mut head = vec![0; data as usize];
    file.read_exact_at(&mut head, 0)?;
    head[..first.len()].copy_from_slice(&first);
    Ok(head)
}

fn first_difference(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    if ours == theirs {
        return None;
    }
    let differs = ours.iter().zip(theirs).position(|(a, b)| a != b);
    Some(differs.unwrap_or(ours.len().min(theirs.len())))
}

/// Nothing of md or a filesystem in the kernel's log at warning or above.
fn no_warning(vm: &mut Vm) -> Result<()> {
    let log = vm.ok("dmesg --level=emerg,alert,crit,err,warn")?;
    let ours = |line: &&str| {
        ["md", "raid", "EXT4", "XFS", "Buffer I/O", "nvme"].iter().any(|word| line.contains(word))
    };
    let lines: Vec<&str> = log.lines().filter(ours).collect();
    ensure!(lines.is_empty(), "the kernel warns: {}", lines.join("\n"));
    Ok(())
}
