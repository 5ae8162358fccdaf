//! `nvme-agent render userdata --channel`, run: what minisign has signed is what a node has, and nothing else is.
#![allow(clippy::unwrap_used)]

#[path = "support/eks.rs"]
mod eks;
#[path = "support/launch.rs"]
mod launch;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use eks::{CACHED, Image, stubs};
use launch::{OWN, PACKAGE, binary, check, drives, program, run, sha256};
use nvme_agent::config::{Config, OnFailure};
use nvme_agent::install::hook::{GATE, NODEADM_HOOK};
use nvme_agent::node::registration::{DROP_IN_PATH, drop_in};
use nvme_agent::render::{Channel, Userdata};

/// Files by their path, as a web server has them, and which were asked for.
#[derive(Clone, Default)]
struct Web {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    address: String,
}

impl Web {
    fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web { address: listener.local_addr().unwrap().to_string(), ..Web::default() };
        let served = web.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let found = served.files.lock().unwrap().get(&path).cloned();
                served.asked.lock().unwrap().push(path);
                let (status, body) = match found {
                    Some(body) => ("200 OK", body),
                    None => ("404 Not Found", Vec::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        web
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.files.lock().unwrap().insert(path.into(), body.into());
    }

    /// What was asked for since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// A pair of keys, as minisign made it.
struct Publisher(tempfile::TempDir);

/// None, said aloud, where there is no minisign.
fn publisher() -> Option<Publisher> {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher(dir);
    match publisher.minisign(&["-G", "-W", "-p", "key.pub", "-s", "key"]) {
        Some(output) => assert!(output.status.success(), "{output:?}"),
        None => {
            eprintln!("SKIPPED: minisign is not here; what a node takes from a channel is not tested");
            return None;
        }
    }
    Some(publisher)
}

impl Publisher {
    fn minisign(&self, args: &[&str]) -> Option<Output> {
        Command::new("minisign").args(args).current_dir(self.0.path()).stdin(Stdio::null()).output().ok()
    }

    fn key(&self) -> String {
        let text = fs::read_to_string(self.0.path().join("key.pub")).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    }

    /// The signature of `text`: `-H` as minisign makes it now, `-l` as older versions did.
    fn sign(&self, text: &str, form: &str) -> String {
        fs::write(self.0.path().join("file"), text).unwrap();
        let output =
            self.minisign(&["-S", "-W", form, "-s", "key", "-m", "file", "-x", "signature"]).unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(self.0.path().join("signature")).unwrap()
    }

    /// Puts a version there, as docs/upgrades.md has it done; gives back the binary.
    fn publish(&self, web: &Web, version: &str, form: &str) -> String {
        let text = binary(version);
        let manifest = manifest(version, &text);
        for arch in ["x86_64", "aarch64"] {
            web.put(&format!("/stable/nvme-agent-{version}-{arch}"), text.clone());
        }
        web.put("/stable/manifest", manifest.clone());
        web.put("/stable/manifest.minisig", self.sign(&manifest, form));
        text
    }
}

fn manifest(version: &str, binary: &str) -> String {
    let sum = sha256(binary.as_bytes());
    let line = |arch| format!("{sum}  nvme-agent-{version}-{arch}\n");
    format!("# nvme-agent {version}\n{}{}", line("x86_64"), line("aarch64"))
}

fn userdata(url: &str, key: &str, on_failure: OnFailure) -> Userdata {
    Userdata {
        binaries: Vec::new(),
        channel: Some(Channel { url: url.parse().unwrap(), key: key.parse().unwrap() }),
        region: None,
        deadline: "600".parse().unwrap(),
        config: Config { on_failure, ..Config::default() },
    }
}

fn script(web: &Web, publisher: &Publisher, on_failure: OnFailure) -> String {
    userdata(&web.url("/stable/manifest"), &publisher.key(), on_failure).script().unwrap()
}

/// What `nvme-agent render --verify` says to it: whether it prints, and why not.
fn verify(url: &str, key: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nvme-agent"))
        .args(["render", "userdata", "--verify", "--channel", url, "--public-key", key])
        .output()
        .unwrap();
    assert_eq!(output.status.success(), !output.stdout.is_empty());
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_signed_is_fetched_verified_installed_and_run_and_a_new_version_needs_no_new_userdata() {
    let Some(publisher) = publisher() else { return };
    let (web, none) = (Web::start(), stubs(&[]));
    let userdata = script(&web, &publisher, OnFailure::NoJoin);
    let older = drives(Image::al2023(CACHED));
    for (version, form) in [("0.1.0", "-l"), ("0.2.0", "-H")] {
        let text = publisher.publish(&web, version, form);
        // One that starts now, and one whose image has what the channel had before.
        for image in [&drives(Image::al2023(CACHED)), &older] {
            let (output, told) = run(image, &userdata, none.path());
            assert!(String::from_utf8_lossy(&output.stdout).contains("set up"), "{output:?}");
            let ran = image.read("/ran").unwrap();
            let last = [
                format!("{version} var/lib/nvme-agent/download install"),
                format!("{version} usr/local/bin/nvme-agent setup --trigger user-data"),
            ];
            assert!(ran.lines().rev().take(2).eq(last.iter().rev()), "{ran}");
            assert_eq!(image.read(OWN).as_ref(), Some(&text));
            let left = fs::read_dir(image.root.join("/var/lib/nvme-agent")).unwrap().count();
            assert_eq!(left, 0, "what was fetched is gone");
            assert!(!told.contains("logger"), "nothing is wrong: {told}");
        }
        assert_eq!(verify(&web.url("/stable/manifest"), &publisher.key()), (true, String::new()));
    }
}

#[test]
fn what_is_not_signed_or_not_what_was_signed_is_refused_and_the_pessimistic_form_stays() {
    let (Some(publisher), Some(other)) = (publisher(), publisher()) else { return };
    let good = manifest("0.1.0", &binary("0.1.0"));
    let evil = manifest("0.1.0", &binary("evil"));
    let signed = |text: &str| publisher.sign(text, "-H");
    let release = good.replace("nvme-agent-0.1.0-", "nvme-agent-");
    let path = good.replace("nvme-agent-0.1.0-", "../evil/nvme-agent-0.1.0-");
    let option = good.replace("nvme-agent-0.1.0-", "-o-");
    let foreign = good.replace("x86_64", "riscv64").replace("aarch64", "riscv64");
    let short = signed(&good).replacen("\nRU", "\n", 1);
    let refused = "not signed, or no openssl 3: ";
    let (sums, nothing) = ("wrong sha256", "no binary for");
    for (what, text, signature, body, reason, verified) in [
        ("another key", &good, other.sign(&good, "-H"), "0.1.0", refused, "signature by the key"),
        ("another key, legacy", &good, other.sign(&good, "-l"), "0.1.0", refused, "signature by the key"),
        ("altered manifest", &evil, signed(&good), "evil", refused, "signature by the key"),
        (
            "altered manifest, legacy",
            &evil,
            publisher.sign(&good, "-l"),
            "evil",
            refused,
            "signature by the key",
        ),
        (
            "said to be legacy",
            &good,
            signed(&good).replacen("\nRU", "\nRW", 1),
            "0.1.0",
            refused,
            "signature by the key",
        ),
        ("a signature that is cut", &good, short, "0.1.0", refused, "signature of minisign's"),
        ("a signature that is none", &good, "<html>".into(), "0.1.0", refused, "signature of minisign's"),
        ("no signature", &good, String::new(), "0.1.0", "manifest.minisig: status 22", "curl"),
        ("altered binary", &good, signed(&good), "evil", sums, "expected the sum of"),
        ("checksums of a release", &release, signed(&release), "0.1.0", nothing, "line 2: expected"),
        ("a path", &path, signed(&path), "0.1.0", nothing, "line 2: expected"),
        ("an option", &option, signed(&option), "0.1.0", nothing, "line 2: expected"),
        ("for other machines", &foreign, signed(&foreign), "0.1.0", nothing, "line 2: expected"),
    ] {
        let web = Web::start();
        web.put("/stable/manifest", text.clone());
        if !signature.is_empty() {
            web.put("/stable/manifest.minisig", signature);
        }
        for name in ["0.1.0-x86_64", "0.1.0-aarch64", "x86_64", "aarch64"] {
            web.put(&format!("/stable/nvme-agent-{name}"), binary(body));
            web.put(&format!("/evil/nvme-agent-{name}"), binary(body));
            web.put(&format!("/stable/-o-{name}"), binary(body));
        }
        for policy in [OnFailure::Label, OnFailure::NoJoin] {
            let image = drives(Image::al2023(CACHED));
            let (_, told) = run(&image, &script(&web, &publisher, policy), stubs(&[]).path());
            assert!(told.contains("userData: http://") && told.contains(reason), "{what}: {told}");
            assert!(told.contains("gave up (1)"), "{what}: {told}");
            assert_eq!(image.read(DROP_IN_PATH).as_deref(), Some(drop_in::FAILED), "{what}");
            assert_eq!(
                image.read(NODEADM_HOOK).as_deref(),
                (policy == OnFailure::NoJoin).then_some(GATE),
                "{what}"
            );
            assert_eq!((image.read("/ran"), image.read(OWN)), (None, None), "{what}");
        }
        let asked = web.asked();
        let fetched = asked.iter().any(|path| path.ends_with("64"));
        assert_eq!(
            fetched,
            reason == sums,
            "{what}: before the signature holds nothing else is asked for: {asked:?}"
        );
        let (printed, why) = verify(&web.url("/stable/manifest"), &publisher.key());
        assert!(!printed && why.contains(verified), "{what}: {why}");
    }
}

/// As Amazon Linux 2 has it, whose channel is none.
#[test]
fn an_openssl_that_knows_no_ed25519_is_a_failed_fetch_with_its_reason() {
    let Some(publisher) = publisher() else { return };
    let web = Web::start();
    publisher.publish(&web, "0.1.0", "-H");
    let old = "echo \"Usage: $1 [options]\" >&2; echo 'unknown option -rawin' >&2; exit 1";
    for (programs, reason) in
        [(stubs(&[("openssl", old)]), "unknown option -rawin"), (stubs(&[("openssl", "exit 127")]), "")]
    {
        let image = drives(Image::al2023(CACHED));
        let (_, told) = run(&image, &script(&web, &publisher, OnFailure::NoJoin), programs.path());
        assert!(told.contains("not signed, or no openssl 3: ") && told.contains(reason), "{told}");
        assert!(told.contains("gave up (1)"), "{told}");
        assert_eq!(image.read(NODEADM_HOOK).as_deref(), Some(GATE));
        assert_eq!(image.read("/ran"), None);
    }
}

#[test]
fn a_channel_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/manifest", silent.local_addr().unwrap());
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let userdata = userdata(&url, key, OnFailure::NoJoin).script().unwrap();
    let image = drives(Image::al2023(CACHED));
    let (_, told) = run(&image, &userdata, stubs(&[]).path());
    assert!(told.contains("/manifest: status 124") && told.contains("gave up (1)"), "{told}");
    assert_eq!(image.read(NODEADM_HOOK).as_deref(), Some(GATE));
}

/// Baked image and channel: a package's own binary always stays; else what the channel has, and where that cannot be had, what is there.
#[test]
fn which_of_the_images_binary_and_the_channels_wins() {
    let Some(publisher) = publisher() else { return };
    let (web, none) = (Web::start(), stubs(&[]));
    let text = publisher.publish(&web, "0.2.0", "-H");
    let manifest = ["/stable/manifest", "/stable/manifest.minisig"];
    for (path, there, runs, says, asked) in [
        (OWN, binary("baked"), "0.2.0", "", 3),
        (OWN, text.clone(), "0.2.0", "", 2),
        (PACKAGE, binary("packaged"), "packaged", "usr/bin/nvme-agent is kept", 0),
    ] {
        let image = drives(Image::al2023(CACHED));
        program(&image, path, &there);
        let (_, told) = run(&image, &script(&web, &publisher, OnFailure::NoJoin), none.path());
        let ran = image.read("/ran").unwrap();
        assert_eq!(
            ran.lines().last(),
            Some(&*format!("{runs} {} setup --trigger user-data", &path[1..])),
            "{ran}"
        );
        assert!(told.contains(says) && (!says.is_empty() || !told.contains("logger")), "{told}");
        let fetched = web.asked();
        assert!(
            fetched.len() == asked && fetched.iter().zip(manifest).all(|(one, two)| one == two),
            "{fetched:?}"
        );
    }
    web.put("/stable/manifest.minisig", "none");
    let image = drives(Image::al2023(CACHED));
    program(&image, OWN, &binary("baked"));
    let (_, told) = run(&image, &script(&web, &publisher, OnFailure::NoJoin), none.path());
    assert!(
        told.contains("not signed") && image.read("/ran").unwrap().contains("baked usr/local/bin"),
        "{told}"
    );
}

#[test]
fn s3_is_asked_with_the_aws_cli_for_all_three() {
    let Some(publisher) = publisher() else { return };
    let bucket = tempfile::tempdir().unwrap();
    let text = binary("agent");
    let manifest = manifest("0.1.0", &text);
    let files = [("manifest.minisig", publisher.sign(&manifest, "-H")), ("manifest", manifest)];
    for (name, text) in files
        .iter()
        .map(|(name, text)| (*name, text))
        .chain([("nvme-agent-0.1.0-x86_64", &text), ("nvme-agent-0.1.0-aarch64", &text)])
    {
        fs::write(bucket.path().join(name), text).unwrap();
    }
    let aws = format!(
        "[ \"$1 $2 $3 $4 $5\" = 's3 cp --only-show-errors --region eu-west-1' ] || exit 9\n\
         case $6 in s3://bucket/*) cp {}/\"$(basename \"$6\")\" \"$7\" ;; *) exit 8 ;; esac",
        bucket.path().display()
    );
    let mut userdata = userdata("s3://bucket/manifest", &publisher.key(), OnFailure::Label);
    userdata.region = Some("eu-west-1".parse().unwrap());
    let script = userdata.script().unwrap();
    assert!(!script.contains("curl"));
    let image = drives(Image::al2023(CACHED));
    let (_, told) = run(&image, &script, stubs(&[("aws", &aws)]).path());
    assert_eq!(image.read(OWN), Some(text), "{told}");
}

/// The longest is e6data's, with a channel in place of two binaries.
#[test]
fn every_form_is_plain_small_and_what_karpenter_takes_for_a_script() {
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let e6data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/karpenter/e6data.toml");
    let none = std::iter::empty();
    let root = nvme_agent::root::Root::new("/");
    let e6data = nvme_agent::config::load(&root, Some(&e6data), &Default::default(), none).unwrap();
    for url in [
        "https://artifacts.example.com/nvme-agent/stable/manifest",
        "s3://artifacts-example-com/nvme-agent/stable/manifest",
    ] {
        for on_failure in [OnFailure::Label, OnFailure::Taint, OnFailure::NoJoin] {
            check(&userdata(url, key, on_failure).script().unwrap());
            let mut longest = userdata(url, key, on_failure);
            longest.config = Config { on_failure, ..e6data.clone() };
            let script = longest.script().unwrap();
            check(&script);
            assert!(!script.contains(env!("CARGO_PKG_VERSION")), "a new version of render would be drift");
        }
    }
}
