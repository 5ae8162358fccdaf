//! Whether udev has told, and systemd has acted upon, all that was sent of an array that was being made.
//!
//! While an array is in the making udev tells systemd that it is not ready (`SYSTEMD_READY=0`), then that it is. PID 1
//! handles a signal before udev's messages, and a reload, ours or anybody's, takes the devices' state from udev's
//! database. One that meets unread messages finds the array ready, then reads the older message that it is not, takes
//! the device for gone, and stops the mount on it: /tmp was unmounted seconds after setup had ended well. The same where
//! an array that was mounted there has just gone, and systemd is about to unmount what it still takes to be there. So
//! nothing is mounted where others see it before the last such message is acted upon, and the mark that causes them
//! stays until it is mounted; what is sent from then on says ready. And fstab's line is read by a systemd that has been
//! told so: one that finds it with a device that is not there unmounts what is mounted, too.
//!
//! udev handles the events of a device in their order. So one of our own, with a UUID that udev repeats
//! (kobject-uevent of the kernel: "change UUID"), tells when those before it are through, whatever else udev is busy
//! with. Then the kernel tells whether PID 1's sockets hold something unread, and whether it waits for something to do:
//! its queue of jobs is worked off before it does.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::root::Root;

/// How long it may take: milliseconds, but a reload of systemd holds it up as long as that lasts.
pub const TIME: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// NETLINK_KOBJECT_UEVENT of linux/netlink.h, as /proc/net/netlink has it.
const UEVENT_PROTOCOL: &str = "15";
/// What udev sends goes to this multicast group, the kernel's own to 1 (MONITOR_GROUP_UDEV of libudev).
const UDEV_GROUP: u32 = 2;
/// udev's messages have at most 8 KiB (sd-device's receive buffer).
const LONGEST_MESSAGE: usize = 8192;

/// An event of ours on its way through udev, and whoever waits for it; to be begun early, for it takes its time.
#[derive(Debug)]
pub struct Settling {
    /// Kernel name of the block device, such as `md0`.
    name: String,
    until: Instant,
    /// Says whether udev got through with it in time. None where there is no udev that could tell systemd anything.
    udev: Option<JoinHandle<Result<bool>>>,
}

#[derive(Debug)]
struct Sent {
    listener: OwnedFd,
    uevent: PathBuf,
    sign: Uuid,
}

impl Settling {
    /// Sends the event, for a device that nobody writes to any more, and has a thread listen for what comes of it: udev
    /// is at work while the caller mounts. `deadline` is for all that [`Settling::wait`] waits for.
    ///
    /// # Errors
    /// The device is not there, or udev cannot be listened to.
    pub fn begin(root: &Root, name: &str, deadline: Duration) -> Result<Settling> {
        let until = Instant::now() + deadline;
        let reachable = root.is_host() && root.join("/run/udev/control").exists();
        let sent = reachable.then(|| Sent::send(root, name)).transpose()?;
        let (root, owned) = (root.clone(), name.to_owned());
        let udev = sent.map(|sent| {
            std::thread::spawn(move || {
                Ok(sent.comes_out(until)?
                    // udev hears of the close of a file that was written to in another way, and perhaps after our event;
                    // then it is busy now, and one more event comes after that.
                    && (udev_rests(&root) || Sent::send(&root, &owned)?.comes_out(until)?))
            })
        });
        Ok(Settling { name: name.to_owned(), until, udev })
    }

    /// Waits until systemd has done with everything that udev says of the device up to [`Settling::begin`].
    ///
    /// # Errors
    /// Where it is not so in time.
    pub fn wait(self, root: &Root) -> Result<()> {
        let told = match self.udev {
            Some(listener) => listener.join().unwrap_or_else(|_| {
                Err(Error::Other("the thread that listens to udev panicked: a bug".into()))
            })?,
            None => true,
        };
        if told && first_process_settles(root, self.until) {
            return Ok(());
        }
        Err(Error::Other(format!(
            "{} is still not done with what became of {}; until then systemd may take it for gone, and unmount it (look at \
             `systemctl list-jobs` and `journalctl -u systemd-udevd`)",
            if told { "systemd" } else { "udev" },
            self.name
        )))
    }
}

impl Sent {
    fn send(root: &Root, name: &str) -> Result<Sent> {
        let listener = listen().map_err(Error::io("udev", "listen to"))?;
        let uevent = root.join("/sys/block").join(name).join("uevent");
        let sent = Sent { listener, uevent, sign: Uuid::new_v4() };
        sent.write()?;
        Ok(sent)
    }

    fn write(&self) -> Result<()> {
        std::fs::write(&self.uevent, format!("change {}", self.sign))
            .map_err(Error::io(&self.uevent, "tell udev about"))
    }

    /// False where udev is not through with it `until` then.
    fn comes_out(&self, until: Instant) -> Result<bool> {
        let wanted = format!("SYNTH_UUID={}", self.sign);
        let mut message = vec![0; LONGEST_MESSAGE];
        while Instant::now() < until {
            match recv(self.listener.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if says(message.get(..length).unwrap_or_default(), &wanted) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => std::thread::sleep(POLL),
                // More was sent than the buffer holds: ours may be among what was lost.
                Err(Errno::ENOBUFS) => self.write()?,
                Err(errno) => return Err(Error::io("udev", "listen to")(errno)),
            }
        }
        Ok(false)
    }
}

