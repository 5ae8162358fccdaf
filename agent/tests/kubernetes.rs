//! What we hand to Kubernetes satisfies the schemas of who reads it: fixtures/crds, and the API's own types.
#![allow(clippy::unwrap_used)]

#[path = "support/schema.rs"]
mod schema;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use nvme_agent::config::{Config, Directory, OnFailure, Overrides, load};
use nvme_agent::node::nodeadm::CACHE_PATH;
use nvme_agent::node::registration::{self, DROP_IN_DIR, DROP_IN_PATH, taints};
use nvme_agent::node::{Keys, labels};
use nvme_agent::root::Root;
use nvme_agent::state::{Health, State};
use schema::Schema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The documents of a file of packaging/kubernetes.
fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(here("../packaging/kubernetes").join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn one(file: &str) -> Value {
    let mut all = documents(file);
    assert_eq!(all.len(), 1, "{file}");
    all.remove(0)
}

/// The object as the API knows it: a field that it does not know is lost on the way.
fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(&serde_json::to_value(&typed).unwrap(), object, "a field that the API does not know");
    typed
}

#[test]
fn the_schemas_find_what_is_wrong() {
    let schema = Schema::of("node.eks.aws_nodeconfigs", "v1alpha1");
    let node_config = |kubelet: Value| {
        schema.problems(&json!({"apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": {"kubelet": kubelet}}))
    };
    assert_eq!(node_config(json!({"flags": ["--v=2"], "config": {"maxPods": 9}})), [""; 0]);
    for wrong in
        [json!({"flags": "--v=2"}), json!({"flag": ["--v=2"]}), json!({"flags": [1]}), json!({"config": []})]
    {
        assert_eq!(node_config(wrong.clone()).len(), 1, "{wrong}");
    }
    assert_eq!(schema.problems(&json!({"apiVersion": "v1", "kind": "NodeConfig"})).len(), 1);
}

#[test]
fn every_form_of_the_drop_in_is_a_node_config() {
    let schema = Schema::of("node.eks.aws_nodeconfigs", "v1alpha1");
    let cached = [
        r#"{"spec":{"kubelet":{"config":{"registerWithTaints":[{"effect":"NoExecute","key":"karpenter.sh/unregistered"}]}}}}"#,
        r#"{"spec":{"kubelet":{"flags":["--register-with-taints=a=b:NoSchedule"]}}}"#,
        "{}",
    ];
    for cached in cached {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join(DROP_IN_DIR)).unwrap();
        fs::create_dir_all(root.join(CACHE_PATH).parent().unwrap()).unwrap();
        fs::write(root.join(CACHE_PATH), cached).unwrap();
        for on_failure in [OnFailure::Label, OnFailure::Taint, OnFailure::NoJoin] {
            for health in [Health::Ready, Health::Degraded, Health::Failed, Health::Absent] {
                let config = Config { on_failure, profile: "fast".into(), ..Config::default() };
                registration::update(&root, &config, &State::new(&root, health, "X", ""));
                let text = fs::read_to_string(root.join(DROP_IN_PATH)).unwrap();
                let object: Value = serde_saphyr::from_str(&text).unwrap();
                schema.check(&object);
                let kubelet = &object["spec"]["kubelet"];
                let labels = kubelet["flags"][0].as_str().unwrap();
                assert!(
                    labels.starts_with("--node-labels=") && labels.contains(&format!("/state={health},"))
                );
                let tainted = text.contains("nvme-agent.e6data.com/failed");
                assert_eq!(tainted, health == Health::Failed && on_failure == OnFailure::Taint, "{text}");
                if let Some(list) = kubelet["config"]["registerWithTaints"].as_array() {
                    assert_eq!(list.last(), Some(&taints::ours(&Keys::default())));
                }
            }
        }
    }
}

