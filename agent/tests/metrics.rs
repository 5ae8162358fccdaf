//! `status --output prometheus`: by promtool's own rules, by its documentation, and by what packaging/monitoring makes of it.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

#[path = "support/full.rs"]
mod full;
#[path = "support/promtool.rs"]
mod promtool;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use nvme_agent::status::prometheus::{Kind, METRICS, Metric, page};
use nvme_agent::status::{DrivePart, Report, SetupPart};
use proptest::prelude::*;

fn repository(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// A series: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads a page as strictly as the format is written: HELP, TYPE, samples of that metric, each metric and series once.
fn parse(page: &str) -> Vec<Sample> {
    assert!(page.is_empty() || page.ends_with('\n'));
    let (mut samples, mut metrics, mut series) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(!help.is_empty() && !help.contains('\\') && metrics.insert(name.to_owned()), "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert!(["gauge", "counter", "summary"].contains(&kind), "{line}");
        let before = samples.len();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (id, value) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(id.to_owned()), "{line} is there twice");
            let (full, labels) = match id.split_once('{') {
                Some((full, rest)) => (full, labels(rest)),
                None => (id, BTreeMap::new()),
            };
            let suffixes = if kind == "summary" { &["", "_sum", "_count"][..] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| full == format!("{name}{suffix}")), "{line} below {name}");
            samples.push((full.to_owned(), labels, value.parse().unwrap()));
        }
        assert!(samples.len() > before, "{name} has no series");
    }
    samples
}

/// `a="b",c="d"}`
fn labels(mut rest: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while rest != "}" {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    other => panic!("\\{other} in {rest}"),
                }),
                (_, other) => value.push(other),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "{name} is there twice");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// The value of the series whose labels have these among them; none where there is none.
fn value(samples: &[Sample], name: &str, with: &[(&str, &str)]) -> Option<f64> {
    let has = |labels: &BTreeMap<String, String>| {
        with.iter().all(|(name, value)| labels.get(*name).is_some_and(|found| found == value))
    };
    let mut found = samples.iter().filter(|(found, labels, _)| found == name && has(labels));
    let one = found.next().map(|(_, _, value)| *value);
    assert!(found.next().is_none(), "{name} {with:?} is not one series");
    one
}

#[test]
fn every_metric_is_on_the_page_of_a_report_that_has_everything() {
    let page = page(&full::report());
    parse(&page);
    let mut rest = page.as_str();
    for metric in METRICS {
        let head = format!(
            "# HELP {} {}\n# TYPE {} {}\n",
            metric.name,
            metric.help,
            metric.name,
            metric.kind.as_str()
        );
        rest = rest.split_once(&head).unwrap_or_else(|| panic!("{} is missing or misplaced", metric.name)).1;
    }
    insta::assert_snapshot!("metrics", page);
}

#[test]
fn promtool_finds_nothing_against_any_of_them() {
    for report in [full::report(), Report::default()] {
        promtool::run(&["check", "metrics"], &page(&report));
    }
    let wrong = page(&full::report()).replace("_total", "");
    assert!(promtool::said(&["check", "metrics"], &wrong).is_some(), "the check finds nothing at all");
}

proptest! {
    /// Whatever a drive says of itself, the page can be read, and says it.
    #[test]
    fn words_of_others_break_no_line(words in proptest::collection::vec(any::<String>(), 6)) {
        let drive = |device: &str, serial: &str| DrivePart {
            device: device.into(),
            serial: serial.into(),
            model: words[2].clone(),
            state: "live".into(),
            ..DrivePart::default()
        };
        let drives = vec![drive(&words[0], &words[1]), drive(&words[1], &words[0]), drive(&words[0], &words[1])];
        let report =
            Report { drives, layout: words[3].clone(), target: words[4].clone(), reason: words[5].clone(), ..full::report() };
        let samples = parse(&page(&report));
        let serial = nvme_agent::logging::ascii(&words[1]);
        prop_assert!(samples.iter().any(|(name, labels, _)| name == "nvme_agent_drive_live" && labels["serial"] == serial));
    }
}

#[test]
fn numbers_are_in_base_units() {
    let samples = parse(&page(&full::report()));
    let drive = [("device", "nvme1n1"), ("serial", "AWS1")];
    let of = |name: &str| value(&samples, &format!("nvme_agent_drive_{name}"), &drive).unwrap();
    assert_eq!((of("spare_ratio"), of("spare_threshold_ratio"), of("wear_ratio")), (0.93, 0.1, 0.07));
    assert_eq!((of("power_on_seconds_total"), of("temperature_celsius")), (8766.0 * 3600.0, 38.0));
    assert_eq!(
        (of("ec2_iops_exceeded_seconds_total"), of("ec2_throughput_exceeded_seconds_total")),
        (1.5, 0.000_02)
    );
    let ec2 = |suffix: &str, with: (&str, &str)| {
        let name = format!("nvme_agent_drive_ec2_operation_duration_seconds{suffix}");
        value(&samples, &name, &[drive[1], ("operation", "read"), with]).unwrap()
    };
    let any = ("device", "nvme1n1");
    assert_eq!(
        (ec2("", ("quantile", "0.99")), ec2("_sum", any), ec2("_count", any)),
        (0.000_512, 0.09, 1000.0)
    );
    assert_eq!(value(&samples, "nvme_agent_setup_duration_seconds", &[]), Some(1.234));
    // Two steps of one name are one series.
    let step = |name| value(&samples, "nvme_agent_setup_step_duration_seconds", &[("step", name)]);
    assert_eq!((step("create-array"), step("directory")), (Some(0.12), Some(0.005)));
    assert_eq!(value(&samples, "nvme_agent_state_since_timestamp_seconds", &[]), Some(1_785_067_200.0));
    assert_eq!(value(&samples, "nvme_agent_persistence_file_in_order", &[("file", "fstab")]), Some(0.0));
    let findings = [("reason", "DriveCriticalWarning"), ("state", "degraded")];
    assert_eq!(value(&samples, "nvme_agent_findings", &findings), Some(2.0));
}

