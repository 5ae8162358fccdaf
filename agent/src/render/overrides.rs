//! What of a configuration differs from the defaults, as the text of `/etc/nvme-agent/config.toml`. Pure.

use serde_json::{Map, Value};

use crate::config::{Config, KEYS, LabelMethod, flag};
use crate::error::{Error, Result};

/// The lines, each with its line feed; empty where nothing differs. A string in JSON is one in TOML.
///
/// # Errors
/// [`Error::Config`] names the flag of a value that must not be in userData.
pub fn toml(config: &Config) -> Result<String> {
    let to_json = |config: &Config| {
        serde_json::to_value(config).map_err(|error| Error::Other(format!("the configuration: {error}")))
    };
    let (wanted, normal) = (to_json(config)?, to_json(&Config::default())?);
    let mut text = String::new();
    for key in KEYS {
        let pointer = format!("/{}", key.replace('.', "/"));
        let (Some(value), other) = (wanted.pointer(&pointer), normal.pointer(&pointer)) else { continue };
        if Some(value) == other {
            continue;
        }
        text.push_str(&format!("{key}={}\n", plain(&flag(key), value)?));
    }
    for directory in wanted["directory"].as_array().into_iter().flatten() {
        text.push_str("[[directory]]\n");
        for (key, value) in directory.as_object().unwrap_or(&Map::new()) {
            text.push_str(&format!("{key}={}\n", plain("[[directory]]", value)?));
        }
    }
    Ok(text)
}

/// What cannot be said in userData, whichever way it came.
///
/// # Errors
/// [`Error::Config`] names the flag.
pub fn check(config: &Config) -> Result<()> {
    let refused = |flag: &str, why: &str| Err(Error::Config(format!("{flag}: {why}")));
    if config.wipe_foreign || config.adopt {
        let flag = if config.wipe_foreign { "--wipe-foreign" } else { "--adopt" };
        return refused(
            flag,
            "for one run at a keyboard, never in userData, where it would hold on every node",
        );
    }
    if !matches!(config.label_method, LabelMethod::Auto | LabelMethod::DropIn) {
        return refused(
            "--label-method",
            "expected auto or dropin: userData writes what the Node says by what the image has; another method is \
             for the configuration in an image",
        );
    }
    Ok(())
}

/// `value` as it may stand in a root shell's here-document.
fn plain<'a>(flag: &str, value: &'a Value) -> Result<&'a Value> {
    let good = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b" -_./:=@+,%()".contains(&b));
    let whole = match value {
        Value::String(text) => good(text),
        Value::Array(list) => list.iter().all(|item| item.as_str().is_none_or(good)),
        _ => true,
    };
    match whole && !value.to_string().contains("%{") {
        true => Ok(value),
        false => Err(Error::Config(format!(
            "{flag}: expected letters, digits, blanks and - _ . / : = @ + , % ( ), which is what userData can carry, found {value}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CONFIG_PATH, Directory, OnFailure, Overrides, load};
    use crate::root::Root;

    #[test]
    fn what_was_asked_for_comes_back_and_nothing_else_is_said() {
        assert_eq!(toml(&Config::default()).unwrap(), "");
        let mut config = Config {
            target: "/opt/data".into(),
            on_failure: OnFailure::Taint,
            expect_drives: 2,
            drive_timeout: std::time::Duration::from_secs(31),
            profile: "nvme-raid0".into(),
            directories: vec![Directory {
                path: "spill".into(),
                owner: "1000".into(),
                group: "root".into(),
                mode: 0o2770,
                selinux_type: Some("container_file_t".into()),
            }],
            ..Config::default()
        };
        config.matching.models = vec!["Model A".into(), "B".into()];
        let text = toml(&config).unwrap();
        assert_eq!(text.lines().next(), Some("target=\"/opt/data\""));
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.join("/etc/nvme-agent")).unwrap();
        std::fs::write(root.join(CONFIG_PATH), text).unwrap();
        let loaded = load(&root, None, &Overrides::default(), std::iter::empty()).unwrap();
        assert_eq!(loaded, config);
    }

    #[test]
    fn what_userdata_cannot_carry_is_refused_by_its_flag() {
        let refused = |config: Config| {
            let error = check(&config).and_then(|()| toml(&config).map(drop)).unwrap_err();
            assert_eq!(error.exit_code(), 4);
            error.to_string()
        };
        let mut odd = Config::default();
        odd.matching.models = vec!["Model $(reboot)".into()];
        assert!(refused(odd).starts_with("--match-models: "));
        let owner = Directory { path: "a".into(), owner: "name$".into(), ..Directory::default() };
        assert!(
            refused(Config { directories: vec![owner], ..Config::default() }).starts_with("[[directory]]: ")
        );
        assert!(refused(Config { adopt: true, ..Config::default() }).starts_with("--adopt: "));
        let api = Config { label_method: LabelMethod::Api, ..Config::default() };
        assert!(refused(api).starts_with("--label-method: "));
    }
}
