//! The pessimistic form of each policy, as a shell writes it before there is a binary: packaging/registration.
#![allow(clippy::unwrap_used)]

#[path = "support/eks.rs"]
mod eks;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use eks::{CACHED, Image, cannot_write, stubs};
use nvme_agent::config::{Config, OnFailure};
use nvme_agent::install::hook::{self, KUBELET_HOOK, NODEADM_HOOK};
use nvme_agent::node::nodeadm::CACHE_PATH;
use nvme_agent::node::registration::{self, DROP_IN_DIR, DROP_IN_PATH, ENVIRONMENT_PATH};
use nvme_agent::state::{Health, State};

fn shell(image: &Image, policy: &str) -> Output {
    image.pessimistic(policy, stubs(&[]).path())
}

/// The shell's files, then the agent's first work of a boot: it finds nothing to write.
fn agree(image: &Image, on_failure: OnFailure, files: &[&str]) {
    let output = shell(image, on_failure.as_str());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image.agent_agrees(&Config { on_failure, ..Config::default() }, files);
}

#[test]
fn label_joins_labelled_failed() {
    let image = Image::al2023(CACHED);
    agree(&image, OnFailure::Label, &[DROP_IN_PATH]);
    let text = image.read(DROP_IN_PATH).unwrap();
    assert!(text.contains("/state=failed,") && !text.contains("Taints"), "{text}");
    assert!(image.read(NODEADM_HOOK).unwrap().contains("ExecStartPre=-"), "whatever becomes of the agent");
}