#[test]
fn what_is_not_known_is_absent() {
    let mut report = full::report();
    let mount = report.mount.as_mut().unwrap();
    (mount.inodes, mount.inodes_used, mount.errors) = (None, None, None);
    report.since = None;
    let samples = parse(&page(&report));
    for name in ["filesystem_inodes", "filesystem_inodes_used", "filesystem_errors_total"] {
        assert_eq!(value(&samples, &format!("nvme_agent_{name}"), &[]), None, "{name}");
    }
    assert_eq!(value(&samples, "nvme_agent_state_since_timestamp_seconds", &[]), None);
    // A drive that is gone: that it is gone is known, and nothing else.
    let gone: BTreeSet<&str> = samples
        .iter()
        .filter(|(_, labels, _)| labels.get("serial").is_some_and(|s| s == "AWS3"))
        .map(|s| &*s.0)
        .collect();
    assert_eq!(gone, ["nvme_agent_drive_info", "nvme_agent_drive_live", "nvme_agent_drive_used"].into());
    assert_eq!(value(&samples, "nvme_agent_drive_live", &[("serial", "AWS3")]), Some(0.0));
    // One that fell silent in a read, and one that says nothing of latencies.
    for (flag, good, bad) in [("readable", "AWS1", "AWS2"), ("answered", "AWS1", "AWS2")] {
        let flag = |serial| value(&samples, &format!("nvme_agent_drive_{flag}"), &[("serial", serial)]);
        assert_eq!((flag(good), flag(bad)), (Some(1.0), Some(0.0)));
    }
    report.drives[0].statistics.as_mut().unwrap().read_latency = None;
    // Somebody's tmpfs is no size of ours.
    report.mount.as_mut().unwrap().ours = false;
    report.last_setup = None::<SetupPart>;
    let samples = parse(&page(&report));
    let name = "nvme_agent_drive_ec2_operation_duration_seconds";
    assert!(!samples.iter().any(|(found, labels, _)| found == name
        && labels.get("serial").is_some_and(|s| s == "AWS1")
        && labels["operation"] == "read"));
    let ours = |name: &str| {
        name.contains("_filesystem_") || name.contains("_setup_") || name.ends_with("persistence_in_order")
    };
    assert!(!samples.iter().any(|(name, ..)| ours(name) && !name.ends_with("since_setup")), "{samples:?}");
}

#[test]
fn the_program_prints_the_page_or_puts_it_where_node_exporter_reads() {
    let agent = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("nvme-agent").unwrap();
        command.args(["status", "--output", "prometheus"]).args(arguments).output().unwrap()
    };
    let root = tempfile::tempdir().unwrap();
    let at = root.path().to_str().unwrap();
    let printed = agent(&["--root", at]);
    assert_eq!(printed.status.code(), Some(12), "as `status` ends otherwise");
    let printed = parse(std::str::from_utf8(&printed.stdout).unwrap());
    assert_eq!(value(&printed, "nvme_agent_state", &[("state", "not-set-up")]), Some(1.0));
    let collector = tempfile::tempdir().unwrap();
    let file = collector.path().join("other.prom");
    for (given, path) in [(collector.path(), collector.path().join("nvme-agent.prom")), (&file, file.clone())]
    {
        let run = agent(&["--root", at, "--textfile", given.to_str().unwrap()]);
        assert_eq!((run.status.code(), run.stdout.len()), (Some(12), 0));
        let written = parse(&fs::read_to_string(&path).unwrap());
        assert_eq!(written.len(), printed.len());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }
    let names = fs::read_dir(collector.path()).unwrap().count();
    assert_eq!(names, 2, "something is left over");
    let mut command = Command::cargo_bin("nvme-agent").unwrap();
    let refused = command.args(["status", "--textfile", at]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let refused = agent(&["--root", at, "--textfile", "/nonexistent/x.prom"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("/nonexistent/x.prom"), "{said}");
}

/// The table of docs/metrics.md, as the code has it.
fn documented() -> String {
    let row = |metric: &Metric| {
        let mut labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        if metric.kind == Kind::Summary {
            labels.push("`quantile`".into());
        }
        let (kind, unit) = (metric.kind.as_str(), metric.unit());
        format!("| `{}` | {kind} | {unit} | {} | {} |\n", metric.name, labels.join(", "), metric.help)
    };
    let rows: String = METRICS.iter().map(row).collect();
    format!("| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n{rows}")
}

#[test]
fn the_documentation_has_every_metric_as_the_code_has_it() {
    let (text, table) = (repository("docs/metrics.md"), documented());
    let found =
        text.split_once("| metric |").map(|(_, rest)| format!("| metric |{rest}")).unwrap_or_default();
    let found = found.split_once("\n\n").map_or(found.as_str(), |(table, _)| table);
    assert_eq!(found.trim_end(), table.trim_end(), "put this table into docs/metrics.md:\n{table}");
}
