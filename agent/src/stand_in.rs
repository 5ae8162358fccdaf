//! Programs that stand in for the machine's, in tests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes `path` a program that does `script`. Written by a child, since a descriptor open for writing that another test's
/// fork has inherited would make it "text file busy".
pub fn program(path: &Path, script: &str) {
    let mut child = Command::new("sh")
        .args(["-c", "rm -f \"$0\"; cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
