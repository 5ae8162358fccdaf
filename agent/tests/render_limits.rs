//! What Karpenter's definitions do not take `nvme-agent render` refuses, by the option's name, as what cannot hold on a node: an object that
//! is refused when it is applied has been reviewed and merged by then.
#![allow(clippy::unwrap_used)]

#[path = "support/render.rs"]
mod render;
#[path = "support/schema.rs"]
mod schema;

use std::fs;
use std::path::Path;

use render::{SUM, object, render};
use schema::Schema;
use serde_json::Value;

const CLASS: [&str; 9] = [
    "nodeclass",
    "--cluster",
    "prod",
    "--role",
    "KarpenterNodeRole-prod",
    "--url-x86-64",
    "https://example.com/nvme-agent",
    "--sha256-x86-64",
    SUM,
];
const CLASSES: &str = "karpenter.k8s.aws_ec2nodeclasses";
const POOLS: &str = "karpenter.sh_nodepools";

fn taken(definition: &str, arguments: &[&str]) -> Value {
    let object = object(arguments);
    Schema::of(definition, "v1").check(&object);
    object
}

fn refused(arguments: &[&str], option: &str, words: &str) {
    let (code, text, errors) = render(arguments);
    assert_eq!((code, text.as_str()), (4, ""), "{arguments:?}: {errors}");
    assert!(errors.contains(option) && errors.contains(words), "{option}, {words}: {errors}");
}

/// The part of a definition's spec that is at `path`.
fn defined(definition: &str, path: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/crds/{definition}.yaml"));
    let definition: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let path = path.split('.').map(|name| match name {
        "[]" => "/items".to_owned(),
        name => format!("/properties/{name}"),
    });
    let path = format!("/schema/openAPIV3Schema/properties/spec{}", path.collect::<String>());
    let version = definition["spec"]["versions"].as_array().unwrap().iter().find(|one| one["name"] == "v1");
    version.unwrap().pointer(&path).unwrap_or_else(|| panic!("{path}")).clone()
}

fn most(part: &Value, limit: &str) -> usize {
    usize::try_from(part[limit].as_u64().unwrap()).unwrap()
}

/// An option so many times, each with another key.
fn times(option: &'static str, count: usize) -> Vec<String> {
    (0..count).flat_map(|at| [option.to_owned(), format!("k{at}=v")]).collect()
}

fn with<'a>(arguments: &[&'a str], more: &'a [String]) -> Vec<&'a str> {
    arguments.iter().copied().chain(more.iter().map(String::as_str)).collect()
}

#[test]
fn tags_that_something_is_found_by_are_at_most_as_many_as_the_definition_takes() {
    for (option, terms) in
        [("--subnet-tag", "subnetSelectorTerms"), ("--security-group-tag", "securityGroupSelectorTerms")]
    {
        let most = most(&defined(CLASSES, &format!("{terms}.[].tags")), "maxProperties");
        let class = taken(CLASSES, &with(&CLASS, &times(option, most)));
        assert_eq!(class["spec"][terms][0]["tags"].as_object().unwrap().len(), most);
        refused(&with(&CLASS, &times(option, most + 1)), option, &format!("at most {most} tags"));
    }
}

#[test]
fn labels_of_nodes_are_at_most_as_many_as_the_definition_takes() {
    let most = most(&defined(POOLS, "template.metadata.labels"), "maxProperties");
    let pool = ["nodepool", "--workspace", "w", "--profile", "p"];
    let labels = &taken(POOLS, &with(&pool, &times("--node-label", most - 3)))["spec"]["template"]["metadata"]
        ["labels"];
    assert_eq!(labels.as_object().unwrap().len(), most);
    let words = format!("at most {most} labels");
    refused(&with(&pool, &times("--node-label", most - 2)), "--node-label", &words);
    taken(POOLS, &with(&pool[..1], &times("--node-label", most)));
    refused(&with(&pool[..1], &times("--node-label", most + 1)), "--node-label", &words);
}

