//! What was asked of the server: never who said so by which secret.

use std::sync::Mutex;
use std::time::Instant;

use hyper::{Method, Version};
use serde_json::Value;

/// One request. Headers are not kept: authorization is among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it had been read.
    pub at: Instant,
    /// Who asked; empty where the credentials convinced nobody.
    pub user: String,
    pub method: Method,
    pub version: Version,
    pub path: String,
    pub query: String,
    pub content_type: String,
    /// What was sent; null where that was nothing or not JSON.
    pub body: Value,
    /// Of the answer; none where there was none.
    pub status: Option<u16>,
}

/// Requests in the order of their answers.
#[derive(Default)]
pub struct Audit(Mutex<Vec<Entry>>);

impl Audit {
    pub fn add(&self, entry: Entry) {
        self.lock().push(entry);
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    /// Those since the last time, and forgets them.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
