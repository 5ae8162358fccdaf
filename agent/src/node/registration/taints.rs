//! The taints that a failed node registers with: whatever it would have registered with, and ours.
//!
//! Both places are lists that are replaced as a whole: `registerWithTaints` of the kubelet configuration, and kubelet's
//! flag, which wins over it. Leaving out `karpenter.sh/unregistered` would keep Karpenter from taking the node for its own.

use serde_json::{Value, json};

use super::DROP_IN_DIR;
use super::args;
use super::others::Others;
use crate::node::labels::{Keys, TAINT_EFFECT};
use crate::node::nodeadm::Cached;

const FLAG: &str = "--register-with-taints";

/// Where a failed node's taints are to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Taints {
    /// The list of `kubelet.config.registerWithTaints`.
    Config(Vec<Value>),
    /// A whole argument, `--register-with-taints=...`.
    Flag(String),
}

/// Our taint as an object of the API.
pub fn ours(keys: &Keys) -> Value {
    json!({"key": keys.taint(), "effect": TAINT_EFFECT})
}

/// Our taint as the flag spells it.
pub fn ours_in_flag(keys: &Keys) -> String {
    format!("{}:{TAINT_EFFECT}", keys.taint())
}

/// What nodeadm is to be told: the cached lists, under those of the drop-ins before ours, plus ours, which may be among
/// them already.
///
/// # Errors
/// The flag has a value that cannot be extended safely, or a drop-in after ours undoes it, in words.
pub fn for_nodeadm(cached: &Cached, others: &Others, keys: &Keys) -> Result<Taints, String> {
    let (mut list, mut flags) = (&cached.taints, cached.flags.clone());
    for other in &others.before {
        if !other.told.taints.is_empty() {
            list = &other.told.taints;
        }
        flags = format!("{flags} {}", other.told.flags);
    }
    let taints = match flag_of(&flags).map_err(|e| format!("spec.kubelet.flags: {e}"))? {
        Some(value) => Taints::Flag(extended(&value, keys)?),
        None => Taints::Config(with_ours(list, keys)),
    };
    match undone(&taints, others, keys)? {
        None => Ok(taints),
        Some((name, what)) => Err(format!(
            "{DROP_IN_DIR}/{name}, which nodeadm reads after ours, has {what} without our taint, which replaces ours; give \
             that file a name before 50-nvme-agent.yaml"
        )),
    }
}

/// The file after ours that has the last word, and by what, where that is without our taint.
fn undone<'a>(
    taints: &Taints,
    others: &'a Others,
    keys: &Keys,
) -> Result<Option<(&'a str, &'static str)>, String> {
    let mine = ours_in_flag(keys);
    for other in others.after.iter().rev() {
        if let Some(value) =
            flag_of(&other.told.flags).map_err(|e| format!("{DROP_IN_DIR}/{}: {e}", other.name))?
        {
            let holds = value.split(',').any(|taint| taint == mine);
            return Ok((!holds).then_some((other.name.as_str(), "a flag --register-with-taints")));
        }
    }
    // A flag, ours too, wins over every list.
    let last = others.after.iter().rev().find(|other| !other.told.taints.is_empty());
    let Some(last) = last.filter(|_| matches!(taints, Taints::Config(_))) else { return Ok(None) };
    let holds = last.told.taints.contains(&ours(keys));
    Ok((!holds).then_some((last.name.as_str(), "a list registerWithTaints")))
}

/// The value of kubelet's flag on a line of its arguments. What is odd about the others is nobody's business.
fn flag_of(line: &str) -> Result<Option<String>, String> {
    if !args::may_have(line, FLAG) {
        return Ok(None);
    }
    let arguments = args::split(line).map_err(|e| format!("beside {FLAG} there is {e}"))?;
    Ok(args::last_value(&arguments, FLAG))
}

/// kubelet's argument: the flag's value where there is one, else the list that the kubelet configuration has, plus ours.
///
/// # Errors
/// A value that cannot be extended safely, in words.
pub fn for_kubelet(arguments: &[String], configured: &[Value], keys: &Keys) -> Result<String, String> {
    match args::last_value(arguments, FLAG) {
        Some(value) => extended(&value, keys),
        None => {
            let list = configured.iter().map(in_flag).collect::<Result<Vec<_>, _>>()?;
            extended(&list.join(","), keys)
        }
    }
}

fn with_ours(list: &[Value], keys: &Keys) -> Vec<Value> {
    let mine = ours(keys);
    let theirs = list.iter().filter(|taint| taint["key"] != mine["key"]).cloned();
    theirs.chain([mine.clone()]).collect()
}

fn extended(value: &str, keys: &Keys) -> Result<String, String> {
    if !args::is_plain(value) {
        return Err(format!("{FLAG} has a value with characters that no taint has"));
    }
    let mine = ours_in_flag(keys);
    let mut list: Vec<&str> = value.split(',').filter(|taint| !taint.is_empty() && *taint != mine).collect();
    list.push(&mine);
    Ok(format!("{FLAG}={}", list.join(",")))
}

