//! Our units: enabled, not masked, before what they must be before; the gate; the reports.

use std::fs;
use std::path::Path;

use super::subject::Subject;
use super::{Check, Verdict};
use crate::apply::systemd::unit_name_for_path;
use crate::config::LabelMethod;
use crate::install::hook;
use crate::node::registration::UNIT_DIRECTORIES;
use crate::persist::atomic;

const UNIT: &str = "nvme-agent.service";
const REPORT_UNITS: [&str; 2] = ["nvme-agent-report.service", "nvme-agent-report.timer"];
const INSTALL: &str = "Run `nvme-agent install`.";
/// A unit is masked for one boot here.
const RUNTIME: &str = "/run/systemd/system";
const DIRECTORIES: [&str; 4] = [UNIT_DIRECTORIES[0], RUNTIME, UNIT_DIRECTORIES[1], UNIT_DIRECTORIES[2]];
/// What turns a machine into a node; where it is installed, our unit is before it.
const JOINING: [&str; 4] =
    ["nodeadm-config.service", "nodeadm-run.service", "containerd.service", "kubelet.service"];
/// What comes after what our unit is before (bootup(7), cloud-init's units): after one of these it is in a cycle, and systemd
/// drops a job of it, or much too late.
const LATER: [&str; 9] = [
    "local-fs.target",
    "sysinit.target",
    "basic.target",
    "multi-user.target",
    "network.target",
    "network-online.target",
    "cloud-init.service",
    "cloud-config.service",
    "cloud-final.service",
];

/// A unit as systemd finds it: its own file, and its drop-ins.
struct Unit {
    path: String,
    /// `Key=Value` lines of all files in their order, whatever the section.
    lines: Vec<(String, String)>,
}

enum Found {
    Unit(Unit),
    Masked(String),
    /// It is there and cannot be read, in words.
    Unread(String),
    Missing,
}

impl Found {
    fn find(subject: &Subject<'_>, name: &str) -> Found {
        for dir in DIRECTORIES {
            let path = format!("{dir}/{name}");
            let at = match subject.at(&path) {
                // A link to /dev/null, or an empty file (systemd.unit(5)).
                Ok(at) if at == subject.root.join("/dev/null") => return Found::Masked(path),
                Ok(at) => at,
                Err(why) => return Found::Unread(why),
            };
            // A link that leads nowhere: systemd looks further.
            if fs::symlink_metadata(&at).is_err() {
                continue;
            }
            let text = match atomic::read_text(&at) {
                Ok(Some(text)) if text.is_empty() => return Found::Masked(path),
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => return Found::Unread(error.to_string()),
            };
            let mut lines = settings(&text);
            for drop_in in drop_ins(subject, name) {
                lines.extend(settings(&subject.text(&drop_in).unwrap_or_default()));
            }
            return Found::Unit(Unit { path, lines });
        }
        Found::Missing
    }
}

