//! Types of the keys about the Kubernetes Node.

use serde::{Deserialize, Serialize};

/// How the label comes to the Node when it registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelMethod {
    /// By what the image has: the drop-in, else kubelet's environment file, else the API alone.
    #[default]
    Auto,
    /// A NodeConfig in `/etc/eks/nodeadm.d/`.
    DropIn,
    /// kubelet's arguments in `/etc/eks/kubelet/environment`.
    Environment,
    /// Nothing at registration; `report` alone.
    Api,
    /// Nothing is said on the Node.
    None,
}

impl LabelMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            LabelMethod::Auto => "auto",
            LabelMethod::DropIn => "dropin",
            LabelMethod::Environment => "environment",
            LabelMethod::Api => "api",
            LabelMethod::None => "none",
        }
    }
}

/// Whether somebody else's labeller is told besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureFile {
    #[default]
    None,
    /// A feature file of Node Feature Discovery's source `local`.
    Nfd,
}

impl FeatureFile {
    pub fn as_str(self) -> &'static str {
        match self {
            FeatureFile::None => "none",
            FeatureFile::Nfd => "nfd",
        }
    }
}

/// What a failed setup does to a node that is about to join; the stricter, the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It joins, and its label says so. Gates nothing by itself.
    #[default]
    Label,
    /// It joins with the taint `<domain>/failed:NoSchedule`.
    Taint,
    /// It does not join.
    NoJoin,
}

impl OnFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            OnFailure::Label => "label",
            OnFailure::Taint => "taint",
            OnFailure::NoJoin => "no-join",
        }
    }
}

/// What a setup that fails at a reboot does to a node that has joined before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBootFailure {
    /// It comes back, and `report` says so on the Node.
    #[default]
    Report,
    /// kubelet does not start: the Node becomes NotReady.
    NoJoin,
}

impl OnBootFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            OnBootFailure::Report => "report",
            OnBootFailure::NoJoin => "no-join",
        }
    }
}
