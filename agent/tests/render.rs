//! `nvme-agent render`, as it is typed: what it prints is valid, and what it refuses is named.
#![allow(clippy::unwrap_used)]

#[path = "support/render.rs"]
mod render;
#[path = "support/schema.rs"]
mod schema;

use std::fs;

use assert_cmd::Command;
use base64::Engine as _;
use nvme_agent::config::{Config, OnFailure, Overrides, load};
use nvme_agent::node::Keys;
use nvme_agent::root::Root;
use render::{SUM, object, printed, render};
use schema::Schema;
use serde_json::{Value, json};

const URL: &str = "https://artifacts.example.com/nvme-agent/0.1.0/nvme-agent-x86_64";
const BINARY: [&str; 4] = ["--url-x86-64", URL, "--sha256-x86-64", SUM];
const CHANNEL: [&str; 4] = [
    "--channel",
    "https://artifacts.example.com/nvme-agent/stable/manifest",
    "--public-key",
    "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
];
const CLASS: [&str; 4] = ["--cluster", "prod", "--role", "KarpenterNodeRole-prod"];

fn class(more: &[&str]) -> Value {
    object(&[&["nodeclass"], &CLASS[..], &BINARY, more].concat())
}

#[test]
fn node_classes_of_every_kind_are_valid() {
    let schema = Schema::of("karpenter.k8s.aws_ec2nodeclasses", "v1");
    let amis: [&[&str]; 4] = [
        &[],
        &["--ami", "al2023@v20250920"],
        &["--ami", "ami-0123456789abcdef0"],
        &["--ami", "al2@latest", "--ami-family", "al2"],
    ];
    let selectors: [&[&str]; 2] = [
        &[],
        &[
            "--subnet-tag",
            "Name=private",
            "--subnet-tag",
            "tier=2",
            "--security-group-tag",
            "aws:eks:cluster-name=prod",
        ],
    ];
    let named: [&[&str]; 2] = [
        &[],
        &[
            "--workspace",
            "analytics",
            "--object-label",
            "a.b/c=d",
            "--tag",
            "team=data",
            "--tag",
            "Cost Center=1 2",
            "--volume-size",
            "200",
        ],
    ];
    for ami in amis {
        for selector in selectors {
            for names in named {
                let class = class(&[ami, selector, names].concat());
                schema.check(&class);
                rules_of_a_node_class(&class["spec"]);
            }
        }
    }
}

