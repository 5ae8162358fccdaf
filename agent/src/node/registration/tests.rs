//! Tests of the registration files, on trees that stand in for images.

use std::path::PathBuf;

use super::*;
use crate::config::LabelMethod;

struct Image {
    _dir: tempfile::TempDir,
    root: Root,
}

const CACHED: &str = nodeadm::CACHE_PATH;
const UNREGISTERED: &str = r#"{"effect":"NoExecute","key":"karpenter.sh/unregistered"}"#;
const OURS: &str = r#"{"effect":"NoSchedule","key":"nvme-agent.e6data.com/failed"}"#;
const ENVIRONMENT: &str =
    "NODEADM_KUBELET_ARGS=--cloud-provider=external --node-labels=\"karpenter.sh/nodepool=a,x=y\"\nA=1";

impl Image {
    fn new() -> Image {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let image = Image { _dir: dir, root };
        image.write("/proc/sys/kernel/random/boot_id", "one");
        image
    }

    /// An AL2023 image with the directory of drop-ins.
    fn new_al2023() -> Image {
        let image = Image::new();
        fs::create_dir_all(image.root.join(DROP_IN_DIR)).unwrap();
        image
    }

    fn old_al2023() -> Image {
        let image = Image::new();
        image.write(ENVIRONMENT_PATH, ENVIRONMENT);
        image
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn update(&self, config: &Config, health: Health) -> Registration {
        update(&self.root, config, &state(health))
    }

    /// Every file below /etc, by name.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: PathBuf, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(path, found),
                    path => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.root.join("/etc"), &mut found);
        found.sort();
        found.iter().map(|path| path.strip_prefix(self.root.as_path()).unwrap().to_path_buf()).collect()
    }
}

fn state(health: Health) -> State {
    State {
        layout: "raid0".into(),
        drives: 2,
        capacity_gib: 6984,
        ..State::new(&Root::new("/nonexistent"), health, "ForeignData", "words")
    }
}

fn with(on_failure: OnFailure) -> Config {
    Config { on_failure, ..Config::default() }
}

/// A shell's form as an agent writes it that has judged.
fn judged(text: &str) -> String {
    let version = concat!("capacity-gib=0,nvme-agent.e6data.com/version=", env!("CARGO_PKG_VERSION"));
    text.replace("capacity-gib=0", version)
}

fn ready() -> Config {
    Config::default()
}

