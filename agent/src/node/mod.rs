//! node: what the Kubernetes Node says about the local storage, and the ways by which it comes to say so.
//!
//! [`labels`] makes the words (labels, annotation, condition, taint) from the state; nothing else knows their keys.
//! [`report`] puts them on the Node through the API server.

pub mod labels;
pub mod report;

pub use labels::{Condition, Keys, Readiness, Status};