/// udev has nothing to do; it says so a moment after its last event.
fn udev_rests(root: &Root) -> bool {
    (0..4).any(|_| {
        std::thread::sleep(POLL);
        !root.join("/run/udev/queue").exists()
    })
}

fn listen() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let to = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkKObjectUEvent)?;
    bind(to.as_raw_fd(), &NetlinkAddr::new(0, UDEV_GROUP))?;
    Ok(to)
}

/// A message is a header and properties, each with a NUL at its end.
fn says(message: &[u8], property: &str) -> bool {
    message.split(|byte| *byte == 0).any(|part| part == property.as_bytes())
}

/// Waits until PID 1 has read what udev had to say, and rests; false where it does not until then.
pub(super) fn first_process_settles(root: &Root, until: Instant) -> bool {
    while !(first_process_has_read(root) && first_process_rests(root)) {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
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

/// PID 1 waits for something to happen, and no umount that it has begun is under way: it repeats one as long as it finds
/// a mount there, and would find ours. True where that cannot be seen.
fn first_process_rests(root: &Root) -> bool {
    // The number of the system call that it sleeps in, or "running" (proc_pid_syscall(5)).
    let waits = match std::fs::read_to_string(root.join("/proc/1/syscall")) {
        Ok(text) => text.split_ascii_whitespace().next().is_some_and(is_epoll),
        Err(_) => true,
    };
    let children = std::fs::read_to_string(root.join("/proc/1/task/1/children")).unwrap_or_default();
    waits
        && !children.split_ascii_whitespace().any(|pid| {
            let comm = std::fs::read_to_string(root.join(format!("/proc/{pid}/comm"))).unwrap_or_default();
            // (name) is a child, or systemd-executor, on its way to the program.
            comm.trim() == "umount" || comm.starts_with('(') || comm.starts_with("systemd-exec")
        })
}

fn is_epoll(number: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    const OLD: nix::libc::c_long = nix::libc::SYS_epoll_wait;
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: nix::libc::c_long = nix::libc::SYS_epoll_pwait;
    [OLD, nix::libc::SYS_epoll_pwait, nix::libc::SYS_epoll_pwait2].iter().any(|n| n.to_string() == number)
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

    const TABLE: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000086f02292 0   1          00000000 768      0        0     2        0        4
00000000d7ee3c10 15  1          00000002 RMEM     0        0     2        0        5005
0000000094b1d067 15  219        00000001 4352     0        0     2        0        7007
";

    #[test]
    fn what_systemd_has_not_done_with_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let settle = || Settling::begin(&root, "md0", Duration::from_millis(30)).unwrap().wait(&root);
        // No /proc: nothing to see.
        settle().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/1/fd")).unwrap();
        std::fs::create_dir_all(dir.path().join("proc/net")).unwrap();
        symlink("socket:[5005]", dir.path().join("proc/1/fd/7")).unwrap();
        let table = dir.path().join("proc/net/netlink");
        std::fs::write(&table, TABLE.replace("RMEM", "1280")).unwrap();
        let error = settle().unwrap_err().to_string();
        assert!(error.contains("systemd is still not done") && error.contains("md0"), "{error}");
        // Others' sockets do not count.
        std::fs::write(&table, TABLE.replace("RMEM", "0   ")).unwrap();
        settle().unwrap();
        // In the middle of something.
        let syscall = dir.path().join("proc/1/syscall");
        for busy in
            ["running\n", "61 0xffffffff 0x7ffd 0x0 0x0 0x0 0x0 0x7ffd 0x7f12\n", "-1 0x7ffd 0x7f12\n"]
        {
            std::fs::write(&syscall, busy).unwrap();
            settle().unwrap_err();
        }
        let rests =
            format!("{} 0x4 0x55d0 0x2e 0xffffffff 0x0 0x0 0x7ffd 0x7f12\n", nix::libc::SYS_epoll_pwait);
        std::fs::write(&syscall, rests).unwrap();
        settle().unwrap();
        // It unmounts something.
        std::fs::create_dir_all(dir.path().join("proc/1/task/1")).unwrap();
        std::fs::create_dir_all(dir.path().join("proc/88")).unwrap();
        std::fs::write(dir.path().join("proc/1/task/1/children"), "88 ").unwrap();
        std::fs::write(dir.path().join("proc/88/comm"), "umount\n").unwrap();
        settle().unwrap_err();
        std::fs::write(dir.path().join("proc/88/comm"), "sleep\n").unwrap();
        settle().unwrap();
    }

    #[test]
    fn an_event_of_ours_is_known_by_its_whole_property() {
        let message = b"libudev\0\xfe\xed\xca\xfe(\0ACTION=change\0SYNTH_UUID=1f-2e\0SEQNUM=7\0";
        assert!(says(message, "SYNTH_UUID=1f-2e"));
        assert!(!says(message, "SYNTH_UUID=1f-2"));
        assert!(!says(b"", "SYNTH_UUID=1f-2e"));
    }
}
