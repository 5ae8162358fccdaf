//! NVMe in sysfs: names, namespaces, and the PCI controllers behind them.

use super::sysfs::{Dir, hex};
use crate::config::Match;
use crate::error::Result;

/// PCI base class 01 (mass storage), subclass 08 (non-volatile memory), any programming interface.
pub const PCI_CLASS: u32 = 0x0108;

/// What `state` of a controller that serves I/O says (`nvme_sysfs_show_state`, drivers/nvme/host/sysfs.c).
pub const LIVE: &str = "live";

/// What an NVMe block device's name says (`nvme_mpath_set_disk_name`, drivers/nvme/host/multipath.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// `1` in `nvme1n2` and in `nvme1c3n2`.
    pub instance: u32,
    /// `3` in `nvme1c3n2`: a hidden path of a multipath namespace.
    pub path: Option<u32>,
    /// `2` in both.
    pub namespace: u32,
}

impl NodeName {
    /// Parses `nvme1n2` or `nvme1c3n2`; none for everything else, partitions included.
    pub fn parse(name: &str) -> Option<NodeName> {
        let (head, namespace) = name.strip_prefix("nvme")?.split_once('n')?;
        let (instance, path) = match head.split_once('c') {
            Some((instance, path)) => (instance, Some(path)),
            None => (head, None),
        };
        Some(NodeName {
            instance: digits(instance)?,
            path: match path {
                Some(path) => Some(digits(path)?),
                None => None,
            },
            namespace: digits(namespace)?,
        })
    }

    /// The block device that people use, for a hidden path.
    pub fn head(&self) -> String {
        format!("nvme{}n{}", self.instance, self.namespace)
    }
}

fn digits(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// True for `nvme3`.
pub fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(|number| digits(number).is_some())
}

/// A controller, as its directory in sysfs says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// Such as `nvme3`.
    pub name: String,
    pub state: String,
    pub transport: String,
    /// PCI address; empty for fabrics.
    pub address: String,
    pub model: String,
    pub serial: String,
    pub firmware: String,
    /// Of the PCI function behind it; none for fabrics.
    pub vendor: Option<u32>,
    /// Of the PCI function, without the programming interface: 0x0108.
    pub class: Option<u32>,
}

impl Controller {
    /// Reads the attributes in the directory of the controller `name`.
    ///
    /// # Errors
    /// One of them is kept from us.
    pub fn read(name: &str, dir: &Dir) -> Result<Controller> {
        let mut controller = Controller {
            name: name.to_owned(),
            transport: dir.text("transport")?,
            state: dir.text("state")?,
            address: String::new(),
            model: dir.text("model")?,
            serial: dir.text("serial")?,
            firmware: dir.text("firmware_rev")?,
            vendor: None,
            class: None,
        };
        if controller.transport == "pcie"
            && let Some(address) = dir.leads_to("device")
        {
            let function = dir.dir("device")?;
            controller.address = address;
            controller.vendor = vendor(&function)?;
            controller.class = class(&function)?;
        }
        Ok(controller)
    }

    pub fn is_live(&self) -> bool {
        self.state == LIVE
    }

    /// Why this is not a controller of a drive that the configuration asks for; none where it is.
    pub fn mismatch(&self, wanted: &Match) -> Option<String> {
        if !model_matches(&self.model, wanted) {
            return Some("model is not matched".into());
        }
        if self.transport != "pcie" {
            return Some(format!("not a PCI NVMe drive (transport `{}`)", self.transport));
        }
        if self.class != Some(PCI_CLASS) {
            let found = self.class.map_or("none".into(), |c| format!("{c:#06x}"));
            return Some(format!("PCI class of {} is {found}, not {PCI_CLASS:#06x}", self.address));
        }
        if !self.vendor.is_some_and(|v| vendor_matches(v, wanted)) {
            let found = self.vendor.map_or("none".into(), |v| format!("{v:#06x}"));
            let list: Vec<_> = wanted.vendors.iter().map(|v| format!("{v:#06x}")).collect();
            return Some(format!("PCI vendor of {} is {found}, not {}", self.address, list.join(" or ")));
        }
        None
    }
}

/// The trimmed model starts with one of those configured. An empty entry matches nothing, not everything.
pub fn model_matches(model: &str, wanted: &Match) -> bool {
    wanted.models.iter().map(|m| m.trim()).any(|m| !m.is_empty() && model.starts_with(m))
}

pub fn vendor_matches(vendor: u32, wanted: &Match) -> bool {
    wanted.vendors.iter().any(|v| u32::from(*v) == vendor)
}

/// The controllers behind a namespace: one, or with native multipath every path's, each once.
///
/// `nvme3n1/device` is a controller, or with native multipath the subsystem `nvme-subsys3`, whose directory
/// links to its controllers.
///
/// # Errors
/// A directory of sysfs, or an attribute, cannot be read.
pub fn controllers(namespace: &Dir) -> Result<Vec<Controller>> {
    let Some(name) = namespace.leads_to("device") else {
        return Ok(Vec::new());
    };
    let device = namespace.dir("device")?;
    if is_controller(&name) {
        return Ok(vec![Controller::read(&name, &device)?]);
    }
    let mut entries = device.names()?;
    entries.retain(|entry| is_controller(entry));
    entries.iter().map(|entry| Controller::read(entry, &device.dir(entry)?)).collect()
}

/// PCI vendor id of a function.
///
/// # Errors
/// It is kept from us.
pub fn vendor(function: &Dir) -> Result<Option<u32>> {
    Ok(function.attribute("vendor")?.and_then(|vendor| hex(&vendor)))
}

/// PCI class of a function, without the programming interface.
///
/// # Errors
/// It is kept from us.
pub fn class(function: &Dir) -> Result<Option<u32>> {
    Ok(function.attribute("class")?.and_then(|class| hex(&class)).map(|class| class >> 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_namespaces_hidden_paths_and_everything_else() {
        let plain = NodeName::parse("nvme12n3").unwrap();
        assert_eq!(plain, NodeName { instance: 12, path: None, namespace: 3 });
        let hidden = NodeName::parse("nvme3c4n1").unwrap();
        assert_eq!((hidden.path, hidden.head().as_str()), (Some(4), "nvme3n1"));
        for other in
            ["nvme1", "nvme1n1p1", "nvme-subsys3", "nvmen1", "nvme1n", "sda", "nvme1cn1", "nvme+1n1", ""]
        {
            assert_eq!(NodeName::parse(other), None, "{other}");
        }
        assert!(is_controller("nvme0") && !is_controller("nvme0n1") && !is_controller("nvme-subsys0"));
    }

    #[test]
    fn an_empty_model_in_the_configuration_matches_nothing() {
        let wanted = Match { models: vec!["".into(), " ".into()], vendors: vec![0x1d0f] };
        assert!(!model_matches("Amazon Elastic Block Store", &wanted));
        assert!(model_matches("Amazon EC2 NVMe Instance Storage", &Match::default()));
        assert!(!model_matches("Amazon Elastic Block Store", &Match::default()));
    }

    proptest! {
        #[test]
        fn any_name_is_taken_without_panic(name in ".{0,20}") {
            NodeName::parse(&name);
            is_controller(&name);
        }
    }
}
