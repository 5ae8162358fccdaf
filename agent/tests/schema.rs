//! `status --output json` against agent/schema/status-1.json.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

#[path = "support/full.rs"]
mod full;
#[allow(dead_code, unused_imports)] // what other tests use of it
mod support;

use std::fs;
use std::path::Path;

use assert_cmd::cargo::cargo_bin;
use nvme_agent::status::{Report, SCHEMA};
use serde_json::{Value, json};
use support::Machine;

fn here(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&here(&format!("schema/status-{SCHEMA}.json"))).unwrap()
}

/// Allows no field that the schema does not know: what we write ourselves is all in it.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(parts) => {
            parts.values_mut().for_each(close);
            if parts.contains_key("properties") && parts.get("type") == Some(&json!("object")) {
                parts.insert("additionalProperties".into(), json!(false));
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(close),
        _ => {}
    }
}

fn problems(schema: &Value, status: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::new(schema).unwrap();
    validator.iter_errors(status).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn strict() -> Value {
    let mut schema = schema();
    close(&mut schema);
    schema
}

fn ensure_valid(what: &str, status: &Value) {
    let found = problems(&strict(), status);
    assert!(found.is_empty(), "{what}: {found:#?}");
}

fn json_of(report: &Report) -> Value {
    serde_json::to_value(report).unwrap()
}

/// Every object with fields that the schema describes, with the name it has there.
fn objects(schema: &Value) -> Vec<(String, &Value)> {
    let parts = schema["$defs"].as_object().unwrap();
    let named = parts.iter().map(|(name, part)| (format!("{name}."), part));
    std::iter::once((String::new(), schema)).chain(named).collect()
}

#[test]
fn what_is_recorded_of_the_verdicts_is_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/status/snapshots");
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.contains("__json_") && name.ends_with(".snap") {
            let text = fs::read_to_string(&path).unwrap();
            let json = text.splitn(3, "---\n").nth(2).unwrap();
            ensure_valid(&name, &serde_json::from_str(json).unwrap());
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen}");
}

#[test]
fn what_the_program_prints_of_machines_is_valid() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for entry in fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let machine = Machine::fixture(name);
        let run = assert_cmd::Command::new(cargo_bin("nvme-agent"))
            .args(["status", "--output", "json", "--root"])
            .arg(machine.path("/"))
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert!(status["host"].is_null(), "{name} is not this machine");
        ensure_valid(name, &status);
    }
    let run = assert_cmd::Command::new(cargo_bin("nvme-agent"))
        .args(["status", "--output", "json"])
        .output()
        .unwrap();
    ensure_valid("this machine", &serde_json::from_slice(&run.stdout).unwrap());
}

/// Of a report in which everything is there, and in an order that does not change.
#[test]
fn every_field_is_described_and_keeps_its_place() {
    let report = full::report();
    let status = json_of(&report);
    ensure_valid("the full report", &status);
    let schema = schema();
    let text = serde_json::to_string_pretty(&report).unwrap();
    for (name, object) in objects(&schema) {
        let fields = object["properties"].as_object().unwrap();
        let required = object["required"].as_array().unwrap();
        assert_eq!(required.len(), fields.len(), "{name}: all that is described is always there");
        for (field, described) in fields {
            assert!(required.contains(&json!(field)), "{name}{field}");
            assert!(text.contains(&format!("\"{field}\": ")), "{name}{field} is never printed");
            let said = described["description"].as_str().unwrap_or_else(|| panic!("{name}{field}"));
            assert!(said.ends_with('.'), "{name}{field}: {said}");
            for (suffix, unit) in [
                ("_bytes", "bytes"),
                ("_us", "microseconds"),
                ("_ms", "milliseconds"),
                ("millis", "milliseconds"),
                ("_percent", "percent"),
                ("_hours", "hours"),
                ("_celsius", "degrees Celsius"),
                ("_s", "seconds"),
            ] {
                assert!(!field.ends_with(suffix) || said.contains(unit), "{name}{field}: {unit}");
            }
        }
    }
    insta::assert_snapshot!("status_json", text);
}

#[test]
fn an_unknown_field_is_found_in_ours_and_taken_by_readers() {
    let mut status = json_of(&full::report());
    status["drives"][0]["smart"]["temprature"] = json!(3);
    status["later"] = json!(true);
    assert!(problems(&schema(), &status).is_empty(), "the format grows");
    let found = problems(&strict(), &status).join("\n");
    assert!(found.contains("later") && found.contains("/drives/0/smart"), "{found}");
}

#[test]
fn what_cannot_be_is_refused() {
    let full = json_of(&full::report());
    for (at, wrong) in [
        ("/schema", json!(2)),
        ("/time", json!("yesterday")),
        ("/state", json!("fine")),
        ("/reason", json!("drive lost")),
        ("/reason", json!("")),
        ("/next", json!(3)),
        ("/findings/0/state", json!("Failed")),
        ("/warnings", json!(null)),
        ("/layout", json!("raid1")),
        ("/target", json!("tmp")),
        ("/mount/size_bytes", json!("15 TiB")),
        ("/mount/used_bytes", json!(-1)),
        ("/mount/inodes", json!(0.5)),
        ("/array/uuid", json!("12345678:9abcdef0")),
        ("/array/members", json!(["nvme1n1"])),
        ("/drives/0/smart/critical_warnings", json!(["hot"])),
        ("/drives/0/smart/critical_warnings", json!(["read-only", "read-only"])),
        ("/drives/0/smart/temperature_celsius", json!(-300)),
        ("/drives/0/smart/spare_percent", json!(256)),
        ("/drives/0/statistics/read_latency/p99_us", json!(null)),
        ("/last_setup/trigger", json!("cron")),
        ("/last_setup/duration_ms", json!(1.5)),
        ("/persistence", json!(null)),
        ("/node/registration/way", json!("api")),
        ("/node/reported/state", json!("not-set-up")),
        ("/node/reported/changed", json!("-")),
        ("/host", json!("ip-10-0-0-1")),
    ] {
        let mut status = full.clone();
        *status.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = wrong.clone();
        assert!(!problems(&schema(), &status).is_empty(), "{at} = {wrong} is taken");
    }
    for field in full.as_object().unwrap().keys() {
        let mut status = full.clone();
        status.as_object_mut().unwrap().remove(field);
        assert!(!problems(&schema(), &status).is_empty(), "{field} may be missing");
    }
}
