//! The floor of `cargo lab bench`: what any setup must do, with nothing looked at first and nothing verified after. It
//! destroys whatever is on the drives. And the stopwatch, so that both are measured by the same means.
//!
//! - `floor setup DRIVE... -- MKFS ARGUMENT...`: superblocks and fsync, new_array, ioctls, mkfs, mount on /tmp;
//!   `/run/floor.children_ms` says how much of it was mkfs
//! - `floor measure COMMAND ARGUMENT...`: runs it and prints wall, user and system time in microseconds (user and system
//!   with its children), peak RSS of the command alone and of the greatest of it and its children in KiB, exit code

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::stat::{major, minor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// include/uapi/linux/raid/md_u.h: mdu_array_info_t, mdu_disk_info_t and mdu_param_t are made of ints.
nix::ioctl_write_ptr!(set_array_info, 9, 0x23, [i32; 18]);
nix::ioctl_write_ptr!(add_new_disk, 9, 0x21, [i32; 5]);
nix::ioctl_write_ptr!(run_array, 9, 0x30, [i32; 3]);

/// How long `setup` waited for mkfs, in milliseconds.
const CHILDREN: &str = "/run/floor.children_ms";
/// Of members of 150 GB and more (facts.md section 2), in sectors.
const DATA_OFFSET: u64 = 264_192;
const CHUNK_SECTORS: u32 = 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result =
        match words.as_slice() {
            ["setup", rest @ ..] => setup(rest),
            ["measure", program, rest @ ..] => measure(program, rest),
            _ => Err("usage: floor setup DRIVE... -- MKFS ARGUMENT..., or floor measure COMMAND ARGUMENT..."
                .into()),
        };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn setup(words: &[&str]) -> Result<()> {
    let at = words.iter().position(|word| *word == "--").ok_or("no -- before mkfs")?;
    let (drives, mkfs) = (&words[..at], &words[at + 1..]);
    let [program, options @ ..] = mkfs else { return Err("no mkfs".into()) };
    std::thread::scope(|scope| {
        let write = |role: usize| {
            let drive = drives[role];
            scope.spawn(move || write_superblock(drive, role, drives.len()))
        };
        let threads: Vec<_> = (0..drives.len()).map(write).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err("a thread panicked".to_owned()),
        })
    })?;
    start(drives)?;
    let started = Instant::now();
    let made = Command::new(program).args(options).stdin(Stdio::null()).status()?;
    fs::write(CHILDREN, started.elapsed().as_millis().to_string())?;
    if !made.success() {
        return Err(format!("{program}: {made}").into());
    }
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("/dev/md0"), "/tmp", Some("ext4"), flags, None::<&str>)?;
    Ok(fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?)
}

fn write_superblock(drive: &str, role: usize, count: usize) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(drive)?;
    let sysfs = format!("/sys/class/block/{}/size", drive.trim_start_matches("/dev/"));
    let sectors: u64 = fs::read_to_string(sysfs)?.trim().parse().unwrap_or_default();
    file.write_all_at(&superblock(role, count, sectors), 4096)?;
    file.sync_all()
}

/// struct mdp_superblock_1, as facts.md section 2 has it.
fn superblock(role: usize, count: usize, sectors: u64) -> [u8; 4096] {
    let mut block = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(8, &0x1000_u32.to_le_bytes());
    put(16, b"floor of a bench");
    put(32, b"any:md0");
    put(76, &1_u32.to_le_bytes());
    put(88, &CHUNK_SECTORS.to_le_bytes());
    put(92, &(count as u32).to_le_bytes());
    put(128, &DATA_OFFSET.to_le_bytes());
    put(136, &(sectors - DATA_OFFSET).to_le_bytes());
    put(144, &8_u64.to_le_bytes());
    put(160, &(role as u32).to_le_bytes());
    put(168, &[role as u8 + 1; 16]);
    put(208, &u64::MAX.to_le_bytes());
    put(220, &128_u32.to_le_bytes());
    for number in 0..128 {
        let role = if number < count { number as u16 } else { 0xffff };
        put(256 + 2 * number, &role.to_le_bytes());
    }
    let words = block[..512].as_chunks::<4>().0;
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).sum();
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block
}

fn start(drives: &[&str]) -> Result<()> {
    fs::write("/sys/module/md_mod/parameters/new_array", "md0")?;
    let array = File::open("/dev/md0")?;
    let mut info = [0; 18];
    info[..2].copy_from_slice(&[1, 2]);
    // SAFETY: an open file, and an array of the size that is part of the request number.
    unsafe { set_array_info(array.as_raw_fd(), &info)? };
    for (role, drive) in drives.iter().enumerate() {
        let device = fs::metadata(drive)?.rdev();
        let disk = [role as i32, major(device) as i32, minor(device) as i32, role as i32, 6];
        // SAFETY: as above.
        unsafe { add_new_disk(array.as_raw_fd(), &disk)? };
    }
    // SAFETY: as above; the kernel does not look at the argument.
    unsafe { run_array(array.as_raw_fd(), &[0; 3])? };
    Ok(())
}

/// Peak RSS so far of a process, in KiB; none when it has ended.
fn peak(status: &mut String, pid: u32) -> Option<u64> {
    status.clear();
    File::open(format!("/proc/{pid}/status")).ok()?.read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn measure(program: &str, arguments: &[&str]) -> Result<()> {
    let started = Instant::now();
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    // What its own peak is nobody says afterwards, where it had children. Only looked at when asked for: it costs time.
    let mut own = 0;
    let status = if std::env::var_os("FLOOR_RSS").is_some() {
        let mut text = String::new();
        loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            own = own.max(peak(&mut text, child.id()).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(1));
        }
    } else {
        child.wait()?
    };
    let wall = started.elapsed().as_micros();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    println!(
        "{wall} {} {} {own} {} {}",
        micros(usage.user_time()),
        micros(usage.system_time()),
        usage.max_rss(),
        status.code().unwrap_or(-1)
    );
    Ok(())
}
