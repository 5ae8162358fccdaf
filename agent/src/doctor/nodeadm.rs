//! nodeadm: by which way the labels come to the Node on this image, what else is among the NodeConfigs, and whether one of
//! them has it take the drives.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::subject::{ROOT_ONLY, Subject};
use super::{Check, userdata};
use crate::config::{LabelMethod, OnFailure};
use crate::node::Keys;
use crate::node::nodeadm::{self, Cached};
use crate::node::registration::{
    DROP_IN_DIR, DROP_IN_PATH, UNIT_DIRECTORIES, Way, drop_ins_are_read, others, taints,
};
use crate::persist::atomic;
use crate::plan::owners::NODEADM_NEXT;

/// How long a text may be that is taken for a NodeConfig, in bytes.
const LONGEST: u64 = 1 << 20;

pub fn label_way(subject: &Subject<'_>) -> Check {
    const NAME: &str = "label-way";
    let method = subject.config.label_method;
    match Way::of(subject.root, method) {
        (Way::DropIn, _) => Check::ok(NAME, format!("dropin: {DROP_IN_PATH}")),
        (way @ Way::Environment, _) => {
            Check::ok(NAME, format!("{}: older image, before v20251023", way.as_str()))
        }
        (Way::None, why) => {
            let why = why.unwrap_or_default();
            match method {
                LabelMethod::Api | LabelMethod::None => Check::ok(NAME, why),
                _ if !is_eks(subject) => Check::ok(NAME, format!("no image of EKS's: {why}")),
                _ => Check::warning(NAME, why, "Set `label_method` to what this image has, or to `auto`."),
            }
        }
    }
}

fn is_eks(subject: &Subject<'_>) -> bool {
    has_unit(subject, "nodeadm-run.service")
        || has_unit(subject, "kubelet.service")
        || subject.at("/etc/eks").is_ok_and(|at| at.is_dir())
}

fn has_unit(subject: &Subject<'_>, name: &str) -> bool {
    UNIT_DIRECTORIES.iter().any(|dir| subject.at(&format!("{dir}/{name}")).is_ok_and(|at| at.is_file()))
}

/// A file of the directory, and what it says or why not.
struct File {
    name: String,
    is_ours: bool,
    told: Result<Cached, String>,
}

fn files(subject: &Subject<'_>) -> Result<Vec<File>, std::io::Error> {
    let dir = subject.at(DROP_IN_DIR).map_err(std::io::Error::other)?;
    let mut names: Vec<OsString> = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name()).collect();
    names.retain(|name| others::is_read(name));
    names.sort();
    let mut files = Vec::new();
    for name in names {
        let path = Path::new(DROP_IN_DIR).join(&name);
        let at = subject.at_path(&path).map_err(std::io::Error::other)?;
        if !at.is_dir() {
            files.push(File {
                name: name.to_string_lossy().escape_default().to_string(),
                is_ours: path == Path::new(DROP_IN_PATH),
                told: read(&at),
            });
        }
    }
    Ok(files)
}

/// What is quoted of a text is nothing: a NodeConfig may hold a proxy's password.
fn read(at: &Path) -> Result<Cached, String> {
    match fs::metadata(at) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err("is a link that leads nowhere".into());
        }
        Ok(meta) if meta.len() > LONGEST => return Err(format!("is longer than {LONGEST} bytes")),
        _ => {}
    }
    let text = atomic::read(at).map_err(|e| format!("cannot be read: {e}"))?;
    node_config(&String::from_utf8_lossy(&text))
}

fn node_config(text: &str) -> Result<Cached, String> {
    let config: Value =
        serde_saphyr::from_str(text).map_err(|_| "is not the YAML of one document".to_owned())?;
    let word = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    if !word("apiVersion").starts_with("node.eks.aws/") || word("kind") != "NodeConfig" {
        return Err("is no NodeConfig (apiVersion node.eks.aws/..., kind NodeConfig)".into());
    }
    nodeadm::told(&config)
}

