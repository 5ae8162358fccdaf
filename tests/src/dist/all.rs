//! A release: binaries, packages, bills of materials and SHA256SUMS for both kinds of machine, a channel's directory, and the
//! proof that the same commit in another directory gives the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::target::Arch;
use super::{Build, Place, build_at, chroot, manual, package, rustup_builds, sbom, shown, starts};
use crate::cache::{Cache, digest};
use crate::debian;
use crate::progress::step;

const SUMS: &str = "SHA256SUMS";
/// What a channel serves, in a directory of the release: the manifest, which is yet to be signed, and what it names.
const CHANNEL: &str = "channel";
const MANIFEST: &str = "manifest";

/// Makes all that a release has; gives back the files whose checksums are in the last of them.
pub fn make(place: &Place, agent_command: &clap::Command) -> Result<Vec<PathBuf>> {
    let dist = place.dist();
    let time = commit_time(&place.workspace)?;
    manual::write(agent_command.clone(), &dist)?;
    let mut files = Vec::new();
    let mut binaries = Vec::new();
    for arch in Arch::ALL {
        let binary = build_at(place, &Build { arch, ..Build::new("nvme-agent", "nvme-agent") })?;
        starts(&binary, arch)?;
        let bill = dist.join(format!("nvme-agent-{}.cdx.json", arch.name()));
        let linked = linked(arch)?;
        let subject = sbom::Subject {
            workspace: &place.workspace,
            package: "nvme-agent",
            binary: &binary,
            arch,
            linked: &linked,
            time,
        };
        fs::write(&bill, sbom::make(&subject)?).with_context(|| format!("write {}", bill.display()))?;
        let content =
            package::Content { workspace: &place.workspace, dist: &dist, binary: &binary, arch, time };
        let packages = package::make(&content, package::VERSION, &dist)?;
        binaries.push((arch, binary.clone()));
        files.extend([binary, bill].into_iter().chain(packages));
    }
    files.sort();
    let sums = dist.join(SUMS);
    fs::write(&sums, checksums(&files)?).with_context(|| format!("write {}", sums.display()))?;
    files.push(sums);
    files.extend(channel(&dist.join(CHANNEL), package::VERSION, &binaries)?);
    Ok(files)
}

/// Makes a channel's directory anew: `nvme-agent-VERSION-ARCH`, by a name that no other version has, so that nodes that read the
/// former manifest still find what it names; and the manifest, which `nvme-agent render userdata --channel` is told of.
fn channel(directory: &Path, version: &str, binaries: &[(Arch, PathBuf)]) -> Result<Vec<PathBuf>> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", directory.display()));
        }
        _ => fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?,
    }
    let mut files = Vec::new();
    for (arch, binary) in binaries {
        let named = directory.join(format!("nvme-agent-{}-{}", version.replace('+', "-"), arch.name()));
        fs::copy(binary, &named)
            .with_context(|| format!("copy {} to {}", binary.display(), named.display()))?;
        files.push(named);
    }
    files.sort();
    let manifest = directory.join(MANIFEST);
    let text = format!("# nvme-agent {version}\n{}", checksums(&files)?);
    fs::write(&manifest, text).with_context(|| format!("write {}", manifest.display()))?;
    files.push(manifest);
    Ok(files)
}

