//! What a value must be. Pure; the errors say what was expected and quote what was found.

use super::raw::{Checked, Raw, quoted};
use super::values::{parse_size, parse_vendor};
use super::{
    Config, FeatureFile, FsKind, LabelMethod, Layout, OnBootFailure, OnFailure, Tmpfiles, UnknownData,
};
use crate::node::labels;

/// `TimeoutStartSec=` of nvme-agent.service, in seconds. Our own deadlines must end before it.
pub const UNIT_TIMEOUT: u64 = 900;
/// What setup may take besides the configured waits, in seconds: probing, md, persistence, reload.
const OTHER_WORK: u64 = 120;

/// Checks one value and puts it into the configuration.
pub fn set(config: &mut Config, key: &str, raw: Raw) -> Checked<()> {
    match key {
        "target" => config.target = target(&raw.text("an absolute path")?)?,
        "layout" => config.layout = raw.choice(&[("raid0", Layout::Raid0)])?,
        "filesystem" => config.filesystem = raw.choice(&[("ext4", FsKind::Ext4), ("xfs", FsKind::Xfs)])?,
        "label" => config.label = label(raw.text("a filesystem label")?)?,
        "mount_options" => config.mount_options = mount_options(&raw.text("mount options")?)?,
        "chunk" => config.chunk = chunk(raw)?,
        "expect_drives" => {
            let found = raw.found();
            config.expect_drives = match raw.number("a number of drives, 0 to 128")? {
                n @ 0..=128 => n as u32,
                _ => return Err(format!("expected a number of drives, 0 to 128, found {found}")),
            };
        }
        "drive_timeout" => config.drive_timeout = raw.seconds()?,
        "mkfs_timeout" => config.mkfs_timeout = raw.seconds()?,
        "lock_timeout" => config.lock_timeout = raw.seconds()?,
        "unknown_data" => {
            config.unknown_data = raw.choice(&[
                ("first-boot", UnknownData::FirstBoot),
                ("format", UnknownData::Format),
                ("refuse", UnknownData::Refuse),
            ])?;
        }
        "tmpfiles" => {
            config.tmpfiles = raw.choice(&[("keep", Tmpfiles::Keep), ("distro", Tmpfiles::Distro)])?;
        }
        "label_domain" => config.label_domain = label_domain(raw.text("a DNS subdomain")?)?,
        "label_keys" => config.label_keys = label_keys(raw.text("NAME=KEY, separated by commas")?)?,
        "label_method" => {
            use LabelMethod::{Api, Auto, DropIn, Environment, None};
            config.label_method =
                raw.choice(&[Auto, DropIn, Environment, Api, None].map(|method| (method.as_str(), method)))?;
        }
        "on_failure" => {
            use OnFailure::{Label, NoJoin, Taint};
            config.on_failure =
                raw.choice(&[Label, Taint, NoJoin].map(|policy| (policy.as_str(), policy)))?;
        }
        "on_boot_failure" => {
            use OnBootFailure::{NoJoin, Report};
            config.on_boot_failure = raw.choice(&[Report, NoJoin].map(|policy| (policy.as_str(), policy)))?;
        }
        "profile" => config.profile = profile(raw.text("a label value")?)?,
        "feature_file" => {
            use FeatureFile::{Nfd, None};
            config.feature_file = raw.choice(&[None, Nfd].map(|file| (file.as_str(), file)))?;
        }
        "match.models" => {
            config.matching.models = items(raw, "model prefixes", |item| {
                let model = item.text("a model prefix")?;
                // An empty prefix would match every drive, the EBS volumes included.
                let plain = !model.trim().is_empty()
                    && model.len() <= 40
                    && model.chars().all(|c| matches!(c, ' '..='~'));
                plain.then(|| model.trim().to_owned()).ok_or_else(|| {
                    format!(
                        "expected the start of a model, 1 to 40 ASCII characters, found {}",
                        quoted(&model)
                    )
                })
            })?;
        }
        "match.vendors" => {
            config.matching.vendors = items(raw, "PCI vendor ids", |item| match item {
                Raw::Word(text) | Raw::Text(text) => parse_vendor(&text),
                other => {
                    let found = other.found();
                    let id = other.number("a PCI vendor id such as 0x1d0f")?;
                    u16::try_from(id)
                        .map_err(|_| format!("expected a PCI vendor id such as 0x1d0f, found {found}"))
                }
            })?;
        }
        other => return Err(format!("no such key: {other}")),
    }
    Ok(())
}

fn items<T>(raw: Raw, what: &str, each: impl Fn(Raw) -> Checked<T>) -> Checked<Vec<T>> {
    match raw.list(what)?.into_iter().map(each).collect::<Checked<Vec<T>>>()? {
        list if list.is_empty() => Err(format!("expected at least one of {what}, found an empty list")),
        list if list.len() > 64 => Err(format!("expected at most 64 {what}, found {}", list.len())),
        list => Ok(list),
    }
}

/// Hiding these, or anything below them, under a mount takes a system apart.
const NEVER_BELOW: [&str; 16] = [
    "/bin",
    "/boot",
    "/dev",
    "/efi",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/lost+found",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lock",
    "/var/run",
];
/// These must not be hidden themselves; directories below them may: what a node needs to boot, to let people
/// in and to join lives there.
const NEVER_ITSELF: [&str; 8] =
    ["/", "/home", "/opt", "/root", "/var", "/var/lib", "/var/lib/cloud", "/var/lib/nvme-agent"];

