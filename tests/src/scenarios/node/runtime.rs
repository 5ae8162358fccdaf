//! What happens to the storage while the node runs is on the Node a tick later.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::eks::Eks;
use crate::apiserver::auth::User;
use crate::apiserver::kubeconfig::{Exec, Login};
use crate::awscli::AwsCli;
use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::nodeadm::NODE;
use crate::runner::Ctx;

/// An access key that nobody has given out.
const ID: &str = "AKIDLABLABLABLABLAB0";

/// Read-only, gone, a member pulled: each with its reason, and back.
pub fn changes(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let (mut eks, _) = Eks::booted(vm, "")?;
        let ready = |eks: &mut Eks<'_, '_>| -> Result<()> {
            let asked = eks.tick()?;
            ensure!(!asked.is_empty() && asked.len() <= 3, "{asked:?}");
            eks.told_ready()?;
            Ok(())
        };
        eks.vm.ok("mount -o remount,ro /tmp")?;
        let asked = eks.tick()?;
        ensure!(asked.len() <= 3, "{asked:?}");
        eks.told_failed("MountReadOnly", "/dev/md0")?;
        ensure!(eks.tick()?.is_empty(), "told once");
        eks.vm.ok("mount -o remount,rw /tmp")?;
        ready(&mut eks)?;

        eks.vm.ok("umount -l /tmp")?;
        eks.tick()?;
        eks.told_failed("MountGone", "/dev/md0")?;
        eks.vm.ok("nvme-agent setup")?;
        ready(&mut eks)?;

        eks.vm.ok("echo 1 >/sys/fs/ext4/md0/trigger_fs_error")?;
        eks.tick()?;
        let state = eks.label("state")?;
        ensure!(state == "degraded", "ext4 found an error, and the Node says {state}");

        let serial = eks.vm.drives[1].serial.clone();
        eks.vm.unplug(1)?;
        eks.tick()?;
        eks.told_failed("DriveLost", &serial)?;
        let events = eks.cluster.events(NODE)?;
        ensure!(events.iter().any(|event| event.to_string().contains(&serial)), "{events:?}");
        Ok(())
    })
}

/// By the timer alone, within five minutes.
pub fn timer(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let (eks, _) = Eks::booted(vm, "")?;
        let serial = eks.vm.drives[1].serial.clone();
        let started = Instant::now();
        eks.vm.unplug(1)?;
        while eks.label("state")? != "failed" {
            ensure!(started.elapsed() < Duration::from_secs(300), "not on the Node within five minutes");
            std::thread::sleep(Duration::from_secs(2));
        }
        eks.vm.note(&format!("on the Node after {:.0} s", started.elapsed().as_secs_f64()));
        eks.told_failed("DriveLost", &serial)
    })
}

/// The real `aws eks get-token` as exec plugin, inside the report unit's confinement.
pub fn aws_token(ctx: &Ctx) -> Result<()> {
    const KEY: &str = "s3cret-key-of-the-lab-5f1d0b7c";
    let aws = AwsCli::get()?;
    // The userland that has Python.
    ctx.vm(Guest::TrixieCloudInit, |vm| {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut eks = Eks::image(vm)?;
        eks.vm.push(&aws.tar(), "/root/awscli.tar.gz")?;
        let unpacked = "tar -C /opt -xzf /root/awscli.tar.gz; python3 -m compileall -q /opt/awscli/lib; sync";
        let output = eks.vm.sh_within(Duration::from_secs(900), unpacked)?;
        ensure!(output.rc == 0, "{output:?}");
        eks.cluster.server()?.tokens().add_access_key(ID, User::node(NODE));
        let env = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", KEY)];
        let args = ["--region", "eu-west-1", "eks", "get-token", "--cluster-name", "lab"];
        eks.login(&Login::Exec(Exec { command: "/opt/awscli/aws", args: &args, env: &env }))?;
        eks.install("")?;
        let (boot, _) = eks.boot(&[0, 1], BlankDrives::Keep)?;
        boot.clean()?;
        eks.told_ready()?;
        let users: Vec<String> =
            eks.cluster.server()?.requests().into_iter().map(|entry| entry.user).collect();
        ensure!(users.iter().any(|user| user.ends_with(NODE)), "{users:?}");
        let journal = eks.vm.ok("journalctl --no-pager -o cat")?;
        for secret in [KEY, "k8s-aws-v1."] {
            ensure!(!journal.contains(secret), "a secret is in the journal");
        }
        Ok(())
    })
}
