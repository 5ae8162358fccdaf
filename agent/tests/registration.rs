//! The pessimistic form of each policy, as a shell writes it before there is a binary: packaging/registration.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use nvme_agent::config::{Config, OnFailure};
use nvme_agent::install::hook::{self, KUBELET_HOOK, NODEADM_HOOK};
use nvme_agent::node::nodeadm::CACHE_PATH;
use nvme_agent::node::registration::{self, DROP_IN_DIR, DROP_IN_PATH, ENVIRONMENT_PATH};
use nvme_agent::root::Root;
use nvme_agent::state::{Health, State};

/// What Karpenter has nodeadm register with, as nodeadm caches it.
const CACHED: &str = r#"{"apiVersion":"node.eks.aws/__internal","kind":"NodeConfig","spec":{"cluster":{"name":"c"},"kubelet":{"config":{"maxPods":110,"registerWithTaints":[{"effect":"NoExecute","key":"karpenter.sh/unregistered"},{"effect":"NoSchedule","key":"workspace","value":"a"}]},"flags":["--v=2"]}}}"#;

/// As the image's unit, from v20251023 on.
const NODEADM_RUN: &str =
    "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n";

struct Image {
    dir: tempfile::TempDir,
    root: Root,
}

impl Image {
    fn new(files: &[(&str, &str)]) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let image = Image { root: Root::new(dir.path()), dir };
        image.write("/etc/systemd/system/nodeadm-run.service", NODEADM_RUN);
        for (path, text) in files {
            image.write(path, text);
        }
        image
    }

    /// An image with the directory of drop-ins, and a NodeConfig that nodeadm has cached.
    fn al2023(cached: &str) -> Image {
        let image = Image::new(&[]);
        fs::create_dir_all(image.root.join(DROP_IN_DIR)).unwrap();
        if !cached.is_empty() {
            image.write(CACHE_PATH, cached);
        }
        image
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn inode(&self, path: &str) -> u64 {
        fs::metadata(self.root.join(path)).unwrap().ino()
    }

    fn shell(&self, policy: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/registration/pessimistic.sh");
        Command::new("sh").arg(script).arg(policy).arg(self.dir.path()).output().unwrap()
    }

    /// The shell's files, then the agent's first work of a boot: it finds nothing to write.
    fn agree(&self, on_failure: OnFailure, files: &[&str]) {
        let output = self.shell(on_failure.as_str());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let before: Vec<u64> = files.iter().map(|path| self.inode(path)).collect();
        let config = Config { on_failure, ..Config::default() };
        registration::expect_failure(&self.root, &config);
        hook::ensure(&self.root, &config).unwrap();
        let after: Vec<u64> = files.iter().map(|path| self.inode(path)).collect();
        assert_eq!(
            before,
            after,
            "the agent found something to rewrite: {:?}",
            files.iter().map(|path| self.read(path)).collect::<Vec<_>>()
        );
        // Nothing that nodeadm could take for a whole file, and nothing at all besides.
        for path in files {
            let dir = self.root.join(path).parent().unwrap().to_path_buf();
            let names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names.len(), 1, "{names:?}");
        }
    }
}

#[test]
fn label_joins_labelled_failed() {
    let image = Image::al2023(CACHED);
    image.agree(OnFailure::Label, &[DROP_IN_PATH]);
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
        ("", ""),
        (r#"{"spec":{"kubelet":{}}}"#, ""),
        (r#"{"spec":{"kubelet":{"config":{"registerWithTaints":[]}}}}"#, ""),
    ] {
        let image = Image::al2023(cached);
        image.agree(OnFailure::Taint, &[DROP_IN_PATH]);
        let list = format!(
            r#"registerWithTaints: [{theirs}{{"effect":"NoSchedule","key":"nvme-agent.e6data.com/failed"}}]"#
        );
        assert!(image.read(DROP_IN_PATH).unwrap().contains(&list), "{:?}", image.read(DROP_IN_PATH));
        // userData that runs twice.
        image.agree(OnFailure::Taint, &[DROP_IN_PATH]);
    }
}

#[test]
fn no_join_does_not_join() {
    let image = Image::al2023(CACHED);
    image.agree(OnFailure::NoJoin, &[DROP_IN_PATH, NODEADM_HOOK]);
    assert!(image.read(NODEADM_HOOK).unwrap().contains("\nExecStartPre=/usr/local/bin/nvme-agent gate\n"));
}

#[test]
fn where_a_shell_cannot_taint_the_node_does_not_join_until_the_agent_can() {
    let flagged = r#"{"spec":{"kubelet":{"flags":["--register-with-taints=a=b:NoSchedule"]}}}"#;
    let old = [(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=--v=2\n"), (CACHE_PATH, CACHED)];
    for (image, file) in [(Image::al2023(flagged), DROP_IN_PATH), (Image::new(&old), ENVIRONMENT_PATH)] {
        assert!(image.shell("taint").status.success());
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

#[test]
fn an_older_image_has_it_in_kubelets_environment() {
    for text in [
        "NODEADM_KUBELET_ARGS=--cloud-provider=external --node-labels=\"x=y\"\nA=1\n",
        "NODEADM_KUBELET_ARGS=\"--v=2 --a='b'\"\nA=1\n",
    ] {
        let image = Image::new(&[(ENVIRONMENT_PATH, text)]);
        image.agree(OnFailure::Label, &[ENVIRONMENT_PATH]);
        assert!(
            image
                .read(ENVIRONMENT_PATH)
                .unwrap()
                .contains("--node-labels=nvme-agent.e6data.com/state=failed,")
        );
        image.agree(OnFailure::Label, &[ENVIRONMENT_PATH]);
    }
}

#[test]
fn a_directory_that_somebody_made_on_an_older_image_is_no_way_for_either() {
    let image = Image::new(&[(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=--v=2\n")]);
    fs::create_dir_all(image.root.join(DROP_IN_DIR)).unwrap();
    image.write("/etc/systemd/system/nodeadm-run.service", "[Service]\nExecStart=/usr/bin/nodeadm init\n");
    image.agree(OnFailure::Label, &[ENVIRONMENT_PATH]);
    assert!(image.read(DROP_IN_PATH).is_none());
}

#[test]
fn a_node_without_drives_says_absent_as_the_agent_would() {
    let image = Image::al2023(CACHED);
    assert!(image.shell("absent").status.success());
    let before = image.inode(DROP_IN_PATH);
    let state = State::new(&image.root, Health::Absent, "NoDrives", "");
    registration::update(&image.root, &Config::default(), &state);
    assert_eq!(image.inode(DROP_IN_PATH), before, "{:?}", image.read(DROP_IN_PATH));
}

#[test]
fn al2_gates_kubelet_and_a_machine_without_eks_gets_nothing() {
    let image = Image::new(&[("/etc/systemd/system/kubelet.service", ""), ("/etc/eks/bootstrap.sh", "")]);
    fs::remove_file(image.root.join("/etc/systemd/system/nodeadm-run.service")).unwrap();
    image.agree(OnFailure::NoJoin, &[KUBELET_HOOK]);
    let image = Image::new(&[]);
    assert!(image.shell("label").status.success());
    assert!(!image.root.join("/etc/eks").exists());
    let wrong = image.shell("lable");
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
