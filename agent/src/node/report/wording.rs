//! Under which keys the Node was told: what is taken away where they are configured otherwise by now.

use serde::{Deserialize, Serialize};

use crate::node::{Keys, Readiness};
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

#[cfg(test)]
mod tests {
    use super::*;

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
