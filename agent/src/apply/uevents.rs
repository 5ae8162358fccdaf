//! Whether udev and systemd have taken in what became of an array, so that systemd may be made to reload.
//!
//! While an array is being made udev tells systemd that it is not ready (`SYSTEMD_READY=0`), then that it is. PID 1
//! handles a signal before udev's messages, and a reload takes the devices' state from udev's database. So one that is
//! asked for too early finds the array ready, then reads the older message that it is not, takes the device for gone,
//! and stops the mount that fstab bound to it: /tmp was unmounted a second after setup had ended well, on a host busy
//! enough for the messages to lie about. What was sent before can be seen: udev's database and queue say whether udev
//! has still something to tell, and the kernel says whether PID 1's sockets hold something unread.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::root::Root;

/// How long it may take: milliseconds, but this is a boot, and not reloading is a shortcoming.
pub const TIME: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// After this udev has begun with an event that was made for it, and shows a queue until it is done.
const SETTLED: Duration = Duration::from_millis(500);
/// What udev's database says of a device that systemd must take for absent.
const NOT_READY: &str = "E:SYSTEMD_READY=0";
/// NETLINK_KOBJECT_UEVENT of linux/netlink.h, as /proc/net/netlink has it.
const UEVENT_PROTOCOL: &str = "15";