#[test]
fn taint_joins_tainted_and_keeps_the_taints_that_are_there() {
    for (cached, theirs) in [
        (
            CACHED,
            r#"{"effect":"NoExecute","key":"karpenter.sh/unregistered"},{"effect":"NoSchedule","key":"workspace","value":"a"},"#,
        ),
        (r#"{"spec":{"kubelet":{}}}"#, ""),
        (r#"{"spec":{"kubelet":{"config":{"registerWithTaints":[]}}}}"#, ""),
        ("{\"spec\": {\"kubelet\": {\"config\": {\"registerWithTaints\": [\n  ]}}}}", ""),
        (
            "{\"spec\": {\"kubelet\": {\"config\": {\"registerWithTaints\": [\n  {\"effect\": \"NoExecute\", \"key\": \"a\"}\n]}}}}",
            r#"{"effect":"NoExecute","key":"a"},"#,
        ),
    ] {
        let image = Image::al2023(cached);
        agree(&image, OnFailure::Taint, &[DROP_IN_PATH]);
        let list = format!(
            r#"registerWithTaints: [{theirs}{{"effect":"NoSchedule","key":"nvme-agent.e6data.com/failed"}}]"#
        );
        assert!(image.read(DROP_IN_PATH).unwrap().contains(&list), "{:?}", image.read(DROP_IN_PATH));
        // userData that runs twice.
        agree(&image, OnFailure::Taint, &[DROP_IN_PATH]);
    }
}

#[test]
fn no_join_does_not_join() {
    let image = Image::al2023(CACHED);
    agree(&image, OnFailure::NoJoin, &[DROP_IN_PATH, NODEADM_HOOK]);
    assert!(image.read(NODEADM_HOOK).unwrap().contains("\nExecStartPre=/usr/local/bin/nvme-agent gate\n"));
}

/// In an image with an rpm or deb that is where the gate is: the other path would keep good nodes from joining.
#[test]
fn the_gate_is_the_packages_binary_where_there_is_one() {
    let image = Image::al2023(CACHED);
    image.write("/usr/bin/nvme-agent", "");
    agree(&image, OnFailure::NoJoin, &[DROP_IN_PATH, NODEADM_HOOK]);
    assert!(image.read(NODEADM_HOOK).unwrap().contains("\nExecStartPre=/usr/bin/nvme-agent gate\n"));
}

#[test]
fn where_a_shell_cannot_taint_the_node_does_not_join_until_the_agent_can() {
    let flagged = r#"{"spec":{"kubelet":{"flags":["--register-with-taints=a=b:NoSchedule"]}}}"#;
    let old = [(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=--v=2\n"), (CACHE_PATH, CACHED)];
    for (image, file) in [(Image::al2023(flagged), DROP_IN_PATH), (Image::new(&old), ENVIRONMENT_PATH)] {
        assert!(shell(&image, "taint").status.success());
        assert_eq!(image.read(NODEADM_HOOK).as_deref(), Some(hook::GATE));
        let config = Config { on_failure: OnFailure::Taint, ..Config::default() };
        registration::expect_failure(&image.root, &config);
        hook::ensure(&image.root, &config).unwrap();
        assert_ne!(image.read(NODEADM_HOOK).as_deref(), Some(hook::GATE), "for a taint, no more for no-join");
        let state = State::new(&image.root, Health::Failed, "ForeignData", "x");
        assert!(registration::update(&image.root, &config, &state).tainted, "so the gate lets it join");
        assert!(image.read(file).unwrap().contains("--register-with-taints="), "tainted");
    }
}

/// A list with ours alone would lose karpenter.sh/unregistered, and Karpenter its node.
#[test]
fn where_the_other_taints_are_not_known_the_node_does_not_join() {
    let images =
        ["", "{\"sp", r#"{"spec":{"kubelet":{"config":{"registerWithTaints":null}}}}"#].map(Image::al2023);
    let others = Image::al2023(CACHED);
    others
        .write("/etc/eks/nodeadm.d/10-others.yaml", "spec: {kubelet: {config: {registerWithTaints: []}}}\n");
    for image in images.iter().chain([&others]) {
        assert!(shell(image, "taint").status.success());
        assert_eq!(image.read(NODEADM_HOOK).as_deref(), Some(hook::GATE));
        assert_eq!(image.read(DROP_IN_PATH).as_deref(), Some(registration::drop_in::FAILED));
    }
}

#[test]
fn where_a_file_cannot_be_written_the_strict_policies_still_hold() {
    let image = Image::al2023(CACHED);
    let output = image.pessimistic("taint", cannot_write(&["nodeadm.d"]).path());
    assert!(!output.status.success() && image.read(DROP_IN_PATH).is_none());
    assert_eq!(image.read(NODEADM_HOOK).as_deref(), Some(hook::GATE), "no taint, so it does not join");
    for policy in ["taint", "no-join"] {
        let image = Image::al2023(CACHED);
        let output = image.pessimistic(policy, cannot_write(&["/etc/"]).path());
        assert!(
            String::from_utf8_lossy(&output.stderr)
                .contains("nodeadm.d/50-nvme-agent.yaml could not be written")
        );
        let volatile = NODEADM_HOOK.replace("/etc/", "/run/");
        assert_eq!(image.read(&volatile).as_deref(), Some(hook::GATE), "of a root volume that is full");
        assert!(
            image.files().keys().all(|path| !path.to_string_lossy().contains("/.")),
            "nothing half-written"
        );
    }
}

/// A reload before the label was written would leave a moment in which neither is there.
#[test]
fn the_label_is_there_before_the_gate() {
    let image = Image::al2023(CACHED);
    let log = image.dir.path().join("log");
    let stub = stubs(&[("mv", &format!("echo \"$2\" >>{}\nexec /bin/mv \"$@\"", log.display()))]);
    assert!(image.pessimistic("no-join", stub.path()).status.success());
    let order = std::fs::read_to_string(log).unwrap();
    let order: Vec<&str> = order.lines().map(|path| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(order, ["50-nvme-agent.yaml", "50-nvme-agent.conf"]);
}

#[test]
fn an_older_image_has_it_in_kubelets_environment() {
    for text in [
        "NODEADM_KUBELET_ARGS=--cloud-provider=external --node-labels=\"x=y\"\nA=1\n",
        "NODEADM_KUBELET_ARGS=\"--v=2 --a='b'\"\nA=1\n",
        "NODEADM_KUBELET_ARGS='--v=2 --a=\"b\"'\nA=1\n",
        "NODEADM_KUBELET_ARGS=\n",
    ] {
        let image = Image::new(&[(ENVIRONMENT_PATH, text)]);
        agree(&image, OnFailure::Label, &[ENVIRONMENT_PATH]);
        assert!(
            image
                .read(ENVIRONMENT_PATH)
                .unwrap()
                .contains("--node-labels=nvme-agent.e6data.com/state=failed,")
        );
        agree(&image, OnFailure::Label, &[ENVIRONMENT_PATH]);
    }
    let odd = "NODEADM_KUBELET_ARGS=\"--a\" --b=\"c\"\n";
    let image = Image::new(&[(ENVIRONMENT_PATH, odd)]);
    assert!(shell(&image, "label").status.success());
    assert_eq!(image.read(ENVIRONMENT_PATH).as_deref(), Some(odd), "in doubt it stays as it is");
}

#[test]
fn a_directory_that_somebody_made_on_an_older_image_is_no_way_for_either() {
    let image = Image::new(&[(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=--v=2\n")]);
    fs::create_dir_all(image.root.join(DROP_IN_DIR)).unwrap();
    image.write("/etc/systemd/system/nodeadm-run.service", "[Service]\nExecStart=/usr/bin/nodeadm init\n");
    agree(&image, OnFailure::Label, &[ENVIRONMENT_PATH]);
    assert!(image.read(DROP_IN_PATH).is_none());
}

#[test]
fn a_node_without_drives_says_absent_as_the_agent_would() {
    let image = Image::al2023(CACHED);
    assert!(shell(&image, "absent").status.success());
    let before = image.read(DROP_IN_PATH).unwrap();
    let state = State::new(&image.root, Health::Absent, "NoDrives", "");
    registration::update(&image.root, &Config::default(), &state);
    // A shell has no version.
    let version = concat!(",nvme-agent.e6data.com/version=", env!("CARGO_PKG_VERSION"));
    assert_eq!(image.read(DROP_IN_PATH).unwrap().replace(version, ""), before);
}

#[test]
fn al2_gates_kubelet_and_a_machine_without_eks_gets_nothing() {
    let image = Image::al2();
    agree(&image, OnFailure::NoJoin, &[KUBELET_HOOK]);
    let image = Image::new(&[]);
    assert!(shell(&image, "label").status.success());
    assert!(!image.root.join("/etc/eks").exists());
    let wrong = shell(&image, "lable");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("label|taint|no-join|absent"));
}

#[test]
fn the_script_is_one_that_shellcheck_takes() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/registration/pessimistic.sh");
    match Command::new("shellcheck").arg(script).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("NOT RUN: there is no shellcheck on this machine"),
    }
}
