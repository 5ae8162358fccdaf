//! The report for people: one screen, and for eight drives within 2,500 characters, which is what the SSM console
//! shows of a command's output.

use std::fmt::{self, Display, Write};

use super::Report;

/// Longer sentences are cut here; JSON has them whole. In characters.
const SENTENCE: usize = 320;
/// Steps are shown from this time on, in milliseconds; the others only count.
const SLOW_STEP: u64 = 5;
/// At most so many lines of a kind.
const LINES: usize = 4;
/// More drives than this are shown in a shorter form.
const MANY_DRIVES: usize = 8;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state.as_str())?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        if let Some(since) = &self.since {
            write!(f, " since {since}")?;
        }
        writeln!(f)?;
        row(f, "why", &self.message)?;
        if let Some(next) = &self.next {
            row(f, "next", next)?;
        }
        self.storage(f)?;
        self.drives(f)?;
        self.setup(f)?;
        list(f, "note", &self.notes)?;
        list(f, "unread", &self.unreadable)
    }
}

impl Report {
    fn storage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mount {
            None => row(f, "mount", &format!("nothing on {}", self.target))?,
            Some(mount) => {
                let mut text = format!("{} on {}, {}", mount.source, self.target, mount.filesystem);
                if let (Some(size), Some(used)) = (mount.size_bytes, mount.used_bytes) {
                    let percent = used.saturating_mul(100).div_ceil(size.max(1));
                    let _ = write!(text, ", {}, {percent}% used", bytes(size));
                }
                let _ = write!(text, ", {}", mount.options);
                row(f, "mount", &text)?;
            }
        }
        if let Some(array) = &self.array {
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
            row(f, "array", &text)?;
        }
        if self.last_setup.is_some() && self.mount.as_ref().is_some_and(|mount| mount.ours) {
            match self.persistence.in_order {
                true => row(f, "reboot", "fstab and the rest are in order")?,
                false => list(f, "reboot", &self.persistence.problems)?,
            }
        } else {
            list(f, "reboot", &self.persistence.problems)?;
        }
        Ok(())
    }

    fn drives(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.drives.iter().map(|drive| drive.size_bytes).sum();
        if self.drives.is_empty() {
            return row(f, "drives", "none");
        }
        row(f, "drives", &format!("{}, {} in all", self.drives.len(), bytes(total)))?;
        let many = self.drives.len() > MANY_DRIVES;
        for drive in self.drives.iter().filter(|drive| !many || drive.state != "live" || !drive.used) {
            let name = if drive.device.is_empty() { "-" } else { &drive.device };
            let unused = if drive.used { "" } else { ", not in use by us" };
            let state = &drive.state;
            writeln!(f, "  {name:<9} {:<20} {:>9} {state}{unused}", drive.serial, bytes(drive.size_bytes))?;
        }
        if many {
            let live = self.drives.iter().filter(|drive| drive.state == "live" && drive.used);
            writeln!(f, "  live: {}", live.map(|drive| drive.device.as_str()).collect::<Vec<_>>().join(" "))?;
        }
        Ok(())
    }

    fn setup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(setup) = &self.last_setup else { return Ok(()) };
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
        row(f, "setup", &text)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    let text = crate::logging::one_line(text);
    // ASCII by now, so that bytes are characters.
    match text.get(..SENTENCE) {
        Some(head) if text.len() > SENTENCE => writeln!(f, "{name:<7} {head}..."),
        _ => writeln!(f, "{name:<7} {text}"),
    }
}

fn list(f: &mut fmt::Formatter<'_>, name: &str, lines: &[String]) -> fmt::Result {
    for line in lines.iter().take(LINES) {
        row(f, name, line)?;
    }
    match lines.len().saturating_sub(LINES) {
        0 => Ok(()),
        more => row(f, name, &format!("and {more} more: --output json")),
    }
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
