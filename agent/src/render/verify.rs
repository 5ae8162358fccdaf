//! `--verify`: what is rendered can be had, and is what its sum says, or what the channel's signed manifest says. A wrong sum in an
//! EC2NodeClass launches instances again and again, until somebody notices.
//!
//! Fetched as a node would: by curl or the AWS CLI, as child processes. The agent itself talks to no network but for `report`.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::channel::{self, Channel};
use super::userdata::Binary;
use super::values::{Region, Sha256, Url};
use crate::error::{Error, Result};
use crate::exec::{self, Call};

const DEADLINE: Duration = Duration::from_secs(120);
/// Ten times what the binary is; an address that never ends must not fill a disk.
const LARGEST: u64 = 64 << 20;
/// A manifest has a few lines, and a signature four. In bytes.
const LONGEST_TEXT: u64 = 64 << 10;
/// What the children need of the environment: proxies, and how the AWS CLI logs in.
const ENVIRONMENT: [&str; 9] = [
    "HOME",
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
];

/// Fetches the binary to a directory of our own, and compares its sum.
///
/// # Errors
/// [`Error::Environment`] without the program; [`Error::Child`] where it fails; [`Error::Other`] for another sum, which names the
/// option and what was found.
pub fn verify(binary: &Binary, region: Option<&Region>) -> Result<()> {
    let option = format!("--sha256-{}", binary.arch.as_str().replace('_', "-"));
    compare(&option, &binary.url, &binary.sha256, region)
}

/// Fetches a channel's manifest and its signature, checks it by the key, and then every binary that it names.
///
/// # Errors
/// As [`verify`]; [`Error::Other`] for a signature that does not hold, or a manifest of which nodes would not take a line.
pub fn verify_channel(channel: &Channel, region: Option<&Region>) -> Result<()> {
    let directory = Directory::new()?;
    let text = |url: &str| -> Result<Vec<u8>> {
        let file = directory.0.join("text");
        fetch(url, &file, region)?;
        let mut bytes = Vec::new();
        let opened = fs::File::open(&file).map_err(Error::io(&file, "read what was fetched"))?;
        opened
            .take(LONGEST_TEXT)
            .read_to_end(&mut bytes)
            .map_err(Error::io(&file, "read what was fetched"))?;
        Ok(bytes)
    };
    let url = channel.url.as_str();
    let (manifest, signature) = (text(url)?, text(&format!("{url}.minisig"))?);
    let wrong = |problem: String| Error::Other(format!("--channel: {url}: {problem}"));
    let signature = String::from_utf8_lossy(&signature);
    channel.key.verify(&manifest, &signature).map_err(wrong)?;
    let named = channel::entries(channel, &String::from_utf8_lossy(&manifest)).map_err(wrong)?;
    named.iter().try_for_each(|entry| compare("--channel", &entry.url, &entry.sha256, region))
}

/// Fetches a binary, and compares its sum with the one that an option, or what it names, has for it.
fn compare(option: &str, url: &Url, expected: &Sha256, region: Option<&Region>) -> Result<()> {
    let directory = Directory::new()?;
    let file = directory.0.join("binary");
    fetch(url.as_str(), &file, region)?;
    let found = sum(&file)?;
    if found != expected.as_str() {
        return Err(Error::Other(format!(
            "{option}: expected the sum of {url}, which is {found}, found {expected}"
        )));
    }
    Ok(())
}

fn fetch(url: &str, file: &Path, region: Option<&Region>) -> Result<()> {
    let seconds = DEADLINE.as_secs().to_string();
    let (program, args): (_, Vec<OsString>) = if url.starts_with("s3:") {
        let mut args: Vec<OsString> = ["s3", "cp", "--only-show-errors"].map(Into::into).into();
        args.extend(region.into_iter().flat_map(|region| ["--region".into(), region.as_str().into()]));
        args.extend([url.into(), file.into()]);
        ("aws", args)
    } else {
        let largest = LARGEST.to_string();
        let args =
            ["-gfsSL", "--connect-timeout", "10", "--max-time", &seconds, "--max-filesize", &largest, "-o"];
        let mut args: Vec<OsString> = args.map(Into::into).into();
        args.extend([file.into(), url.into()]);
        ("curl", args)
    };
    let path = find(program).ok_or_else(|| {
        Error::Environment(format!(
            "--verify: {program} is not in PATH; it is what fetches {url}, here and on a node"
        ))
    })?;
    let env: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| {
            name.to_str().is_some_and(|name| ENVIRONMENT.contains(&name) || name.starts_with("AWS_"))
        })
        .collect();
    let call = Call { program: &path, args: &args, env: &env, deadline: DEADLINE, secret: false };
    exec::run_call(call)?.check(&path).map(drop)
}

/// Where a program is for whoever runs us: unlike a node's, it may be anywhere in PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// SHA-256 of a file, in lower-case hexadecimal digits.
fn sum(file: &Path) -> Result<String> {
    let failed = || Error::io(file, "read what was fetched");
    let mut opened = fs::File::open(file).map_err(failed())?.take(LARGEST);
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; 64 << 10];
    loop {
        match opened.read(&mut chunk).map_err(failed())? {
            0 => break,
            read => context.update(&chunk[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A directory that nobody else can write to, and that goes away.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Directory> {
        let name = format!("nvme-agent-verify-{:016x}", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::io(&path, "make the directory"))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_that_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        fs::write(&file, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(sum(&file).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
