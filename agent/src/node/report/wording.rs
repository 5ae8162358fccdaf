//! Under which keys the Node was told: what is taken away where they are configured otherwise by now, and what is gone by
//! where the configuration cannot be read any more.

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::config::{Config, Salvaged};
use crate::node::{Keys, Readiness};
use crate::root::Root;
use crate::state::State;

/// The configuration that decides what the Node's words are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wording {
    pub label_domain: String,
    pub label_keys: String,
    pub profile: String,
}

impl Wording {
    pub fn of(keys: &Keys, profile: &str) -> Wording {
        Wording { label_domain: keys.domain().into(), label_keys: keys.names(), profile: profile.into() }
    }

    /// The keys; none where they are not known, of a memory that another version left.
    pub fn keys(&self) -> Option<Keys> {
        Keys::new(&self.label_domain).ok()?.renamed(&self.label_keys).ok()
    }

    /// What `state` was said to be in these words.
    pub fn readiness(&self, state: &State) -> Option<Readiness> {
        self.keys().map(|keys| Readiness::of(state, &keys, &self.profile))
    }
}

/// The keys of a wrong configuration: what it still says, and for the rest what the Node was told under last. Else a node
/// would say two things, the newer of them under keys that nobody selects by. Besides, what was done, in words; none where
/// the configuration says it all.
pub fn recall(root: &Root, salvaged: Salvaged) -> (Config, Option<String>) {
    let Salvaged { mut config, wrong, unread } = salvaged;
    let lacks = |key: &str| unread || wrong.iter().any(|wrong| wrong == key);
    // The names may be whole keys, and the two must differ: they hold together.
    let keys = lacks("label_domain") || lacks("label_keys");
    let profile = lacks("profile");
    if !keys && !profile && !lacks("label_method") {
        return (config, None);
    }
    let known = Memory::last(root).map(|told| told.wording).filter(|wording| wording.keys().is_some());
    let from = match known {
        Some(told) => {
            if keys {
                (config.label_domain, config.label_keys) = (told.label_domain, told.label_keys);
            }
            if profile {
                config.profile = told.profile;
            }
            "as it was told last"
        }
        None => "with what can be read of it, since it is not known what it was told before",
    };
    let said = format!("the configuration is wrong: the Node is told under {}, {from}", config.label_domain);
    (config, Some(said))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::report::{LASTING_PATH, MEMORY_PATH};

    #[test]
    fn what_a_wrong_configuration_does_not_say_is_what_the_node_was_told_last() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let salvaged = |wrong: &[&str], unread| Salvaged {
            config: Config { label_domain: "b.example".into(), profile: "b".into(), ..Config::default() },
            wrong: wrong.iter().map(|key| (*key).to_owned()).collect(),
            unread,
        };
        let recall = |wrong: &[&str], unread| {
            let (config, said) = recall(&root, salvaged(wrong, unread));
            (config.label_domain, config.label_keys, config.profile, said.is_some())
        };
        let all = |domain: &str, keys: &str, profile: &str, said| {
            (domain.to_owned(), keys.to_owned(), profile.to_owned(), said)
        };
        assert_eq!(recall(&[], true), all("b.example", "", "b", true), "nothing is known");
        let state = State::default();
        let keys = Keys::new("a.example").unwrap().renamed("state=x").unwrap();
        let mut told = Memory::new("n", "u", &state, &Readiness::of(&state, &keys, "a"), Duration::ZERO);
        told.wording = Wording::of(&keys, "a");
        for path in [LASTING_PATH, MEMORY_PATH] {
            told.save(&root.join(path)).unwrap();
            assert_eq!(recall(&[], false), all("b.example", "", "b", false));
            assert_eq!(recall(&[], true), all("a.example", "state=x", "a", true));
            assert_eq!(recall(&["profile"], false), all("b.example", "", "a", true));
            assert_eq!(recall(&["label_keys"], false), all("a.example", "state=x", "b", true));
            assert_eq!(recall(&["on_failure"], false), all("b.example", "", "b", false));
        }
    }

    #[test]
    fn what_was_noted_makes_the_same_keys() {
        let renamed = "state=local-nvme,LocalStorageReady=example.com/NvmeReady";
        let keys = Keys::new("a.example").unwrap().renamed(renamed).unwrap();
        for keys in [keys, Keys::new("a.example").unwrap(), Keys::default()] {
            assert_eq!(Wording::of(&keys, "x").keys(), Some(keys));
        }
        assert_eq!(Wording::default().keys(), None);
    }
}
