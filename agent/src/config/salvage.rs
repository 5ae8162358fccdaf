//! What a configuration that is wrong says about the Node, and of which drives are meant, all the same.
//!
//! A boot whose configuration is wrong sets nothing up, and the Node must be told so by the policy that is written
//! there: a misspelt key elsewhere must not have a failed node join without its taint, or under another domain. And whoever
//! looks at the machine then is not to look at other drives than those that the configuration names.

use std::ffi::OsString;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::load::{KEYS, Overrides, read, variable};
use super::raw::Raw;
use super::{Config, check, given};
use crate::root::Root;

/// The keys that decide what a node says that was not set up.
pub(super) const ABOUT_THE_NODE: [&str; 7] = [
    "label_domain",
    "label_keys",
    "label_method",
    "on_failure",
    "on_boot_failure",
    "profile",
    "feature_file",
];

/// What could be used of a configuration that is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Salvaged {
    /// The defaults, and on them every key about the Node and of `[match]` that has a right value.
    pub config: Config,
    /// Of these keys, those that have a wrong one.
    pub wrong: Vec<String>,
    /// Nothing of a file could be read: what it says is not known.
    pub unread: bool,
}

impl Salvaged {
    /// Something was said of `key`, or may have been, that is not known.
    pub fn in_doubt(&self, key: &str) -> bool {
        self.wrong.iter().any(|wrong| wrong == key) || (self.unread && !self.config.given.contains_key(key))
    }

    /// What is wrong was told by `load`; a wrong value leaves what was there. Says whether it was right.
    fn set(&mut self, key: &str, raw: Raw) -> bool {
        if !given::is_shared(key) {
            return false;
        }
        self.wrong.retain(|wrong| wrong != key);
        let right = check::set(&mut self.config, key, raw).is_ok();
        if !right {
            self.wrong.push(key.to_owned());
        }
        right
    }

    /// From a file; `named` is one where others do not look.
    fn file(&mut self, key: &str, raw: Raw, named: bool) {
        match raw.word().filter(|_| named) {
            Some(word) => self.give(key, word),
            None => {
                self.set(key, raw);
            }
        }
    }

    /// From where others do not look.
    fn give(&mut self, key: &str, value: String) {
        if self.set(key, Raw::Word(value.clone())) {
            self.config.given.insert(key.to_owned(), value);
        }
    }
}

/// What `file`, `env` and `overrides` say about the Node and the drives; by the same order as [`super::load()`].
pub fn salvage(
    root: &Root,
    file: Option<&Path>,
    overrides: &Overrides,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Salvaged {
    let mut salvaged = Salvaged::default();
    let text = read(root, file).map(|found| found.map(|(_, text)| text).unwrap_or_default());
    match text.as_deref().map(DeTable::parse) {
        Ok(Ok(table)) => {
            for (key, value) in table.get_ref() {
                match (key.get_ref().as_ref(), value.get_ref()) {
                    ("match", DeValue::Table(inner)) => {
                        for (key, value) in inner {
                            let dotted = format!("match.{}", key.get_ref());
                            salvaged.file(&dotted, Raw::from(value.get_ref()), file.is_some());
                        }
                    }
                    (key, value) => salvaged.file(key, Raw::from(value), file.is_some()),
                }
            }
        }
        _ => salvaged.unread = true,
    }
    if overrides.as_set_up {
        match given::read(root) {
            Ok(values) => values.into_iter().for_each(|(key, value)| salvaged.give(&key, value)),
            Err(_) => salvaged.unread = true,
        }
    }
    for (name, value) in env {
        let key = KEYS.into_iter().find(|key| name.to_str() == Some(&variable(key)));
        match (key, value.into_string()) {
            (Some(key), Ok(value)) => salvaged.give(key, value),
            (Some(key), Err(_)) if given::is_shared(key) => salvaged.wrong.push(key.to_owned()),
            _ => {}
        }
    }
    for (key, value) in &overrides.values {
        salvaged.give(key, value.clone());
    }
    salvaged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LabelMethod, OnFailure};

    fn of(text: &str, env: &[(&str, &str)]) -> Salvaged {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        salvage(&Root::new("/"), Some(&file), &Overrides::default(), env)
    }

    #[test]
    fn the_policy_outlives_a_mistake_elsewhere() {
        let text =
            "on_failure = \"taint\"\nlabel_domain = \"x.example.com\"\ntargett = \"/data\"\nchunk = 7\n";
        let Salvaged { config, wrong, unread, .. } =
            of(text, &[("NVME_AGENT_LABEL_METHOD", "api"), ("NVME_AGENT_NONSENSE", "1")]);
        assert!(wrong.is_empty() && !unread, "{wrong:?}");
        assert_eq!((config.on_failure, config.label_method), (OnFailure::Taint, LabelMethod::Api));
        assert_eq!((config.label_domain.as_str(), config.target.as_str()), ("x.example.com", "/tmp"));
    }

    #[test]
    fn the_drives_that_are_meant_are_known_all_the_same() {
        let text = "targett = \"/data\"\n[match]\nmodels = [\"A b\", \"C\"]\nvendors = [\"many\"]\n";
        let Salvaged { config, wrong, .. } = of(text, &[]);
        assert_eq!(config.matching.models, ["A b", "C"]);
        assert_eq!((config.matching.vendors, wrong), (vec![0x1d0f], vec!["match.vendors".to_owned()]));
        // A file that was named: who looks later was not told its name.
        assert_eq!(config.given["match.models"], "A b,C");
        let Salvaged { config, .. } = of(text, &[("NVME_AGENT_MATCH_MODELS", "QEMU")]);
        assert_eq!(config.matching.models, ["QEMU"]);
    }

    #[test]
    fn what_a_stronger_source_says_is_in_no_doubt() {
        let environment = [("NVME_AGENT_ON_FAILURE", "taint")];
        for (text, boot) in [("on_failure = \"tain\"", false), ("on_failure = ", true)] {
            assert!(of(text, &[]).in_doubt("on_failure"), "{text}");
            let salvaged = of(text, &environment);
            assert!(!salvaged.in_doubt("on_failure") && salvaged.config.on_failure == OnFailure::Taint);
            assert_eq!(salvaged.in_doubt("on_boot_failure"), boot, "{text}");
        }
        assert!(of("", &[("NVME_AGENT_ON_FAILURE", "x")]).in_doubt("on_failure"));
    }

    #[test]
    fn a_wrong_value_and_what_is_no_toml_leave_the_default() {
        let text = "on_failure = \"tain\"\nlabel_domain = \"k8s.io\"\nprofile = \"a b\"";
        for (text, wrong) in
            [(text, &["label_domain", "on_failure", "profile"][..]), ("on_failure = ", &[]), ("\u{0}", &[])]
        {
            let mut salvaged = of(text, &[]);
            salvaged.wrong.sort();
            assert_eq!(salvaged.config, Config::default(), "{text}");
            assert_eq!(salvaged.wrong, wrong, "{text}");
        }
    }
}