/// `key=value:effect`, or `key:effect` (kubelet's flag, pkg/util/taints).
fn in_flag(taint: &Value) -> Result<String, String> {
    let part = |name: &str| taint[name].as_str().unwrap_or_default();
    let (key, value, effect) = (part("key"), part("value"), part("effect"));
    let text = if value.is_empty() { format!("{key}:{effect}") } else { format!("{key}={value}:{effect}") };
    if key.is_empty() || effect.is_empty() || text.contains(',') || !args::is_plain(&text) {
        return Err("registerWithTaints has a taint without key or effect, or with odd characters".into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::registration::others::Other;

    const OURS: &str = "nvme-agent.e6data.com/failed:NoSchedule";

    fn unregistered() -> Value {
        json!({"key": "karpenter.sh/unregistered", "effect": "NoExecute"})
    }

    fn cached(taints: &[Value], flags: &str) -> Cached {
        Cached { taints: taints.to_vec(), flags: flags.into(), strategy: None }
    }

    #[test]
    fn the_cached_list_is_kept_and_ours_is_there_once() {
        let keys = Keys::default();
        let mine = ours(&keys);
        let list = |cached: &Cached| match for_nodeadm(cached, &Others::default(), &keys).unwrap() {
            Taints::Config(list) => list,
            Taints::Flag(flag) => panic!("{flag}"),
        };
        assert_eq!(list(&Cached::default()), std::slice::from_ref(&mine));
        assert_eq!(list(&cached(&[unregistered()], "--v=2")), [unregistered(), mine.clone()]);
        assert_eq!(list(&cached(&[mine.clone(), unregistered()], "")), [unregistered(), mine]);
    }

    #[test]
    fn a_flag_wins_over_the_configuration_and_is_extended_instead() {
        let flag = |flags: &str| {
            for_nodeadm(&cached(&[unregistered()], flags), &Others::default(), &Keys::default())
        };
        let both = Taints::Flag(format!("--register-with-taints=a=b:NoSchedule,{OURS}"));
        assert_eq!(flag("--v=2 --register-with-taints=\"a=b:NoSchedule\"").unwrap(), both);
        assert_eq!(flag("--register-with-taints a=b:NoSchedule").unwrap(), both);
        assert_eq!(flag(&format!("--register-with-taints={OURS},a=b:NoSchedule")).unwrap(), both);
        assert_eq!(flag("--register-with-taints=").unwrap(), Taints::Flag(format!("{FLAG}={OURS}")));
        assert!(flag("--register-with-taints='a b'").unwrap_err().contains("characters"));
        assert!(flag("--x=' --register-with-taints=a=b:NoSchedule").unwrap_err().contains("not closed"));
    }

    #[test]
    fn what_is_odd_about_other_flags_does_not_keep_the_taint_away() {
        for odd in ["--x='", "--node-labels=\"a=b", "--y=a\\ b"] {
            let there = cached(&[unregistered()], odd);
            let both = Taints::Config(vec![unregistered(), ours(&Keys::default())]);
            assert_eq!(for_nodeadm(&there, &Others::default(), &Keys::default()).unwrap(), both, "{odd}");
        }
    }

    #[test]
    fn drop_ins_before_ours_are_kept_and_one_after_it_that_undoes_it_is_told() {
        let keys = Keys::default();
        let theirs = json!({"key": "k", "effect": "NoSchedule"});
        let other = |taints: &[Value], flags| Other { name: "x.yaml".into(), told: cached(taints, flags) };
        let by = |before: Vec<Other>, after: Vec<Other>| {
            for_nodeadm(&cached(&[unregistered()], "--v=2"), &Others { before, after }, &keys)
        };
        let both = Taints::Config(vec![theirs.clone(), ours(&keys)]);
        assert_eq!(by(vec![other(std::slice::from_ref(&theirs), ""), other(&[], "--a=b")], vec![]), Ok(both));
        let flag = "--register-with-taints=k:NoSchedule";
        let extended = Taints::Flag(format!("{flag},{OURS}"));
        assert_eq!(by(vec![other(&[], flag)], vec![]), Ok(extended.clone()));
        for undone in [other(std::slice::from_ref(&theirs), ""), other(&[], flag)] {
            let problem = by(vec![], vec![undone]).unwrap_err();
            assert!(problem.contains("x.yaml") && problem.contains("without our taint"), "{problem}");
        }
        assert!(by(vec![], vec![other(&[], "--x=' --register-with-taints=a")]).is_err());
        // The flag wins over a list, whoever's it is; and a list with ours is as good.
        assert_eq!(by(vec![other(&[], flag)], vec![other(std::slice::from_ref(&theirs), "")]), Ok(extended));
        assert!(by(vec![], vec![other(&[theirs, ours(&keys)], "")]).is_ok());
        assert!(by(vec![], vec![other(&[], &format!("{flag},{OURS}"))]).is_ok());
    }

    #[test]
    fn for_kubelet_a_configured_list_becomes_the_flag() {
        let keys = Keys::default();
        let valued = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        assert_eq!(
            for_kubelet(&[], &[unregistered(), valued], &keys).unwrap(),
            format!("--register-with-taints=karpenter.sh/unregistered:NoExecute,k=v:NoSchedule,{OURS}")
        );
        assert_eq!(for_kubelet(&[], &[], &keys).unwrap(), format!("{FLAG}={OURS}"));
        assert!(for_kubelet(&[], &[json!({"key": "k"})], &keys).is_err());
    }
}
