//! The report for Prometheus: its text exposition format, version 0.0.4.
//!
//! What is not known is left out: a 0 would be a number. Every series is there once, since node_exporter answers a whole
//! scrape with an error for one that is there twice.

mod table;

use std::collections::BTreeSet;
use std::fmt::{Display, Write};

use super::Report;
use crate::logging::ascii;
use crate::probe::statistics::Latency;

pub use table::METRICS;

/// One metric: a family of series that differ in their labels.
pub struct Metric {
    /// With its base unit, as the conventions of Prometheus want it.
    pub name: &'static str,
    pub kind: Kind,
    /// Names, in the order in which `samples` gives their values. A summary has `quantile` besides.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
    samples: fn(&Report, &mut Samples),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    /// A gauge that is 1 or 0.
    Flag,
    /// A gauge that is 1 and says something by its labels.
    Info,
    Counter,
    /// Quantiles, and `_sum` and `_count`.
    Summary,
}

impl Kind {
    /// As Prometheus knows them.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gauge | Kind::Flag | Kind::Info => "gauge",
            Kind::Counter => "counter",
            Kind::Summary => "summary",
        }
    }
}

impl Metric {
    /// In words, for the documentation.
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        match (self.kind, name.rsplit_once('_')) {
            (Kind::Flag, _) => "1 or 0",
            (Kind::Info, _) => "always 1",
            _ if name.ends_with("_timestamp_seconds") => "seconds since 1970, UTC",
            (_, Some((_, "seconds"))) => "seconds",
            (_, Some((_, "bytes"))) => "bytes",
            (_, Some((_, "ratio"))) => "0 to 1",
            (_, Some((_, "celsius"))) => "degrees Celsius",
            _ => "number",
        }
    }
}

/// The report as a page for Prometheus, printable ASCII and line feeds.
pub fn page(report: &Report) -> String {
    let mut page = String::with_capacity(16 << 10);
    for metric in METRICS {
        let mut samples = Samples { metric, text: String::new(), seen: BTreeSet::new() };
        (metric.samples)(report, &mut samples);
        if !samples.text.is_empty() {
            let (name, kind) = (metric.name, metric.kind.as_str());
            let _ = write!(page, "# HELP {name} {}\n# TYPE {name} {kind}\n{}", metric.help, samples.text);
        }
    }
    page
}

/// The series of one metric.
struct Samples {
    metric: &'static Metric,
    text: String,
    seen: BTreeSet<String>,
}

impl Samples {
    /// Adds a series with these values of the labels; none where its value is not known.
    fn put(&mut self, values: &[&str], value: Option<impl Display>) {
        if let Some(value) = value {
            self.line("", values, None, &value);
        }
    }

    /// A summary: quantiles where there are any, the sum in seconds, and how many it is of.
    fn summary(&mut self, values: &[&str], latency: Option<Latency>, sum: f64, count: u64) {
        if let Some(latency) = latency {
            self.line("", values, Some("0.5"), &micros(latency.p50_us));
            self.line("", values, Some("0.99"), &micros(latency.p99_us));
        }
        self.line("_sum", values, None, &sum);
        self.line("_count", values, None, &count);
    }

    fn line(&mut self, suffix: &str, values: &[&str], quantile: Option<&str>, value: &dyn Display) {
        let names = self.metric.labels.iter().zip(values).chain(quantile.iter().map(|q| (&"quantile", q)));
        let labels: Vec<String> =
            names.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let mut series = format!("{}{suffix}", self.metric.name);
        if !labels.is_empty() {
            let _ = write!(series, "{{{}}}", labels.join(","));
        }
        if self.seen.insert(series.clone()) {
            let _ = writeln!(self.text, "{series} {value}");
        }
    }
}

/// In seconds.
fn micros(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// In seconds since 1970; none of what is no time.
fn timestamp(rfc3339: &str) -> Option<i64> {
    rfc3339.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// The value of a label, between its quotes.
fn escaped(value: &str) -> String {
    // Prometheus takes UTF-8, but a terminal and a model name of a drive are not to be trusted with it.
    ascii(value).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DrivePart, Verdict};

    #[test]
    fn of_an_empty_report_nothing_is_said_that_nobody_knows() {
        let page = page(&Report { time: "2026-07-26T12:00:00Z".into(), ..Report::default() });
        let series: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "nvme_agent_info{version=\"\",layout=\"\",filesystem=\"\",target=\"\",device=\"\"} 1",
                "nvme_agent_look_timestamp_seconds 1785067200",
                "nvme_agent_state{state=\"ready\"} 0",
                "nvme_agent_state{state=\"degraded\"} 0",
                "nvme_agent_state{state=\"failed\"} 0",
                "nvme_agent_state{state=\"absent\"} 0",
                "nvme_agent_state{state=\"not-set-up\"} 1",
                "nvme_agent_unreadable_parts 0",
            ]
        );
    }

    #[test]
    fn a_drive_that_refuses_a_log_page_has_answered_and_one_that_may_not_be_asked_has_not() {
        let of = |why: &str| {
            let drive = DrivePart { not_asked: Some(why.into()), ..DrivePart::default() };
            let page = page(&Report { drives: vec![drive], ..Report::default() });
            let value = |name: &str| {
                let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
                line.rsplit_once(' ').map(|(_, value)| value.to_owned())
            };
            (value("nvme_agent_drive_answered"), value("nvme_agent_drive_readable"))
        };
        let one = || Some("1".to_owned());
        assert_eq!(of("gives no log pages: No such device"), (one(), one()));
        assert_eq!(of("needs root"), (Some("0".into()), None));
        assert_eq!(of("does not answer within 1.2 s"), (Some("0".into()), None));
    }

    #[test]
    fn labels_are_escaped_and_a_drive_that_is_there_twice_is_said_once() {
        let drive = DrivePart {
            serial: "a\"b\\c\nd\u{e9}".into(),
            state: "live".into(),
            used: true,
            ..DrivePart::default()
        };
        let report =
            Report { state: Verdict::Ready, drives: vec![drive.clone(), drive], ..Report::default() };
        let page = page(&report);
        let live: Vec<&str> = page.lines().filter(|l| l.starts_with("nvme_agent_drive_live{")).collect();
        assert_eq!(live, ["nvme_agent_drive_live{device=\"\",serial=\"a\\\"b\\\\c\\nd\\\\u{e9}\"} 1"]);
        assert!(page.is_ascii() && !page.contains("drive_size_bytes"), "{page}");
    }
}
