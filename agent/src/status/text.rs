//! The report for people: one screen, and for eight drives within 2,500 characters, which is what the SSM console
//! shows of a command's output.

use std::fmt::{self, Display, Write};

use super::{DrivePart, Report};
use crate::logging::{ascii, one_line};

/// What fits there.
const SCREEN: usize = 2500;
/// Steps are shown from this time on, in milliseconds; the others only count.
const SLOW_STEP: u64 = 5;
/// More drives than this are shown in a shorter form.
const MANY_DRIVES: usize = 8;

/// How much is shown; JSON has it all.
#[derive(Clone, Copy)]
struct Limits {
    /// Characters of a sentence.
    sentence: usize,
    /// Characters of one of several notes or problems.
    item: usize,
    /// Notes or problems of a kind.
    items: usize,
}

const ROOMY: Limits = Limits { sentence: 600, item: 400, items: 6 };
const TIGHT: Limits = Limits { sentence: 280, item: 110, items: 2 };

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Page::new(ROOMY).report(self);
        if text.len() <= SCREEN { f.write_str(&text) } else { f.write_str(&Page::new(TIGHT).report(self)) }
    }
}

/// The text as it grows.
struct Page {
    text: String,
    limits: Limits,
}

impl Page {
    fn new(limits: Limits) -> Page {
        Page { text: String::with_capacity(SCREEN), limits }
    }

    fn report(mut self, report: &Report) -> String {
        let mut head = report.state.as_str().to_owned();
        if !report.reason.is_empty() {
            let _ = write!(head, " ({})", report.reason);
        }
        if let Some(since) = &report.since {
            let _ = write!(head, " since {since}");
        }
        self.line(&head);
        self.row("why", &report.message);
        if let Some(next) = &report.next {
            self.row("next", next);
        }
        self.storage(report);
        self.drives(report);
        self.setup(report);
        self.list("node", &report.node.lines());
        self.host(report);
        self.list("note", &report.notes);
        self.list("unread", &report.unreadable);
        self.text
    }

    fn storage(&mut self, report: &Report) {
        match &report.mount {
            None => self.row("mount", &format!("nothing on {}", report.target)),
            Some(mount) => {
                let mut text = format!("{} on {}, {}", mount.source, report.target, mount.filesystem);
                if let (Some(size), Some(used)) = (mount.size_bytes, mount.used_bytes) {
                    let percent = used.saturating_mul(100).div_ceil(size.max(1));
                    let _ = write!(text, ", {}, {percent}% used", bytes(size));
                }
                let _ = write!(text, ", {}", mount.options);
                if let Some(errors @ 1..) = mount.errors {
                    let _ = write!(text, ", {errors} errors");
                }
                self.row("mount", &text);
            }
        }
        if let Some(array) = &report.array {
            let mut text = format!(
                "{} {} {}, {} of {} members, chunk {}",
                array.device,
                array.level,
                array.state,
                array.members.len(),
                array.raid_disks,
                bytes(array.chunk_bytes)
            );
            if let Some(uuid) = array.uuid {
                let _ = write!(text, ", {uuid}");
            }
            self.row("array", &text);
        }
        let ours = report.mount.as_ref().is_some_and(|mount| mount.ours);
        if ours && report.persistence.in_order {
            self.row("reboot", "fstab has the mount");
        }
        self.list("reboot", &report.persistence.problems);
    }

    fn drives(&mut self, report: &Report) {
        if report.drives.is_empty() {
            return self.row("drives", "none");
        }
        let total: u64 = report.drives.iter().map(|drive| drive.size_bytes).sum();
        self.row("drives", &format!("{}, {} in all", report.drives.len(), bytes(total)));
        let many = report.drives.len() > MANY_DRIVES;
        let dull = |drive: &DrivePart| drive.state == "live" && drive.used;
        for drive in report.drives.iter().filter(|drive| !many || !dull(drive)) {
            let name = if drive.device.is_empty() { "-" } else { &drive.device };
            let unused = if drive.used { "" } else { ", not used by us" };
            let size = bytes(drive.size_bytes);
            self.line(&format!("  {name:<9} {:<20} {size:>9} {}{unused}", drive.serial, drive.state));
        }
        if many {
            let names: Vec<&str> =
                report.drives.iter().filter(|d| dull(d)).map(|d| d.device.as_str()).collect();
            self.line(&format!("  live: {}", names.join(" ")));
        }
    }

    fn setup(&mut self, report: &Report) {
        let Some(setup) = &report.last_setup else { return };
        let mut text = format!("{}, by {}, {} ms", setup.finished, setup.trigger, setup.duration_ms);
        if !setup.steps.is_empty() {
            let slow = setup.steps.iter().filter(|step| step.millis >= SLOW_STEP);
            let mut parts: Vec<String> = slow.map(|step| format!("{} {}", step.name, step.millis)).collect();
            let quick = setup.steps.len() - parts.len();
            if quick > 0 {
                parts.push(format!("{quick} under {SLOW_STEP}"));
            }
            let _ = write!(text, ": {}", parts.join(", "));
        }
        self.row("setup", &text);
    }

    fn host(&mut self, report: &Report) {
        let Some(host) = &report.host else { return };
        let parts = [
            host.kernel.as_ref().map(|kernel| format!("kernel {kernel}")),
            host.uptime_s.map(|seconds| format!("up {}", duration(seconds))),
            host.memory_bytes.map(|memory| format!("memory {}", bytes(memory))),
            host.memory_available_bytes.map(|memory| format!("{} of it available", bytes(memory))),
        ];
        self.row("host", &parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
    }

    fn row(&mut self, name: &str, text: &str) {
        self.cut(name, text, self.limits.sentence);
    }

    fn list(&mut self, name: &str, items: &[String]) {
        for item in items.iter().take(self.limits.items) {
            self.cut(name, item, self.limits.item);
        }
        match items.len().saturating_sub(self.limits.items) {
            0 => {}
            more => self.row(name, &format!("and {more} more: --output json")),
        }
    }

    fn cut(&mut self, name: &str, text: &str, limit: usize) {
        // ASCII after this, so that bytes are characters.
        let text = one_line(text);
        let line = match text.get(..limit) {
            Some(head) if text.len() > limit => format!("{name:<7} {head}..."),
            _ => format!("{name:<7} {text}"),
        };
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(&one_line_kept(line));
        self.text.push('\n');
    }
}

/// ASCII on one line, indentation kept.
fn one_line_kept(line: &str) -> String {
    ascii(line).replace('\n', " ")
}

/// Rounded down to the largest unit that leaves at least two.
fn duration(seconds: u64) -> String {
    for (length, unit) in [(86_400, "days"), (3600, "h"), (60, "min")] {
        if seconds / length >= 2 {
            return format!("{} {unit}", seconds / length);
        }
    }
    format!("{seconds} s")
}

/// Rounded down to a whole number of the largest unit that leaves at least ten, so that a TiB shows its GiB.
fn bytes(n: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if n >> shift >= 10 {
            return format!("{} {unit}", n >> shift);
        }
    }
    match n {
        0 => "0".into(),
        n if n % 1024 == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}
