//! Under which name this machine is a Node: what kubelet was told, never the host name, which on EC2 is another.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::exec;
use crate::node::registration::ENVIRONMENT_PATH;
use crate::persist::atomic;
use crate::root::Root;

const ARGUMENTS: &str = "NODEADM_KUBELET_ARGS";
const FLAG: &str = "--hostname-override";
const PROGRAM: &str = "kubelet";
/// Longest name of a Node (apimachinery, `validation.DNS1123SubdomainMaxLength`), in bytes.
const NAME_MAX: usize = 253;
/// For the command line of a process, which is in memory.
const READ_TIME: Duration = Duration::from_secs(5);
/// Larger than any command line or environment file of a kubelet, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The Node's name: `given` (of `--node-name`), else `--hostname-override` in kubelet's environment file, else on the
/// command line of the running kubelet.
///
/// # Errors
/// [`Error::Config`] for a name that no Node can have, with the place it comes from; [`Error::Environment`] where there
/// is none.
pub fn find(root: &Root, given: Option<&str>) -> Result<String> {
    let (name, place) = if let Some(name) = given {
        (name.to_owned(), "--node-name".to_owned())
    } else if let Some(name) = from_environment(&text(&root.join(ENVIRONMENT_PATH))?) {
        (name, format!("{ENVIRONMENT_PATH}: {ARGUMENTS}: {FLAG}"))
    } else if let Some((pid, name)) = from_processes(root) {
        (name, format!("kubelet's command line (process {pid}): {FLAG}"))
    } else {
        return Err(Error::Environment(format!(
            "the name of this Node is not known: no {FLAG} in {ENVIRONMENT_PATH}, and none on the command line of a \
             running kubelet; `nvme-agent report --node-name` takes one"
        )));
    };
    match problem(&name) {
        None => Ok(name),
        Some(problem) => Err(Error::Config(format!("{place}: {problem}, found `{}`", shown(&name)))),
    }
}

fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_default).collect()
}

/// What is wrong with a Node's name: apimachinery's IsDNS1123Subdomain.
fn problem(name: &str) -> Option<String> {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |part: &str| {
        let bytes = part.as_bytes();
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|b| *b == b'-' || alphanumeric(Some(b)))
    };
    (name.len() > NAME_MAX || !name.split('.').all(part)).then(|| {
        format!(
            "expected the name of a Node, a DNS subdomain such as ip-10-0-0-1.ec2.internal (lower-case letters, digits, \
             - and ., at most {NAME_MAX})"
        )
    })
}

/// The override in the text of an environment file (systemd.exec(5), EnvironmentFile=): the last one, as kubelet
/// takes it.
fn from_environment(text: &str) -> Option<String> {
    let value = text
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(name, _)| name.trim() == ARGUMENTS)
        .map(|(_, value)| value.trim())
        .next_back()?;
    let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let words: Vec<String> = quoted
        .unwrap_or(value)
        .split_whitespace()
        // Quotes around a single argument belong to the shell's notation, not to the name.
        .map(|word| word.replace(['"', '\'', '\\'], ""))
        .collect();
    override_in(words.iter().map(String::as_str))
}

/// The override among arguments. kubelet trims it and makes it lower case (k8s.io/component-helpers, GetHostname).
fn override_in<'a>(arguments: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut arguments = arguments.peekable();
    let mut found = None;
    while let Some(argument) = arguments.next() {
        let Some(rest) = argument.strip_prefix(FLAG) else { continue };
        match rest.strip_prefix('=') {
            Some(name) => found = Some(name),
            None if rest.is_empty() => found = arguments.peek().copied().or(found),
            None => {}
        }
    }
    found.map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty())
}

/// The override of the running kubelet with the lowest pid.
fn from_processes(root: &Root) -> Option<(u32, String)> {
    kubelets(root).into_iter().find_map(|pid| {
        let line = command_line(root, pid)?;
        let mut arguments = line.split('\0');
        let is_kubelet = Path::new(arguments.next()?).file_name()? == PROGRAM;
        is_kubelet.then(|| override_in(arguments)).flatten().map(|name| (pid, name))
    })
}

/// The command line of a process, read by a child: a process that hangs in a page fault, on a drive that does not answer,
/// makes whoever reads it hang, too.
fn command_line(root: &Root, pid: u32) -> Option<String> {
    let cat = exec::find_program(&Root::default(), "cat")?;
    let path = root.join(format!("/proc/{pid}/cmdline"));
    match exec::run(&cat, &["--".into(), path.clone().into()], READ_TIME) {
        Ok(output) => output.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            tracing::warn!("{}: cannot be read: {error}", path.display());
            None
        }
    }
}

