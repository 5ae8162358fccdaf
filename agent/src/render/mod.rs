//! What brings the agent to nodes, as text: userData, Karpenter's objects, the userData of managed node groups. Pure: from
//! options that were checked by their types to text; only [`verify`] asks anybody.

pub mod channel;
pub mod family;
pub mod karpenter;
pub mod launch_template;
pub mod overrides;
pub mod userdata;
pub mod values;
pub mod verify;
pub mod yaml;

pub use channel::{Channel, PublicKey};
pub use family::AmiFamily;
pub use karpenter::{Ami, NodeClass, NodePool};
pub use userdata::{Arch, Binary, Userdata};
