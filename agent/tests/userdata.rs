//! `nvme-agent render userdata`, run: against packaging/registration, against the agent's own files, and when things go wrong.
#![allow(clippy::unwrap_used)]

#[path = "support/eks.rs"]
mod eks;
#[path = "support/launch.rs"]
mod launch;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use eks::{CACHED, Image, cannot_write, stubs};
use launch::{FETCHED, OWN, PACKAGE, binary, check, drives, ok, program, run, run_by, sha256};
use nvme_agent::config::{CONFIG_PATH, Config, Directory, OnFailure};
use nvme_agent::install::hook::{GATE, KUBELET_HOOK, NODEADM_HOOK};
use nvme_agent::node::nodeadm::CACHE_PATH;
use nvme_agent::node::registration::{self, DROP_IN_DIR, DROP_IN_PATH, ENVIRONMENT_PATH, drop_in};
use nvme_agent::render::{Arch, Binary, Userdata};
use nvme_agent::state::{Health, State};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1/nvme-agent";

fn userdata(url: &str, sum: &str, config: Config) -> Userdata {
    let binaries = [Arch::X86_64, Arch::Aarch64];
    let binary = |arch| Binary { arch, url: url.parse().unwrap(), sha256: sum.parse().unwrap() };
    Userdata {
        binaries: binaries.map(binary).into(),
        channel: None,
        region: None,
        deadline: "60".parse().unwrap(),
        config,
    }
}

fn with(on_failure: OnFailure) -> Config {
    Config { on_failure, ..Config::default() }
}

/// Nothing can be fetched: what is left is the pessimistic form.
fn unreachable(image: &Image, config: &Config, more: &Path) -> String {
    let script = userdata(NOWHERE, &"0".repeat(64), config.clone()).script().unwrap();
    run(image, &script, more).1
}

/// A server of one answer.
fn serve(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // Those that were cut off at the deadline stay open.
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&answer);
            if answer.is_empty() {
                open.push(stream);
            }
        }
    });
    format!("http://{address}/nvme-agent")
}

