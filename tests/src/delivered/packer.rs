//! The Packer template. Packer itself is not to be had here: what is checked is that it is HCL, that it refers only to what it
//! declares, and that what it says fits the files that it names.

use std::collections::BTreeSet;
use std::fs;

use hcl::{Body, Expression, Structure};

use super::{StandIns, ended, read, shellcheck, write};
use crate::dist::{package, target::Arch};
use crate::runner::workspace;

const TEMPLATE: &str = "ami/nvme-agent.pkr.hcl";

fn blocks<'a>(body: &'a Body, kind: &'a str) -> impl Iterator<Item = &'a hcl::Block> {
    body.blocks().filter(move |block| block.identifier() == kind)
}

fn label(block: &hcl::Block, index: usize) -> String {
    block.labels()[index].as_str().to_owned()
}

fn attribute<'a>(body: &'a Body, key: &str) -> &'a Expression {
    let found = body.attributes().find(|attribute| attribute.key() == key);
    found.unwrap_or_else(|| panic!("no {key}")).expr()
}

/// An expression as it is written.
fn written(expression: &Expression) -> String {
    hcl::format::to_string(expression).unwrap()
}

/// Every word that follows `start`, in a text such as `"${var.version}-${local.stamp}"`.
fn names(text: &str, start: &str) -> BTreeSet<String> {
    text.split(start)
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn it_is_hcl_and_uses_all_and_only_what_it_declares() {
    let text = read(TEMPLATE);
    let template: Body = hcl::parse(&text).unwrap_or_else(|error| panic!("{TEMPLATE}: {error}"));
    let known = ["packer", "variable", "locals", "source", "build"];
    for structure in template.iter() {
        let Structure::Block(block) = structure else { panic!("an attribute outside of a block") };
        assert!(known.contains(&block.identifier()), "{}", block.identifier());
    }
    let declared: BTreeSet<String> = blocks(&template, "variable").map(|block| label(block, 0)).collect();
    assert_eq!(names(&text, "var."), declared);
    let locals = blocks(&template, "locals").next().unwrap();
    let declared: BTreeSet<String> =
        locals.body().attributes().map(|attribute| attribute.key().to_owned()).collect();
    assert_eq!(names(&text, "local."), declared);
}

#[test]
fn it_builds_both_architectures_of_eks_images() {
    let template: Body = hcl::parse(&read(TEMPLATE)).unwrap();
    let declared: Vec<String> = blocks(&template, "source")
        .map(|source| format!("{}.{}", label(source, 0), label(source, 1)))
        .collect();
    let build = blocks(&template, "build").next().unwrap().body();
    let mut built = Vec::new();
    for source in blocks(build, "source") {
        assert!(declared.contains(&label(source, 0)), "{declared:?}");
        let name = written(attribute(source.body(), "name")).trim_matches('"').to_owned();
        let filter = blocks(source.body(), "source_ami_filter").next().unwrap();
        let image = written(attribute(filter.body(), "filters"));
        assert!(image.contains(&format!("amazon-eks-node-al2023-{name}-standard-")), "{image}");
        // Amazon's account of EKS images: anybody may name an image so.
        assert!(written(attribute(filter.body(), "owners")).contains("602401143452"));
        built.push(name);
    }
    assert_eq!(built, ["x86_64", "arm64"]);
}

/// The package by the name that `cargo lab dist --all` gives it, proved, enabled; the clean-up last of all.
#[test]
fn it_installs_what_dist_makes_and_cleans_up_last() {
    let template: Body = hcl::parse(&read(TEMPLATE)).unwrap();
    let version = blocks(&template, "variable").find(|variable| label(variable, 0) == "version").unwrap();
    assert_eq!(written(attribute(version.body(), "default")).trim_matches('"'), package::VERSION);
    let build = blocks(&template, "build").next().unwrap().body();
    let provisioners: Vec<&hcl::Block> = blocks(build, "provisioner").collect();
    let rpm = written(attribute(provisioners[0].body(), "source"));
    assert!(rpm.contains("/nvme-agent-${var.version}-1."), "{rpm}");
    for arch in Arch::ALL {
        assert!(rpm.contains(&format!("\"{}\"", arch.name())), "{rpm}");
    }
    let Expression::Array(lines) = attribute(provisioners[2].body(), "inline") else {
        panic!("inline is a list")
    };
    let lines: Vec<&str> = lines
        .iter()
        .map(|line| match line {
            Expression::String(line) => line.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(lines.contains(&"nvme-agent --version"), "{lines:?}");
    for entry in fs::read_dir(workspace().join("systemd")).unwrap() {
        let unit = entry.unwrap().file_name().into_string().unwrap();
        let enabled = |line: &&str| line.contains(&unit) && line.contains("systemctl is-enabled");
        assert!(lines.iter().any(enabled), "{unit}: {lines:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    shellcheck(&write(dir.path(), "inline.sh", &format!("#!/bin/bash -eu\n{}\n", lines.join("\n"))));
    let last = provisioners.last().unwrap().body();
    assert_eq!(written(attribute(last, "script")), "\"${path.root}/clean.sh\"");
    assert!(written(attribute(last, "execute_command")).contains("--identity"));
}

/// Two instances of one image are two machines.
#[test]
fn clean_sh_takes_the_identity_of_the_build_host_only_where_it_is_asked_to() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for dir in [
        "etc/ssh",
        "var/lib/cloud/instances/i-1",
        "var/lib/systemd",
        "var/lib/dbus",
        "etc/eks/nodeadm.d",
        "root/.ssh",
    ] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    let identity = [
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "var/lib/cloud/instances/i-1/user-data.txt",
        "var/lib/systemd/random-seed",
        "root/.ssh/authorized_keys",
    ];
    for file in identity.iter().chain(&[
        "etc/ssh/sshd_config",
        "etc/machine-id",
        "etc/eks/nodeadm.d/50-nvme-agent.yaml",
    ]) {
        fs::write(path(file), "0123456789abcdef\n").unwrap();
    }
    let none = StandIns::new(&[]);
    let clean = |options: &[&str]| {
        ended(none.command(workspace().join("ami/clean.sh")).args(options).arg(root.path()).output().unwrap())
    };
    assert_eq!(clean(&[]), (0, String::new(), String::new()));
    assert!(identity.iter().all(|file| path(file).exists()));
    assert!(!path("etc/eks/nodeadm.d/50-nvme-agent.yaml").exists());
    assert_eq!(clean(&["--identity"]), (0, String::new(), String::new()));
    for file in identity {
        assert!(!path(file).exists(), "{file}");
    }
    // There and empty: systemd then makes one at boot. Were it not there, a read-only root would have none.
    assert_eq!(fs::read_to_string(path("etc/machine-id")).unwrap(), "");
    assert!(path("etc/ssh/sshd_config").exists());
    let (code, _, error) = clean(&["--all"]);
    assert!(code == 2 && error.contains("usage"), "{error}");
}
