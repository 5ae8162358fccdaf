//! The units beside setup's own: those of `nvme-agent report`, which kubelet's start pulls in, and those that write metrics.

use std::fs;
use std::path::Path;

use super::{Files, unit_for};
use crate::error::Result;

struct Unit {
    name: &'static str,
    text: &'static str,
    /// The unit that wants it; none where a timer starts it.
    wanted_by: Option<&'static str>,
}

const REPORT: &str = include_str!("../../../systemd/nvme-agent-report.service");
const REPORT_TIMER: &str = include_str!("../../../systemd/nvme-agent-report.timer");
const METRICS: &str = include_str!("../../../systemd/nvme-agent-metrics.service");
const METRICS_TIMER: &str = include_str!("../../../systemd/nvme-agent-metrics.timer");

const UNITS: [Unit; 4] = [
    Unit { name: "nvme-agent-report.service", text: REPORT, wanted_by: Some("kubelet.service") },
    Unit { name: "nvme-agent-report.timer", text: REPORT_TIMER, wanted_by: Some("timers.target") },
    Unit { name: "nvme-agent-metrics.service", text: METRICS, wanted_by: None },
    Unit { name: "nvme-agent-metrics.timer", text: METRICS_TIMER, wanted_by: Some("timers.target") },
];
const OWN_DIR: &str = "/etc/systemd/system";
const PACKAGED_DIRS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

/// Puts the units in place for a binary at `binary`; with none, those of the package are in force. What is masked
/// stays so: a node need not report, nor be measured.
pub(super) fn apply(files: &mut Files<'_>, binary: Option<&str>, enable: bool) -> Result<()> {
    for Unit { name, text, wanted_by } in UNITS {
        let own = format!("{OWN_DIR}/{name}");
        if fs::read_link(files.root.join(&own)).is_ok_and(|to| to == Path::new("/dev/null")) {
            continue;
        }
        let unit = match binary {
            Some(binary) => {
                files.text(&own, &unit_for(files.root, text, binary))?;
                own
            }
            None => {
                files.remove_ours(&own, "the package's own is in force")?;
                let packaged = PACKAGED_DIRS.iter().map(|dir| format!("{dir}/{name}"));
                // A package of before there was such a unit.
                let Some(unit) = packaged.into_iter().find(|path| files.root.join(path).is_file()) else {
                    continue;
                };
                unit
            }
        };
        if let Some(wanted_by) = wanted_by
            && enable
        {
            files.link(&format!("{OWN_DIR}/{wanted_by}.wants/{name}"), &unit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::report::PATIENCE;

    /// All values of `key`.
    fn all<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
        unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    }

    fn seconds(text: &str) -> u64 {
        match text.strip_suffix("min").or(text.strip_suffix('m')) {
            Some(minutes) => minutes.parse::<u64>().unwrap() * 60,
            None => text.trim_end_matches('s').parse().unwrap(),
        }
    }

    #[test]
    fn the_service_outlasts_the_agents_own_deadlines() {
        let start = all(REPORT, "ExecStart");
        let wait = start[0].split_once("--wait ").unwrap().1;
        let own = seconds(wait) + PATIENCE.as_secs();
        assert!(seconds(all(REPORT, "TimeoutStartSec")[0]) >= own + 30, "{own}");
    }

    #[test]
    fn a_change_is_told_within_five_minutes() {
        let of = |key| seconds(all(REPORT_TIMER, key)[0]);
        assert!(of("OnUnitActiveSec") + of("RandomizedDelaySec") + of("AccuracySec") <= 285);
        assert!(of("OnBootSec") < 300 && of("RandomizedDelaySec") >= 15);
    }

    #[test]
    fn it_starts_wherever_setup_has_not_said_that_there_are_no_drives() {
        let mark = format!("!{}", crate::node::report::IDLE_PATH);
        let conditions = REPORT.lines().filter(|line| line.starts_with("Condition"));
        assert_eq!(conditions.collect::<Vec<_>>(), [format!("ConditionPathExists={mark}")]);
    }

    #[test]
    fn nothing_waits_for_it_and_a_broken_tmp_does_not_keep_it_from_telling() {
        for unit in [REPORT, REPORT_TIMER, METRICS, METRICS_TIMER] {
            for key in ["Before", "RequiredBy", "Requires", "BindsTo", "RemainAfterExit"] {
                assert_eq!(all(unit, key), [""; 0], "{key}");
            }
        }
        for key in
            ["PrivateTmp", "PrivateDevices", "MemoryDenyWriteExecute", "PrivateNetwork", "IPAddressDeny"]
        {
            assert_eq!(all(REPORT, key), [""; 0], "{key}");
        }
        assert_eq!(all(REPORT, "ProtectSystem"), ["full"]);
        let families: Vec<&str> = all(REPORT, "RestrictAddressFamilies")[0].split(' ').collect();
        assert_eq!(families, ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"]);
    }

    /// What names a unit's directory and its own, and a tick that is over before the next.
    #[test]
    fn metrics_go_where_the_condition_looks_and_end_before_the_next_tick() {
        let directory = all(METRICS, "ConditionPathIsDirectory");
        let variable = all(METRICS, "Environment")[0].split_once('=').unwrap();
        assert_eq!((directory, variable.0), (vec![variable.1], "TEXTFILE_DIRECTORY"));
        assert!(!variable.0.starts_with("NVME_AGENT_"), "it would be a key of the configuration");
        assert!(all(METRICS, "ExecStart")[0].ends_with(" --textfile ${TEXTFILE_DIRECTORY}"));
        let timeout = seconds(all(METRICS, "TimeoutStartSec")[0]);
        assert!(timeout > 2 * crate::status::UNATTENDED_PATIENCE.as_secs());
        assert_eq!(all(METRICS_TIMER, "OnCalendar"), ["minutely"]);
        assert!(timeout + seconds(all(METRICS, "TimeoutStopSec")[0]) < 60);
    }

    #[test]
    fn a_bad_verdict_is_written_and_no_failure_of_the_unit() {
        use crate::status::Verdict;
        let mut codes: Vec<u8> = Verdict::ALL.map(Verdict::exit_code).to_vec();
        codes.retain(|code| *code != 0);
        let taken = all(METRICS, "SuccessExitStatus")[0].split(' ').map(|code| code.parse().unwrap());
        assert_eq!(taken.collect::<Vec<u8>>(), codes);
    }

    /// `status` writes to stderr, where systemd gives a line the level that the unit says: info, where it says none.
    #[test]
    fn what_metrics_complain_of_is_not_dropped_with_systemds_lines_of_every_minute() {
        assert_eq!(
            (all(METRICS, "LogLevelMax"), all(METRICS, "SyslogLevel")),
            (vec!["notice"], vec!["warning"])
        );
    }

    /// SMART and a read are part of the verdict: who may not ask would call every drive silent, or take it for well.
    #[test]
    fn who_judges_may_ask_the_drives_and_write_none() {
        for unit in [REPORT, METRICS] {
            assert_eq!(all(unit, "DeviceAllow"), ["block-blkext r"]);
            let capabilities: Vec<&str> = all(unit, "CapabilityBoundingSet")[0].split(' ').collect();
            assert!(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"].iter().all(|one| capabilities.contains(one)));
            assert_eq!(all(unit, "PrivateDevices"), [""; 0]);
            // A filesystem of ours below /home is still to be seen.
            assert_eq!(all(unit, "ProtectHome"), ["read-only"]);
        }
    }
}
