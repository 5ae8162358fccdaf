//! promtool, of Prometheus: Debian's package `prometheus`, which `cargo lab test` installs.

use std::io::Write;
use std::process::{Command, Stdio};

/// What it says where it does not end well; none where it does.
pub fn said(arguments: &[&str], input: &str) -> Option<String> {
    let started = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // No test that cannot fail: what these files are for is that Prometheus takes them.
    let mut child = started.unwrap_or_else(|error| {
        panic!("promtool: {error}; install Debian's package `prometheus` (apt-get install --no-install-recommends prometheus)")
    });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    (!output.status.success()).then_some(said)
}

/// It must end well.
pub fn run(arguments: &[&str], input: &str) {
    if let Some(said) = said(arguments, input) {
        panic!("promtool {}: {said}", arguments.join(" "));
    }
}
