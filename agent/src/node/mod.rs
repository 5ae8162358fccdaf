//! node: what the Kubernetes Node says about the local storage, and the ways by which it comes to say so.
//!
//! [`labels`] makes the words (labels, annotation, condition, taint) from the state; nothing else knows their keys.
//! [`registration`] has them in the Node's CREATE; [`report`] puts them on the Node through the API server; [`gate`]
//! keeps a failed node from joining where that is wanted, by a [`policy`] that outlives a damaged configuration; [`features`]
//! hands them to Node Feature Discovery where that is wanted.

pub mod features;
pub mod gate;
pub mod labels;
pub mod nodeadm;
pub mod policy;
pub mod registration;
pub mod report;

pub use labels::{Condition, Keys, Readiness, Status};
