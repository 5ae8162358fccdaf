//! What stands in for nodeadm in a guest: it merges NodeConfigs as nodeadm does, and fails where nodeadm fails. The lab's own
//! program is pushed into the guest under that name; it runs there because the guest's glibc is newer than this machine's.
//!
//! As nodeadm of AL2023 (awslabs/amazon-eks-ami, `nodeadm/`): `internal/api/merge.go`, `internal/configprovider`,
//! `cmd/nodeadm/init`. Left out: IMDS (its user data is a file here), EC2, containerd, certificates.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// The NodeConfig that IMDS would hand out.
pub const USER_DATA: &str = "/etc/stand-in/user-data.yaml";
/// An image from before nodeadm.d: kubelet's environment is written in the config phase, and drop-ins are not read.
pub const OLDER: &str = "/etc/stand-in/older";
/// What kubelet would put into the Node's CREATE.
pub const REGISTERED: &str = "/run/stand-in/registered.json";
const CACHE: &str = "/run/eks/nodeadm/config.json";
const DROP_INS: &str = "/etc/eks/nodeadm.d";
const ENVIRONMENT: &str = "/etc/eks/kubelet/environment";
const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet/config.json.d/40-nodeadm.conf";
/// The Node's name in every scenario.
pub const NODE: &str = "ip-10-0-2-15.ec2.internal";
const SPEC: [&str; 5] = ["cluster", "containerd", "instance", "kubelet", "featureGates"];

/// The command line; an error ends the program with 1.
pub fn main() -> Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["config-phase"] => config_phase()?,
        // The directory is where it is; an older image's unit does not name it.
        ["run"] | ["run", "--config-source", _] => run()?,
        ["config", "check", sources @ ..] => check(sources)?,
        _ => bail!("usage: nodeadm config-phase | run | config check --config-source file://PATH ..."),
    }
    Ok(true)
}

/// Before cloud-init, at every boot: the cache; on an older image kubelet's environment too.
fn config_phase() -> Result<()> {
    let config = read(Path::new(USER_DATA))?;
    whole(&config)?;
    write(CACHE, &serde_json::to_string(&config)?)?;
    if Path::new(OLDER).exists() {
        write(ENVIRONMENT, &environment(&config))?;
        write(KUBELET_CONFIG, &kubelet_config(&config).to_string())?;
    }
    Ok(())
}

/// After cloud-init's scripts: merges, writes kubelet's files, starts it.
fn run() -> Result<()> {
    let mut config = read(Path::new(USER_DATA))?;
    if !Path::new(OLDER).exists() {
        let entries = fs::read_dir(DROP_INS).with_context(|| format!("read {DROP_INS}"))?;
        let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.retain(|path| {
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            !hidden && path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
        });
        paths.sort();
        for path in paths {
            merge(&mut config, read(&path)?);
        }
        whole(&config)?;
        write(ENVIRONMENT, &environment(&config))?;
        write(KUBELET_CONFIG, &kubelet_config(&config).to_string())?;
    }
    let text = fs::read_to_string(ENVIRONMENT).with_context(|| format!("read {ENVIRONMENT}"))?;
    let registered = registration(&text, &serde_json::from_str(&fs::read_to_string(KUBELET_CONFIG)?)?)?;
    write(REGISTERED, &registered.to_string())?;
    let started = Command::new("systemctl").args(["start", "kubelet.service"]).status()?;
    ensure!(started.success(), "systemctl start kubelet.service: {started}");
    Ok(())
}

fn check(sources: &[&str]) -> Result<()> {
    let mut config = json!({});
    for pair in sources.chunks(2) {
        let ["--config-source", source] = pair else { bail!("unexpected arguments: {pair:?}") };
        let path = source.strip_prefix("file://").with_context(|| format!("not a file: {source}"))?;
        merge(&mut config, read(Path::new(path))?);
    }
    whole(&config)
}

/// One NodeConfig, strictly.
fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Value> {
    let config: Value = serde_saphyr::from_str(text).context("not YAML")?;
    let object = config.as_object().context("not a NodeConfig")?;
    ensure!(object.get("apiVersion") == Some(&json!("node.eks.aws/v1alpha1")), "apiVersion");
    ensure!(object.get("kind") == Some(&json!("NodeConfig")), "kind");
    known(object, &["apiVersion", "kind", "metadata", "spec"])?;
    let spec = object.get("spec").and_then(Value::as_object).context("spec")?;
    known(spec, &SPEC)?;
    if let Some(kubelet) = spec.get("kubelet") {
        let kubelet = kubelet.as_object().context("spec.kubelet")?;
        known(kubelet, &["config", "flags"])?;
        if let Some(flags) = kubelet.get("flags") {
            let flags = flags.as_array().context("spec.kubelet.flags")?;
            ensure!(flags.iter().all(Value::is_string), "spec.kubelet.flags: not strings");
        }
    }
    Ok(config)
}