/// Waits until systemd has nothing to learn any more of the time before the array's filesystem could be seen.
///
/// To be called when the mark that kept the array from systemd is gone: events that udev handles from then on say ready.
///
/// # Errors
/// Where it is not so within `deadline`.
pub fn taken_in(root: &Root, array: (u32, u32), fs_uuid: &str, deadline: Duration) -> Result<()> {
    let started = Instant::now();
    while !(udev_has_told(root, array, fs_uuid) && first_process_has_read(root)) {
        if started.elapsed() >= deadline {
            return Err(Error::Other(format!(
                "udev and systemd were not done with the array ({}:{}) after {} s, and systemd was not made to read fstab again \
                 (it could take the device for gone, and unmount it); `udevadm settle && systemctl daemon-reload` does that",
                array.0,
                array.1,
                deadline.as_secs()
            )));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// To be called when an array that systemd may know as ready has been marked as one in the making. Has udev say so, and
/// waits until systemd has read it: read only once the filesystem is mounted, it would have systemd unmount it.
///
/// Nothing is done where there is no such array yet: what systemd never knew cannot go.
///
/// # Errors
/// Where it is not so within `deadline`.
pub fn withdraw(root: &Root, array: &str, deadline: Duration) -> Result<()> {
    let sys = root.join("/sys/block").join(array);
    let Ok(number) = std::fs::read_to_string(sys.join("dev")) else { return Ok(()) };
    let entry = root.join(format!("/run/udev/data/b{}", number.trim()));
    // An entry from before the mark, of an array that was never ready or is so no more: nothing to take back.
    let shown = || std::fs::read_to_string(&entry).is_ok_and(|text| !text.lines().any(|l| l == NOT_READY));
    if shown() {
        std::fs::write(sys.join("uevent"), "change").map_err(Error::io(&sys, "tell udev about"))?;
    }
    let started = Instant::now();
    loop {
        // Where mdadm's rules are not installed nobody heeds the mark, and udev comes to an end without saying so.
        let idle = || started.elapsed() >= SETTLED && !root.join("/run/udev/queue").exists();
        if (!shown() || idle()) && first_process_has_read(root) {
            return Ok(());
        }
        if started.elapsed() >= deadline {
            return Err(Error::Other(format!(
                "udev and systemd have not taken in that {array} is being made after {} s (is systemd hanging?); a mount made \
                 now could be undone by it",
                deadline.as_secs()
            )));
        }
        std::thread::sleep(POLL);
    }
}

/// udev knows the filesystem, or has nothing left to do. Either way what it said before is with its readers: it handles
/// the events of a device one after the other.
fn udev_has_told(root: &Root, (major, minor): (u32, u32), fs_uuid: &str) -> bool {
    if !root.join("/run/udev/queue").exists() {
        return true;
    }
    let entry =
        std::fs::read_to_string(root.join(format!("/run/udev/data/b{major}:{minor}"))).unwrap_or_default();
    let link = format!("S:disk/by-uuid/{fs_uuid}");
    entry.lines().any(|line| line == link) && !entry.lines().any(|line| line == NOT_READY)
}

/// No message of udev's lies unread in a socket of PID 1. True where that cannot be seen.
fn first_process_has_read(root: &Root) -> bool {
    let table = std::fs::read_to_string(root.join("/proc/net/netlink")).unwrap_or_default();
    let unread: Vec<String> = unread(&table).map(|inode| format!("socket:[{inode}]")).collect();
    if unread.is_empty() {
        return true;
    }
    let Ok(descriptors) = std::fs::read_dir(root.join("/proc/1/fd")) else { return true };
    !descriptors
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|to| unread.iter().any(|socket| Path::new(socket) == to))
}

/// Inodes of the uevent sockets, in the text of /proc/net/netlink, that hold something.
fn unread(table: &str) -> impl Iterator<Item = &str> {
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, protocol, _, _, held, .., inode] = fields.as_slice() else { return None };
        (*protocol == UEVENT_PROTOCOL && *held != "0").then_some(*inode)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UUID: &str = "262dcbce-1854-471e-928a-a50f09e11817";
    const TABLE: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000086f02292 0   1          00000000 768      0        0     2        0        4
00000000d7ee3c10 15  1          00000002 RMEM     0        0     2        0        5005
0000000094b1d067 15  219        00000001 4352     0        0     2        0        7007
";

    fn taken(root: &Root) -> Result<()> {
        taken_in(root, (9, 0), UUID, Duration::from_millis(30))
    }

    #[test]
    fn an_array_that_systemd_knows_is_withdrawn_before_anything_is_mounted_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = |path: &str| dir.path().join(path);
        let write = |to: &str, text: &str| {
            std::fs::create_dir_all(path(to).parent().unwrap()).unwrap();
            std::fs::write(path(to), text).unwrap();
        };
        let short = Duration::from_millis(30);
        let withdraw = |deadline| withdraw(&root, "md0", deadline);
        // No such array.
        withdraw(short).unwrap();
        // One that udev has not seen, or only in the making: nothing is taken back.
        write("sys/block/md0/dev", "9:0\n");
        write("sys/block/md0/uevent", "");
        withdraw(short).unwrap();
        write("run/udev/data/b9:0", "I:1\nE:SYSTEMD_READY=0\n");
        withdraw(short).unwrap();
        assert_eq!(std::fs::read_to_string(path("sys/block/md0/uevent")).unwrap(), "");
        // Shown as ready: udev is told, and waited for.
        write("run/udev/data/b9:0", "I:1\nE:ID_FS_TYPE=ext4\n");
        write("run/udev/queue", "");
        let error = withdraw(short).unwrap_err().to_string();
        assert!(error.contains("md0") && error.contains("undone"), "{error}");
        assert_eq!(std::fs::read_to_string(path("sys/block/md0/uevent")).unwrap(), "change");
        // No rule heeds the mark: udev's end is enough.
        std::fs::remove_file(path("run/udev/queue")).unwrap();
        withdraw(Duration::from_secs(20)).unwrap();
        // udev has said it, but systemd has not read it.
        write("run/udev/data/b9:0", "E:SYSTEMD_READY=0\n");
        std::fs::create_dir_all(path("proc/1/fd")).unwrap();
        symlink("socket:[5005]", path("proc/1/fd/7")).unwrap();
        write("proc/net/netlink", &TABLE.replace("RMEM", "1280"));
        withdraw(short).unwrap_err();
        write("proc/net/netlink", &TABLE.replace("RMEM", "0   "));
        withdraw(short).unwrap();
    }

    #[test]
    fn a_reload_waits_for_udev_and_for_what_systemd_has_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // No udev, no /proc: nothing to wait for.
        taken(&root).unwrap();
        // udev is busy, and has not seen the array, or only as one that is being made.
        write("run/udev/queue", "");
        let error = taken(&root).unwrap_err().to_string();
        assert!(error.contains("9:0") && error.contains("daemon-reload"), "{error}");
        write("run/udev/data/b9:0", "I:1\nE:SYSTEMD_READY=0\nG:systemd\n");
        taken(&root).unwrap_err();
        write("run/udev/data/b9:0", &format!("S:disk/by-uuid/{UUID}\nE:SYSTEMD_READY=0\n"));
        taken(&root).unwrap_err();
        write("run/udev/data/b9:0", &format!("S:disk/by-uuid/{UUID}\nE:ID_FS_TYPE=ext4\n"));
        taken(&root).unwrap();
        // PID 1 has not read all of it; others' sockets do not count.
        std::fs::create_dir_all(dir.path().join("proc/1/fd")).unwrap();
        symlink("socket:[5005]", dir.path().join("proc/1/fd/7")).unwrap();
        write("proc/net/netlink", &TABLE.replace("RMEM", "1280"));
        taken(&root).unwrap_err();
        write("proc/net/netlink", &TABLE.replace("RMEM", "0   "));
        taken(&root).unwrap();
    }
}