/// What is in the directory of ours: a file that nodeadm does not take keeps the node from joining, ours or not.
pub fn drop_ins(subject: &Subject<'_>) -> Check {
    const NAME: &str = "nodeadm-drop-ins";
    let files = match files(subject) {
        Ok(files) => files,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return match has_unit(subject, "nodeadm-run.service") && drop_ins_are_read(subject.root) {
                true => Check::problem(
                    NAME,
                    format!(
                        "nodeadm-run.service reads {DROP_IN_DIR}, which is not here: it fails, and the node never joins"
                    ),
                    format!("`mkdir -p {DROP_IN_DIR}`."),
                ),
                false => Check::ok(NAME, format!("no {DROP_IN_DIR} on this image")),
            };
        }
        Err(e) => return Check::unknown(NAME, format!("{DROP_IN_DIR}: cannot be read: {e}")),
    };
    let wrong = files.iter().find_map(|file| Some((file, file.told.as_ref().err()?)));
    if let Some((file, problem)) = wrong {
        return Check::problem(
            NAME,
            format!("{DROP_IN_DIR}/{} {problem}: nodeadm-run fails, and the node never joins", file.name),
            "Mend or remove the file; `nodeadm config check` says more.",
        );
    }
    if !subject.running && files.iter().any(|file| file.is_ours) {
        return Check::warning(
            NAME,
            format!("{DROP_IN_PATH} is of the machine that the image was made on"),
            "Run ami/clean.sh, or `nvme-agent install --root`, before the image is made.",
        );
    }
    let keys = Keys::of(subject.config);
    let label = format!("{}=", keys.state());
    let labels =
        |file: &&File| !file.is_ours && file.told.as_ref().is_ok_and(|told| told.flags.contains(&label));
    if let Some(file) = files.iter().find(labels) {
        return Check::warning(
            NAME,
            format!("{DROP_IN_DIR}/{} gives the label {} too, which is ours", file.name, keys.state()),
            "Take it out: of two kubelet takes the later, whatever the drives are.",
        );
    }
    if subject.config.on_failure == OnFailure::Taint {
        let cached = nodeadm::cached(subject.root).ok().flatten().unwrap_or_default();
        let taints =
            others::read(subject.root).and_then(|others| taints::for_nodeadm(&cached, &others, &keys));
        if let Err(problem) = taints {
            return Check::problem(
                NAME,
                format!("a failed node cannot be tainted, and would not join: {problem}"),
                "Mend the file that is named, or choose another on_failure.",
            );
        }
    }
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    match names.as_slice() {
        [] => Check::ok(NAME, format!("{DROP_IN_DIR} is empty")),
        names => Check::ok(NAME, format!("{}: {}", names.len(), names.join(", "))),
    }
}

