//! node: what the Kubernetes Node says about the local storage, and the ways by which it comes to say so.
//!
//! [`labels`] makes the words (labels, annotation, condition, taint) from the state; nothing else knows their keys.

pub mod labels;

pub use labels::{Condition, Keys, Readiness, Status};
