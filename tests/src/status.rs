//! What `nvme-agent status --output json` prints in a guest, against agent/schema/status-1.json.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use jsonschema::Validator;
use nvme_agent::status::Report;
use serde_json::{Value, json};

use crate::vm::Vm;

const SCHEMA: &str = include_str!("../../agent/schema/status-1.json");
/// Status itself takes at most two seconds; a busy host takes longer to let it.
const DEADLINE: Duration = Duration::from_secs(60);

/// The JSON, valid by the schema; fields that the schema does not know are none of ours.
pub fn parse(text: &str) -> Result<Value> {
    let status: Value =
        serde_json::from_str(text).with_context(|| format!("status prints no JSON: {text}"))?;
    let problems: Vec<String> = validator()?
        .iter_errors(&status)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    ensure!(problems.is_empty(), "status prints what its schema does not allow: {problems:#?}\n{status:#}");
    Ok(status)
}

/// What the agent in the guest says, valid by the schema, and ending as its state does.
pub fn of(vm: &mut Vm) -> Result<Value> {
    let output = vm.sh_within(DEADLINE, "nvme-agent status --output json")?;
    let status = parse(&output.out).with_context(|| format!("exit code {}: {}", output.rc, output.err))?;
    let report: Report = serde_json::from_value(status.clone()).context("status as the agent's own type")?;
    ensure!(output.rc == i32::from(report.state.exit_code()), "exit code {} from {status:#}", output.rc);
    Ok(status)
}

/// The same of a guest as a scenario leaves it, which may be one without an agent, with something else of its name, off, or
/// not able to answer any more: that is the scenario's to judge, and nothing is said of it here.
pub fn of_what_is_left(vm: &mut Vm) -> Result<()> {
    if vm.machine().is_err() {
        return Ok(());
    }
    let probe =
        "case $(timeout 20 nvme-agent --version 2> /dev/null) in 'nvme-agent '[0-9]*) ;; *) exit 1;; esac";
    match vm.sh_within(DEADLINE, probe) {
        Ok(output) if output.rc == 0 => of(vm).map(drop),
        _ => {
            vm.note("status was not asked at the end: no agent of ours answers");
            Ok(())
        }
    }
}

fn validator() -> Result<&'static Validator> {
    static VALIDATOR: OnceLock<Result<Validator, String>> = OnceLock::new();
    let made = VALIDATOR.get_or_init(|| {
        let mut schema: Value = serde_json::from_str(SCHEMA).map_err(|error| error.to_string())?;
        close(&mut schema);
        jsonschema::draft202012::new(&schema).map_err(|error| error.to_string())
    });
    made.as_ref().map_err(|error| anyhow!("agent/schema/status-1.json: {error}"))
}

/// Allows no field that the schema does not describe.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As recorded of a machine with two drives.
    fn recorded() -> Value {
        let snapshot =
            include_str!("../../agent/src/status/snapshots/nvme_agent__status__judge__tests__json_2.snap");
        serde_json::from_str(snapshot.splitn(3, "---\n").nth(2).unwrap()).unwrap()
    }

    #[test]
    fn what_the_agent_prints_is_valid_and_a_field_of_another_name_is_found() {
        let status = recorded();
        assert_eq!(parse(&status.to_string()).unwrap(), status);
        for (at, field) in [("", "sinze"), ("/mount", "size"), ("/drives/1/smart", "temperature")] {
            let mut status = recorded();
            status.pointer_mut(at).unwrap()[field] = json!(1);
            let error = parse(&status.to_string()).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(parse("").is_err() && parse("degraded (DriveLost)").is_err());
    }
}
