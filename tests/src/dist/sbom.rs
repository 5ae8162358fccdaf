//! The bill of materials of a binary, in CycloneDX 1.5: every crate that is in it, with version, licence and checksum, and
//! what links into it besides, Rust's std and musl. The same commit gives the same bytes.
//!
//! From `cargo tree` and not `cargo metadata`, which knows the workspace only as a whole: the lab's crates, and features that
//! only the lab asks for, would be listed as shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::target::Arch;
use crate::cache::digest;
use crate::{debian, runner};

/// What names a crate: name and version.
type Id = (String, String);

#[derive(Debug, Default, PartialEq, Eq)]
struct Crate {
    licence: String,
    /// Runs in the compiler: nothing of it, or of what it alone depends on, is in the binary.
    proc_macro: bool,
    depends_on: BTreeSet<Id>,
}

/// A binary to describe.
pub struct Subject<'a> {
    pub workspace: &'a Path,
    pub package: &'a str,
    pub binary: &'a Path,
    pub arch: Arch,
    /// Parts that are not crates, with versions.
    pub linked: &'a [(&'static str, String)],
    /// Of the commit, in seconds since 1970.
    pub time: i64,
}

/// The document.
pub fn make(subject: &Subject) -> Result<String> {
    let tree = debian::run(
        runner::cargo()
            .current_dir(subject.workspace)
            .args(["tree", "--locked", "--edges", "normal", "--prefix", "depth", "--format", "|{p}|{l}|"])
            .args(["--package", subject.package, "--target", subject.arch.target()]),
    )?;
    let (root, crates) = parse(&tree)?;
    let lock = subject.workspace.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    let sums = checksums(&lock)?;
    let binary = fs::read(subject.binary).with_context(|| format!("read {}", subject.binary.display()))?;
    let document = document(subject, &root, &crates, &sums, &digest(&binary))?;
    Ok(serde_json::to_string_pretty(&document).context("write JSON")? + "\n")
}

/// Reads lines such as `2|syn v2.0.1|MIT OR Apache-2.0|`. A crate that was shown before ends in `(*)` and has no lines below it.
fn parse(tree: &str) -> Result<(Id, BTreeMap<Id, Crate>)> {
    let mut crates: BTreeMap<Id, Crate> = BTreeMap::new();
    let mut above: Vec<Id> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let what = || format!("a line of cargo tree: {line:?}");
        let mut fields = line.split('|');
        let depth: usize = fields.next().and_then(|depth| depth.parse().ok()).with_context(what)?;
        let package = fields.next().with_context(what)?;
        let licence = fields.next().with_context(what)?;
        let (name, rest) = package.split_once(" v").with_context(what)?;
        let version = rest.split(' ').next().unwrap_or(rest);
        let id = (name.to_owned(), version.to_owned());
        ensure!(depth <= above.len(), "{}: too deep", what());
        above.truncate(depth);
        if let Some(parent) = above.last().and_then(|parent| crates.get_mut(parent)) {
            parent.depends_on.insert(id.clone());
        }
        let entry = crates.entry(id.clone()).or_default();
        // Before SPDX expressions a slash stood for a choice.
        entry.licence = licence.replace('/', " OR ");
        entry.proc_macro = rest.contains("(proc-macro)");
        above.push(id);
    }
    let root = above.first().context("cargo tree printed nothing")?.clone();
    Ok((root, crates))
}

/// All that is compiled into the binary itself.
fn shipped(root: &Id, crates: &BTreeMap<Id, Crate>) -> BTreeSet<Id> {
    let (mut found, mut next) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = next.pop() {
        let Some(this) = crates.get(&id).filter(|this| !this.proc_macro) else { continue };
        if found.insert(id) {
            next.extend(this.depends_on.iter().cloned());
        }
    }
    found
}

/// The checksums of Cargo.lock; crates of the workspace have none.
fn checksums(lock: &str) -> Result<BTreeMap<Id, String>> {
    #[derive(serde::Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let sums = lock.package.into_iter().filter_map(|p| Some(((p.name, p.version), p.checksum?)));
    Ok(sums.collect())
}