/// Does it once more, from a clone of this commit in another directory and with no intermediate file of the first time.
///
/// # Errors
/// Names the files that differ; there are uncommitted changes, which a clone does not have.
pub fn make_again(place: &Place, first: &[PathBuf], agent_command: &clap::Command) -> Result<()> {
    let changed = git(&place.workspace, &["status", "--porcelain"])?;
    ensure!(changed.is_empty(), "a clone would not have what is not committed:\n{changed}");
    let elsewhere = tempfile::tempdir().context("make a directory for the second build")?;
    let workspace = elsewhere.path().join("another directory of any name").join("nvme-agent");
    let intermediate = elsewhere.path().join("intermediate");
    fs::create_dir(&intermediate).with_context(|| format!("create {}", intermediate.display()))?;
    debian::run(
        Command::new("git")
            .args(["-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks"])
            .arg(&place.workspace)
            .arg(&workspace),
    )?;
    let again = Place { workspace, intermediate: Some(intermediate) };
    step("Making all of it a second time, in another directory", || {
        let second = make(&again, agent_command)?;
        ensure!(second.len() == first.len(), "{} files, first {}", second.len(), first.len());
        let differ: Vec<String> = first
            .iter()
            .zip(&second)
            .filter(|(first, second)| fs::read(first).ok() != fs::read(second).ok())
            .map(|(first, _)| shown(first))
            .collect();
        ensure!(differ.is_empty(), "not the same the second time: {}", differ.join(", "));
        Ok(())
    })?;
    println!("made twice, in two directories, with the same bytes: {} files", first.len());
    Ok(())
}

/// In the format of sha256sum(1), by name.
fn checksums(files: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    for file in files {
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let name = file.file_name().context("a file of the release has a name")?.to_string_lossy();
        text.push_str(&format!("{}  {name}\n", digest(&bytes)));
    }
    Ok(text)
}

/// What is in the binary besides crates. rustup does not say which musl its targets have.
fn linked(arch: Arch) -> Result<Vec<(&'static str, String)>> {
    if !rustup_builds(arch)? {
        return chroot::Chroot::get(&Cache::open()?, arch)?.versions();
    }
    let rustc = debian::run(Command::new("rustc").arg("--version"))?;
    let version = rustc.split(' ').nth(1).with_context(|| format!("no version in {rustc:?}"))?;
    Ok(vec![("rust-std", version.to_owned())])
}

/// When the commit was made, in seconds since 1970: what is built today and next year from it says the same. A tree
/// that is no repository says it by the usual variable.
fn commit_time(workspace: &Path) -> Result<i64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => git(workspace, &["log", "-1", "--format=%ct"])
            .context("the time of the commit; set SOURCE_DATE_EPOCH where this is no git repository")?,
    };
    text.trim().parse().with_context(|| format!("seconds since 1970: {text:?}"))
}

fn git(workspace: &Path, args: &[&str]) -> Result<String> {
    // A checkout that belongs to another user (a CI's volume) is as good.
    debian::run(Command::new("git").args(["-c", "safe.directory=*"]).args(args).current_dir(workspace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_what_nodes_read() {
        let dir = tempfile::tempdir().unwrap();
        let binaries = Arch::ALL.map(|arch| (arch, dir.path().join(arch.name())));
        for (arch, path) in &binaries {
            fs::write(path, arch.name()).unwrap();
        }
        let directory = dir.path().join(CHANNEL);
        channel(&directory, "0.0.9", &binaries).unwrap();
        let files = channel(&directory, "0.1.0+x", &binaries).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3, "nothing of the former version is left");
        let url = "https://example.com/stable/manifest".parse().unwrap();
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".parse().unwrap();
        let found = nvme_agent::render::channel::entries(
            &nvme_agent::render::Channel { url, key },
            &fs::read_to_string(&files[2]).unwrap(),
        )
        .unwrap();
        for entry in &found {
            let name = entry.url.as_str().strip_prefix("https://example.com/stable/").unwrap();
            let bytes = fs::read(directory.join(name)).unwrap();
            assert_eq!(
                (bytes.as_slice(), digest(&bytes)),
                (entry.arch.as_str().as_bytes(), entry.sha256.to_string())
            );
        }
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn sums_are_what_sha256sum_takes() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["one", "two"].map(|name| dir.path().join(name));
        for file in &files {
            fs::write(file, file.as_os_str().as_encoded_bytes()).unwrap();
        }
        fs::write(dir.path().join(SUMS), checksums(&files).unwrap()).unwrap();
        let check = |dir: &Path| {
            debian::run(Command::new("sha256sum").args(["--check", "--strict", SUMS]).current_dir(dir))
        };
        check(dir.path()).unwrap();
        fs::write(&files[0], "other").unwrap();
        assert!(check(dir.path()).is_err());
    }
}
