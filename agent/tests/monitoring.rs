//! packaging/monitoring names what there is: metrics of the code, labels and condition of the Node, files that promtool takes.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

#[path = "support/promtool.rs"]
mod promtool;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use nvme_agent::node::Keys;
use nvme_agent::status::prometheus::{Kind, METRICS, Metric};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/monitoring").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap()
}

/// Every series that there can be: its name, and its metric.
fn series() -> Vec<(String, &'static Metric)> {
    let of = |metric: &'static Metric| {
        let suffixes: &[&str] = if metric.kind == Kind::Summary { &["", "_sum", "_count"] } else { &[""] };
        suffixes.iter().map(move |suffix| (format!("{}{suffix}", metric.name), metric))
    };
    METRICS.iter().flat_map(of).collect()
}

/// Names that begin like ours or like kube-state-metrics', with what is in the braces after them.
fn selectors(expression: &str) -> Vec<(&str, &str)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("nvme_agent_").chain(expression.match_indices("kube_")) {
        // Not in the middle of a label's name.
        if expression[..at].ends_with(word) {
            continue;
        }
        let rest = &expression[at..];
        let (name, after) = rest.split_at(rest.find(|c| !word(c)).unwrap_or(rest.len()));
        let braces = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        found.push((name, braces.map_or("", |(within, _)| within)));
    }
    found
}

/// Names of labels in a selector.
fn labels(within: &str) -> BTreeSet<&str> {
    within.split(", ").filter_map(|part| Some(part[..part.find(['=', '!'])?].trim())).collect()
}

fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text("dashboard.json")).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel.get("targets").and_then(Value::as_array).into_iter().flatten() {
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            found.push((word(&panel["title"]), word(&target["expr"])));
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    for query in variables.filter_map(|variable| variable["definition"].as_str()) {
        let metric = query.strip_prefix("label_values(").unwrap().split_once(',').unwrap().0;
        found.push(("variable".into(), metric.to_owned()));
    }
    found
}

fn rules() -> Vec<Value> {
    let groups = yaml("rules.yaml")["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn ensure_exist(place: &str, expression: &str) {
    let found = selectors(expression);
    assert!(!found.is_empty(), "{place} asks for nothing of ours: {expression}");
    // What Prometheus adds to each of them.
    let added = BTreeSet::from(["job", "instance"]);
    for (name, within) in found {
        if name.starts_with("kube_") {
            assert!(["kube_node_status_condition", "kube_node_labels"].contains(&name), "{place}: {name}");
            continue;
        }
        let (_, metric) =
            series().into_iter().find(|(full, _)| full == name).unwrap_or_else(|| panic!("{place}: {name}"));
        let mut known: BTreeSet<&str> = metric.labels.iter().copied().chain(added.iter().copied()).collect();
        if metric.kind == Kind::Summary && name == metric.name {
            known.insert("quantile");
        }
        assert!(labels(within).is_subset(&known), "{place}: {name}{{{within}}}");
    }
}

#[test]
fn every_metric_of_the_dashboard_and_of_the_alerts_exists_with_its_labels() {
    let panels = panels();
    assert!(panels.len() > 20, "{panels:?}");
    for (title, expression) in &panels {
        ensure_exist(title, expression);
    }
    for rule in rules() {
        ensure_exist(rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap());
    }
}

#[test]
fn every_expression_of_the_dashboard_parses() {
    let rule = |(at, (_, expression)): (usize, (String, String))| {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
        assert!(!expression.contains('$'), "{expression}");
        serde_json::json!({"record": format!("panel:{at}"), "expr": expression})
    };
    let rules: Vec<Value> = panels().into_iter().enumerate().map(rule).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let checked = |rules: &[Value]| {
        let groups = serde_json::json!({"groups": [{"name": "panels", "rules": rules}]});
        fs::write(file.path(), groups.to_string()).unwrap();
        promtool::said(&["check", "rules", file.path().to_str().unwrap()], "")
    };
    assert_eq!(checked(&rules), None);
    assert!(checked(&[serde_json::json!({"record": "x:y", "expr": "sum by (nvme_agent_state"})]).is_some());
}

#[test]
fn every_alert_is_tested_and_fires() {
    let file = |name: &str| path(name).to_str().unwrap().to_owned();
    promtool::run(&["check", "rules", &file("rules.yaml")], "");
    promtool::run(&["test", "rules", &file("rules-test.yaml")], "");
    let tests = yaml("rules-test.yaml");
    let (mut fires, mut is_quiet) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_array().unwrap() {
        for case in test["alert_rule_test"].as_array().unwrap() {
            let alerts = case["exp_alerts"].as_array().unwrap();
            let name = case["alertname"].as_str().unwrap().to_owned();
            if alerts.is_empty() {
                is_quiet.insert(name)
            } else {
                fires.insert(name)
            };
        }
    }
    let alerts: BTreeSet<String> =
        rules().iter().map(|rule| rule["alert"].as_str().unwrap().into()).collect();
    assert_eq!((&fires, &is_quiet), (&alerts, &alerts));
}

#[test]
fn the_operator_gets_the_same_rules() {
    let object = yaml("prometheusrule.yaml");
    assert_eq!(
        (&object["apiVersion"], &object["kind"]),
        (&"monitoring.coreos.com/v1".into(), &"PrometheusRule".into())
    );
    assert_eq!(object["spec"]["groups"], yaml("rules.yaml")["groups"]);
}

/// As kube-state-metrics makes them of ours.
#[test]
fn labels_and_condition_are_those_of_the_node() {
    let keys = Keys::default();
    let as_label = |key: &str| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        format!("label_{}", key.chars().map(plain).collect::<String>())
    };
    let known = [as_label(&keys.state()), as_label(&keys.profile())];
    let allowed =
        yaml("values.yaml")["kube-state-metrics"]["metricLabelsAllowlist"][0].as_str().unwrap().to_owned();
    for key in [keys.state(), keys.layout(), keys.drives(), keys.capacity_gib(), keys.profile()] {
        assert!(allowed.contains(key.as_str()), "{key}");
    }
    let mut seen = 0;
    for rule in rules() {
        for (name, within) in selectors(rule["expr"].as_str().unwrap()) {
            if name == "kube_node_labels" {
                assert!(labels(within).iter().all(|label| known.contains(&(*label).to_owned())), "{within}");
            } else if name == "kube_node_status_condition" {
                assert!(within.contains(&format!("condition=\"{}\"", keys.condition())), "{within}");
            } else {
                continue;
            }
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}

/// Where node_exporter reads is where the unit writes.
#[test]
fn node_exporter_reads_where_the_unit_writes() {
    let unit = include_str!("../../systemd/nvme-agent-metrics.service");
    let directory = unit.lines().find_map(|line| line.strip_prefix("ConditionPathIsDirectory=")).unwrap();
    let values = yaml("values.yaml");
    let exporter = &values["prometheus-node-exporter"];
    let flag = format!("--collector.textfile.directory={directory}");
    assert!(exporter["extraArgs"].as_array().unwrap().contains(&flag.into()));
    let mount = &exporter["extraHostVolumeMounts"][0];
    assert_eq!((mount["hostPath"].as_str(), mount["mountPath"].as_str()), (Some(directory), Some(directory)));
    for name in ["docs/metrics.md", "packaging/monitoring/README.md", "packaging/package/preremove.sh"] {
        let text = fs::read_to_string(path("../..").join(name)).unwrap();
        assert!(text.contains(&format!("{directory}/nvme-agent.prom")), "{name}");
    }
}