fn known(object: &Map<String, Value>, names: &[&str]) -> Result<()> {
    match object.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => bail!("unknown field {key}"),
        None => Ok(()),
    }
}

fn whole(config: &Value) -> Result<()> {
    for field in ["name", "apiServerEndpoint", "certificateAuthority", "cidr"] {
        let value = &config["spec"]["cluster"][field];
        ensure!(value.as_str().is_some_and(|text| !text.is_empty()), "spec.cluster.{field} is missing");
    }
    Ok(())
}

/// `over` goes over `base`: objects deeply, flags appended, every other list and value replaced.
fn merge(base: &mut Value, over: Value) {
    let appended: Vec<Value> = [&*base, &over]
        .iter()
        .filter_map(|config| config["spec"]["kubelet"]["flags"].as_array().cloned())
        .flatten()
        .collect();
    deep(base, over);
    if !appended.is_empty() {
        base["spec"]["kubelet"]["flags"] = Value::Array(appended);
    }
}

fn deep(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                deep(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn kubelet_config(config: &Value) -> Value {
    config["spec"]["kubelet"]["config"].as_object().cloned().map_or_else(|| json!({}), Value::Object)
}

fn environment(config: &Value) -> String {
    let flags = config["spec"]["kubelet"]["flags"].as_array().cloned().unwrap_or_default();
    let flags: Vec<&str> = flags.iter().filter_map(Value::as_str).collect();
    format!(
        "NODEADM_KUBELET_ARGS=\"--hostname-override={NODE} --cloud-provider=external {}\"\n",
        flags.join(" ")
    )
}

/// What kubelet makes of its arguments and configuration: labels merged, a taint flag over the configuration.
fn registration(environment: &str, config: &Value) -> Result<Value> {
    let line = environment.lines().find_map(|line| line.strip_prefix("NODEADM_KUBELET_ARGS="));
    let line = line.context("no NODEADM_KUBELET_ARGS")?.trim_matches('"');
    let mut labels = BTreeMap::new();
    let mut taints = config["registerWithTaints"].as_array().cloned().unwrap_or_default();
    for argument in line.split_whitespace() {
        if let Some(list) = argument.strip_prefix("--node-labels=") {
            for label in list.trim_matches(['"', '\'']).split(',').filter(|label| !label.is_empty()) {
                let (key, value) =
                    label.split_once('=').with_context(|| format!("kubelet does not start: {label}"))?;
                ensure!(is_value(value), "kubelet does not start: the value of {label}");
                labels.insert(key.to_owned(), value.to_owned());
            }
        }
        if let Some(list) = argument.strip_prefix("--register-with-taints=") {
            taints = list.split(',').map(taint).collect::<Result<_>>()?;
        }
    }
    Ok(json!({"labels": labels, "taints": taints}))
}

fn is_value(value: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    value.len() <= 63 && end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str) -> Result<Value> {
    let (key, effect) = text.rsplit_once(':').with_context(|| format!("no taint: {text}"))?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    Ok(json!({"key": key, "value": value, "effect": effect}))
}

fn write(path: &str, text: &str) -> Result<()> {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  cluster: {name: c, apiServerEndpoint: e, certificateAuthority: a, cidr: 10.0.0.0/8}\n  kubelet:\n    config: {registerWithTaints: [{key: karpenter.sh/unregistered, effect: NoExecute}], maxPods: 7}\n    flags: [\"--node-labels=a=b\"]\n";
    const OVER: &str = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  kubelet:\n    config: {registerWithTaints: [{key: x, effect: NoSchedule}]}\n    flags: [\"--node-labels=d/state=ready\"]\n";

    #[test]
    fn flags_are_appended_and_other_lists_replaced() {
        let mut config = parse(USER).unwrap();
        merge(&mut config, parse(OVER).unwrap());
        whole(&config).unwrap();
        let found = registration(&environment(&config), &kubelet_config(&config)).unwrap();
        assert_eq!(found["labels"], json!({"a": "b", "d/state": "ready"}));
        assert_eq!(found["taints"], json!([{"key": "x", "effect": "NoSchedule"}]));
        assert_eq!(kubelet_config(&config)["maxPods"], 7);
        let flag = "NODEADM_KUBELET_ARGS=\"--register-with-taints=k=v:NoSchedule,u:NoExecute\"\n";
        let found = registration(flag, &kubelet_config(&config)).unwrap();
        assert_eq!(found["taints"][0], json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
        assert_eq!(found["taints"][1]["key"], "u");
    }

    #[test]
    fn what_nodeadm_and_kubelet_do_not_take() {
        for bad in [
            "{",
            "kind: NodeConfig",
            &OVER.replace("kubelet:", "kublet:"),
            &OVER.replace("[\"--node", "[1, \"--node"),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(whole(&parse(OVER).unwrap()).is_err());
        let bad = "NODEADM_KUBELET_ARGS=\"--node-labels=a=b/c\"";
        assert!(registration(bad, &json!({})).unwrap_err().to_string().contains("does not start"));
    }
}