#[test]
fn the_files_that_a_shell_writes_are_node_configs() {
    let schema = Schema::of("node.eks.aws_nodeconfigs", "v1alpha1");
    for file in ["50-nvme-agent.yaml", "50-nvme-agent-absent.yaml", "50-nvme-agent-tainted.yaml"] {
        let text = fs::read_to_string(here("../packaging/registration").join(file)).unwrap();
        let text = text.replace("@TAINTS@", r#"[{"effect":"NoSchedule","key":"x"}]"#);
        schema.check(&serde_saphyr::from_str(&text).unwrap());
    }
}

const PROFILE: &str = "nvme-raid0";

#[test]
fn the_rule_is_on_our_condition_and_its_taint_is_the_node_pools() {
    let rule = one("node-readiness-rule.yaml");
    Schema::of("readiness.node.x-k8s.io_nodereadinessrules", "v1alpha1").check(&rule);
    let pool = one("nodepool.yaml");
    Schema::of("karpenter.sh_nodepools", "v1").check(&pool);
    let keys = Keys::default();
    let spec = &rule["spec"];
    let condition = &spec["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["requiredStatus"]),
        (&json!(keys.condition()), &json!("True"))
    );
    // Who never reported is not ready; the schema's rules in CEL want that left out for bootstrap-only.
    assert_eq!(
        (&condition["defaultStatus"], &spec["enforcementMode"]),
        (&json!("Unknown"), &json!("continuous"))
    );
    let template = &pool["spec"]["template"];
    assert_eq!(template["spec"]["startupTaints"], json!([spec["taint"]]));
    // The schema's rules in CEL, which a validator of JSON Schema does not run.
    let (prefix, name) = spec["taint"]["key"].as_str().unwrap().split_once('/').unwrap();
    assert!(prefix == "readiness.k8s.io" && labels::is_label_value(name));
    assert_eq!(spec["nodeSelector"]["matchLabels"], template["metadata"]["labels"]);
    assert_eq!(template["metadata"]["labels"], json!({keys.profile(): PROFILE}));
    assert_ne!(template["spec"]["expireAfter"], "Never");
}

#[test]
fn a_node_pool_neither_writes_the_state_nor_asks_for_it() {
    let text = one("nodepool.yaml")["spec"].to_string();
    assert!(!text.contains(&Keys::default().state()), "{text}");
}

/// The directories that the pods mount, as the agent makes them.
fn directories() -> Vec<Directory> {
    let file = here("../packaging/kubernetes/directories.toml");
    load(&Root::new("/"), Some(&file), &Overrides::default(), std::iter::empty()).unwrap().directories
}

/// The user of a pod may write to a directory of ours: by owner, then group, then others, as the kernel asks.
fn may_write(directory: &Directory, user: i64, group: i64) -> bool {
    let shift = match () {
        () if directory.owner == user.to_string() => 6,
        () if directory.group == group.to_string() => 3,
        () => 0,
    };
    directory.mode >> shift & 0o3 == 0o3
}

fn check_pod(pod: &Pod) {
    let spec = pod.spec.as_ref().unwrap();
    let user = spec.security_context.as_ref().unwrap();
    assert_eq!(
        (user.run_as_user, user.run_as_group, user.run_as_non_root),
        (Some(1000), Some(1000), Some(true))
    );
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let security = container.security_context.as_ref().unwrap();
        assert_eq!((security.allow_privilege_escalation, security.privileged), (Some(false), None));
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        assert!(!requests.is_some_and(|r| r.contains_key("ephemeral-storage")), "no node would be found");
        let nvme = container.volume_mounts.iter().flatten().find(|mount| mount.name == "nvme").unwrap();
        // kubelet makes a subPath root's own.
        assert_eq!((nvme.read_only, &nvme.sub_path, &nvme.sub_path_expr), (None, &None, &None));
    }
}

#[test]
fn pods_reach_a_directory_of_ours_never_tmp_itself_and_may_write_there_as_user_1000() {
    let keys = Keys::default();
    for (file, key, value) in [
        ("pod-e6data-executor.yaml", keys.profile(), PROFILE),
        ("pod-trino-worker.yaml", keys.state(), "ready"),
        ("pod-starburst-worker.yaml", keys.state(), "ready"),
    ] {
        let mut all = documents(file);
        let pod: Pod = typed(&all.remove(0));
        for config in &all {
            let config: ConfigMap = typed(config);
            for path in
                config.data.unwrap().values().flat_map(|text| text.lines()).filter(|l| l.contains("=/nvme/"))
            {
                let name = path.rsplit('/').next().unwrap();
                let below = format!("{}/{name}", file.split('-').nth(1).unwrap());
                assert!(directories().iter().any(|d| d.path == below && may_write(d, 1000, 1000)), "{below}");
            }
        }
        check_pod(&pod);
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_selector, Some([(key, value.to_owned())].into()), "{file}");
        let volume = spec.volumes.as_ref().unwrap().iter().find(|volume| volume.name == "nvme").unwrap();
        let host = volume.host_path.as_ref().unwrap();
        assert_eq!(host.type_.as_deref(), Some("Directory"), "a directory that is missing must not be made");
        let below = host.path.strip_prefix("/tmp/").unwrap();
        let directory = directories().into_iter().find(|d| d.path == below).unwrap();
        assert!(may_write(&directory, 1000, 1000) && directory.mode & 0o007 == 0, "{directory:?}");
    }
}