#[test]
fn what_it_writes_first_is_what_the_shell_of_packaging_writes_and_what_the_agent_leaves_alone() {
    let flagged = r#"{"spec":{"kubelet":{"flags":["--register-with-taints=a=b:NoSchedule"]}}}"#;
    let null = r#"{"spec":{"kubelet":{"config":{"registerWithTaints":null}}}}"#;
    let spread = "{\"spec\": {\"kubelet\": {\"config\": {\"registerWithTaints\": [\n  {\"effect\": \"NoExecute\", \"key\": \"a\"}\n]}}}}";
    let arguments = |text| move || Image::new(&[(ENVIRONMENT_PATH, text), (CACHE_PATH, CACHED)]);
    let images: Vec<Box<dyn Fn() -> Image>> = vec![
        Box::new(|| Image::al2023(CACHED)),
        Box::new(|| Image::al2023("")),
        Box::new(|| Image::al2023(r#"{"spec":{"kubelet":{}}}"#)),
        Box::new(move || Image::al2023(flagged)),
        Box::new(move || Image::al2023(null)),
        Box::new(move || Image::al2023(spread)),
        Box::new(|| {
            let image = Image::al2023(CACHED);
            image.write(
                "/etc/eks/nodeadm.d/10-others.yaml",
                "spec: {kubelet: {config: {registerWithTaints: []}}}\n",
            );
            image
        }),
        Box::new(|| {
            let image = Image::al2023(CACHED);
            image.write(PACKAGE, "");
            image
        }),
        Box::new(arguments("NODEADM_KUBELET_ARGS=--v=2 --node-labels=\"x=y\"\nA=1\n")),
        Box::new(arguments("NODEADM_KUBELET_ARGS=\"--v=2 --a=b\"\n")),
        Box::new(arguments("NODEADM_KUBELET_ARGS='--v=2 --a=b'\n")),
        Box::new(arguments("NODEADM_KUBELET_ARGS=\n")),
        Box::new(|| {
            // Somebody made the directory there, which its nodeadm does not read.
            let image = Image::new(&[(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=--v=2\n")]);
            fs::create_dir_all(image.root.join(DROP_IN_DIR)).unwrap();
            image.write(
                "/etc/systemd/system/nodeadm-run.service",
                "[Service]\nExecStart=/usr/bin/nodeadm init\n",
            );
            image
        }),
        Box::new(Image::al2),
        Box::new(|| Image::new(&[])),
    ];
    let none = stubs(&[]);
    for (at, image) in images.iter().enumerate() {
        for policy in [OnFailure::Label, OnFailure::Taint, OnFailure::NoJoin] {
            let (ours, theirs) = (drives(image()), drives(image()));
            let told = unreachable(&ours, &with(policy), none.path());
            assert!(theirs.pessimistic(policy.as_str(), none.path()).status.success());
            let mut files = ours.files();
            // A file that is no program: not run, and not replaced.
            files.retain(|path, _| !path.ends_with("download"));
            assert_eq!(files, theirs.files(), "image {at}, {policy:?}");
            let gated = files.values().any(|text| text.contains("ExecStartPre="));
            assert_eq!(told.contains("systemctl daemon-reload"), gated, "{told}");
        }
        let (ours, theirs) = (image(), image());
        assert_eq!(
            unreachable(&ours, &Config::default(), none.path()),
            "",
            "without drives nothing is fetched"
        );
        assert!(theirs.pessimistic("absent", none.path()).status.success());
        assert_eq!(ours.files(), theirs.files(), "image {at}, absent");
    }
}

#[test]
fn the_agent_has_nothing_to_rewrite_whatever_domain_names_and_profile() {
    let named = Config {
        label_domain: "storage.example.com".into(),
        // One domain ends with another, one begins with it.
        label_keys: "state=local-nvme,failed=example.org/no-nvme,layout=x.storage.example.com/l,drives=storage.example.community/d"
            .into(),
        profile: "nvme-raid0".into(),
        ..Config::default()
    };
    let none = stubs(&[]);
    for (policy, files) in [
        (OnFailure::Label, &[DROP_IN_PATH][..]),
        (OnFailure::Taint, &[DROP_IN_PATH]),
        (OnFailure::NoJoin, &[DROP_IN_PATH, NODEADM_HOOK]),
    ] {
        for config in [with(policy), Config { on_failure: policy, ..named.clone() }] {
            let image = drives(Image::al2023(CACHED));
            unreachable(&image, &config, none.path());
            image.agent_agrees(&config, files);
        }
    }
    let image = drives(Image::al2());
    unreachable(&image, &with(OnFailure::NoJoin), none.path());
    image.agent_agrees(&with(OnFailure::NoJoin), &[KUBELET_HOOK]);
    let image = Image::al2023(CACHED);
    unreachable(&image, &named, none.path());
    let before = image.read(DROP_IN_PATH).unwrap();
    registration::update(&image.root, &named, &State::new(&image.root, Health::Absent, "NoDrives", ""));
    // A shell has no version.
    let version = concat!(",storage.example.com/version=", env!("CARGO_PKG_VERSION"));
    assert_eq!(image.read(DROP_IN_PATH).unwrap().replace(version, ""), before);
}

#[test]
fn where_a_file_cannot_be_written_the_strict_policies_still_hold() {
    let image = drives(Image::al2023(CACHED));
    unreachable(&image, &with(OnFailure::Taint), cannot_write(&["nodeadm.d"]).path());
    assert_eq!(image.read(NODEADM_HOOK).as_deref(), Some(GATE), "no taint, so it does not join");
    for policy in [OnFailure::Taint, OnFailure::NoJoin] {
        let image = drives(Image::al2023(CACHED));
        let told = unreachable(&image, &with(policy), cannot_write(&["etc/"]).path());
        assert!(told.contains("cannot write etc/eks/nodeadm.d/50-nvme-agent.yaml"), "{told}");
        assert_eq!(image.read(&NODEADM_HOOK.replace("/etc/", "/run/")).as_deref(), Some(GATE));
        assert!(
            image.files().keys().all(|path| !path.to_string_lossy().contains("/.")),
            "nothing half-written"
        );
    }
}

#[test]
fn a_binary_is_fetched_verified_installed_and_run() {
    let (text, none) = (binary("agent"), stubs(&[]));
    let url = serve(ok(&text));
    for policy in [OnFailure::Label, OnFailure::Taint, OnFailure::NoJoin] {
        let image = drives(Image::al2023(CACHED));
        let config = Config {
            expect_drives: 2,
            directories: vec![Directory {
                path: "spill".into(),
                owner: "1000".into(),
                group: "1000".into(),
                mode: 0o770,
                selinux_type: None,
            }],
            ..with(policy)
        };
        let script = userdata(&url, &sha256(text.as_bytes()), config.clone()).script().unwrap();
        let (output, told) = run(&image, &script, none.path());
        assert!(String::from_utf8_lossy(&output.stdout).contains("set up"), "{output:?}");
        let ran = "agent var/lib/nvme-agent/download install\nagent usr/local/bin/nvme-agent setup --trigger user-data\n";
        assert_eq!(image.read("/ran").as_deref(), Some(ran));
        assert_eq!((image.read(OWN), image.read(FETCHED)), (Some(text.clone()), None));
        let lines: Vec<&str> = told.lines().filter(|line| !line.contains("daemon-reload")).collect();
        let timer = "systemctl --no-block start nvme-agent-report.timer";
        assert_eq!(lines, ["restorecon usr/local/bin/nvme-agent", timer], "nothing else is said or started");
        let none = std::iter::empty();
        let loaded = nvme_agent::config::load(&image.root, None, &Default::default(), none).unwrap();
        assert_eq!(loaded, config);
        let mode = fs::metadata(image.root.join("/var/lib/nvme-agent")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}

/// By hand, from where it lies.
#[test]
fn a_relative_name_is_found_again() {
    let (text, none) = (binary("agent"), stubs(&[]));
    let script =
        userdata(&serve(ok(&text)), &sha256(text.as_bytes()), with(OnFailure::Label)).script().unwrap();
    let names: [fn(&Path) -> PathBuf; 3] = [
        |_| "part-001".into(),
        |_| "./part-001".into(),
        |place| Path::new("..").join(place.file_name().unwrap()).join("part-001"),
    ];
    for name in names {
        let image = drives(Image::al2023(CACHED));
        let (output, told) = run_by(&image, &script, none.path(), name);
        assert!(String::from_utf8_lossy(&output.stdout) == "set up\n", "{output:?}");
        assert!(!told.contains("gave up") && image.read(OWN).as_ref() == Some(&text), "{told}");
    }
}

#[test]
fn without_drives_nothing_is_fetched_unless_drives_are_required() {
    let none = stubs(&[]);
    let image = Image::al2023(CACHED);
    image.write("/sys/class/nvme/nvme0/model", "Amazon Elastic Block Store\n");
    unreachable(&image, &with(OnFailure::NoJoin), none.path());
    assert!(image.read(DROP_IN_PATH).unwrap().contains("/state=absent,"));
    assert_eq!(image.read(NODEADM_HOOK), None);
    let required = Config { expect_drives: 2, ..with(OnFailure::NoJoin) };
    let told = unreachable(&image, &required, none.path());
    assert!(image.read(DROP_IN_PATH).unwrap().contains("/state=failed,"), "as the agent will say");
    assert!(image.read(NODEADM_HOOK).is_some() && told.contains(NOWHERE));
    let mut other = Config::default();
    other.matching.models = vec!["QEMU NVMe".into()];
    let image = drives(Image::al2023(CACHED));
    assert_eq!(unreachable(&image, &other, none.path()), "", "the configured models count");
}

#[test]
fn whatever_goes_wrong_the_reason_is_told_and_the_pessimistic_form_stays() {
    let text = binary("agent");
    let sum = sha256(text.as_bytes());
    let short =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n#!/bin", text.len());
    let failing = text.replace("echo set up", "echo no drive answers >&2; exit 6");
    let foreign = "\u{7f}ELF of another machine".to_owned();
    let (none, other) = (stubs(&[]), stubs(&[("uname", "echo riscv64")]));
    let full = stubs(&[("curl", "echo 'curl: (23) Failure writing output' >&2; exit 23")]);
    for (what, url, sum, programs, reason) in [
        ("nobody listens", NOWHERE.to_owned(), &sum, &none, "curl: (7)"),
        (
            "404",
            serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into()),
            &sum,
            &none,
            "404",
        ),
        ("another file", serve(ok("#!/bin/sh\ntouch evil\n")), &sum, &none, "wrong sha256"),
        ("truncated", serve(short.into()), &sum, &none, "curl: (18)"),
        ("never answers", serve(Vec::new()), &sum, &none, "status 124"),
        ("a full disk", NOWHERE.to_owned(), &sum, &full, "Failure writing output"),
        (
            "another architecture",
            serve(ok(&foreign)),
            &sha256(foreign.as_bytes()),
            &none,
            "download: status ",
        ),
        ("no binary for it", NOWHERE.to_owned(), &sum, &other, "no binary for riscv64"),
        ("setup fails", serve(ok(&failing)), &sha256(failing.as_bytes()), &none, "status 6 no drive answers"),
    ] {
        for policy in [OnFailure::Label, OnFailure::NoJoin] {
            let image = drives(Image::al2023(CACHED));
            let script = userdata(&url, sum, with(policy)).script().unwrap();
            let (_, told) = run(&image, &script, programs.path());
            assert!(told.contains("userData: ") && told.contains(reason), "{what}: {told}");
            assert!(told.contains("gave up (1)"), "{what}: {told}");
            assert_eq!(image.read(DROP_IN_PATH).as_deref(), Some(drop_in::FAILED), "{what}");
            assert_eq!(
                image.read(NODEADM_HOOK).as_deref(),
                (policy == OnFailure::NoJoin).then_some(GATE),
                "{what}"
            );
            assert!(image.read("/evil").is_none() && image.read(FETCHED).is_none_or(|file| file == foreign));
        }
    }
}

#[test]
fn at_the_deadline_it_is_over() {
    let text = "#!/bin/sh\nsleep 300\n".replace("sleep", "/bin/sleep");
    let script = userdata(&serve(ok(&text)), &sha256(text.as_bytes()), Config::default()).script().unwrap();
    assert!(script.contains("timeout -k 10 60 /bin/bash"));
    let image = drives(Image::al2023(CACHED));
    let started = std::time::Instant::now();
    let (_, told) = run(&image, &script.replace("timeout -k 10 60 ", "timeout -k 10 2 "), stubs(&[]).path());
    assert!(started.elapsed().as_secs() < 30);
    assert!(told.contains("gave up (124)"), "{told}");
    assert_eq!(image.read(DROP_IN_PATH).as_deref(), Some(drop_in::FAILED));
}

/// nodeadm starts when userData has ended. A child of the agent's has a group of its own, and ends with the agent (exec.rs).
#[test]
fn at_the_deadline_nothing_of_setup_is_left() {
    let setup = "echo $$ >>pids\nsetsid setpriv --pdeathsig KILL /bin/sleep 300 &\necho $! >>pids\nwait";
    let text = binary("agent").replace("setup) echo set up", &format!("setup) {setup}"));
    let script = userdata(&serve(ok(&text)), &sha256(text.as_bytes()), Config::default()).script().unwrap();
    assert!(script.contains("timeout --foreground -k 10 30 $bin setup"));
    let image = drives(Image::al2023(CACHED));
    let (_, told) = run(&image, &script.replace("timeout -k 10 60 ", "timeout -k 10 2 "), stubs(&[]).path());
    assert!(told.contains("gave up (124)"), "{told}");
    let pids = image.read("/pids").unwrap();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    // A zombie has ended; who is to reap it is for the machine.
    let ended = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    };
    for pid in pids.lines() {
        // What has its signal may still wait for a processor.
        let patience = std::time::Instant::now();
        while !ended(pid) {
            assert!(patience.elapsed().as_secs() < 2, "{pid} goes on");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Baked image and userData: the package's own binary always stays; else the one that userData names, and where that cannot be had,
/// the one that is there.
#[test]
fn which_of_the_images_binary_and_the_one_that_userdata_names_wins() {
    let (named, none) = (binary("named"), stubs(&[]));
    let sum = sha256(named.as_bytes());
    for (path, there, url, runs, says) in [
        (OWN, binary("baked"), serve(ok(&named)), "named", ""),
        (OWN, named.clone(), NOWHERE.into(), "named", ""),
        (OWN, binary("baked"), NOWHERE.into(), "baked", "curl: (7)"),
        (PACKAGE, binary("packaged"), NOWHERE.into(), "packaged", "usr/bin/nvme-agent is kept"),
        (PACKAGE, named.clone(), NOWHERE.into(), "named", ""),
    ] {
        let image = drives(Image::al2023(CACHED));
        program(&image, path, &there);
        let script = userdata(&url, &sum, with(OnFailure::NoJoin)).script().unwrap();
        let (_, told) = run(&image, &script, none.path());
        let ran = image.read("/ran").unwrap();
        let last = ran.lines().last().unwrap();
        assert_eq!(last, format!("{runs} {} setup --trigger user-data", &path[1..]), "{ran}");
        assert!(told.contains(says) && (!says.is_empty() || !told.contains("logger")), "{told}");
        assert!(image.read(PACKAGE).is_none() || image.read(OWN).is_none(), "the package is not shadowed");
    }
}

#[test]
fn a_configuration_that_somebody_else_wrote_stays() {
    let (text, none) = (binary("agent"), stubs(&[]));
    let script = |target: &str| {
        let config = Config { target: target.into(), ..Config::default() };
        userdata(&serve(ok(&text)), &sha256(text.as_bytes()), config).script().unwrap()
    };
    let image = drives(Image::al2023(CACHED));
    image.write(CONFIG_PATH, "target = \"/data\"\n");
    let (_, told) = run(&image, &script("/opt/data"), none.path());
    assert!(told.contains("etc/nvme-agent/config.toml stays"), "{told}");
    assert_eq!(image.read(CONFIG_PATH).as_deref(), Some("target = \"/data\"\n"));
    // An image of a node that had userData.
    let image = drives(Image::al2023(CACHED));
    // And a package, whose own configuration says nothing.
    image.write(CONFIG_PATH, include_str!("../../packaging/config.toml"));
    for target in ["/data", "/opt/data"] {
        run(&image, &script(target), none.path());
        assert!(image.read(CONFIG_PATH).unwrap().ends_with(&format!("target=\"{target}\"\n")));
    }
    // New userData has the defaults: so has the node.
    let script = userdata(&serve(ok(&text)), &sha256(text.as_bytes()), Config::default()).script().unwrap();
    let (output, told) = run(&image, &script, none.path());
    assert!(String::from_utf8_lossy(&output.stdout).contains("set up"), "{output:?}");
    assert_eq!((image.read(CONFIG_PATH), told.contains("userData: ")), (None, false), "{told}");
    // And one without drives, which fetches nothing.
    let diskless = Image::al2023(CACHED);
    diskless.write(CONFIG_PATH, "# By userData\nexpect_drives = 2\n");
    run(&diskless, &script, none.path());
    assert_eq!(diskless.read(CONFIG_PATH), None);
    for others in ["target = \"/data\"\n", include_str!("../../packaging/config.toml")] {
        image.write(CONFIG_PATH, others);
        run(&image, &script, none.path());
        assert_eq!(image.read(CONFIG_PATH).as_deref(), Some(others), "somebody else's stays");
    }
}

#[test]
fn s3_is_asked_with_the_aws_cli_in_the_buckets_region() {
    let text = binary("agent");
    let aws = format!(
        "[ \"$1 $2\" = 's3 cp' ] || exit 9\necho \"$*\" >>asked\nfor to; do :; done\ncat >\"$to\" <<'X'\n{text}X"
    );
    let image = drives(Image::al2023(CACHED));
    let mut userdata = userdata("s3://bucket/nvme-agent", &sha256(text.as_bytes()), Config::default());
    userdata.region = Some("eu-west-1".parse().unwrap());
    let script = userdata.script().unwrap();
    assert!(!script.contains("curl"));
    run(&image, &script, stubs(&[("aws", &aws)]).path());
    let asked =
        "s3 cp --only-show-errors --region eu-west-1 s3://bucket/nvme-agent var/lib/nvme-agent/download\n";
    assert_eq!(image.read("/asked").as_deref(), Some(asked));
    assert_eq!(image.read(OWN), Some(text));
}

/// Every form of the script: for shellcheck, for Terraform, for Karpenter, and for EC2's limit.
#[test]
fn every_form_is_plain_small_and_what_karpenter_takes_for_a_script() {
    let long = "https://artifacts.example.com/nvme-agent/0.1.0/nvme-agent-x86_64";
    for url in [long, "s3://artifacts-example-com/nvme-agent/0.1.0/nvme-agent-x86_64"] {
        for on_failure in [OnFailure::Label, OnFailure::Taint, OnFailure::NoJoin] {
            for profile in ["", "nvme-raid0"] {
                for expect_drives in [0, 2] {
                    let config =
                        Config { on_failure, profile: profile.into(), expect_drives, ..Config::default() };
                    check(&userdata(url, &"0123456789abcdef".repeat(4), config).script().unwrap());
                }
            }
        }
    }
}