#[test]
fn the_failed_forms_are_the_files_that_a_shell_can_write_before_there_is_a_binary() {
    let image = Image::new_al2023();
    for policy in [OnFailure::Label, OnFailure::NoJoin] {
        image.update(&with(policy), Health::Failed);
        assert_eq!(image.read(DROP_IN_PATH), judged(drop_in::FAILED));
    }
    expect_failure(&image.root, &Config::default());
    assert_eq!(image.read(DROP_IN_PATH), drop_in::FAILED);
    image.update(&with(OnFailure::Taint), Health::Failed);
    let alone = drop_in::FAILED_TAINTED.replace(drop_in::TAINTS, &format!("[{OURS}]"));
    assert_eq!(image.read(DROP_IN_PATH), judged(&alone));
    expect_failure(&image.root, &with(OnFailure::Taint));
    assert_eq!(image.read(DROP_IN_PATH), alone);
    let list = format!(r#"{{"spec":{{"kubelet":{{"config":{{"registerWithTaints":[{UNREGISTERED}]}}}}}}}}"#);
    image.write(CACHED, &list);
    image.update(&with(OnFailure::Taint), Health::Failed);
    let both = drop_in::FAILED_TAINTED.replace(drop_in::TAINTS, &format!("[{UNREGISTERED},{OURS}]"));
    assert_eq!(image.read(DROP_IN_PATH), judged(&both));
    expect_failure(&image.root, &with(OnFailure::Taint));
    assert_eq!(image.read(DROP_IN_PATH), both);
}

#[test]
fn another_domain_and_a_profile_are_in_every_key() {
    let image = Image::new_al2023();
    let config = Config { label_domain: "x.example.com".into(), profile: "fast".into(), ..Config::default() };
    let now = image.update(&config, Health::Failed);
    let expected = drop_in::FAILED
        .replace("nvme-agent.e6data.com", "x.example.com")
        .replace("capacity-gib=0", "capacity-gib=0,x.example.com/profile=fast,x.example.com/version=VERSION")
        .replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(image.read(DROP_IN_PATH), expected);
    assert!(expected.contains(&now.labels), "{now:?}");
}

#[test]
fn the_truth_replaces_the_pessimism_and_a_taint_goes_with_it() {
    let image = Image::new_al2023();
    let tainted = image.update(&with(OnFailure::Taint), Health::Failed);
    assert!(tainted.tainted && image.read(DROP_IN_PATH).contains("registerWithTaints"));
    for (health, words) in [
        (Health::Ready, "/state=ready,nvme-agent.e6data.com/layout=raid0,nvme-agent.e6data.com/drives=2,"),
        (Health::Degraded, "/state=degraded,"),
        (Health::Absent, "/state=absent,nvme-agent.e6data.com/layout=none,nvme-agent.e6data.com/drives=0,"),
    ] {
        let now = image.update(&with(OnFailure::Taint), health);
        let text = image.read(DROP_IN_PATH);
        assert!(text.contains(words) && !text.contains("Taints") && !text.contains("failed"), "{text}");
        assert_eq!((now.way, now.tainted, now.problem), (Way::DropIn, false, None));
        assert_eq!(Registration::load(&image.root).unwrap().state, health);
    }
}

#[test]
fn a_flag_of_the_node_config_is_extended_and_what_cannot_be_is_said() {
    let image = Image::new_al2023();
    image.write(CACHED, r#"{"spec":{"kubelet":{"flags":["--register-with-taints=a=b:NoSchedule"]}}}"#);
    image.update(&with(OnFailure::Taint), Health::Failed);
    let text = image.read(DROP_IN_PATH);
    let flag = "      - \"--register-with-taints=a=b:NoSchedule,nvme-agent.e6data.com/failed:NoSchedule\"\n";
    assert!(text.ends_with(flag), "{text}");
    image.write(CACHED, r#"{"spec":{"kubelet":{"flags":["--register-with-taints='$X'"]}}}"#);
    let now = image.update(&with(OnFailure::Taint), Health::Failed);
    assert!(
        !now.tainted
            && now.problem.unwrap().contains("cannot be tainted, so a node that failed must not join")
    );
    assert_eq!(image.read(DROP_IN_PATH), judged(drop_in::FAILED));
    image.write(CACHED, r#"{"spec":{"kubelet":{"flags":["--node-labels=\"a=b","--x=\\d"]}}}"#);
    let now = image.update(&with(OnFailure::Taint), Health::Failed);
    assert!(now.tainted && now.problem.is_none(), "what is odd about other flags: {now:?}");
    image.write(CACHED, "{");
    let now = image.update(&with(OnFailure::Taint), Health::Failed);
    assert!(now.tainted && now.problem.unwrap().contains("not valid JSON"));
}

#[test]
fn other_drop_ins_are_merged_with_as_nodeadm_does_and_one_that_undoes_ours_is_told() {
    let image = Image::new_al2023();
    let list = |key| {
        format!(
            "spec:\n  kubelet:\n    config:\n      registerWithTaints: [{{key: {key}, effect: NoSchedule}}]\n"
        )
    };
    image.write(
        CACHED,
        &format!(r#"{{"spec":{{"kubelet":{{"config":{{"registerWithTaints":[{UNREGISTERED}]}}}}}}}}"#),
    );
    image.write(&format!("{DROP_IN_DIR}/10-team.yaml"), &list("team"));
    let now = image.update(&with(OnFailure::Taint), Health::Failed);
    let both = format!(r#"registerWithTaints: [{{"effect":"NoSchedule","key":"team"}},{OURS}]"#);
    assert!(now.tainted && now.problem.is_none() && image.read(DROP_IN_PATH).contains(&both), "{now:?}");
    image.write(&format!("{DROP_IN_DIR}/90-last.yml"), &list("last"));
    let now = image.update(&with(OnFailure::Taint), Health::Failed);
    let problem = now.problem.unwrap();
    assert!(
        !now.tainted && problem.contains("90-last.yml") && problem.contains("must not join"),
        "{problem}"
    );
    assert_eq!(image.read(DROP_IN_PATH), judged(drop_in::FAILED));
}

#[test]
fn a_power_cut_leaves_nothing_that_nodeadm_reads_and_nothing_for_ever() {
    let image = Image::new_al2023();
    // As the writer names them; nodeadm takes *.yaml, *.yml and *.json only.
    let left = format!("{DROP_IN_DIR}/.50-nvme-agent.yaml.nvme-agent.99.0");
    image.write(&left, "apiVersion: no");
    image.update(&ready(), Health::Ready);
    image.write(&left, "apiVersion: no");
    // Also where there is nothing to write.
    image.update(&ready(), Health::Ready);
    assert_eq!(image.files(), [PathBuf::from(&DROP_IN_PATH[1..])]);
}

#[test]
fn a_second_time_nothing_is_written() {
    use std::os::unix::fs::MetadataExt;
    for image in [Image::new_al2023(), Image::old_al2023()] {
        let first = image.update(&with(OnFailure::Taint), Health::Failed);
        let inode = |path: &str| fs::metadata(image.root.join(path)).unwrap().ino();
        let path = first.path.clone().unwrap();
        let before = (inode(&path), inode(RECORD_PATH));
        assert_eq!(image.update(&with(OnFailure::Taint), Health::Failed), first);
        assert_eq!((inode(&path), inode(RECORD_PATH)), before);
    }
}

/// nodeadm in the mood that a test wants.
struct Mood(Answer);

impl Checker for Mood {
    fn check(&self, _: &str) -> Answer {
        self.0.clone()
    }
}

#[test]
fn what_nodeadm_does_not_take_is_withdrawn_and_an_answer_about_something_else_is_not() {
    let image = Image::new_al2023();
    image.update(&ready(), Health::Ready);
    let ask = |answer| update_with(&image.root, &ready(), &state(Health::Failed), &Mood(answer));
    let now = ask(Answer::Bad("unknown field".into()));
    assert!(image.files().is_empty(), "not the former one either: {:?}", image.files());
    let problem = now.problem.unwrap();
    assert!(problem.contains("withdrawn") && problem.contains("unknown field"), "{problem}");
    assert_eq!((now.path, now.labels.as_str()), (None, ""));
    for answer in [Answer::Unknown, Answer::Good] {
        assert_eq!(ask(answer).problem, None);
        assert_eq!(image.read(DROP_IN_PATH), judged(drop_in::FAILED));
    }
}

#[test]
fn a_file_that_cannot_be_written_is_a_problem_and_no_panic() {
    let image = Image::new_al2023();
    fs::create_dir_all(image.root.join(DROP_IN_PATH)).unwrap();
    let now = image.update(&ready(), Health::Ready);
    assert!(now.problem.unwrap().contains("50-nvme-agent.yaml") && now.path.is_none());
}

#[test]
fn an_older_image_has_it_in_kubelets_environment() {
    let image = Image::old_al2023();
    let now = image.update(&ready(), Health::Ready);
    assert_eq!((now.way, now.path.as_deref(), now.problem), (Way::Environment, Some(ENVIRONMENT_PATH), None));
    let expected = ENVIRONMENT.replace("x=y\"", &format!("x=y\" --node-labels={}", now.labels));
    assert_eq!(image.read(ENVIRONMENT_PATH), expected);
    let failed = image.update(&ready(), Health::Failed);
    assert_eq!(image.read(ENVIRONMENT_PATH), expected.replace(&now.labels, &failed.labels));
}

#[test]
fn there_a_taint_is_a_flag_with_the_taints_that_kubelets_configuration_has() {
    let image = Image::old_al2023();
    image.write(KUBELET_CONFIG, r#"{"registerWithTaints":[{"key":"no","effect":"NoSchedule"}]}"#);
    let list = format!(r#"{{"registerWithTaints":[{UNREGISTERED}]}}"#);
    image.write(&format!("{KUBELET_CONFIG_DIR}/00-nodeadm.conf"), &list);
    image.write(&format!("{KUBELET_CONFIG_DIR}/90-other.conf"), r#"{"maxPods":9}"#);
    let now = image.update(&with(OnFailure::Taint), Health::Failed);
    let flag = " --register-with-taints=karpenter.sh/unregistered:NoExecute,nvme-agent.e6data.com/failed:NoSchedule\nA=1";
    let text = image.read(ENVIRONMENT_PATH);
    assert!(now.tainted && text.ends_with(flag), "{text}");
    image.update(&with(OnFailure::Taint), Health::Ready);
    assert!(!image.read(ENVIRONMENT_PATH).contains("taints"));
}

#[test]
fn a_file_that_nodeadm_has_not_made_yet_is_left_to_it() {
    let image = Image::new();
    image.write("/usr/bin/nodeadm", "");
    fs::set_permissions(
        image.root.join("/usr/bin/nodeadm"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let now = image.update(&ready(), Health::Ready);
    assert_eq!((now.way, now.path), (Way::Environment, None));
    assert!(now.problem.unwrap().contains("the gate of nodeadm-run adds"));
    assert!(image.files().is_empty());
}

#[test]
fn an_environment_that_is_not_understood_stays_byte_for_byte() {
    let image = Image::old_al2023();
    for odd in ["A=1\n", "NODEADM_KUBELET_ARGS=\"--a \\\n --b\"\n"] {
        image.write(ENVIRONMENT_PATH, odd);
        let now = image.update(&ready(), Health::Ready);
        assert!(now.problem.unwrap().contains("left as it is"), "{odd}");
        assert_eq!(image.read(ENVIRONMENT_PATH), odd);
    }
}

#[test]
fn al2_and_a_machine_without_eks_are_left_alone_and_the_record_says_why() {
    for file in ["/etc/eks/bootstrap.sh", "/etc/hostname"] {
        let image = Image::new();
        image.write(file, "x");
        let before = image.files();
        let now = image.update(&with(OnFailure::Taint), Health::Failed);
        assert_eq!((now.way, image.files()), (Way::None, before));
        let problem = Registration::load(&image.root).unwrap().problem.unwrap();
        assert!(
            problem.contains("`report` alone can label the Node") && problem.contains("must not join"),
            "{problem}"
        );
    }
}

#[test]
fn what_the_configuration_no_longer_wants_is_taken_back() {
    for method in [LabelMethod::Api, LabelMethod::None, LabelMethod::Environment] {
        let image = Image::new_al2023();
        image.update(&ready(), Health::Ready);
        image.update(&Config { label_method: method, ..Config::default() }, Health::Ready);
        assert!(image.files().is_empty(), "{method:?}");
    }
    let image = Image::old_al2023();
    image.update(&ready(), Health::Ready);
    image.update(&Config { label_method: LabelMethod::Api, ..Config::default() }, Health::Ready);
    assert_eq!(image.read(ENVIRONMENT_PATH), ENVIRONMENT);
}

#[test]
fn a_teardown_takes_it_back_and_says_what_went() {
    let image = Image::new_al2023();
    image.update(&ready(), Health::Ready);
    assert_eq!(withdraw(&image.root, &ready()).unwrap(), [format!("took our label out of {DROP_IN_PATH}")]);
    assert!(image.files().is_empty() && Registration::load(&image.root).is_none());
    assert_eq!(withdraw(&image.root, &ready()).unwrap(), [""; 0]);
}

#[test]
fn a_feature_file_follows_the_label_and_goes_with_it() {
    for image in [Image::new_al2023(), Image::old_al2023(), Image::new()] {
        let before = image.files();
        let config = Config { feature_file: FeatureFile::Nfd, ..Config::default() };
        for health in [Health::Failed, Health::Ready] {
            assert!(
                !image.update(&config, health).problem.is_some_and(|problem| problem.contains("feature"))
            );
            assert!(image.read(FEATURE_PATH).contains(&format!("-state={health}\n")));
        }
        assert!(withdraw(&image.root, &config).unwrap().iter().any(|line| line.ends_with("/nvme-agent")));
        assert_eq!(image.files(), before);
    }
}

#[test]
fn a_feature_file_that_is_not_ours_is_told() {
    let image = Image::new_al2023();
    image.write(FEATURE_PATH, "mine");
    let now = image.update(&Config { feature_file: FeatureFile::Nfd, ..Config::default() }, Health::Ready);
    assert!(now.path.is_some() && now.problem.unwrap().contains("is not ours"));
}

#[test]
fn a_record_of_another_boot_says_nothing() {
    let image = Image::new_al2023();
    image.update(&ready(), Health::Ready);
    image.write("/proc/sys/kernel/random/boot_id", "two");
    assert_eq!(Registration::load(&image.root), None);
}

#[test]
fn a_configuration_that_names_a_way_which_is_not_there_is_told() {
    let way = |image: &Image, method| Way::of(&image.root, method);
    let (none, why) = way(&Image::old_al2023(), LabelMethod::DropIn);
    assert!(none == Way::None && why.unwrap().contains("nodeadm.d is not here"));
    let (none, why) = way(&Image::new(), LabelMethod::Environment);
    assert!(none == Way::None && why.unwrap().contains("environment"));
    assert_eq!(way(&Image::new_al2023(), LabelMethod::Auto), (Way::DropIn, None));
    assert_eq!(way(&Image::old_al2023(), LabelMethod::Auto), (Way::Environment, None));
}
