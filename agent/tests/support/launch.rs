//! The first minute of a node: rendered userData, run in an image as cloud-init runs it.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::eks::{Image, stubs};

pub const MODEL: &str = "/sys/class/nvme/nvme1/model";
pub const OWN: &str = "/usr/local/bin/nvme-agent";
pub const PACKAGE: &str = "/usr/bin/nvme-agent";
pub const FETCHED: &str = "/var/lib/nvme-agent/download";

/// The sum as sha256sum has it.
pub fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// A binary: a script that writes down how it was called, and installs itself.
pub fn binary(name: &str) -> String {
    format!(
        "#!/bin/sh\necho \"{name} $0 $*\" >>ran\ncase $1 in install) mkdir -p usr/local/bin && [ -e usr/bin/nvme-agent ] || \
         cp \"$0\" usr/local/bin/nvme-agent 2>/dev/null || : ;; setup) echo set up ;; esac\n"
    )
}

/// Runs the script in the image, as cloud-init does: a file by its absolute path, no terminal. systemctl, logger and sleep are stand-ins; `more` comes
/// before them. Returns what they were told.
pub fn run(image: &Image, script: &str, more: &Path) -> (Output, String) {
    run_by(image, script, more, |directory| directory.join("part-001"))
}

/// As [`run`], by the name that `name` makes of the directory of the script, where it is called.
pub fn run_by(image: &Image, script: &str, more: &Path, name: fn(&Path) -> PathBuf) -> (Output, String) {
    let log = image.dir.path().join("told");
    let tell = |what: &str| format!("echo \"{what} $*\" >>{}", log.display());
    let stand_ins = stubs(&[
        ("systemctl", &tell("systemctl")),
        ("logger", &tell("logger")),
        ("restorecon", &tell("restorecon")),
        ("sleep", "exit 0"),
    ]);
    let path = format!("\nPATH={}:{}:", more.display(), stand_ins.path().display());
    let here = format!("\ncd {}\n", image.dir.path().display());
    assert!(script.contains("\nPATH=/") && script.contains("\ncd /\n"));
    let script = script.replacen("\nPATH=", &path, 1).replacen("\ncd /\n", &here, 1);
    // Eight seconds a file, of the shortest deadline, and 26 of the longest with a channel.
    let script =
        script.replace("timeout -k 5 8", "timeout -k 5 1").replace("timeout -k 5 26", "timeout -k 5 3");
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("part-001"), script).unwrap();
    let mut command = Command::new("bash");
    command.arg(name(place.path())).current_dir(place.path());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let told = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(log);
    assert!(output.status.success(), "cloud-init is told of no failure: {output:?}");
    (output, told)
}

pub fn drives(image: Image) -> Image {
    image.write(MODEL, "Amazon EC2 NVMe Instance Storage        \n");
    image.write("/sys/class/nvme/nvme0/model", "Amazon Elastic Block Store              \n");
    image
}

pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into()
}

pub fn program(image: &Image, path: &str, text: &str) {
    image.write(path, text);
    fs::set_permissions(image.root.join(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// What every form of the script must be: for shellcheck, for Terraform, for Karpenter, and for EC2's limit.
pub fn check(script: &str) {
    println!("{}", script.len());
    assert!(script.len() < 4096, "{} bytes", script.len());
    assert!(script.is_ascii() && script.starts_with("#!/bin/bash\n") && script.ends_with('\n'));
    for no in ["${", "%{", "@", "##", "\r", "\t", " \n"] {
        let found = script.replace("$@", "").contains(no);
        assert!(!found, "{no:?} in {script}");
    }
    // Karpenter takes for a NodeConfig what is an object in YAML (pkg/providers/amifamily/bootstrap/nodeadm.go).
    let yaml = serde_saphyr::from_str::<serde_json::Value>(script);
    assert!(!yaml.is_ok_and(|value| value.is_object() || value.is_null()));
    for dialect in ["bash", "sh"] {
        let child = Command::new("shellcheck")
            .args(["--shell", dialect, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        match child {
            Ok(mut child) => {
                child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stdout));
            }
            Err(_) => eprintln!("NOT RUN: there is no shellcheck on this machine"),
        }
    }
}
