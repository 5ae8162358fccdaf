//! One flag for every key of the configuration.

use crate::config::Overrides;

/// Shared by setup, which obeys them, and plan, which tells what setup would do.
#[derive(Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Directory to mount on [default: /tmp]
    #[arg(long, value_name = "DIR", help_heading = "Configuration")]
    target: Option<String>,
    /// What to make of the drives [default: raid0; a single drive is used as it is]
    #[arg(long, value_name = "LAYOUT", help_heading = "Configuration")]
    layout: Option<String>,
    /// ext4 or xfs [default: ext4]
    #[arg(long, value_name = "TYPE", help_heading = "Configuration")]
    filesystem: Option<String>,
    /// Filesystem label [default: made from the target]
    #[arg(long, value_name = "LABEL", help_heading = "Configuration")]
    label: Option<String>,
    /// Mount options, separated by commas [default: noatime,nosuid,nodev]
    #[arg(long, value_name = "OPTIONS", help_heading = "Configuration")]
    mount_options: Option<String>,
    /// RAID0 chunk, a power of two from 4K to 16M [default: 512K]
    #[arg(long, value_name = "SIZE", help_heading = "Configuration")]
    chunk: Option<String>,
    /// Fail where there are fewer drives than this [default: 0, take what is there]
    #[arg(long, value_name = "N", help_heading = "Configuration")]
    expect_drives: Option<String>,
    /// How long to wait for drives, and for missing members [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Configuration")]
    drive_timeout: Option<String>,
    /// When to kill a mkfs [default: 120s]
    #[arg(long, value_name = "TIME", help_heading = "Configuration")]
    mkfs_timeout: Option<String>,
    /// How long to wait for another run of nvme-agent [default: 240s]
    #[arg(long, value_name = "TIME", help_heading = "Configuration")]
    lock_timeout: Option<String>,
    /// Drives with bytes but no signature: first-boot (blank in the instance's first boot only), format, refuse
    /// [default: first-boot]
    #[arg(long, value_name = "POLICY", help_heading = "Configuration")]
    unknown_data: Option<String>,
    /// keep (systemd-tmpfiles deletes nothing on the mount) or distro [default: keep]
    #[arg(long, value_name = "POLICY", help_heading = "Configuration")]
    tmpfiles: Option<String>,
    /// Domain of the Node's labels, annotation, condition and taint [default: nvme-agent.e6data.com]
    #[arg(long, value_name = "DOMAIN", help_heading = "Configuration")]
    label_domain: Option<String>,
    /// Other names for these, NAME=KEY separated by commas: state, layout, drives, capacity-gib, profile, version,
    /// detail, LocalStorageReady, failed [default: these names]
    #[arg(long, value_name = "KEYS", help_heading = "Configuration")]
    label_keys: Option<String>,
    /// How the label comes to the Node at registration: auto (by what the image has), dropin, environment, api, none
    /// [default: auto]
    #[arg(long, value_name = "METHOD", help_heading = "Configuration")]
    label_method: Option<String>,
    /// A node whose setup failed joins with a label only (label), tainted (taint), or not at all (no-join)
    /// [default: label, which keeps no pod away by itself]
    #[arg(long, value_name = "POLICY", help_heading = "Configuration")]
    on_failure: Option<String>,
    /// The same at a reboot of a node that has joined before: report or no-join [default: report]
    #[arg(long, value_name = "POLICY", help_heading = "Configuration")]
    on_boot_failure: Option<String>,
    /// Value of the label DOMAIN/profile, which pods and NodePools share [default: no such label]
    #[arg(long, value_name = "NAME", help_heading = "Configuration")]
    profile: Option<String>,
    /// Tell another labeller besides: none, or nfd (a feature file for Node Feature Discovery) [default: none]
    #[arg(long, value_name = "KIND", help_heading = "Configuration")]
    feature_file: Option<String>,
    /// Beginnings of drive models, separated by commas [default: Amazon EC2 NVMe Instance Storage]
    #[arg(long, value_name = "MODELS", help_heading = "Configuration")]
    match_models: Option<String>,
    /// PCI vendor ids, separated by commas [default: 0x1d0f]
    #[arg(long, value_name = "IDS", help_heading = "Configuration")]
    match_vendors: Option<String>,
    /// DESTROYS DATA: wipe drives that carry a signature (filesystem, partition table, LVM, ...) instead of
    /// refusing; never drives in use. For this run only
    #[arg(long)]
    wipe_foreign: bool,
    /// Take over a filesystem that nothing shows to be ours, as it is. For this run only
    #[arg(long)]
    adopt: bool,
}

impl ConfigArgs {
    /// As the strongest layer of the configuration.
    pub fn overrides(&self) -> Overrides {
        let values = [
            ("target", &self.target),
            ("layout", &self.layout),
            ("filesystem", &self.filesystem),
            ("label", &self.label),
            ("mount_options", &self.mount_options),
            ("chunk", &self.chunk),
            ("expect_drives", &self.expect_drives),
            ("drive_timeout", &self.drive_timeout),
            ("mkfs_timeout", &self.mkfs_timeout),
            ("lock_timeout", &self.lock_timeout),
            ("unknown_data", &self.unknown_data),
            ("tmpfiles", &self.tmpfiles),
            ("label_domain", &self.label_domain),
            ("label_keys", &self.label_keys),
            ("label_method", &self.label_method),
            ("on_failure", &self.on_failure),
            ("on_boot_failure", &self.on_boot_failure),
            ("profile", &self.profile),
            ("feature_file", &self.feature_file),
            ("match.models", &self.match_models),
            ("match.vendors", &self.match_vendors),
        ];
        Overrides {
            values: values.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect(),
            wipe_foreign: self.wipe_foreign,
            adopt: self.adopt,
            as_set_up: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KEYS, flag};
    use clap::{Args, FromArgMatches};

    #[test]
    fn every_key_has_a_flag_that_reaches_it() {
        let command = ConfigArgs::augment_args(clap::Command::new("x"));
        for key in KEYS {
            let matches = command.clone().try_get_matches_from(["x", &flag(key), "value"]).unwrap();
            let overrides = ConfigArgs::from_arg_matches(&matches).unwrap().overrides();
            assert_eq!(overrides.values, [(key, "value".to_owned())]);
        }
    }
}