/// The check that every pod begins with, run against a mountinfo that stands in for the container's.
#[test]
fn a_pod_starts_only_on_the_drives_and_where_it_may_write() {
    let pods = ["pod-e6data-executor.yaml", "pod-trino-worker.yaml", "pod-starburst-worker.yaml"];
    let scripts = pods.map(|file| {
        let pod = &documents(file)[0];
        let init = &pod["spec"]["initContainers"][0];
        assert_eq!(init["env"][0]["value"], init["volumeMounts"][0]["mountPath"], "{file}");
        init["command"][2].as_str().unwrap().to_owned()
    });
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("nvme");
    fs::create_dir(&at).unwrap();
    let info = dir.path().join("mountinfo");
    for script in scripts {
        let script = script.replace("/proc/self/mountinfo", info.to_str().unwrap());
        let run = |line: &str, at: &Path| {
            let root = "1 0 0:1 / / rw - overlay overlay rw\n";
            fs::write(&info, format!("{root}{}\n", line.replace("AT", at.to_str().unwrap()))).unwrap();
            Command::new("sh").args(["-c", &script]).env("DIR", at).output().unwrap()
        };
        for device in ["/dev/md0", "/dev/md127", "/dev/md/0_0", "/dev/nvme1n1"] {
            let output = run(&format!("9 1 9:0 /e6data AT rw,noatime master:1 - ext4 {device} rw"), &at);
            assert!(output.status.success(), "{device}: {}", String::from_utf8_lossy(&output.stderr));
        }
        for other in [
            "9 1 259:1 /tmp/e6data AT rw - xfs /dev/nvme0n1p1 rw",
            "9 1 0:30 /e6data AT rw - tmpfs tmpfs rw",
            "9 1 9:0 /e6data /elsewhere rw - ext4 /dev/md0 rw",
        ] {
            let output = run(other, &at);
            assert_eq!(output.status.code(), Some(1), "{other}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("is not on the local NVMe drives"));
        }
        let gone = dir.path().join("gone");
        assert!(!run("9 1 9:0 / AT rw - ext4 /dev/md0 rw", &gone).status.success(), "nobody can write there");
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "the probe is gone");
    }
}

#[test]
fn the_local_volume_is_of_our_class_and_directory() {
    let all = documents("local-volume.yaml");
    let class: StorageClass = typed(&all[0]);
    let volume: PersistentVolume = typed(&all[1]);
    let claim: PersistentVolumeClaim = typed(&all[2]);
    let pod: Pod = typed(&all[3]);
    assert_eq!(class.volume_binding_mode.as_deref(), Some("WaitForFirstConsumer"));
    let spec = volume.spec.unwrap();
    assert_eq!(
        (spec.storage_class_name.clone(), claim.spec.unwrap().storage_class_name),
        (class.metadata.name.clone(), class.metadata.name)
    );
    let below = spec.local.unwrap().path.strip_prefix("/tmp/").unwrap().to_owned();
    assert!(directories().iter().any(|d| d.path == below && may_write(d, 1000, 1000)));
    check_pod(&pod);
    let volumes = pod.spec.unwrap().volumes.unwrap();
    assert!(volumes.iter().all(|volume| volume.host_path.is_none()), "restricted forbids it");
    assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, claim.metadata.name.unwrap());
}

#[test]
fn every_file_is_named_on_the_page() {
    let page = fs::read_to_string(here("../docs/kubernetes.md")).unwrap();
    for entry in fs::read_dir(here("../packaging/kubernetes")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&format!("packaging/kubernetes/{name}")), "{name}");
    }
    for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let file = link.split('#').next().unwrap();
        assert!(link.starts_with("http") || file.is_empty() || here("../docs").join(file).exists(), "{link}");
    }
}
