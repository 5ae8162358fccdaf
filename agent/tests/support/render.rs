//! `nvme-agent render`, run as it is typed, with nothing of this machine's environment.
#![allow(dead_code)]

use assert_cmd::Command;
use serde_json::Value;

/// A SHA-256 of nothing in particular.
pub const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Code, stdout, stderr.
pub fn render(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("nvme-agent")
        .unwrap()
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .arg("render")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub fn printed(arguments: &[&str]) -> String {
    let (code, text, errors) = render(arguments);
    assert_eq!((code, errors.as_str()), (0, ""), "{arguments:?}");
    text
}

pub fn object(arguments: &[&str]) -> Value {
    serde_saphyr::from_str(&printed(arguments)).unwrap()
}