fn target(text: &str) -> Checked<String> {
    let wrong = |problem: &str| Err(format!("{problem}, found {}", quoted(text)));
    if !text.starts_with('/') {
        return wrong("expected an absolute path such as /tmp");
    }
    if text.len() > 255 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@:".contains(&b)) {
        return wrong("expected a path of at most 255 letters, digits and / . _ - + @ :");
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return wrong("expected a path without `..`");
    }
    let path = format!("/{}", parts.join("/"));
    let below = |top: &str| path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    if NEVER_BELOW.into_iter().any(below)
        || below("/var/lib/nvme-agent")
        || NEVER_ITSELF.contains(&path.as_str())
    {
        return wrong(
            "a mount must not cover system directories; expected one such as /tmp, /data or /opt/data",
        );
    }
    Ok(path)
}

fn label(text: String) -> Checked<String> {
    match text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        true => Ok(text),
        false => Err(format!("expected letters, digits and . _ -, found {}", quoted(&text))),
    }
}

fn label_domain(text: String) -> Checked<String> {
    match labels::domain_problem(&text) {
        None => Ok(text),
        Some(problem) => Err(format!("{problem}, found {}", quoted(&text))),
    }
}

fn label_keys(text: String) -> Checked<String> {
    match labels::Keys::default().renamed(&text) {
        Ok(_) => Ok(text),
        Err(problem) => Err(format!("{problem}; found {}", quoted(&text))),
    }
}

fn profile(text: String) -> Checked<String> {
    match text.is_empty() || labels::is_label_value(&text) {
        true => Ok(text),
        false => Err(format!(
            "expected a label value (letters, digits, - _ . inside, at most 63 characters), found {}",
            quoted(&text)
        )),
    }
}

/// Options that mount(8) acts on itself, that are ours to write, or that would leave no writable, whole filesystem.
const REFUSED_OPTIONS: [&str; 28] = [
    "ro",
    "bind",
    "rbind",
    "remount",
    "move",
    "loop",
    "offset",
    "sizelimit",
    "defaults",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "comment",
    "noload",
    "norecovery",
    "shared",
    "rshared",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "unbindable",
];

fn mount_options(text: &str) -> Checked<String> {
    let options: Vec<&str> = text.split(',').filter(|o| !o.is_empty()).collect();
    let mut topics: Vec<&str> = Vec::new();
    for option in &options {
        if !option.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:=/@+%".contains(&b))
            || option.len() > 200
        {
            return Err(format!(
                "expected options separated by commas, without blanks and quotes, found {}",
                quoted(option)
            ));
        }
        let name = option.split('=').next().unwrap_or_default();
        if REFUSED_OPTIONS.contains(&name) || name.starts_with("x-") || name.starts_with("X-") {
            return Err(format!(
                "the option {} is not allowed: nvme-agent mounts read-write and by itself",
                quoted(option)
            ));
        }
        // noatime and relatime exclude each other, so do nosuid and suid.
        let topic = match name {
            "noatime" | "relatime" | "strictatime" | "atime" | "norelatime" | "nostrictatime" => "atime",
            other => other.strip_prefix("no").unwrap_or(other),
        };
        if topics.contains(&topic) {
            return Err(format!("the option {} repeats or contradicts an earlier one", quoted(option)));
        }
        topics.push(topic);
    }
    Ok(options.join(","))
}

fn chunk(raw: Raw) -> Checked<u64> {
    let found = raw.found();
    let bytes = match raw {
        Raw::Word(text) | Raw::Text(text) => parse_size(&text)?,
        other => other.number("a size in bytes, or a string such as \"512K\"")?,
    };
    match bytes.is_power_of_two() && (4 << 10..=16 << 20).contains(&bytes) {
        true => Ok(bytes),
        false => Err(format!("expected a power of two from 4K to 16M, found {found}")),
    }
}

/// What only shows on the whole: the key to blame, and why.
pub fn whole(config: &Config) -> Result<(), (&'static str, String)> {
    // mkfs.xfs takes at most 12 bytes, mkfs.ext4 cuts at 16.
    let longest = match config.filesystem {
        FsKind::Xfs => 12,
        FsKind::Ext4 => 16,
    };
    if config.label.len() > longest {
        let kind = config.filesystem;
        return Err((
            "label",
            format!("expected at most {longest} characters for {kind}, found {}", quoted(&config.label)),
        ));
    }
    // Whether two keys are one depends on the domain.
    labels::Keys::new(&config.label_domain)
        .and_then(|keys| keys.renamed(&config.label_keys))
        .map_err(|problem| ("label_keys", problem))?;
    // Drives are waited for once as they appear and once more as members of a set.
    let worst = config.lock_timeout + 2 * config.drive_timeout + config.mkfs_timeout;
    let allowed = UNIT_TIMEOUT - OTHER_WORK;
    if worst.as_secs() > allowed {
        let (key, _) = [
            ("drive_timeout", 2 * config.drive_timeout),
            ("mkfs_timeout", config.mkfs_timeout),
            ("lock_timeout", config.lock_timeout),
        ]
        .into_iter()
        .max_by_key(|(_, time)| *time)
        .unwrap_or_default();
        return Err((
            key,
            format!(
                "expected lock_timeout + 2 x drive_timeout + mkfs_timeout to be at most {allowed} s, so that \
                 systemd does not end the unit first, found {} s",
                worst.as_secs()
            ),
        ));
    }
    let mut seen: Vec<&str> = Vec::new();
    for directory in &config.directories {
        if seen.contains(&directory.path.as_str()) {
            return Err(("directory", format!("the path {} is there twice", quoted(&directory.path))));
        }
        seen.push(&directory.path);
    }
    if config.directories.len() > 256 {
        return Err((
            "directory",
            format!("expected at most 256 directories, found {}", config.directories.len()),
        ));
    }
    Ok(())
}
