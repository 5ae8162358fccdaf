//! Waiting for drives: until every PCI NVMe function of a matched vendor is bound, live and has its block device.

use std::time::{Duration, Instant};

use tracing::debug;

use super::nvme::{self, NodeName};
use super::sysfs::{Dir, Sysfs};
use super::{Pending, Skipped, drives};
use crate::config::Config;
use crate::error::Result;

/// First pause between two looks; doubled up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LAST_PAUSE: Duration = Duration::from_millis(250);

/// What one look at the PCI bus gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    pub pending: Vec<Pending>,
    /// Functions that somebody gave to another driver on purpose (vfio-pci): not waited for, not ours.
    pub elsewhere: Vec<Skipped>,
}

/// Looks once at every PCI NVMe function of a matched vendor.
///
/// A function whose controller has said its model, and it is not one that is matched (an EBS volume), is not
/// waited for.
///
/// # Errors
/// A directory of sysfs, or an attribute, cannot be read.
pub fn look(sysfs: &Sysfs<'_>, config: &Config) -> Result<Functions> {
    let bus = Dir::open(sysfs.root().join("/sys/bus/pci/devices"))?;
    let mut functions = Functions::default();
    for address in bus.names()? {
        let function = bus.dir(&address)?;
        if nvme::class(&function)? != Some(nvme::PCI_CLASS) {
            continue;
        }
        if !nvme::vendor(&function)?.is_some_and(|vendor| nvme::vendor_matches(vendor, &config.matching)) {
            continue;
        }
        match function.leads_to("driver") {
            Some(driver) if driver != "nvme" => functions.elsewhere.push(Skipped {
                name: address,
                why: format!("bound to the driver {driver}"),
                ..Skipped::default()
            }),
            Some(_) => {
                if let Some(why) = waits_for(sysfs, config, &function)? {
                    functions.pending.push(Pending { address, why });
                }
            }
            None => functions.pending.push(Pending { address, why: "no driver bound".into() }),
        }
    }
    Ok(functions)
}

/// What a function that is bound to the nvme driver still lacks.
fn waits_for(sysfs: &Sysfs<'_>, config: &Config, function: &Dir) -> Result<Option<String>> {
    let nvme = function.dir("nvme")?;
    let mut controllers = nvme.names()?;
    controllers.retain(|name| nvme::is_controller(name));
    let Some(name) = controllers.first() else {
        return Ok(Some("no controller yet".into()));
    };
    let controller = nvme.dir(name)?;
    let model = controller.text("model")?;
    if !model.is_empty() && !nvme::model_matches(&model, &config.matching) {
        return Ok(None);
    }
    let state = controller.text("state")?;
    if state != nvme::LIVE {
        return Ok(Some(format!("controller {name} is {state}")));
    }
    for entry in controller.names()? {
        if let Some(node) = NodeName::parse(&entry)
            && sysfs.exists(&node.head())
        {
            return Ok(None);
        }
    }
    Ok(Some(format!("controller {name} has no namespace yet")))
}

/// Waits until nothing is pending and `expect_drives` are there, at most `config.drive_timeout`; costs one look
/// where everything is there. Returns what the last look saw.
///
/// # Errors
/// A directory of sysfs, or an attribute, cannot be read.
pub fn settle(sysfs: &Sysfs<'_>, config: &Config) -> Result<Functions> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let functions = look(sysfs, config)?;
        let expected = config.expect_drives as usize;
        let enough = expected == 0 || drives::count(sysfs, &config.matching)? >= expected;
        let left = config.drive_timeout.saturating_sub(start.elapsed());
        if (functions.pending.is_empty() && enough) || left.is_zero() {
            return Ok(functions);
        }
        debug!(
            "waiting for drives, {} s left; {expected} expected, pending: {:?}",
            left.as_secs(),
            functions.pending
        );
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LAST_PAUSE);
    }
}
