//! doctor: what on this machine, or in this image, will keep setup, the mount or the Node's word from working.
//!
//! For before there is trouble, where setup has run or has not. It looks only: no device is read, the target itself is
//! never asked anything (a filesystem that hangs would hold whoever asks), the one program that may be started is the
//! kubeconfig's credential plugin, with a deadline, and the one thing that is sent is sent as a dry run. A check that cannot
//! be made says why, and takes no other with it.
//!
//! [`Subject`] is what several checks go by, read once. Each module has the checks of one kind: a function from a subject
//! to a [`Check`]. [`examine`] has the list.

mod api;
mod drives;
mod files;
mod links;
mod machine;
mod nodeadm;
mod scripts;
mod space;
mod subject;
mod tell;
#[cfg(test)]
mod tests;
mod tmpfiles;
mod units;
mod userdata;

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::config::Config;
use crate::root::Root;
use crate::state::rfc3339;

use subject::Subject;

/// Format of the JSON. Grows when a field changes its meaning or goes, not when one is added.
pub const SCHEMA: u32 = 1;

/// What a check came to, the least urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    #[default]
    Ok,
    /// It could not be made, or is not about this root; no word on the machine either way.
    Unknown,
    /// Nothing is lost yet, but somebody should look.
    Warning,
    /// Setup, the mount after the next boot, or the Node's word will not come about.
    Problem,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        }
    }

    /// Exit code of `doctor`. What could not be checked asks for nothing by itself.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok | Verdict::Unknown => 0,
            Verdict::Warning => 10,
            Verdict::Problem => 11,
        }
    }
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Such as `fstab`; docs/doctor.md lists them.
    pub name: String,
    pub verdict: Verdict,
    /// What was found; of one that is unknown, why.
    pub found: String,
    /// What to do; none where nothing needs doing.
    pub next: Option<String>,
}

impl Check {
    fn of(name: &str, verdict: Verdict, found: impl Into<String>, next: Option<String>) -> Check {
        Check { name: name.into(), verdict, found: found.into(), next }
    }

    fn ok(name: &str, found: impl Into<String>) -> Check {
        Check::of(name, Verdict::Ok, found, None)
    }

    fn unknown(name: &str, why: impl Into<String>) -> Check {
        Check::of(name, Verdict::Unknown, why, None)
    }

    fn warning(name: &str, found: impl Into<String>, next: impl Into<String>) -> Check {
        Check::of(name, Verdict::Warning, found, Some(next.into()))
    }

    fn problem(name: &str, found: impl Into<String>, next: impl Into<String>) -> Check {
        Check::of(name, Verdict::Problem, found, Some(next.into()))
    }
}

/// What `doctor` prints, as text or JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the agent that looked.
    pub agent: String,
    /// When it was looked, RFC 3339, UTC.
    pub time: String,
    /// The worst of the checks'.
    pub verdict: Verdict,
    pub problems: usize,
    pub warnings: usize,
    pub unknown: usize,
    /// In the order of docs/doctor.md.
    pub checks: Vec<Check>,
}

/// What to go by.
pub struct Options<'a> {
    pub config: &'a Config,
    /// What is wrong in the configuration, where `config` is only what could be made of it.
    pub wrong: Option<String>,
    /// Ask no API server.
    pub offline: bool,
    /// Instead of kubelet's own.
    pub kubeconfig: Option<&'a Path>,
    /// Instead of the name that kubelet was given.
    pub node_name: Option<&'a str>,
}

/// Makes every check of the machine, or the image, under `root`.
pub fn examine(root: &Root, options: &Options<'_>) -> Report {
    checks(&Subject::read(root, options.config), options)
}

fn checks(subject: &Subject<'_>, options: &Options<'_>) -> Report {
    let mut checks = vec![
        machine::configuration(subject, options.wrong.as_deref()),
        machine::user(subject),
        machine::mount_namespace(subject),
        machine::programs(subject),
        machine::kernel(subject),
        machine::modules(subject),
        drives::present(subject),
        drives::in_use(subject),
        drives::owners(subject),
        nodeadm::storage(subject),
        scripts::scripts(subject),
        links::uuid(subject),
        links::udev_rule(subject),
        files::fstab(subject),
        files::mdadm_conf(subject),
        files::records(subject),
        tmpfiles::tmpfiles(subject),
        units::unit(subject),
        units::order(subject),
        units::gate(subject),
        units::report(subject),
        nodeadm::label_way(subject),
        nodeadm::drop_ins(subject),
    ];
    checks.extend(space::places(subject));
    if !options.offline {
        checks.push(api::credentials(subject, options.kubeconfig, options.node_name));
    }
    Report::of(checks)
}

impl Report {
    fn of(checks: Vec<Check>) -> Report {
        let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        Report {
            schema: SCHEMA,
            agent: env!("CARGO_PKG_VERSION").into(),
            time: rfc3339(SystemTime::now()),
            verdict: checks.iter().map(|check| check.verdict).max().unwrap_or_default(),
            problems: count(Verdict::Problem),
            warnings: count(Verdict::Warning),
            unknown: count(Verdict::Unknown),
            checks,
        }
    }
}
