//! `cargo lab shell`: a prompt in a fresh VM. On a terminal a login shell on the guest's serial line, with job control,
//! editors and pagers; otherwise standard input is one script.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::lab::Lab;
use crate::progress::step;
use crate::qmp::connect_when_there;
use crate::runner::{agent_under_test, logs_root};
use crate::snapshot::Snapshot;
use crate::vm::Vm;

/// A day: nobody's prompt should end by itself.
const LONG: Duration = Duration::from_secs(86_400);

/// Opens it; returns when the shell in the guest has ended. False where a script failed.
pub fn run(guest: Guest, drives: usize, size: u64) -> Result<bool> {
    let lab = Lab::open()?;
    let agent = agent_under_test()?;
    Snapshot::get(&lab, guest)?;
    let mut vm = Vm::restore(&lab, guest, &logs_root().join("shell"))?;
    step(&format!("Plugging in {drives} drives of {} GiB", size / GIB), || {
        vm.plug(&DriveSpec::many(drives, size))
    })?;
    vm.push(&agent, "/usr/bin/nvme-agent")?;
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        prompt(&mut vm).map(|()| true)
    } else {
        script(&mut vm)
    }
}

fn script(vm: &mut Vm) -> Result<bool> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("read the script from standard input")?;
    let output = vm.sh_within(LONG, &text)?;
    print!("{}", output.out);
    eprint!("{}", output.err);
    if output.rc != 0 {
        eprintln!("[exit {}]", output.rc);
    }
    Ok(output.rc == 0)
}

fn prompt(vm: &mut Vm) -> Result<()> {
    let socket = vm.console_socket()?;
    eprintln!("nvme-agent is in /usr/bin; exit or ctrl-D ends the VM, and nothing in it is kept.");
    let size = terminal_size();
    let _raw = Raw::enter()?;
    let (mut to_guest, mut from_guest) = (socket.try_clone().context("clone the console's socket")?, socket);
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin().lock(), &mut to_guest));
    let output = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut terminal = std::io::stdout();
        while let Ok(count @ 1..) = from_guest.read(&mut buffer) {
            if terminal.write_all(&buffer[..count]).and_then(|()| terminal.flush()).is_err() {
                break;
            }
        }
    });
    let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".into());
    let login = format!(
        // One open file for all: the line forgets its settings when nobody has it open.
        "dmesg -n 1; cd /root; exec <> /dev/ttyS0 >&0 2>&0; stty sane {size}
         TERM={term} HOME=/root exec setsid --ctty --wait bash --login",
        term = term.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect::<String>(),
    );
    let ended = vm.sh_within(LONG, &login);
    // Where the guest was switched off, the VM is gone and so is the console; else the rest of the output is on its way.
    if ended.is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    } else {
        let _ = output.join();
    }
    Ok(())
}

impl Vm<'_> {
    /// Turns the guest's serial line, whose output went to the log so far, into a socket.
    fn console_socket(&mut self) -> Result<UnixStream> {
        let path = self.dir.path().join("tty");
        let address = json!({ "type": "unix", "data": { "path": path } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": true, "wait": false } });
        self.machine()?.qmp.call("chardev-change", json!({ "id": "console", "backend": backend }))?;
        connect_when_there(&path, Duration::from_secs(10))
    }
}

/// `rows 40 cols 120`, as far as the terminal tells.
fn terminal_size() -> String {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            format!("rows {} cols {}", size.ws_row, size.ws_col)
        }
        _ => "rows 24 cols 80".to_owned(),
    }
}

/// A terminal that passes every key on, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Raw> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).context("make the terminal raw")?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
