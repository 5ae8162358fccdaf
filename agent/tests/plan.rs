//! What `nvme-agent plan` tells of whole machines, to people and to programs.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use assert_cmd::Command;
use support::{Description, Machine, Nvme};

fn plan(machine: &Machine, args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("nvme-agent").unwrap();
    command.env_clear().arg("--root").arg(machine.path("/")).arg("plan").args(args);
    command.output().unwrap()
}

/// The text with UUIDs, which are new each time, as `UUID-1`, `UUID-2`, ... in the order of their appearance.
fn without_uuids(text: &[u8]) -> String {
    let mut text = String::from_utf8(text.to_vec()).unwrap();
    let mut known: Vec<String> = Vec::new();
    let is_uuid = |word: &str| {
        word.len() == 36
            && word.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    };
    for word in text.clone().split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        if is_uuid(word) && !known.iter().any(|uuid| uuid == word) {
            known.push(word.to_owned());
        }
    }
    for (n, uuid) in known.iter().enumerate() {
        let mdadms: Vec<String> = uuid
            .replace('-', "")
            .as_bytes()
            .chunks(8)
            .map(|c| String::from_utf8(c.to_vec()).unwrap())
            .collect();
        text = text.replace(uuid, &format!("UUID-{}", n + 1));
        text = text.replace(&mdadms.join(":"), &format!("MDADM-UUID-{}", n + 1));
    }
    text
}

/// No instance type has 24, but nothing may depend on that.
fn twenty_four() -> Description {
    let mut machine = Machine::describe("m6id.8xlarge");
    let model = machine.nvme.iter().rfind(|drive| drive.model == support::EC2).unwrap().clone();
    machine.nvme.retain(|drive| drive.model != support::EC2);
    machine.nvme.extend((1..=24).map(|n| Nvme {
        name: format!("nvme{n}n1"),
        address: vec![format!("0000:{:02x}:00.0", 0x20 + n)],
        serial: format!("AWS{n:017}"),
        ..model.clone()
    }));
    machine
}

#[test]
fn of_fresh_machines_with_1_2_8_and_24_drives() {
    let machines = [
        (1, Machine::fixture("i4i.large")),
        (2, Machine::fixture("m6id.8xlarge")),
        (8, Machine::fixture("i3en.24xlarge")),
        (24, Machine::build(&twenty_four())),
    ];
    for (n, machine) in machines {
        machine.file("/usr/sbin/mkfs.ext4", "");
        fs::set_permissions(machine.path("/usr/sbin/mkfs.ext4"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(machine.path("/run/systemd/system")).unwrap();
        for (format, output) in
            [("text", plan(&machine, &[])), ("json", plan(&machine, &["--output", "json"]))]
        {
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            insta::assert_snapshot!(format!("{format}_{n}"), without_uuids(&output.stdout));
        }
    }
}

#[test]
fn of_a_machine_without_drives() {
    let output = plan(&Machine::fixture("m5.large"), &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "absent: nothing to do\n");
}

#[test]
fn of_a_drive_with_somebodys_data() {
    let machine = Machine::fixture("i4i.large");
    // Under another root nobody is asked what it is.
    machine.put("/dev/nvme1n1", 1 << 16, b"data");
    let text = plan(&machine, &[]);
    assert_eq!((text.status.code(), text.stdout.len()), (Some(3), 0));
    insta::assert_snapshot!("refused_text", String::from_utf8_lossy(&text.stderr));
    let json = plan(&machine, &["--output", "json"]);
    assert_eq!((json.status.code(), &json.stderr), (Some(3), &text.stderr));
    insta::assert_snapshot!("refused_json", String::from_utf8_lossy(&json.stdout));
}