/// localStorage in a NodeConfig that nodeadm has not merged yet, or on an image never will tell us of: Karpenter's
/// instanceStorePolicy comes so, in userData.
pub fn storage(subject: &Subject<'_>) -> Check {
    const NAME: &str = "nodeadm-storage";
    let mut told: Vec<(String, Cached)> = Vec::new();
    let mut unknown = None;
    match files(subject) {
        Ok(files) => {
            for file in files {
                let place = format!("{DROP_IN_DIR}/{}", file.name);
                told.extend(file.told.ok().map(|config| (place, config)));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => unknown = Some(format!("{DROP_IN_DIR}: cannot be read: {e}")),
    }
    // An image has that of the machine that it was made on.
    if subject.running {
        match userdata::read(subject) {
            Ok(Some((path, parts))) => {
                let configs = parts.iter().filter(|part| part.is_node_config());
                for config in configs.map(|part| node_config(&part.text)) {
                    match config {
                        Ok(config) => told.push((format!("userData ({path})"), config)),
                        Err(problem) => {
                            unknown = Some(format!("a NodeConfig in userData ({path}) {problem}"))
                        }
                    }
                }
            }
            Ok(None) => {}
            Err(_) if !subject.privileged => unknown = Some(ROOT_ONLY.into()),
            Err(problem) => unknown = Some(problem),
        }
    }
    let strategy = |(place, told): &(String, Cached)| Some((place.clone(), told.strategy.clone()?));
    let has_none = matches!(&subject.seen, Ok(seen) if seen.drives.is_empty() && seen.pending.is_empty());
    match (told.iter().find_map(strategy), unknown) {
        (Some((place, strategy)), _) if has_none => {
            Check::ok(NAME, format!("{place} has localStorage.strategy {strategy}, but there are no drives"))
        }
        (Some((place, strategy)), _) => Check::problem(
            NAME,
            format!(
                "{place} has spec.instance.localStorage.strategy {strategy}: nodeadm will set up the drives itself"
            ),
            NODEADM_NEXT,
        ),
        (None, Some(why)) => Check::unknown(NAME, why),
        (None, None) => Check::ok(NAME, format!("no localStorage in {} NodeConfigs", told.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::doctor::tests::Machine;

    const HEAD: &str = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\n";
    const RAID0: &str = "spec: {instance: {localStorage: {strategy: RAID0}}}\n";
    const READS: &str =
        "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n";

    fn eks() -> Machine {
        let mut machine = Machine::new();
        machine.drive("1");
        machine.write("/etc/systemd/system/nodeadm-run.service", READS);
        fs::create_dir_all(machine.root.join(DROP_IN_DIR)).unwrap();
        machine
    }

    fn with(name: &str, text: &str) -> Machine {
        let machine = eks();
        machine.write(&format!("{DROP_IN_DIR}/{name}"), text);
        machine
    }

    #[test]
    fn the_way_that_the_image_has() {
        Machine::new().check(label_way).is(Verdict::Ok, &["no image of EKS's"]);
        let mut machine = eks();
        machine.check(label_way).is(Verdict::Ok, &["dropin"]);
        machine.image(label_way).is(Verdict::Ok, &["dropin"]);
        machine.config.label_method = LabelMethod::Environment;
        machine.check(label_way).is(Verdict::Warning, &["neither /etc/eks/kubelet/environment nor nodeadm"]);
        machine.write("/etc/eks/kubelet/environment", "NODEADM_KUBELET_ARGS=--v=2");
        machine.check(label_way).is(Verdict::Ok, &["environment"]);
        machine.config.label_method = LabelMethod::Api;
        machine.check(label_way).is(Verdict::Ok, &["`report` alone labels"]);
    }

    #[test]
    fn a_file_that_nodeadm_does_not_take_is_a_problem_and_not_quoted() {
        eks().check(drop_ins).is(Verdict::Ok, &["is empty"]);
        with("10-a.yaml", &format!("{HEAD}spec: {{}}\n")).check(drop_ins).is(Verdict::Ok, &["1: 10-a.yaml"]);
        for text in [
            "secret: {",
            "[secret]",
            "kind: NodeConfig\nspec: secret\n",
            &format!("{HEAD}spec: {{kubelet: {{flags: secret}}}}"),
        ] {
            let check = with("10-a.yaml", text).check(drop_ins);
            check.is_problem(&["/etc/eks/nodeadm.d/10-a.yaml", "never joins"]);
            assert!(!check.found.contains("secret"), "{check:?}");
        }
        let machine = eks();
        machine.link(&format!("{DROP_IN_DIR}/20-b.yml"), "nowhere");
        machine.check(drop_ins).is_problem(&["20-b.yml is a link that leads nowhere"]);
        // Another name is not read.
        with("20-b.txt", "secret: {").check(drop_ins).is(Verdict::Ok, &["is empty"]);
    }

    #[test]
    fn a_directory_that_nodeadm_reads_must_be_there() {
        Machine::new().check(drop_ins).is(Verdict::Ok, &["no /etc/eks/nodeadm.d"]);
        let machine = eks();
        fs::remove_dir(machine.root.join(DROP_IN_DIR)).unwrap();
        machine.check(drop_ins).is_problem(&["which is not here", "mkdir -p /etc/eks/nodeadm.d"]);
    }

    #[test]
    fn files_of_others_that_undo_ours() {
        let label = format!(
            "{HEAD}spec: {{kubelet: {{flags: [\"--node-labels=nvme-agent.e6data.com/state=ready\"]}}}}\n"
        );
        with("60-x.yaml", &label)
            .check(drop_ins)
            .is(Verdict::Warning, &["60-x.yaml", "nvme-agent.e6data.com/state"]);
        let ours = with("50-nvme-agent.yaml", &label);
        ours.check(drop_ins).is(Verdict::Ok, &[]);
        ours.image(drop_ins).is(Verdict::Warning, &["ami/clean.sh"]);
        let taints = format!(
            "{HEAD}spec: {{kubelet: {{config: {{registerWithTaints: [{{key: a, effect: NoSchedule}}]}}}}}}\n"
        );
        let mut machine = with("60-x.yaml", &taints);
        machine.check(drop_ins).is(Verdict::Ok, &[]);
        machine.config.on_failure = OnFailure::Taint;
        machine.check(drop_ins).is_problem(&["cannot be tainted", "60-x.yaml"]);
    }

    #[test]
    fn local_storage_in_a_drop_in_or_in_karpenters_userdata() {
        eks().check(storage).is(Verdict::Ok, &["no localStorage in 0 NodeConfigs"]);
        let machine = with("10-a.yaml", &format!("{HEAD}{RAID0}"));
        machine.check(storage).is_problem(&["/etc/eks/nodeadm.d/10-a.yaml", "RAID0", "instanceStorePolicy"]);
        machine.image(storage).is_problem(&["RAID0"]);
        let machine = eks();
        let part = |config: &str| {
            let text = format!(
                "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n\n--//\nContent-Type: \
                 application/node.eks.aws\n\n{config}\n--//--\n"
            );
            machine.write(userdata::PATHS[1], &text);
        };
        part(&format!("{HEAD}{RAID0}"));
        machine.check(storage).is_problem(&["userData (/var/lib/cloud/instance/user-data.txt)", "RAID0"]);
        machine.image(storage).is(Verdict::Ok, &[]);
        part(&format!("{HEAD}spec: {{}}"));
        machine.check(storage).is(Verdict::Ok, &["1 NodeConfigs"]);
        part("secret: {");
        let check = machine.check(storage);
        check.is(Verdict::Unknown, &["is not the YAML"]);
        assert!(!check.found.contains("secret"), "{check:?}");
    }

    #[test]
    fn local_storage_is_no_matter_where_there_are_no_drives() {
        let machine = Machine::new();
        machine.write(&format!("{DROP_IN_DIR}/10-a.yaml"), &format!("{HEAD}{RAID0}"));
        machine.check(storage).is(Verdict::Ok, &["no drives"]);
    }
}
