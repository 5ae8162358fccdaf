//! The drives, a line each in aligned columns; of more than fit on a screen those that are not as the others.

use super::units::{bytes, micros};
use super::{Page, Tone, shortened};
use crate::probe::smart::Smart;
use crate::probe::statistics::{Latency, Statistics};
use crate::status::{DrivePart, Report};

/// More drives than this are shown in a shorter form.
const MANY_DRIVES: usize = 8;
/// Where there is nothing to say.
const NONE: &str = "-";
/// Of an unprivileged user's drives, as the probe says it.
const NEEDS_ROOT: &str = "needs root";
const NOT_REPORTED: &str = "not reported";
/// Longest serial number of a controller (NVM Express Base Specification, Identify Controller), in characters.
const SERIAL: usize = 20;
/// Of a state that the kernel says, in characters.
const STATE: usize = 24;

struct Column {
    name: &'static str,
    /// Numbers are.
    right: bool,
    /// Shown only where there is room.
    detail: bool,
    /// What it says of a drive; in more words where there is room.
    cell: fn(&DrivePart, bool) -> String,
}

const fn text(name: &'static str, cell: fn(&DrivePart, bool) -> String) -> Column {
    Column { name, right: false, detail: false, cell }
}

const fn number(name: &'static str, cell: fn(&DrivePart, bool) -> String) -> Column {
    Column { name, right: true, detail: false, cell }
}

const COLUMNS: [Column; 10] = [
    text("device", |drive, _| filled(&drive.device)),
    text("serial", |drive, _| shortened(&drive.serial, SERIAL)),
    number("size", |drive, _| bytes(drive.size_bytes)),
    text("state", |drive, _| state(drive)),
    text("smart", smart),
    number("temp", |drive, _| said(&drive.smart, temperature)),
    number("wear", |drive, _| said(&drive.smart, |smart| Some(format!("{}%", smart.wear_percent)))),
    text("throttled", |drive, details| said(&drive.statistics, |counted| Some(throttled(counted, details)))),
    Column {
        detail: true,
        ..number("p99 read", |drive, _| said(&drive.statistics, |s| p99(s.read_latency)))
    },
    Column {
        detail: true,
        ..number("p99 write", |drive, _| said(&drive.statistics, |s| p99(s.write_latency)))
    },
];

impl Page {
    pub(super) fn drives(&mut self, report: &Report) {
        if report.drives.is_empty() {
            let sysfs = |part: &String| part.contains("/sys/") && !part.contains("/proc/sys/");
            return match report.unreadable.iter().any(sysfs) {
                true => self.toned_row(Tone::Warning, "drives", "not known: they cannot be listed"),
                false => self.row("drives", "none"),
            };
        }
        let many = report.drives.len() > MANY_DRIVES;
        let (dull, shown): (Vec<_>, Vec<_>) = report.drives.iter().partition(|drive| many && is_dull(drive));
        let total: u64 = report.drives.iter().map(|drive| drive.size_bytes).fold(0, u64::saturating_add);
        let mut head = format!("{}, {} in all", report.drives.len(), bytes(total));
        if let Some(all) = all_alike(&report.drives).filter(|_| report.host.is_some()) {
            head.push_str(&format!("; {all}"));
        }
        self.row("drives", &head);
        self.table(&shown);
        if !dull.is_empty() {
            let names: Vec<&str> = dull.iter().map(|drive| drive.device.as_str()).collect();
            self.line(Tone::Plain, &format!("  live{}: {}", range(&dull), names.join(" ")));
        }
    }

    fn table(&mut self, drives: &[&DrivePart]) {
        let details = self.limits.details;
        let columns = COLUMNS.iter().filter(|column| details || !column.detail);
        let columns: Vec<(&Column, Vec<String>, usize)> = columns
            .map(|column| {
                let cells: Vec<String> = drives.iter().map(|drive| (column.cell)(drive, details)).collect();
                let width = cells.iter().map(String::len).max().unwrap_or(0).max(column.name.len());
                (column, cells, width)
            })
            .filter(|(_, cells, _)| {
                cells.iter().any(|cell| !matches!(cell.as_str(), NONE | NEEDS_ROOT | NOT_REPORTED))
            })
            .collect();
        if drives.is_empty() {
            return;
        }
        let line = |cell: &dyn Fn(&Column, &[String]) -> String| {
            let mut line = String::from(" ");
            for (column, cells, width) in &columns {
                let cell = cell(column, cells);
                line.push_str(&if column.right {
                    format!(" {cell:>width$}")
                } else {
                    format!(" {cell:<width$}")
                });
            }
            line.trim_end().to_owned()
        };
        self.line(Tone::Plain, &line(&|column, _| column.name.to_owned()));
        for (at, drive) in drives.iter().enumerate() {
            let row = line(&|_, cells| cells.get(at).cloned().unwrap_or_default());
            self.line(tone(drive), &row);
        }
    }
}

