//! The Node's words: labels, one annotation, one condition and one taint, made from the [`State`]. Pure.
//!
//! Everything here ends up where a mistake costs a node: kubelet does not start on a label that is malformed or in a
//! reserved domain, and the API server answers 422 or 403. So the domain is checked where it is configured, and a
//! value that would be no label value is made one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::Config;
use crate::logging::one_line;
use crate::state::{Health, State};

/// Domain of the keys where none is configured.
pub const DEFAULT_DOMAIN: &str = "nvme-agent.e6data.com";

/// Longest label value (apimachinery, `validation.LabelValueMaxLength`), in bytes.
const VALUE_MAX: usize = 63;
/// Longest DNS subdomain (apimachinery, `validation.DNS1123SubdomainMaxLength`), in bytes.
const DOMAIN_MAX: usize = 253;
/// A Node is read and written by many: our annotation stays below this, in bytes.
pub const DETAIL_MAX: usize = 2048;
/// Longest message of the condition, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// What the keys are called in a domain, unless the configuration renames them.
const NAMES: [&str; 9] = [
    "state",
    "layout",
    "drives",
    "capacity-gib",
    "profile",
    "version",
    "detail",
    "LocalStorageReady",
    "failed",
];

/// The keys of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    domain: String,
    /// One of [`NAMES`], and what is said instead: a name, or a whole key with a domain of its own.
    renamed: BTreeMap<&'static str, String>,
}

impl Default for Keys {
    fn default() -> Self {
        Keys { domain: DEFAULT_DOMAIN.into(), renamed: BTreeMap::new() }
    }
}

impl Keys {
    /// # Errors
    /// What is wrong with the domain, in words: see [`domain_problem`].
    pub fn new(domain: &str) -> Result<Keys, String> {
        match domain_problem(domain) {
            None => Ok(Keys { domain: domain.to_owned(), ..Keys::default() }),
            Some(problem) => Err(problem),
        }
    }

    /// The keys that the configuration asks for. Of one that is wrong, those that are right.
    pub fn of(config: &Config) -> Keys {
        let keys = Keys::new(&config.label_domain).unwrap_or_default();
        keys.clone().renamed(&config.label_keys).unwrap_or(keys)
    }

    /// With other names: `state=local-nvme,LocalStorageReady=example.com/NvmeReady`.
    ///
    /// # Errors
    /// A name that none of ours has, one that is no key, or two keys that are one, in words.
    pub fn renamed(mut self, text: &str) -> Result<Keys, String> {
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, key) = pair.split_once('=').unwrap_or((pair, ""));
            let name = NAMES.into_iter().find(|known| *known == name).ok_or_else(|| {
                format!("expected NAME=KEY, separated by commas, with a NAME of {}", NAMES.join(", "))
            })?;
            let (domain, own) = key.rsplit_once('/').unwrap_or((&self.domain, key));
            if !is_label_value(own) {
                return Err(format!(
                    "{name}: expected a key such as `nvme-{name}` or `example.com/{name}` (letters, digits, - _ . \
                     inside, at most {VALUE_MAX} characters after the domain)"
                ));
            }
            if let Some(problem) = domain_problem(domain) {
                return Err(format!("{name}: {problem}"));
            }
            self.renamed.insert(name, key.to_owned());
        }
        let mut all = NAMES.map(|name| self.key(name));
        all.sort_unstable();
        match all.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(format!("expected different keys, found {} twice", two[0])),
            None => Ok(self),
        }
    }

    /// The other names, as [`Keys::renamed`] takes them.
    pub fn names(&self) -> String {
        let pairs: Vec<String> = self.renamed.iter().map(|(name, key)| format!("{name}={key}")).collect();
        pairs.join(",")
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    fn key(&self, name: &str) -> String {
        match self.renamed.get(name).map(String::as_str) {
            Some(whole) if whole.contains('/') => whole.to_owned(),
            Some(other) => format!("{}/{other}", self.domain),
            None => format!("{}/{name}", self.domain),
        }
    }

    /// Label: `ready`, `degraded`, `failed` or `absent`.
    pub fn state(&self) -> String {
        self.key("state")
    }

    /// Label: `raid0`, `single`, ...; `none` where there is no usable storage.
    pub fn layout(&self) -> String {
        self.key("layout")
    }

    /// Label: how many drives carry the filesystem.
    pub fn drives(&self) -> String {
        self.key("drives")
    }

    /// Label: size of the device that carries the filesystem, in GiB, rounded down.
    pub fn capacity_gib(&self) -> String {
        self.key("capacity-gib")
    }

    /// Label: what the operator calls this kind of node; says nothing about its state.
    pub fn profile(&self) -> String {
        self.key("profile")
    }

    /// Label: version of the agent that told the Node last, also where an older one set the storage up.
    pub fn version(&self) -> String {
        self.key("version")
    }

    /// Annotation: one line of JSON, see [`Readiness::annotation`].
    pub fn detail(&self) -> String {
        self.key("detail")
    }

    /// Type of the Node's condition.
    pub fn condition(&self) -> String {
        self.key("LocalStorageReady")
    }

    /// Key of the taint that `on_failure = "taint"` registers with; its effect is [`TAINT_EFFECT`], its value empty.
    pub fn taint(&self) -> String {
        self.key("failed")
    }
}

/// Effect of the taint of a failed node.
pub const TAINT_EFFECT: &str = "NoSchedule";

/// Status of a condition, as the API spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

/// The Node's condition, without its times: who writes it knows those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Such as `nvme-agent.e6data.com/LocalStorageReady`.
    pub kind: String,
    /// True for ready and degraded: pods can use the storage, and a gate on the condition must let them (what is missing
    /// is in reason and message). False for failed. Unknown for absent: there is nothing that could be ready, and it
    /// is what a controller assumes of the nodes that never get the condition, as those without drives do.
    pub status: Status,
    /// CamelCase, the state's.
    pub reason: String,
    /// One line of at most [`MESSAGE_MAX`] bytes.
    pub message: String,
}

