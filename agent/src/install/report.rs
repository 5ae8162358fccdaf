//! The units of `nvme-agent report`: the service, which kubelet's start pulls in, and the timer.

use std::fs;
use std::path::Path;

use super::{Files, unit_for};
use crate::error::Result;

pub const SERVICE: &str = include_str!("../../../systemd/nvme-agent-report.service");
pub const TIMER: &str = include_str!("../../../systemd/nvme-agent-report.timer");

/// Name, text, and the unit that wants it.
const UNITS: [(&str, &str, &str); 2] = [
    ("nvme-agent-report.service", SERVICE, "kubelet.service"),
    ("nvme-agent-report.timer", TIMER, "timers.target"),
];
const OWN_DIR: &str = "/etc/systemd/system";
const PACKAGED_DIRS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

/// Puts the units in place for a binary at `binary`; with none, those of the package are in force. What is masked
/// stays so: a node need not report.
pub(super) fn apply(files: &mut Files<'_>, binary: Option<&str>, enable: bool) -> Result<()> {
    for (name, text, wanted_by) in UNITS {
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
                // A package of before there was a report.
                let Some(unit) = packaged.into_iter().find(|path| files.root.join(path).is_file()) else {
                    continue;
                };
                unit
            }
        };
        if enable {
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
        let start = all(SERVICE, "ExecStart");
        let wait = start[0].split_once("--wait ").unwrap().1;
        let own = seconds(wait) + PATIENCE.as_secs();
        assert!(seconds(all(SERVICE, "TimeoutStartSec")[0]) >= own + 30, "{own}");
    }

    #[test]
    fn a_change_is_told_within_five_minutes() {
        let of = |key| seconds(all(TIMER, key)[0]);
        assert!(of("OnUnitActiveSec") + of("RandomizedDelaySec") + of("AccuracySec") <= 285);
        assert!(of("OnBootSec") < 300 && of("RandomizedDelaySec") >= 15);
    }

    #[test]
    fn it_starts_wherever_setup_has_not_said_that_there_are_no_drives() {
        let mark = format!("!{}", crate::node::report::IDLE_PATH);
        let conditions = SERVICE.lines().filter(|line| line.starts_with("Condition"));
        assert_eq!(conditions.collect::<Vec<_>>(), [format!("ConditionPathExists={mark}")]);
    }

    #[test]
    fn nothing_waits_for_it_and_a_broken_tmp_does_not_keep_it_from_telling() {
        for unit in [SERVICE, TIMER] {
            for key in ["Before", "RequiredBy", "Requires", "BindsTo", "RemainAfterExit"] {
                assert_eq!(all(unit, key), [""; 0], "{key}");
            }
        }
        for key in
            ["PrivateTmp", "PrivateDevices", "MemoryDenyWriteExecute", "PrivateNetwork", "IPAddressDeny"]
        {
            assert_eq!(all(SERVICE, key), [""; 0], "{key}");
        }
        assert_eq!(all(SERVICE, "ProtectSystem"), ["full"]);
        let families: Vec<&str> = all(SERVICE, "RestrictAddressFamilies")[0].split(' ').collect();
        assert_eq!(families, ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"]);
    }
}