/// Of all directories, by name; one in an earlier directory hides one of its name in a later.
fn drop_ins(subject: &Subject<'_>, name: &str) -> Vec<String> {
    let mut found: Vec<(String, String)> = Vec::new();
    for dir in DIRECTORIES {
        let dir = format!("{dir}/{name}.d");
        for entry in subject.names(&dir) {
            if entry.ends_with(".conf") && !found.iter().any(|(known, _)| *known == entry) {
                let path = format!("{dir}/{entry}");
                found.push((entry, path));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn settings(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let pair = |line: &str| line.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
    lines.filter_map(pair).collect()
}

impl Unit {
    /// The words of a list. Dependencies cannot be taken back by an empty one.
    fn words<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.lines.iter().filter(move |(name, _)| name == key);
        values.flat_map(|(_, value)| value.split_ascii_whitespace())
    }

    fn last(&self, key: &str) -> Option<&str> {
        self.lines.iter().rfind(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The program that it starts.
    fn program(&self) -> Option<&str> {
        let command = self.last("ExecStart")?.split_ascii_whitespace().next()?;
        Some(command.trim_start_matches(['-', '@', ':', '+', '!']))
    }
}

/// Something pulls the unit in at boot.
fn is_enabled(subject: &Subject<'_>, name: &str) -> bool {
    DIRECTORIES.iter().any(|dir| {
        let pulls = |entry: &String| entry.ends_with(".wants") || entry.ends_with(".requires");
        // What is in there is a link, wherever it leads.
        let is_in = |entry: String| {
            let dir = subject.at(&format!("{dir}/{entry}"));
            dir.is_ok_and(|dir| dir.join(name).symlink_metadata().is_ok())
        };
        subject.names(dir).into_iter().filter(pulls).any(is_in)
    })
}

pub fn unit(subject: &Subject<'_>) -> Check {
    const NAME: &str = "unit";
    let unit = match Found::find(subject, UNIT) {
        Found::Unit(unit) => unit,
        Found::Masked(path) => {
            return Check::problem(
                NAME,
                format!("{path} masks {UNIT}: nothing sets the drives up at boot"),
                format!("`systemctl unmask {UNIT}`, where it is not masked on purpose."),
            );
        }
        Found::Unread(why) => return Check::unknown(NAME, why),
        Found::Missing => {
            return Check::problem(
                NAME,
                format!("{UNIT} is not installed: nothing sets the drives up at the next boot"),
                INSTALL,
            );
        }
    };
    let Some(program) = unit.program() else {
        return Check::problem(NAME, format!("{} starts nothing (no ExecStart=)", unit.path), INSTALL);
    };
    // One that is elsewhere than the agent's may be on a filesystem that does not answer.
    if subject.at(program).is_ok_and(|at| !is_executable(&at)) {
        return Check::problem(
            NAME,
            format!("{} starts {program}, which is not here or not executable", unit.path),
            INSTALL,
        );
    }
    match is_enabled(subject, UNIT) {
        true => Check::ok(NAME, format!("{}, enabled, starts {program}", unit.path)),
        false => Check::problem(
            NAME,
            format!("{} is not enabled: nothing sets the drives up at the next boot", unit.path),
            format!("`systemctl enable {UNIT}`, or `nvme-agent install`."),
        ),
    }
}

fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::metadata(program);
    meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

pub fn order(subject: &Subject<'_>) -> Check {
    const NAME: &str = "unit-order";
    let Found::Unit(unit) = Found::find(subject, UNIT) else {
        return Check::unknown(NAME, format!("there is no {UNIT} in force"));
    };
    if unit.last("DefaultDependencies") != Some("no") {
        return Check::problem(
            NAME,
            format!("{} lacks DefaultDependencies=no: it comes after what waits for the mount", unit.path),
            INSTALL,
        );
    }
    let wrong: Vec<&str> =
        unit.words("After").filter(|name| LATER.contains(name) || JOINING.contains(name)).collect();
    if !wrong.is_empty() {
        return Check::problem(
            NAME,
            format!(
                "{UNIT} is ordered after {}, which come after it: a cycle, or too late",
                wrong.join(", ")
            ),
            format!("Take that out of {} and its drop-ins (`systemctl cat {UNIT}`).", unit.path),
        );
    }
    let is_here = |name: &&str| matches!(Found::find(subject, name), Found::Unit(_));
    let here: Vec<&str> = JOINING.into_iter().filter(is_here).collect();
    let mount = unit_name_for_path(subject.target());
    let missing: Vec<&str> = here
        .iter()
        .copied()
        .chain([mount.as_str()])
        .filter(|name| !unit.words("Before").any(|before| before == *name))
        .collect();
    if !missing.is_empty() {
        return Check::problem(
            NAME,
            format!("{UNIT} is not ordered before {}", missing.join(", ")),
            "Run `nvme-agent install`: its drop-in is for the target that is configured.",
        );
    }
    let before = if here.is_empty() { "nothing of a node is installed".into() } else { here.join(", ") };
    Check::ok(NAME, format!("before {mount}; {before}"))
}

/// The gate's drop-in, as on_failure wants it.
pub fn gate(subject: &Subject<'_>) -> Check {
    const NAME: &str = "gate";
    let config = subject.config;
    let policy = format!(
        "on_failure = \"{}\", on_boot_failure = \"{}\"",
        config.on_failure.as_str(),
        config.on_boot_failure.as_str()
    );
    match hook::difference(subject.root, config) {
        None => Check::ok(NAME, format!("as {policy} wants it")),
        Some(difference) if difference.decides => Check::problem(
            NAME,
            format!("{}: {policy} does not hold", difference.what),
            "Run `nvme-agent install`, on an image of EKS's that has the unit.",
        ),
        Some(difference) => Check::warning(
            NAME,
            format!("{}: what the node registers with may be of before setup", difference.what),
            INSTALL,
        ),
    }
}

pub fn report(subject: &Subject<'_>) -> Check {
    const NAME: &str = "report-units";
    if subject.config.label_method == LabelMethod::None {
        return Check::ok(NAME, "label_method = \"none\": the Node is told nothing");
    }
    let mut masked = Vec::new();
    for name in REPORT_UNITS {
        let missing = match Found::find(subject, name) {
            Found::Masked(_) => {
                masked.push(name);
                continue;
            }
            Found::Unit(_) if is_enabled(subject, name) => continue,
            Found::Unread(why) => return Check::unknown(NAME, why),
            Found::Unit(_) => "not enabled",
            Found::Missing => "not installed",
        };
        return Check::warning(
            NAME,
            format!("{name} is {missing}: a mount that fails later is not told to the Node"),
            format!("Run `nvme-agent install`; or mask it (`systemctl mask {name}`) where that is wanted."),
        );
    }
    match masked.as_slice() {
        [] => Check::of(NAME, Verdict::Ok, "service and timer are enabled", None),
        masked => Check::ok(NAME, format!("masked, so this node does not report: {}", masked.join(", "))),
    }
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