/// Which runs of kubelet are on this machine: of each its pid and when it started, in ticks since boot, such as
/// `712/1034 9120/88231`; none where there is none. A kubelet registers its Node once, when it starts. All of them count: of
/// two, one that hangs at its end perhaps, nothing tells which is the Node's.
pub fn kubelet(root: &Root) -> Option<String> {
    let runs: Vec<String> = kubelets(root).into_iter().filter_map(|pid| run(root, pid)).collect();
    (!runs.is_empty()).then(|| runs.join(" "))
}

fn run(root: &Root, pid: u32) -> Option<String> {
    let stat = text(&root.join(format!("/proc/{pid}/stat"))).ok()?;
    // proc_pid_stat(5): field 22; the name, which is the second, may have spaces and brackets in it.
    let started = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?;
    Some(format!("{pid}/{started}"))
}

/// The pid of every kubelet, in order. Only processes of init's user count: anybody may call a program of theirs
/// kubelet. By its name alone: to read the command line of a process that hangs in a page fault, on a drive that does
/// not answer, is to hang with it.
fn kubelets(root: &Root) -> Vec<u32> {
    let proc = root.join("/proc");
    let (Ok(init), Ok(entries)) = (fs::metadata(proc.join("1")), fs::read_dir(&proc)) else {
        return Vec::new();
    };
    let is_kubelet = |pid: &u32| {
        let dir = proc.join(pid.to_string());
        fs::metadata(&dir).is_ok_and(|meta| meta.uid() == init.uid())
            && text(&dir.join("comm")).is_ok_and(|name| name.trim_end() == PROGRAM)
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids: Vec<u32> = pids.filter(is_kubelet).collect();
    pids.sort_unstable();
    pids
}

/// A file's text, bytes that are no text replaced; empty where there is none.
fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    match atomic::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)) {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::io(path, "read")(e)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    const KUBELET: &str =
        "/usr/bin/kubelet\0--config\0/etc/x\0--hostname-override\0ip-10-0-0-2.ec2.internal\0";

    #[test]
    fn the_flag_is_over_the_environment_file_which_is_over_the_process() {
        let environment =
            "NODEADM_KUBELET_ARGS=\"--v=2 --hostname-override=i-0abc.us-west-2.compute.internal\"\n";
        let (_dir, root) = fixture(&[
            ("/proc/1/cmdline", "/sbin/init\0"),
            ("/proc/7/comm", "kubelet-not\n"),
            ("/proc/7/cmdline", "/usr/bin/kubelet-not\0--hostname-override=wrong\0"),
            // Whoever calls himself so, but is not.
            ("/proc/8/comm", "kubelet\n"),
            ("/proc/8/cmdline", "/usr/bin/tail\0--hostname-override=wrong\0"),
            ("/proc/41/comm", "kubelet\n"),
            ("/proc/41/cmdline", KUBELET),
            ("/proc/sys/x", ""),
            (ENVIRONMENT_PATH, environment),
        ]);
        assert_eq!(find(&root, Some("given")).unwrap(), "given");
        assert_eq!(find(&root, None).unwrap(), "i-0abc.us-west-2.compute.internal");
        fs::write(root.join(ENVIRONMENT_PATH), "NODEADM_KUBELET_ARGS=\"--v=2\"\n").unwrap();
        assert_eq!(find(&root, None).unwrap(), "ip-10-0-0-2.ec2.internal");
        fs::remove_file(root.join("/proc/41/comm")).unwrap();
        let error = find(&root, None).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("--node-name"), "{error}");
    }

    #[test]
    fn a_kubelet_whose_command_line_cannot_be_had_does_not_hold_us_nor_hide_another() {
        let (_dir, root) = fixture(&[
            ("/proc/1/cmdline", "/sbin/init\0"),
            ("/proc/41/comm", "kubelet\n"),
            ("/proc/42/comm", "kubelet\n"),
            ("/proc/42/cmdline", KUBELET),
        ]);
        // Whoever reads it waits for a writer that never comes.
        nix::unistd::mkfifo(&root.join("/proc/41/cmdline"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let found = root.clone();
        std::thread::spawn(move || sender.send(find(&found, None).unwrap()));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), "ip-10-0-0-2.ec2.internal");
    }

    #[test]
    fn a_kubelet_that_was_started_again_is_another_one() {
        let stat = |start: u32| format!("41 (kube (l)et) S 1 {} {start} 0 0\n", "0 ".repeat(17));
        let (_dir, root) = fixture(&[
            ("/proc/1/cmdline", "/sbin/init\0"),
            ("/proc/41/comm", "kubelet\n"),
            ("/proc/41/stat", &stat(1200)),
        ]);
        assert_eq!(kubelet(&root).as_deref(), Some("41/1200"));
        fs::write(root.join("/proc/41/stat"), stat(3400)).unwrap();
        assert_eq!(kubelet(&root).as_deref(), Some("41/3400"));
        for rubbish in ["", "41 kubelet", "41 (kubelet) S 1"] {
            fs::write(root.join("/proc/41/stat"), rubbish).unwrap();
            assert_eq!(kubelet(&root), None, "{rubbish}");
        }
        fs::write(root.join("/proc/41/stat"), stat(3400)).unwrap();
        // Another one beside it, that started later.
        fs::create_dir(root.join("/proc/97")).unwrap();
        fs::write(root.join("/proc/97/comm"), "kubelet\n").unwrap();
        fs::write(root.join("/proc/97/stat"), stat(5600)).unwrap();
        assert_eq!(kubelet(&root).as_deref(), Some("41/3400 97/5600"));
        fs::remove_dir_all(root.join("/proc/97")).unwrap();
        fs::write(root.join("/proc/41/comm"), "less\n").unwrap();
        assert_eq!(kubelet(&root), None);
    }

    #[test]
    fn an_environment_file_is_read_as_systemd_and_kubelet_do() {
        for (text, name) in [
            ("NODEADM_KUBELET_ARGS=--hostname-override=a", Some("a")),
            ("# NODEADM_KUBELET_ARGS=--hostname-override=b\n", None),
            ("NODEADM_KUBELET_ARGS='--x --hostname-override a.b --y'", Some("a.b")),
            ("X=1\n NODEADM_KUBELET_ARGS=\"--hostname-override=A --hostname-override=B\"\n", Some("b")),
            ("NODEADM_KUBELET_ARGS=--hostname-override=a\nNODEADM_KUBELET_ARGS=--v=1\n", None),
            ("NODEADM_KUBELET_ARGS=\"--hostname-override=\"", None),
            ("NODEADM_KUBELET_ARGS=\"--hostname-override\"", None),
            ("NODEADM_KUBELET_ARGS=\"--hostname-override='a'\"", Some("a")),
            ("NODEADM_KUBELET_ARGS=--hostname-overrides=a", None),
            ("", None),
        ] {
            assert_eq!(from_environment(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn a_name_that_no_node_can_have_is_refused_with_its_place() {
        let (_dir, root) = fixture(&[]);
        let long = "a".repeat(254);
        for name in ["", "A", "a_b", "a/b", "a b", "-a", "a..b", ".a", "../x", "a\n", "a%2e", "\u{e4}", &long]
        {
            let error = find(&root, Some(name)).unwrap_err();
            assert_eq!(error.exit_code(), 4, "{name}");
            let text = error.to_string();
            assert!(text.starts_with("--node-name: expected the name of a Node"), "{text}");
            assert!(text.is_ascii() && !text.contains('\n'), "{text}");
        }
        for name in ["a", "1", "ip-10-0-0-1.eu-west-1.compute.internal", &long[1..]] {
            assert_eq!(find(&root, Some(name)).unwrap(), name);
        }
        let (_dir, root) = fixture(&[(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=--hostname-override=a/b\n")]);
        let error = find(&root, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{ENVIRONMENT_PATH}: {ARGUMENTS}: {FLAG}: ")), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_the_file_holds_the_name_is_one_or_refused(
            text in "(NODEADM_KUBELET_ARGS|X|#| )?=?[\"']?( ?(--hostname-override)?[= ]?[ -~\u{e4}]{0,12}){0,4}[\"']?\n?"
        ) {
            let (_dir, root) = fixture(&[(ENVIRONMENT_PATH, &text)]);
            match find(&root, None) {
                Ok(name) => prop_assert!(problem(&name).is_none()),
                Err(error) => prop_assert!([4, 5].contains(&error.exit_code())),
            }
        }

        #[test]
        fn what_is_written_is_found(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", before in "(--[a-z]{1,8}=[a-z]{1,8} ){0,3}") {
            let text = format!("A=1\nNODEADM_KUBELET_ARGS=\"{before}--hostname-override={name} --z=1\"\n");
            prop_assert_eq!(from_environment(&text), Some(name));
        }
    }
}