/// Everything that the Node is to say about one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Keys and values: `state`, `layout`, `drives`, `capacity-gib`, always all of them, so that a label of an earlier
    /// state never stays beside a new one; then `profile` where one is configured, and `version` where an agent has judged
    /// (what stands for a node until then is also written by a shell, which has none).
    pub labels: Vec<(String, String)>,
    /// Key, and one line of JSON of at most [`DETAIL_MAX`] bytes:
    /// `{"reason":"SetupComplete","since":"2026-07-26T12:34:56Z","serials":["AWS..."],"agent":"0.1.0"}`; `more` counts
    /// the serials that found no room.
    pub annotation: (String, String),
    pub condition: Condition,
}

impl Readiness {
    /// The words for `state`; `profile` is empty where none is configured.
    pub fn of(state: &State, keys: &Keys, profile: &str) -> Readiness {
        Readiness {
            labels: labels(state, keys, profile),
            annotation: (keys.detail(), detail(state)),
            condition: Condition {
                kind: keys.condition(),
                status: match state.state {
                    Health::Ready | Health::Degraded => Status::True,
                    Health::Failed => Status::False,
                    Health::Absent => Status::Unknown,
                },
                reason: camel_case(&state.reason),
                message: cut(&one_line(&state.message), MESSAGE_MAX),
            },
        }
    }

    /// The labels as the value of kubelet's `--node-labels`: `key=value,key=value`.
    pub fn node_labels(&self) -> String {
        let pairs: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(",")
    }
}

fn labels(state: &State, keys: &Keys, profile: &str) -> Vec<(String, String)> {
    let usable = matches!(state.state, Health::Ready | Health::Degraded);
    // What is not usable has no size, however far its setup came: failed says the same on every node.
    let layout = if usable { label_value(&state.layout) } else { "none".into() };
    let (drives, capacity) = if usable { (state.drives, state.capacity_gib) } else { (0, 0) };
    let mut labels = vec![
        (keys.state(), state.state.as_str().to_owned()),
        (keys.layout(), layout),
        (keys.drives(), drives.to_string()),
        (keys.capacity_gib(), capacity.to_string()),
    ];
    if !profile.is_empty() {
        labels.push((keys.profile(), label_value(profile)));
    }
    if !state.agent.is_empty() {
        // This one's: the storage may have been set up by an older, which the annotation names.
        labels.push((keys.version(), label_value(env!("CARGO_PKG_VERSION"))));
    }
    labels
}

/// The annotation's JSON.
fn detail(state: &State) -> String {
    #[derive(Serialize)]
    struct Detail<'a> {
        reason: &'a str,
        since: &'a str,
        serials: &'a [String],
        #[serde(skip_serializing_if = "is_zero")]
        more: usize,
        agent: &'a str,
    }
    fn is_zero(n: &usize) -> bool {
        *n == 0
    }
    // All but the serials is short, unless somebody else wrote the state file.
    let short = |text: &str| cut(&one_line(text), 128);
    let (reason, since, agent) = (camel_case(&state.reason), short(&state.since), short(&state.agent));
    let all: Vec<String> = state.serials.iter().map(|serial| short(serial)).collect();
    let json = |kept: usize| {
        let detail = Detail {
            reason: &reason,
            since: &since,
            serials: &all[..kept],
            more: all.len() - kept,
            agent: &agent,
        };
        serde_json::to_string(&detail).unwrap_or_default()
    };
    (0..=all.len()).rev().map(json).find(|text| text.len() <= DETAIL_MAX).unwrap_or_default()
}

/// A reason as the API wants it: letters and digits, and never empty.
fn camel_case(reason: &str) -> String {
    let plain: String = reason.chars().filter(char::is_ascii_alphanumeric).take(128).collect();
    if plain.is_empty() { "Unspecified".into() } else { plain }
}

/// At most `max` bytes, whole characters; what was cut shows as dots.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// True for a valid, not empty label value: `[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?`, at most 63 bytes.
pub fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|byte| byte.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.len() <= VALUE_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// `text` as a label value: as it is where it is one, else the nearest that is; `none` where nothing is left of it.
pub fn label_value(text: &str) -> String {
    if is_label_value(text) {
        return text.to_owned();
    }
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(VALUE_MAX)
        .collect();
    match plain.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()) {
        "" => "none".into(),
        value => value.to_owned(),
    }
}

/// What is wrong with a label domain; none where kubelet and the API server take labels in it from a node.
///
/// kubelet and NodeRestriction allow of kubernetes.io and k8s.io only some well-known labels and the namespaces
/// `kubelet.kubernetes.io` and `node.kubernetes.io` (pkg/kubelet/apis/well_known_labels.go).
pub fn domain_problem(domain: &str) -> Option<String> {
    let part = |part: &str| {
        let alphanumeric =
            |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|b| *b == b'-' || alphanumeric(Some(b)))
    };
    if domain.len() > DOMAIN_MAX || !domain.split('.').all(part) {
        return Some(format!(
            "expected a DNS subdomain such as {DEFAULT_DOMAIN} (lower-case letters, digits, - and ., at most {DOMAIN_MAX})"
        ));
    }
    let within = |namespace: &str| {
        domain.strip_suffix(namespace).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    let reserved = ["kubernetes.io", "k8s.io"].into_iter().find(|namespace| within(namespace))?;
    if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
        return None;
    }
    Some(format!(
        "expected a domain of your own: {reserved} is reserved, and kubelet does not start with a label in it"
    ))
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
