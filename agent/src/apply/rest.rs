//! When systemd is through with what was mounted before.
//!
//! Where an array that was mounted goes away, systemd stops the mount that stood on it. It looks at the mount table at most
//! five times a second where much is mounted (since 249), so it may do that when the next filesystem is in its place, and
//! goes on unmounting until nothing is there.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::systemd;
use super::uevents::first_process_settles;
use crate::root::Root;

/// Longer than systemd leaves the mount table unread (`sd_event_source_set_ratelimit` in src/core/mount.c: a second).
const UNREAD: Duration = Duration::from_millis(1200);
/// How long what it does then may take: a reload holds it up.
const TIME: Duration = Duration::from_secs(15);

/// Waits until systemd has seen what is mounted now, and done what it does about it; a while at most. Whether the mount is
/// still there then has to be looked at.
pub fn wait(root: &Root) {
    if !root.is_host() || !systemd::is_running(root) {
        return;
    }
    sleep(UNREAD);
    if !first_process_settles(root, Instant::now() + TIME) {
        tracing::warn!("systemd does not come to rest; what it still does may unmount what was just mounted");
    }
}