/// As it ought to be: no reason to be shown among many.
fn is_dull(drive: &DrivePart) -> bool {
    drive.state == "live" && drive.used && tone(drive) == Tone::Plain
}

fn tone(drive: &DrivePart) -> Tone {
    let gone = !matches!(drive.state.as_str(), "live" | "");
    match smart(drive, false).as_str() {
        _ if gone && !drive.used => Tone::Warning,
        _ if gone || drive.read_error.is_some() => Tone::Bad,
        "no answer" | "not openable" => Tone::Bad,
        "warnings" => Tone::Warning,
        _ => Tone::Plain,
    }
}

/// What is the same of all that are there, in words, and then has no column of its own.
fn all_alike(drives: &[DrivePart]) -> Option<&'static str> {
    let mut verdicts =
        drives.iter().filter(|drive| is_there(drive)).map(|drive| smart(drive, false)).peekable();
    let first = verdicts.peek()?.clone();
    if !verdicts.all(|verdict| verdict == first) {
        return None;
    }
    match first.as_str() {
        NEEDS_ROOT => Some("how they are (SMART, EC2's statistics, a read) needs root"),
        NOT_REPORTED => Some("SMART not reported"),
        _ => None,
    }
}

fn is_there(drive: &DrivePart) -> bool {
    !matches!(drive.state.as_str(), "missing" | "unmatched")
}

fn filled(text: &str) -> String {
    if text.is_empty() { NONE.into() } else { text.into() }
}

fn said<T>(part: &Option<T>, words: impl FnOnce(&T) -> Option<String>) -> String {
    part.as_ref().and_then(words).unwrap_or_else(|| NONE.into())
}

fn state(drive: &DrivePart) -> String {
    let mut text = filled(&shortened(&drive.state, STATE));
    if drive.read_error.is_some() {
        text.push_str(", unreadable");
    }
    if !drive.used {
        text.push_str(", not ours");
    }
    text
}

/// The verdict on log page 0x02; what it warns of only with `details`.
fn smart(drive: &DrivePart, details: bool) -> String {
    // One log page may be refused where the other is not.
    let refused = drive.gives_no_log_pages() || drive.not_asked.as_deref() == Some(NEEDS_ROOT);
    match (drive.not_asked.as_deref().filter(|_| drive.smart.is_none() || !refused), &drive.smart) {
        _ if !is_there(drive) => NONE.into(),
        (Some(NEEDS_ROOT), _) => NEEDS_ROOT.into(),
        (Some(why), _) if why.starts_with("cannot be opened") => "not openable".into(),
        (Some(_), _) if refused => "refused".into(),
        (Some(_), _) => "no answer".into(),
        (None, None) => NOT_REPORTED.into(),
        (None, Some(smart)) => {
            let mut warnings = smart.critical_warnings.clone();
            if let Some(more @ 1..) = drive.new_media_errors {
                warnings.push(format!("{more} new media errors"));
            }
            match warnings.as_slice() {
                [] => "ok".into(),
                [first, more @ ..] if details => {
                    let more = if more.is_empty() { String::new() } else { format!(" +{}", more.len()) };
                    format!("warns: {first}{more}")
                }
                _ => "warnings".into(),
            }
        }
    }
}

fn temperature(smart: &Smart) -> Option<String> {
    smart.temperature_celsius.map(|celsius| format!("{celsius} C"))
}

/// Whether the instance type's limits held it back since it was started, and for how long: by operations, by bytes.
fn throttled(counted: &Statistics, details: bool) -> String {
    let parts = [("iops", counted.iops_exceeded_us), ("bytes", counted.throughput_exceeded_us)];
    let parts: Vec<String> =
        parts.iter().filter(|(_, us)| *us > 0).map(|(what, us)| format!("{what} {}", micros(*us))).collect();
    match parts.as_slice() {
        [] => "no".into(),
        parts if details => parts.join(", "),
        _ => "yes".into(),
    }
}

fn p99(latency: Option<Latency>) -> Option<String> {
    latency.map(|latency| micros(latency.p99_us))
}

/// How warm and how worn drives are, all together.
fn range(drives: &[&DrivePart]) -> String {
    let known = || drives.iter().filter_map(|drive| drive.smart.as_ref());
    let warm = || known().filter_map(|smart| smart.temperature_celsius);
    let mut text = String::new();
    if known().count() == drives.len() {
        text.push_str(", smart ok");
    }
    match (warm().min(), warm().max()) {
        (Some(from), Some(to)) if from == to => text.push_str(&format!(", {from} C")),
        (Some(from), Some(to)) => text.push_str(&format!(", {from} to {to} C")),
        _ => {}
    }
    if let Some(worn) = known().map(|smart| smart.wear_percent).max() {
        text.push_str(&format!(", wear {worn}% at most"));
    }
    text
}
