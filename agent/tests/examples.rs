//! packaging/karpenter and packaging/managed-nodegroup: what `nvme-agent render` prints, and what goes with it.
#![allow(clippy::unwrap_used)]

#[path = "support/render.rs"]
mod render;

use std::fs;
use std::path::{Path, PathBuf};

use nvme_agent::config::{OnFailure, Overrides, load};
use nvme_agent::node::Keys;
use nvme_agent::root::Root;
use render::{SUM, printed};
use serde_json::{Value, json};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What packaging/karpenter and packaging/managed-nodegroup hold, and how each file is made.
fn examples() -> Vec<(&'static str, Vec<&'static str>)> {
    let binaries = [
        "--url-x86-64",
        "https://artifacts.example.com/nvme-agent/0.1.0/nvme-agent-x86_64",
        "--sha256-x86-64",
        SUM,
        "--url-aarch64",
        "https://artifacts.example.com/nvme-agent/0.1.0/nvme-agent-aarch64",
        "--sha256-aarch64",
        SUM,
    ];
    let e6data = "../packaging/karpenter/e6data.toml";
    let class = [
        &["nodeclass", "--config", e6data, "--cluster", "CLUSTER", "--role", "KarpenterNodeRole-CLUSTER"][..],
        &binaries,
    ]
    .concat();
    let workspace = ["--workspace", "workspace"];
    vec![
        (
            "karpenter/ec2nodeclass.yaml",
            [&class[..], &workspace, &["--name", "e6data-workspace", "--tag", "app=e6data"]].concat(),
        ),
        (
            "karpenter/nodepool.yaml",
            [
                &[
                    "nodepool",
                    "--config",
                    e6data,
                    "--name",
                    "e6data-workspace",
                    "--node-class",
                    "e6data-workspace",
                ][..],
                &workspace,
                &[
                    "--family",
                    "i4i,i8g,m6id,m7gd",
                    "--zone",
                    "eu-west-1a,eu-west-1b,eu-west-1c",
                    "--capacity-type",
                    "on-demand",
                ],
            ]
            .concat(),
        ),
        (
            "managed-nodegroup/userdata-trino.mime",
            [&["launch-template", "--config", "../packaging/managed-nodegroup/trino.toml"][..], &binaries]
                .concat(),
        ),
        (
            "managed-nodegroup/userdata-starburst.mime",
            [
                &[
                    "launch-template",
                    "--config",
                    "../packaging/managed-nodegroup/starburst.toml",
                    "--sysctl",
                    "fs.aio-max-nr=8388608",
                ][..],
                &binaries,
            ]
            .concat(),
        ),
    ]
}

/// With two architectures, a directory, a profile and the taint, as e6data has it.
#[test]
fn the_examples_userdata_is_below_4_kib() {
    let text = fs::read_to_string(here("../packaging/karpenter/ec2nodeclass.yaml")).unwrap();
    let class: Value = serde_saphyr::from_str(&text).unwrap();
    let length = class["spec"]["userData"].as_str().unwrap().len();
    assert!(length < 4096, "{length} bytes");
}

/// `NVME_AGENT_EXAMPLES=write cargo test -p nvme-agent --test examples` makes them anew.
#[test]
fn the_examples_are_what_it_prints() {
    for (file, arguments) in examples() {
        let path = here("../packaging").join(file);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let absolute = |argument: &String| match argument.strip_prefix("../packaging/") {
            Some(name) => here("../packaging").join(name).to_str().unwrap().to_owned(),
            None => argument.clone(),
        };
        let resolved: Vec<String> = arguments.iter().map(absolute).collect();
        let text = printed(&resolved.iter().map(String::as_str).collect::<Vec<_>>());
        let shown: Vec<String> =
            arguments.iter().map(|argument| argument.replace("../packaging/", "packaging/")).collect();
        let command = format!("# nvme-agent render {}\n", shown.join(" "));
        // A comment before the headers would be the body.
        let text = if file.ends_with(".mime") { text } else { format!("{command}{text}") };
        if std::env::var_os("NVME_AGENT_EXAMPLES").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap_or_default(),
            text,
            "{file}: NVME_AGENT_EXAMPLES=write makes it anew"
        );
    }
}

/// Helm values: on ready nodes, in one zone, and below directories that the agent makes.
#[test]
fn values_for_the_charts_fit_the_configurations() {
    let read = |file: &str| -> Value {
        let path = here("../packaging/managed-nodegroup").join(file);
        serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let config = |file: &str| {
        let path = here("../packaging/managed-nodegroup").join(file);
        load(&Root::new("/"), Some(&path), &Overrides::default(), std::iter::empty()).unwrap()
    };
    let (trino, starburst) = (read("trino-values.yaml"), read("starburst-values.yaml"));
    let ready = json!({Keys::default().state(): "ready"});
    for pods in [&trino["worker"], &starburst["worker"], &starburst["coordinator"]] {
        assert_eq!(pods["nodeSelector"], ready);
        let affinity = &pods["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let zones = &affinity["nodeSelectorTerms"][0]["matchExpressions"][0];
        assert_eq!(
            (&zones["key"], zones["values"].as_array().unwrap().len()),
            (&json!("topology.kubernetes.io/zone"), 1)
        );
    }
    let group = &read("nodegroup.yaml")["managedNodeGroups"][0];
    assert_eq!(group["availabilityZones"].as_array().unwrap().len(), 1);
    assert!(group["labels"].get(Keys::default().state()).is_none(), "EKS would write it itself");
    // From zero: by a tag of the Auto Scaling group, where eksctl puts it.
    let hint = format!("k8s.io/cluster-autoscaler/node-template/label/{}", Keys::default().state());
    assert_eq!((&group["tags"][&hint], &group["propagateASGTags"]), (&json!("ready"), &json!(true)));
    let (volume, mount) =
        (&trino["worker"]["additionalVolumes"][0], &trino["worker"]["additionalVolumeMounts"][0]);
    assert_eq!(
        (&volume["hostPath"]["path"], &volume["hostPath"]["type"]),
        (&json!("/tmp/trino"), &json!("Directory"))
    );
    let made = config("trino.toml").directories;
    let used = [trino["server"]["workerExtraConfig"].as_str(), trino["catalogs"]["lake"].as_str()];
    let used: Vec<&str> = used
        .iter()
        .flat_map(|text| text.unwrap().lines())
        .filter_map(|line| line.split_once("=/nvme/"))
        .map(|(_, name)| name)
        .collect();
    assert_eq!((mount["mountPath"].as_str(), used.as_slice()), (Some("/nvme"), &["spill", "cache"][..]));
    for name in used {
        let directory = made.iter().find(|directory| directory.path == format!("trino/{name}")).unwrap();
        assert_eq!((directory.owner.as_str(), directory.mode), ("1000", 0o770));
    }
    assert_eq!(trino["securityContext"]["runAsUser"], 1000);
    let starburst_config = config("starburst.toml");
    assert_eq!(starburst["warpSpeed"]["fileSystem"]["localStorageMountPath"], starburst_config.target);
    assert_eq!((starburst_config.on_failure, starburst_config.expect_drives), (OnFailure::NoJoin, 1));
}