/// The definition's rules in CEL, which a validator of JSON Schema does not run.
fn rules_of_a_node_class(spec: &Value) {
    assert!(spec["role"].as_str().is_some_and(|role| !role.is_empty()) && spec["instanceProfile"].is_null());
    let [ami] = spec["amiSelectorTerms"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!(ami.as_object().unwrap().len(), 1);
    match ami["alias"].as_str() {
        Some(alias) => assert!(
            ["al2", "al2023"].contains(&alias.split('@').next().unwrap()) && spec["amiFamily"].is_null()
        ),
        None => assert_eq!(spec["amiFamily"], "AL2023"),
    }
    for terms in ["subnetSelectorTerms", "securityGroupSelectorTerms"] {
        let tags = spec[terms][0]["tags"].as_object().unwrap();
        assert!(!tags.is_empty() && tags.iter().all(|(key, value)| !key.is_empty() && value != ""));
    }
    assert!(spec["blockDeviceMappings"][0]["ebs"]["volumeSize"].as_str().unwrap().ends_with("Gi"));
}

#[test]
fn a_node_class_carries_what_the_old_one_did_and_userdata_that_taints() {
    let class = class(&["--workspace", "analytics", "--tag", "team=data", "--volume-size", "150Gi"]);
    let labels = json!({"app": "e6data", "e6data-workspace-name": "analytics"});
    assert_eq!(class["metadata"], json!({"name": "local-nvme", "labels": labels}));
    let mut spec = class["spec"].clone();
    let userdata = spec["userData"].take();
    spec.as_object_mut().unwrap().remove("userData");
    let discovery = json!([{"tags": {"karpenter.sh/discovery": "prod"}}]);
    assert_eq!(
        spec,
        json!({
            "amiSelectorTerms": [{"alias": "al2023@latest"}],
            "role": "KarpenterNodeRole-prod",
            "subnetSelectorTerms": discovery,
            "securityGroupSelectorTerms": discovery,
            "tags": {"team": "data"},
            "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"volumeSize": "150Gi", "volumeType": "gp3"}}],
        })
    );
    let script = printed(&[&["userdata"], &BINARY[..], &["--on-failure", "taint"]].concat());
    assert_eq!(userdata, script.as_str());
    assert_eq!(configured(&script).on_failure, OnFailure::Taint);
}

/// The configuration that a script writes.
fn configured(script: &str) -> Config {
    let written = script.split_once("# By userData\n").map(|(_, rest)| rest.split_once("EOF\n").unwrap().0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, written.unwrap_or_default()).unwrap();
    load(&Root::new("/"), Some(&file), &Overrides::default(), std::iter::empty()).unwrap()
}

#[test]
fn the_policy_is_the_one_that_is_named_else_the_one_that_works_there() {
    let dir = tempfile::tempdir().unwrap();
    let (silent, says) = (dir.path().join("silent.toml"), dir.path().join("says.toml"));
    fs::write(&silent, "profile = \"x\"\n").unwrap();
    fs::write(&says, "on_failure = \"label\"\n").unwrap();
    let (silent, says) = (silent.to_str().unwrap(), says.to_str().unwrap());
    for (more, expected) in [
        (&[][..], OnFailure::Taint),
        (&["--on-failure", "no-join"], OnFailure::NoJoin),
        (&["--config", silent], OnFailure::Taint),
        (&["--config", says], OnFailure::Label),
        (&["--config", says, "--on-failure", "no-join"], OnFailure::NoJoin),
    ] {
        let script = class(more)["spec"]["userData"].as_str().unwrap().to_owned();
        assert_eq!(configured(&script).on_failure, expected, "{more:?}");
    }
    let plain = printed(&[&["userdata"], &BINARY[..]].concat());
    assert_eq!(configured(&plain), Config::default());
}

#[test]
fn node_pools_of_every_kind_are_valid() {
    let schema = Schema::of("karpenter.sh_nodepools", "v1");
    let where_: [&[&str]; 3] = [
        &[],
        &["--family", "i4i,m6id,i8g", "--zone", "eu-west-1a,eu-west-1b"],
        &["--family", "i4i", "--family", "im4gn", "--capacity-type", "spot,on-demand", "--arch", "arm64"],
    ];
    let named: [&[&str]; 3] = [
        &[],
        &["--workspace", "analytics", "--node-label", "tier=hot", "--profile", "nvme-raid0"],
        &[
            "--startup-taint",
            "--expire-after",
            "24h",
            "--cpu-limit",
            "64",
            "--name",
            "x",
            "--node-class",
            "y",
        ],
    ];
    for location in where_ {
        for names in named {
            let pool = object(&[&["nodepool"], location, names].concat());
            schema.check(&pool);
            let text = pool["spec"].to_string();
            assert!(!text.contains(&Keys::default().state()), "{text}");
            let template = &pool["spec"]["template"];
            for requirement in template["spec"]["requirements"].as_array().unwrap() {
                assert!(!requirement["values"].as_array().unwrap().is_empty(), "In wants a value");
            }
            for label in template["metadata"]["labels"].as_object().into_iter().flatten() {
                assert!(!label.0.contains("karpenter"), "its domains are restricted");
            }
        }
    }
}

#[test]
fn a_node_pool_carries_what_the_old_one_did_and_ends() {
    let pool = object(&[
        "nodepool",
        "--workspace",
        "analytics",
        "--family",
        "i4i,m6id",
        "--zone",
        "eu-west-1a",
        "--cpu-limit",
        "100",
        "--node-class",
        "c",
    ]);
    let spec = &pool["spec"];
    let node = &spec["template"]["spec"];
    assert_eq!(spec["limits"], json!({"cpu": 100}));
    assert_eq!(spec["disruption"], json!({"consolidationPolicy": "WhenEmpty", "consolidateAfter": "30s"}));
    assert_eq!(
        node["nodeClassRef"],
        json!({"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "c"})
    );
    let taint = json!([{"key": "e6data-workspace-name", "value": "analytics", "effect": "NoSchedule"}]);
    assert_eq!((&node["taints"], &node["expireAfter"]), (&taint, &json!("168h")));
    let labels = json!({"app": "e6data", "e6data-workspace-name": "analytics"});
    assert_eq!((&pool["metadata"]["labels"], &spec["template"]["metadata"]["labels"]), (&labels, &labels));
    let requirement = |key: &str| {
        let all = node["requirements"].as_array().unwrap();
        all.iter().find(|one| one["key"] == key).map(|one| one["values"].clone()).unwrap()
    };
    assert_eq!(requirement("karpenter.k8s.aws/instance-family"), json!(["i4i", "m6id"]));
    assert_eq!(requirement("topology.kubernetes.io/zone"), json!(["eu-west-1a"]));
}

#[test]
fn a_launch_template_is_a_multipart_that_a_custom_image_joins_by() {
    let script = printed(&[&["userdata"], &BINARY[..]].concat());
    let text = printed(&[&["launch-template"], &BINARY[..]].concat());
    let (headers, parts) = parts(&text);
    assert!(
        headers.starts_with("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n"),
        "{headers}"
    );
    assert_eq!(parts, [("text/x-shellscript; charset=\"us-ascii\"".to_owned(), script.clone())]);
    let custom = [
        "--ami",
        "ami-0123456789abcdef0",
        "--cluster",
        "prod",
        "--api-server",
        "https://0123.gr7.eu-west-1.eks.amazonaws.com",
        "--certificate-authority",
        "Y2E=",
        "--service-cidr",
        "10.100.0.0/16",
    ];
    let json = printed(
        &[&["launch-template", "--output", "json", "--tag", "team=data"], &custom[..], &BINARY].concat(),
    );
    let data: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&data["ImageId"], &data["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]),
        (&json!(custom[1]), &json!(100))
    );
    let userdata =
        base64::engine::general_purpose::STANDARD.decode(data["UserData"].as_str().unwrap()).unwrap();
    let (_, parts) = self::parts(&String::from_utf8(userdata).unwrap());
    assert_eq!((parts.len(), &parts[0].1), (2, &script), "ours first");
    assert_eq!(parts[1].0, "application/node.eks.aws");
    let config: Value = serde_saphyr::from_str(&parts[1].1).unwrap();
    Schema::of("node.eks.aws_nodeconfigs", "v1alpha1").check(&config);
    assert_eq!(config["spec"]["cluster"]["name"], "prod");
}

/// Headers, and type and text of each part, as email's own grammar has them.
fn parts(text: &str) -> (String, Vec<(String, String)>) {
    let (headers, body) = text.split_once("\n\n").unwrap();
    let body = body.strip_suffix("\n--//--\n").unwrap().strip_prefix("--//\n").unwrap();
    let part = |part: &str| {
        let (kind, text) = part.split_once("\n\n").unwrap();
        (kind.strip_prefix("Content-Type: ").unwrap().to_owned(), text.to_owned())
    };
    (format!("{headers}\n"), body.split("\n--//\n").map(part).collect())
}

#[test]
fn a_wrong_option_is_refused_by_its_name() {
    let userdata = |more: &[&str]| render(&[&["userdata"], more].concat());
    let with = |what: &[&str], more: &[&str]| render(&[what, &BINARY[..], more].concat());
    let class = |more: &[&str]| with(&["nodeclass"], &[&CLASS[..], more].concat());
    let pool = |more: &[&str]| render(&[&["nodepool"], more].concat());
    for ((code, text, errors), expected, option, words) in [
        (userdata(&[]), 2, "--url-x86-64", "required"),
        (userdata(&BINARY[..2]), 2, "--sha256-x86-64", "required"),
        (
            userdata(&["--url-x86-64", "https://a/$(id)", "--sha256-x86-64", SUM]),
            4,
            "--url-x86-64",
            "expected https://",
        ),
        (
            userdata(&["--url-aarch64", URL, "--sha256-aarch64", "12"]),
            4,
            "--sha256-aarch64",
            "64 hexadecimal",
        ),
        (with(&["userdata"], &CHANNEL), 2, "--channel", "cannot be used with"),
        (
            userdata(&[&CHANNEL[..], &["--ami-family", "al2"]].concat()),
            4,
            "--channel",
            "cannot check the signature",
        ),
        (userdata(&CHANNEL[..2]), 2, "--public-key", "required"),
        (userdata(&CHANNEL[2..]), 2, "--channel", "required"),
        (userdata(&[CHANNEL[0], "https://a", CHANNEL[2], CHANNEL[3]]), 4, "--channel", "expected a path"),
        (userdata(&[CHANNEL[0], CHANNEL[1], CHANNEL[2], "RWQ$(id)"]), 4, "--public-key", "minisign.pub"),
        (with(&["userdata"], &["--region", "eu'west"]), 4, "--region", "such as eu-west-1"),
        (with(&["userdata"], &["--deadline", "14m"]), 4, "--deadline", "15 minutes"),
        (with(&["userdata"], &["--on-failure", "pray"]), 4, "--on-failure", "label, taint, no-join"),
        (with(&["userdata"], &["--profile", "a`b"]), 4, "--profile", "label value"),
        (
            with(&["userdata"], &["--match-models", "a\"b"]),
            4,
            "--match-models",
            "which is what userData can carry",
        ),
        (with(&["userdata"], &["--label-method", "api"]), 4, "--label-method", "auto or dropin"),
        (with(&["userdata"], &["--wipe-foreign"]), 4, "--wipe-foreign", "never in userData"),
        (with(&["userdata"], &["--ami-family", "Bottlerocket"]), 4, "--ami-family", "runs no scripts"),
        (class(&["--ami", "bottlerocket@latest"]), 4, "--ami", "runs no scripts"),
        (class(&["--ami", "windows2022@latest"]), 4, "--ami", "for Linux"),
        (class(&["--ami-family", "auto-mode"]), 4, "--ami-family", "no userData"),
        (class(&["--ami-family", "fargate"]), 4, "--ami-family", "no node of yours"),
        (class(&["--ami-family", "windows2022"]), 4, "--ami-family", "for Linux"),
        (class(&["--ami-family", "ubuntu"]), 4, "--ami-family", "/etc/eks/bootstrap.sh"),
        (class(&["--ami-family", "custom"]), 4, "--ami-family", "first part"),
        (class(&["--ami", "al2@latest"]), 4, "--ami-family", "al2 for al2@"),
        (
            with(&["nodeclass", "--cluster", "prod", "--role", "arn:aws:iam::1:role/x"], &[]),
            4,
            "--role",
            "not its ARN",
        ),
        (class(&["--tag", "aws:x=y"]), 4, "--tag", "reserved"),
        (class(&["--tag", "kubernetes.io/cluster/prod=owned"]), 4, "--tag", "reserved"),
        (class(&["--tag", "a=b", "--tag", "a=c"]), 4, "--tag", "twice"),
        (class(&["--subnet-tag", "Name="]), 4, "--subnet-tag", "a value"),
        (class(&["--workspace", "a b"]), 4, "--workspace", "label value"),
        (class(&["--workspace", "a", "--object-label", "app=b"]), 4, "--object-label", "twice"),
        (with(&["nodeclass", "--role", "r"], &[]), 4, "--subnet-tag", "--cluster NAME"),
        (class(&["--volume-size", "1"]), 4, "--volume-size", "20 to 59000"),
        (pool(&["--expire-after", "Never"]), 4, "--expire-after", "no other end"),
        (pool(&["--family", "i4i.large"]), 4, "--family", "without a size"),
        (pool(&["--zone", "eu-west-1"]), 4, "--zone", "such as eu-west-1a"),
        (pool(&["--cpu-limit", "0"]), 2, "--cpu-limit", "0 is not in"),
        (pool(&["--node-label", "nvme-agent.e6data.com/state=ready"]), 4, "--node-label", "write it itself"),
        (pool(&["--node-label", "nvme-agent.e6data.com/version=1"]), 4, "--node-label", "write it itself"),
        (pool(&["--node-label", "karpenter.sh/x=y"]), 4, "--node-label", "Karpenter's own"),
        (pool(&["--ami-family", "bottlerocket"]), 4, "--ami-family", "runs no scripts"),
        (with(&["launch-template"], &["--ami", "ami-01"]), 2, "--cluster", "required"),
        (with(&["launch-template"], &["--ami-family", "custom"]), 4, "--ami-family", "MIME multipart"),
    ] {
        assert_eq!((code, text.as_str()), (expected, ""), "{option}: {errors}");
        assert!(errors.contains(option) && errors.contains(words), "{option}, {words}: {errors}");
    }
}

#[test]
fn a_channel_is_in_whatever_carries_userdata() {
    let script = printed(&[&["userdata"], &CHANNEL[..]].concat());
    let class = object(&[&["nodeclass", "--on-failure", "label"], &CLASS[..], &CHANNEL].concat());
    assert_eq!(class["spec"]["userData"].as_str(), Some(&*script));
    let mime = printed(&[&["launch-template"], &CHANNEL[..]].concat());
    assert!(mime.contains(&script));
    for words in
        ["c=https://artifacts.example.com/nvme-agent/stable/\n", "url=$c\"manifest\"\n", "MCowBQYDK2VwAyEA"]
    {
        assert!(script.contains(words), "{words}");
    }
}

#[test]
fn a_credential_in_an_address_is_not_repeated() {
    for url in ["https://b.s3.amazonaws.com/k?X-Amz-Signature=hunter2", "https://user:hunter2@example.com/k"]
    {
        let (code, text, errors) = render(&["userdata", "--url-x86-64", url, "--sha256-x86-64", SUM]);
        assert_eq!((code, text.as_str()), (4, ""));
        assert!(errors.contains("--url-x86-64") && !errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn neither_this_machines_configuration_nor_its_environment_is_the_nodes() {
    let output = Command::cargo_bin("nvme-agent")
        .unwrap()
        .env_clear()
        .env("NVME_AGENT_TARGET", "/data")
        .args([&["render", "userdata"], &BINARY[..]].concat())
        .output()
        .unwrap();
    assert!(!String::from_utf8(output.stdout).unwrap().contains("/data"));
}

/// A web server's answer to everybody.
fn serve(body: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    format!("http://{address}/nvme-agent")
}

#[test]
fn verify_prints_only_what_can_be_had_and_has_that_sum() {
    let url = serve("abc");
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let verify =
        |url: &str, sum: &str| render(&["userdata", "--verify", "--url-x86-64", url, "--sha256-x86-64", sum]);
    let (code, text, errors) = verify(&url, sum);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(text.contains(sum));
    let (code, text, errors) = verify(&url, SUM);
    assert_eq!((code, text.as_str()), (1, ""));
    assert!(errors.contains("--sha256-x86-64") && errors.contains(sum) && errors.contains(SUM), "{errors}");
    let (code, text, errors) = verify("http://127.0.0.1:1/x", sum);
    assert_eq!((code, text.as_str()), (1, ""));
    assert!(errors.contains("curl"), "{errors}");
    let left = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    assert_eq!(left.filter(|e| e.file_name().to_string_lossy().starts_with("nvme-agent-verify-")).count(), 0);
}