fn document(
    subject: &Subject,
    root: &Id,
    crates: &BTreeMap<Id, Crate>,
    sums: &BTreeMap<Id, String>,
    binary: &str,
) -> Result<Value> {
    let shipped = shipped(root, crates);
    let mut components: Vec<Value> = Vec::new();
    let mut dependencies: Vec<Value> = Vec::new();
    for (id, this) in crates {
        let mut on: Vec<String> = this.depends_on.iter().map(purl).collect();
        if id == root {
            on.extend(subject.linked.iter().map(linked_purl));
        } else {
            let sum = sums.get(id).with_context(|| format!("{} {} is not in Cargo.lock", id.0, id.1))?;
            components.push(json!({
                "type": "library",
                "bom-ref": purl(id),
                "name": id.0,
                "version": id.1,
                // A macro and what it needs have run in the compiler.
                "scope": if shipped.contains(id) { "required" } else { "excluded" },
                "hashes": [{"alg": "SHA-256", "content": sum}],
                "licenses": [{"expression": this.licence}],
                "purl": purl(id),
            }));
        }
        dependencies.push(json!({"ref": purl(id), "dependsOn": on}));
    }
    for part in subject.linked {
        let purl = linked_purl(part);
        components.push(json!({
            "type": "library", "bom-ref": purl, "name": part.0, "version": part.1, "scope": "required", "purl": purl,
        }));
        dependencies.push(json!({"ref": purl, "dependsOn": []}));
    }
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(subject.time)?,
            "tools": {"components": [{"type": "application", "name": "cargo lab dist"}]},
            "component": {
                "type": "application",
                "bom-ref": purl(root),
                "name": root.0,
                "version": root.1,
                "description": format!("static binary for {}", subject.arch.target()),
                "hashes": [{"alg": "SHA-256", "content": binary}],
                "licenses": [{"expression": crates.get(root).map(|this| this.licence.as_str()).unwrap_or_default()}],
                "purl": purl(root),
            },
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn purl((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

fn linked_purl((name, version): &(&'static str, String)) -> String {
    format!("pkg:generic/{name}@{version}")
}

/// RFC 3339, in UTC.
fn timestamp(seconds: i64) -> Result<String> {
    let at = OffsetDateTime::from_unix_timestamp(seconds).context("time of the commit")?;
    let (hour, minute, second) = at.to_hms();
    Ok(format!("{}T{hour:02}:{minute:02}:{second:02}Z", at.date()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0|agent v0.1.0 (/work/agent)|Apache-2.0|
1|serde v1.0.1|MIT/Apache-2.0|
2|serde_derive v1.0.1 (proc-macro)|MIT|
3|syn v2.0.0|MIT|
4|unicode v1.0.0|MIT|
1|text v3.0.0+x|MIT|
2|unicode v1.0.0|MIT|
1|serde v1.0.1|MIT/Apache-2.0| (*)
";

    fn id(name: &str, version: &str) -> Id {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn what_only_macros_need_is_not_shipped() {
        let (root, crates) = parse(TREE).unwrap();
        assert_eq!(root, id("agent", "0.1.0"));
        assert_eq!(crates.len(), 6);
        let shipped: Vec<String> = shipped(&root, &crates).into_iter().map(|(name, _)| name).collect();
        assert_eq!(shipped, ["agent", "serde", "text", "unicode"]);
        // The second mention of serde, without its children, has not taken them away.
        assert_eq!(crates[&id("serde", "1.0.1")].depends_on, [id("serde_derive", "1.0.1")].into());
        assert!(parse("0|agent|x|\n").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn the_document_refers_only_to_what_it_lists() {
        let (root, crates) = parse(TREE).unwrap();
        let linked = [("musl", "1.2.5".to_owned())];
        let subject = Subject {
            workspace: Path::new("/work"),
            package: "agent",
            binary: Path::new("/work/agent"),
            arch: Arch::Aarch64,
            linked: &linked,
            time: 1_795_353_428,
        };
        let sums: BTreeMap<Id, String> = crates.keys().map(|id| (id.clone(), "ab".repeat(32))).collect();
        let document = document(&subject, &root, &crates, &sums, &"cd".repeat(32)).unwrap();
        assert_eq!(document["metadata"]["timestamp"], "2026-11-22T13:17:08Z");
        let listed: BTreeSet<&str> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&document["metadata"]["component"]])
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(listed.len(), 7);
        for dependency in document["dependencies"].as_array().unwrap() {
            for on in dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]) {
                assert!(listed.contains(on.as_str().unwrap()), "{on}");
            }
        }
        let serde = &document["components"][0];
        assert_eq!((&serde["name"], &serde["scope"]), (&json!("serde"), &json!("required")));
        assert_eq!(serde["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(listed.contains("pkg:cargo/text@3.0.0%2Bx"));
        let incomplete = super::document(&subject, &root, &crates, &BTreeMap::new(), "").unwrap_err();
        assert!(incomplete.to_string().contains("is not in Cargo.lock"), "{incomplete}");
    }

    #[test]
    fn checksums_of_a_lock_file() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"12\"\n\
                    [[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        assert_eq!(checksums(lock).unwrap(), [(id("a", "1.0.0"), "12".to_owned())].into());
    }
}
