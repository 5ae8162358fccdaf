//! What brings the agent to nodes, as text: userData, Karpenter's objects, the userData of managed node groups. Pure: from
//! options that were checked by their types to text; only [`verify`] asks anybody.

pub mod overrides;
pub mod userdata;
pub mod values;

pub use userdata::{Arch, Binary, Userdata};
