//! What becomes of a failed node where the configuration that would say so cannot be read.
//!
//! What is known of it is kept ([`crate::config::salvage`]). What is not is taken for the strictest that the host shows,
//! since an earlier boot, or userData, put it there by a configuration that could be read: a policy never gets weaker by
//! a mistake in a file.

use crate::config::{Config, OnBootFailure, OnFailure, Salvaged};
use crate::install::hook;
use crate::root::Root;

use super::registration;

/// The configuration to go by, as far as the Node is concerned.
pub fn in_doubt_as_shown(root: &Root, salvaged: Salvaged) -> Config {
    let [failure, boot_failure] = ["on_failure", "on_boot_failure"].map(|key| salvaged.in_doubt(key));
    let mut config = salvaged.config;
    let gate = hook::shown(root);
    if failure {
        let taint = if registration::shows_taint(root) { OnFailure::Taint } else { OnFailure::Label };
        config.on_failure = config.on_failure.max(gate).max(taint);
    }
    // The gate's drop-in does not say for which of the two it is there.
    if boot_failure && gate == OnFailure::NoJoin {
        config.on_boot_failure = OnBootFailure::NoJoin;
    }
    config
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Overrides, salvage};
    use crate::install::hook::NODEADM_HOOK;
    use crate::node::registration::{DROP_IN_DIR, DROP_IN_PATH};
    use crate::state::{Health, State};

    struct Host {
        _dir: tempfile::TempDir,
        root: Root,
    }

    impl Host {
        /// An EKS node that an earlier boot left by this configuration.
        fn by(config: &Config, health: Health) -> Host {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path());
            let host = Host { _dir: dir, root };
            fs::create_dir_all(host.root.join(DROP_IN_DIR)).unwrap();
            host.write(
                "/etc/systemd/system/nodeadm-run.service",
                "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n",
            );
            hook::ensure(&host.root, config).unwrap();
            registration::update(&host.root, config, &State::new(&host.root, health, "X", ""));
            // The record was in /run.
            fs::remove_dir_all(host.root.join("/run")).unwrap();
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn with(&self, file: &str) -> (OnFailure, OnBootFailure) {
            self.write(crate::config::CONFIG_PATH, file);
            let config = in_doubt_as_shown(&self.root, salvage(&self.root, None, &Overrides::default(), []));
            (config.on_failure, config.on_boot_failure)
        }
    }

    use OnBootFailure::{NoJoin as StayAway, Report};
    use OnFailure::{Label, NoJoin, Taint};

    fn by(on_failure: OnFailure) -> Config {
        Config { on_failure, ..Config::default() }
    }

    #[test]
    fn what_the_host_shows_stays_where_the_policy_cannot_be_read() {
        for (left, expected) in
            [(Label, (Label, Report)), (Taint, (Taint, Report)), (NoJoin, (NoJoin, StayAway))]
        {
            let host = Host::by(&by(left), Health::Ready);
            assert_eq!(host.with("not TOML"), expected, "{left:?}");
            assert_eq!(host.with("on_failure = \"lable\"").0, expected.0, "{left:?}");
            assert_eq!(host.with("on_failure = \"label\"\nx = 1").0, Label, "it says so, {left:?}");
        }
        // As userData writes it where there is no gate.
        let host = Host::by(&by(Taint), Health::Failed);
        fs::remove_file(host.root.join(NODEADM_HOOK)).unwrap();
        assert!(fs::read_to_string(host.root.join(DROP_IN_PATH)).unwrap().contains("Taints"));
        assert_eq!(host.with("not TOML").0, Taint);
        let host = Host::by(&by(Taint), Health::Failed);
        host.write(NODEADM_HOOK, hook::GATE);
        assert_eq!(host.with("not TOML").0, NoJoin, "the strictest");
    }
}