#[test]
fn a_tag_that_the_definition_refuses_is_refused() {
    let rules = defined(CLASSES, "tags")["x-kubernetes-validations"].to_string();
    for (key, rule) in [
        ("kubernetes.io/cluster/prod", "!k.startsWith('kubernetes.io/cluster')"),
        ("kubernetes.io/cluster", "!k.startsWith('kubernetes.io/cluster')"),
        ("kubernetes.io/clusters", "!k.startsWith('kubernetes.io/cluster')"),
        ("eks:eks-cluster-name", "k !='eks:eks-cluster-name'"),
        ("karpenter.sh/nodepool", "k != 'karpenter.sh/nodepool'"),
        ("karpenter.sh/nodeclaim", "k !='karpenter.sh/nodeclaim'"),
        ("karpenter.k8s.aws/ec2nodeclass", "k !='karpenter.k8s.aws/ec2nodeclass'"),
    ] {
        assert!(rules.contains(rule), "{rule}: {rules}");
        refused(&[&CLASS[..], &["--tag", &format!("{key}=x")]].concat(), "--tag", "is reserved");
    }
    // Others of those who have these are nobody's.
    taken(
        CLASSES,
        &[&CLASS[..], &["--tag", "kubernetes.io/a=x", "--tag", "karpenter.sh/discovery=x"]].concat(),
    );
}

#[test]
fn an_image_is_one_that_karpenter_can_find() {
    let longest = most(&defined(CLASSES, "amiSelectorTerms.[].alias"), "maxLength");
    for ami in ["al2023@latest", "al2023@v20250920"] {
        assert!(ami.len() <= longest);
        taken(CLASSES, &[&CLASS[..], &["--ami", ami]].concat());
    }
    taken(CLASSES, &[&CLASS[..], &["--ami", "al2@v20240807", "--ami-family", "al2"]].concat());
    let long = format!("al2023@v{}", "2".repeat(longest));
    for ami in [
        "al2023@banana",
        "al2023@v2025092",
        "al2023@v202509200",
        "al2023@20250920",
        "al2023@v2025x920",
        "al2@",
        &long,
    ] {
        refused(&[&CLASS[..], &["--ami", ami]].concat(), "--ami", "al2023@vYYYYMMDD");
    }
}

/// The definition asks how the part before the slash ends: dots are nothing to it, and without a slash it is all of the key.
#[test]
fn a_label_of_nodes_is_none_that_the_definition_keeps_for_karpenter() {
    let rules = defined(POOLS, "template.metadata.labels")["x-kubernetes-validations"].to_string();
    for domain in ["karpenter.sh", "karpenter.k8s.aws"] {
        let rule = format!(r#"!x.find(\"^([^/]+)\").endsWith(\"{domain}\")"#);
        assert!(rules.contains(&rule), "{rule}: {rules}");
        for key in
            [format!("{domain}/x"), format!("my{domain}/x"), format!("a.{domain}/x"), format!("a.{domain}")]
        {
            refused(&["nodepool", "--node-label", &format!("{key}=y")], "--node-label", "Karpenter's own");
        }
        let of = ["nodepool", "--profile", "p", "--label-domain", domain];
        refused(&of, "--label-domain", "for the profile");
        let renamed = format!("profile=my{domain}/p");
        refused(&["nodepool", "--profile", "p", "--label-keys", &renamed], "--label-keys", "for the profile");
        // Without a profile the NodePool says nothing of it.
        taken(POOLS, &["nodepool", "--label-domain", domain]);
    }
    taken(POOLS, &["nodepool", "--node-label", "karpenter.sh.example.com/x=y"]);
}

#[test]
fn sizes_and_times_are_what_the_definition_takes_and_go_can_hold() {
    for size in ["20", "59000Gi"] {
        taken(CLASSES, &[&CLASS[..], &["--volume-size", size]].concat());
    }
    refused(&[&CLASS[..], &["--volume-size", "59001"]].concat(), "--volume-size", "20 to 59000");
    for time in ["1s", "999999h", "24h30m"] {
        taken(POOLS, &["nodepool", "--expire-after", time]);
    }
    refused(&["nodepool", "--expire-after", "999999h999999h999999h"], "--expire-after", "at most 999999h");
}

/// What an operator names that becomes the value of a requirement.
#[test]
fn an_instance_family_is_a_labels_value() {
    for family in ["-", "i4i-", "-i4i"] {
        refused(&["nodepool", &format!("--family={family}")], "--family", "such as i4i");
    }
}

/// Half of the deadline is setup's.
#[test]
fn a_timeout_of_mkfs_that_could_not_come_to_pass_is_refused() {
    let with = |mkfs, deadline| [&CLASS[..], &["--mkfs-timeout", mkfs, "--deadline", deadline]].concat();
    for (mkfs, deadline) in [("8m", "600s"), ("301s", "600s"), ("31s", "60s"), ("121s", "240s")] {
        refused(&with(mkfs, deadline), "--mkfs-timeout, --deadline", "setup would be ended first");
    }
    for (mkfs, deadline) in [("300s", "600s"), ("30s", "60s"), ("90s", "3m"), ("120s", "60s")] {
        taken(CLASSES, &with(mkfs, deadline));
    }
}
