//! What the pages on upgrades and security hand to an operator is what Karpenter and IAM take, and no more than is needed.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

#[path = "support/schema.rs"]
mod schema;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use schema::Schema;
use serde_json::{Value, json};

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn statements(file: &str) -> Vec<Value> {
    let policy: Value = serde_json::from_str(&text(&format!("packaging/iam/{file}"))).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().unwrap().clone();
    assert!(statements.iter().all(|one| one["Effect"] == "Allow" && one.get("NotAction").is_none()));
    statements
}

/// A string, or a list of some.
fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::String(one) => vec![one],
        many => many.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect(),
    }
}

fn actions(statements: &[Value]) -> BTreeSet<&str> {
    statements.iter().flat_map(|one| words(&one["Action"])).collect()
}

#[test]
fn a_node_may_fetch_the_binary_and_nothing_else() {
    let fetch = statements("node-fetch.json");
    assert_eq!(actions(&fetch), BTreeSet::from(["s3:GetObject", "kms:Decrypt"]));
    for statement in &fetch {
        let action = words(&statement["Action"]);
        for resource in words(&statement["Resource"]) {
            assert!(!resource.contains(['*', '?']), "{resource}");
            let of = if action == ["kms:Decrypt"] { "arn:aws:kms:" } else { "arn:aws:s3:::BUCKET/" };
            assert!(resource.starts_with(of), "{resource}");
        }
    }
    let key = fetch.iter().find(|one| one["Action"] == "kms:Decrypt").unwrap();
    assert_eq!(key["Condition"]["StringEquals"]["kms:ViaService"], "s3.REGION.amazonaws.com");
    // What is allowed is what the script does: one object by its key.
    let script = text("packaging/userdata/userdata.sh");
    let calls: Vec<&str> = script.lines().filter(|line| line.contains("aws ")).collect();
    assert!(calls.len() == 1 && calls[0].contains("-- aws s3 cp "), "{calls:?}");
}

#[test]
fn through_the_endpoint_goes_the_same_and_what_images_consist_of() {
    let endpoint = statements("s3-endpoint.json");
    assert_eq!(actions(&endpoint), BTreeSet::from(["s3:GetObject"]));
    let (ours, others): (Vec<&Value>, Vec<&Value>) =
        endpoint.iter().partition(|one| one["Sid"] == "NvmeAgentBinary");
    assert_eq!(ours[0]["Resource"], statements("node-fetch.json")[0]["Resource"]);
    // An endpoint's principal is everybody: the role is a condition.
    assert!(ours[0]["Condition"]["ArnEquals"]["aws:PrincipalArn"].as_str().unwrap().contains(":role/"));
    // Without it no image can be pulled (Amazon ECR User Guide, "Minimum Amazon S3 bucket permissions").
    assert_eq!(others.len(), 1);
    assert_eq!(others[0]["Resource"], "arn:aws:s3:::prod-REGION-starport-layer-bucket/*");
}

/// The blocks of YAML in a page; each begins with its file's name.
fn block(page: &str, name: &str) -> Value {
    let start = format!("```yaml\n# {name}\n");
    let page = text(page);
    let (_, rest) = page.split_once(&start).unwrap();
    serde_saphyr::from_str(rest.split_once("```").unwrap().0).unwrap()
}

#[test]
fn the_canary_and_the_budgets_are_what_karpenter_takes() {
    let schema = Schema::of("karpenter.sh_nodepools", "v1");
    let mut canary = block("docs/upgrades.md", "nodepool-canary.yaml");
    schema.check(&canary);
    assert_eq!(canary["spec"]["template"]["spec"]["nodeClassRef"]["name"], canary["metadata"]["name"]);
    let budgets = block("docs/upgrades.md", "budgets.yaml");
    canary["spec"]["disruption"]["budgets"] = budgets["spec"]["disruption"]["budgets"].clone();
    schema.check(&canary);
    // Karpenter's rule in CEL: a schedule goes with a duration.
    for budget in budgets["spec"]["disruption"]["budgets"].as_array().unwrap() {
        assert_eq!(budget.get("schedule").is_some(), budget.get("duration").is_some(), "{budget}");
    }
    canary["spec"]["disruption"]["budgets"][0]["reasons"] = json!(["Drift"]);
    assert_ne!(schema.problems(&canary), [""; 0], "another word for it is found");
}
