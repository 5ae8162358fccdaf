//! What nodeadm was told: the NodeConfig that it caches for its run phase.
//!
//! nodeadm-config.service writes it at every boot, before cloud-init (awslabs/amazon-eks-ami,
//! nodeadm/internal/cli); /run is empty before. On images older than that there is none.

use std::io::{ErrorKind, Read};

use serde_json::Value;

use crate::persist::atomic;
use crate::root::Root;

/// Where the cached NodeConfig is, as JSON.
pub const CACHE_PATH: &str = "/run/eks/nodeadm/config.json";
/// userData ends at 16 KiB; this much is no NodeConfig. In bytes.
const LONGEST: u64 = 1 << 20;

/// What of the cached NodeConfig is of interest here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cached {
    /// `spec.kubelet.config.registerWithTaints`, as it is there: objects of `key`, `effect`, perhaps `value`.
    pub taints: Vec<Value>,
    /// `spec.kubelet.flags`, on one line, as nodeadm hands them to kubelet.
    pub flags: String,
    /// `spec.instance.localStorage.strategy`, such as `RAID0`; none where it is not set.
    pub strategy: Option<String>,
}

/// The cached NodeConfig; none where nodeadm has not cached one in this boot.
///
/// # Errors
/// It is there and cannot be read or is not a NodeConfig, in words.
pub fn cached(root: &Root) -> Result<Option<Cached>, String> {
    let wrong = |problem: String| format!("{CACHE_PATH}: {problem}");
    let file = match atomic::open(&root.follow(CACHE_PATH)) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(wrong(format!("cannot be read: {e}"))),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong(format!("is longer than {LONGEST} bytes; that is no NodeConfig")));
    }
    parse(&bytes).map(Some).map_err(wrong)
}

fn parse(bytes: &[u8]) -> Result<Cached, String> {
    // Never quote the text: a NodeConfig may hold a proxy's password.
    let config: Value = serde_json::from_slice(bytes)
        .map_err(|e| format!("not valid JSON at line {}, column {}", e.line(), e.column()))?;
    told(&config)
}

/// What a NodeConfig says.
///
/// # Errors
/// It is none, in words that quote nothing of it.
pub fn told(config: &Value) -> Result<Cached, String> {
    let list = |pointer: &str| match config.pointer(pointer) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(_) => Err(format!("{}: expected a list", pointer[1..].replace('/', "."))),
    };
    if !config.is_object() {
        return Err("expected an object, a NodeConfig".into());
    }
    let taints = list("/spec/kubelet/config/registerWithTaints")?;
    if !taints.iter().all(|taint| taint.get("key").is_some_and(Value::is_string)) {
        return Err("spec.kubelet.config.registerWithTaints: expected taints, each with a `key`".into());
    }
    let flags: Vec<String> = list("/spec/kubelet/flags")?
        .into_iter()
        .map(|flag| flag.as_str().map(str::to_owned).ok_or("spec.kubelet.flags: expected strings"))
        .collect::<Result<_, _>>()?;
    let strategy = config.pointer("/spec/instance/localStorage/strategy").and_then(Value::as_str);
    Ok(Cached {
        taints,
        flags: flags.join(" "),
        strategy: strategy.filter(|text| !text.is_empty()).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_karpenter_hands_to_nodeadm() {
        let text = r#"{"apiVersion":"node.eks.aws/__internal","kind":"NodeConfig","metadata":{},"spec":{
            "cluster":{"name":"c"},"instance":{"localStorage":{"strategy":"RAID0"}},
            "kubelet":{"config":{"maxPods":110,"registerWithTaints":[{"effect":"NoExecute","key":"karpenter.sh/unregistered"}]},
                       "flags":["--node-labels=\"karpenter.sh/nodepool=default\"","--v=2"]}}}"#;
        let cached = parse(text.as_bytes()).unwrap();
        assert_eq!(cached.taints[0]["key"], "karpenter.sh/unregistered");
        assert_eq!(cached.flags, r#"--node-labels="karpenter.sh/nodepool=default" --v=2"#);
        assert_eq!(cached.strategy.as_deref(), Some("RAID0"));
        let bare = parse(br#"{"spec":{"instance":{"localStorage":{}},"kubelet":{}}}"#).unwrap();
        assert_eq!(bare, Cached::default());
    }

    #[test]
    fn what_is_no_node_config_is_told_without_its_text() {
        for (text, words) in [
            ("{\"password\": secret", "not valid JSON at line 1"),
            ("[]", "expected an object"),
            (r#"{"spec":{"kubelet":{"flags":"--secret"}}}"#, "spec.kubelet.flags: expected a list"),
            (r#"{"spec":{"kubelet":{"flags":[1]}}}"#, "spec.kubelet.flags: expected strings"),
            (r#"{"spec":{"kubelet":{"config":{"registerWithTaints":["secret"]}}}}"#, "each with a `key`"),
        ] {
            let problem = parse(text.as_bytes()).unwrap_err();
            assert!(problem.contains(words) && !problem.contains("secret"), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn outside_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
