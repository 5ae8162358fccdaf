//! `nvme-agent teardown`: takes back what setup made.

use anyhow::Result;

use super::{Context, output};
use crate::config::Overrides;

/// Unmount, stop the array, wipe what is ours, take our lines out; DESTROYS the filesystem's data
///
/// Refuses, and names them, where processes or services use the mount. Without --yes it says what it would do, and
/// exits with 1. nvme-agent.service stays: where it is enabled, the next boot sets up anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Yes, the data on the filesystem may go
    #[arg(long)]
    yes: bool,
    /// Not now but at the next boot, where the mount is in use. A setup before that calls it off
    #[arg(long)]
    at_next_boot: bool,
    /// Directory that the filesystem is mounted on [default: as configured, and as on record]
    #[arg(long, value_name = "DIR")]
    target: Option<String>,
}

impl Args {
    /// The label that is to go was written under the keys that setup was given.
    fn overrides(&self) -> Overrides {
        let values = self.target.iter().map(|target| ("target", target.clone())).collect();
        Overrides { values, ..Overrides::as_set_up() }
    }
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    context.require_host("teardown");
    context.require_root("teardown")?;
    let config = context.load(&args.overrides())?;
    if !args.yes {
        let would = crate::teardown::preview(&context.root, &config)?;
        let list: String = would.iter().map(|line| format!("  {line}\n")).collect();
        output::text(&match would.is_empty() {
            true => "There is nothing of nvme-agent's to take back.\n".to_owned(),
            false => format!("Nothing was changed. With --yes this happens:\n{list}"),
        })?;
        return Ok(u8::from(!would.is_empty()));
    }
    let done = crate::teardown::run(&context.root, &config, args.at_next_boot)?;
    let list: String = done.iter().map(|line| format!("{line}\n")).collect();
    context.tell(
        &done,
        if done.is_empty() { "There is nothing of nvme-agent's to take back.\n" } else { &list },
    )?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{self, given};
    use crate::node::registration::{self, ENVIRONMENT_PATH};
    use crate::root::Root;
    use crate::state::{Health, State};

    #[test]
    fn the_label_goes_under_the_domain_that_only_setup_was_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let kubelets = "NODEADM_KUBELET_ARGS=--v=2\n";
        write("/proc/sys/kernel/random/boot_id", "one");
        write(ENVIRONMENT_PATH, kubelets);
        let flags =
            Overrides { values: vec![("label_domain", "x.example.com".into())], ..Overrides::default() };
        let setup = config::load(&root, None, &flags, []).unwrap();
        given::remember(&root, &setup.given).unwrap();
        registration::update(&root, &setup, &State::new(&root, Health::Ready, "SetupComplete", ""));
        let now = || fs::read_to_string(root.join(ENVIRONMENT_PATH)).unwrap();
        assert!(now().contains("x.example.com/state=ready"), "{}", now());

        let args = Args { yes: true, at_next_boot: false, target: Some("/data".into()) };
        let config = config::load(&root, None, &args.overrides(), []).unwrap();
        assert_eq!(config.target, "/data");
        registration::withdraw(&root, &config).unwrap();
        assert_eq!(now(), kubelets);
    }
}
