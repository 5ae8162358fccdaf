//! /dev/disk/by-uuid: fstab's line is by UUID, and systemd waits for the link.

use super::Check;
use super::subject::Subject;
use crate::observe::sysfs;
use crate::persist::atomic;

const LINKS: &str = "/dev/disk/by-uuid";
/// What udev knows of devices: `b MAJOR:MINOR` each (libudev; sd-device, device_get_device_id).
const DATABASE: &str = "/run/udev/data";
const RULES: [&str; 4] =
    ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];
/// mdadm's rule that makes links for arrays, and ours for hosts without it.
const MDADMS_RULE: &str = "63-md-raid-arrays.rules";
const OUR_RULE: &str = "64-nvme-agent-md.rules";

/// The link of our filesystem's UUID leads to our device, and no other device has that UUID.
pub fn uuid(subject: &Subject<'_>) -> Check {
    const NAME: &str = "uuid-links";
    if !subject.running {
        return subject.cannot(NAME).unwrap_or_default();
    }
    let Some(uuid) = subject.fs_uuid() else {
        return Check::ok(NAME, "no filesystem of ours yet");
    };
    let devices = with_uuid(subject, &uuid);
    if let [_, _, ..] = devices.as_slice() {
        return Check::problem(
            NAME,
            format!("UUID {uuid} is on several devices: {}", devices.join(", ")),
            "Which of them fstab mounts is chance. Detach the copy (a volume made of a snapshot?), or give it another UUID.",
        );
    }
    let leads_to = sysfs::leads_to(subject.root.join(LINKS).join(&uuid));
    let Some(state) = subject.mounted_by_setup() else {
        // Of an earlier boot: where the filesystem has gone, with the drives, setup makes another.
        return match leads_to {
            Some(device) => Check::ok(NAME, format!("{uuid}, of the last setup, leads to /dev/{device}")),
            None => Check::ok(
                NAME,
                format!("{uuid}, of the last setup, is not here (blank drives, or no array yet)"),
            ),
        };
    };
    match leads_to {
        Some(device) if device == state.device => Check::ok(NAME, format!("{uuid} leads to /dev/{device}")),
        Some(device) => Check::problem(
            NAME,
            format!("{LINKS}/{uuid} leads to /dev/{device}, but /dev/{} is mounted", state.device),
            "The next boot could mount the other one. Detach it, or give it another UUID; then `udevadm trigger`.",
        ),
        None => Check::problem(
            NAME,
            format!("{LINKS}/{uuid} is not there: systemd would wait for it in vain"),
            format!(
                "Run `udevadm trigger --action=change /dev/{}`; where that does not bring it, `nvme-agent install` brings the udev \
                 rule.",
                state.device
            ),
        ),
    }
}

/// Kernel names (else numbers) of the block devices whose filesystem has this UUID, as udev knows them.
fn with_uuid(subject: &Subject<'_>, uuid: &str) -> Vec<String> {
    let wanted = format!("E:ID_FS_UUID={uuid}");
    let names = sysfs::names(subject.root.join(DATABASE)).unwrap_or_default();
    let has = |name: &String| {
        let bytes = atomic::read(&subject.root.join(DATABASE).join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().any(|line| line == wanted)
    };
    let devices = names.into_iter().filter(|name| name.starts_with('b')).filter(has);
    devices
        .map(|name| {
            let link = subject.root.join("/sys/dev/block").join(&name[1..]);
            sysfs::leads_to(link).map_or(name, |device| format!("/dev/{device}"))
        })
        .collect()
}

/// Somebody makes the links for arrays.
pub fn udev_rule(subject: &Subject<'_>) -> Check {
    const NAME: &str = "udev-rule";
    let find = |rule: &str| {
        let mut at = RULES.iter().map(|dir| format!("{dir}/{rule}"));
        // One that is masked (a link to /dev/null) is no rule.
        at.find(|path| subject.at(path).is_ok_and(|at| at.is_file()))
    };
    let single = matches!(&subject.seen, Ok(seen) if seen.drives.len() == 1);
    match find(MDADMS_RULE).or_else(|| find(OUR_RULE)) {
        Some(path) => Check::ok(NAME, path),
        None if single => Check::ok(NAME, "none for arrays, and a single drive needs none"),
        None => Check::problem(
            NAME,
            format!(
                "neither mdadm's {MDADMS_RULE} nor {OUR_RULE} is here: nothing makes by-uuid links for an array"
            ),
            "Run `nvme-agent install`, which brings the rule.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::doctor::tests::{Machine, UUID};
    use crate::intent::RECORD_PATH;

    #[test]
    fn the_link_leads_to_our_device_and_to_no_other() {
        Machine::new().check(uuid).is(Verdict::Ok, &["no filesystem of ours yet"]);
        let machine = Machine::set_up();
        machine.check(uuid).is_problem(&[UUID, "is not there", "udevadm trigger", "/dev/md0"]);
        let link = format!("{LINKS}/{UUID}");
        machine.link(&link, "../../md0");
        machine.check(uuid).is(Verdict::Ok, &["leads to /dev/md0"]);
        machine.link(&link, "../../nvme9n1");
        machine.check(uuid).is_problem(&["leads to /dev/nvme9n1, but /dev/md0 is mounted"]);
    }

    #[test]
    fn a_copy_of_the_filesystem_on_another_device_is_found() {
        let machine = Machine::set_up();
        machine.link(&format!("{LINKS}/{UUID}"), "../../md0");
        machine.write("/run/udev/data/b9:0", &format!("S:disk/by-uuid/{UUID}\nE:ID_FS_UUID={UUID}"));
        machine.write("/run/udev/data/b259:7", "E:ID_FS_UUID=another");
        machine.check(uuid).is(Verdict::Ok, &[]);
        machine.write("/run/udev/data/b259:7", &format!("E:ID_FS_UUID={UUID}"));
        machine.check(uuid).is_problem(&["on several devices: b259:7, /dev/md0"]);
    }

    #[test]
    fn what_an_earlier_boot_made_need_not_be_there() {
        let machine = Machine::new();
        let record = format!(
            r#"{{"version":1,"serials":["AWS1"],"array_uuid":null,"fs_uuid":"{UUID}","filesystem":"ext4","target":"/tmp"}}"#
        );
        machine.write(RECORD_PATH, &record);
        machine.check(uuid).is(Verdict::Ok, &["is not here"]);
        machine.image(uuid).is(Verdict::Unknown, &[]);
    }

    #[test]
    fn mdadms_rule_or_ours_makes_the_links() {
        let mut machine = Machine::new();
        machine.drive("1");
        machine.check(udev_rule).is(Verdict::Ok, &["single drive"]);
        machine.drive("2");
        machine.check(udev_rule).is_problem(&["63-md-raid-arrays.rules", "nvme-agent install"]);
        for path in
            ["/usr/lib/udev/rules.d/63-md-raid-arrays.rules", "/etc/udev/rules.d/64-nvme-agent-md.rules"]
        {
            machine.write(path, "# rule");
            machine.check(udev_rule).is(Verdict::Ok, &[path]);
            machine.remove(path);
        }
    }
}
