//! Everything slow to make is made once per machine: `$XDG_CACHE_HOME/nvme-agent-lab`, else `~/.cache/nvme-agent-lab`.
//!
//! An artifact is a directory, `NAME-KEY`, where KEY is a hash of the recipe: every input that decides what is in it.
//! It is built beside its place and renamed into it, so a half-made one is never seen, and under a file lock, so that
//! two checkouts at work at once build it once. Each build also gets an id; an artifact made from another puts
//! that id in its own recipe, so that whatever is built again takes what was derived from it along.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

const ID_FILE: &str = ".id";

/// The user's cache directory for the lab.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Something built and ready, read-only from now on.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The directory that holds it.
    pub dir: PathBuf,
    /// Which build this is; for the recipes of what is derived from it.
    pub id: String,
}

impl Artifact {
    /// A file of the artifact.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }
}

impl Cache {
    /// Opens the cache of this user, creating the directory.
    pub fn open() -> Result<Cache> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => {
                PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
                    .join(".cache")
            }
        };
        Cache::at(base.join("nvme-agent-lab"))
    }

    /// A cache at a directory of the caller's choice (for tests).
    pub fn at(root: PathBuf) -> Result<Cache> {
        for dir in ["locks", "tmp"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(Cache { root })
    }

    /// Where the cache is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The artifact `name` made by `recipe`, built now by `build` unless it is there. `build` fills the empty directory
    /// that it is given. It may ask for other artifacts, but never for one that asks for this one.
    pub fn get(&self, name: &str, recipe: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<Artifact> {
        let key = format!("{name}-{}", &digest(recipe.as_bytes())[..16]);
        let dir = self.root.join(&key);
        if let Some(found) = self.found(&dir) {
            return Ok(found);
        }
        let _lock = self.lock(&key)?;
        if let Some(found) = self.found(&dir) {
            return Ok(found);
        }
        let temporary = self.root.join("tmp").join(&key);
        remove_tree(&temporary)?;
        fs::create_dir(&temporary).with_context(|| format!("create {}", temporary.display()))?;
        let built = build(&temporary).with_context(|| format!("build {name}"));
        if let Err(error) = built {
            // A half-made gigabyte is of no use to anybody, but failing to remove it must not hide the reason.
            let _ = remove_tree(&temporary);
            return Err(error);
        }
        fs::write(temporary.join("recipe"), recipe)
            .and_then(|()| fs::write(temporary.join(ID_FILE), build_id(recipe)))
            .and_then(|()| fs::rename(&temporary, &dir))
            .with_context(|| format!("put {} in its place", dir.display()))?;
        self.found(&dir).with_context(|| format!("{} vanished just after it was built", dir.display()))
    }

    /// Removes every artifact, or with `unused_for` only those that nobody asked for in that time. Returns the bytes freed.
    pub fn clean(&self, unused_for: Option<Duration>) -> Result<u64> {
        let mut freed = 0;
        for entry in fs::read_dir(&self.root).with_context(|| format!("list {}", self.root.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !path.join(ID_FILE).exists() {
                continue;
            }
            let used = fs::metadata(path.join(ID_FILE)).and_then(|meta| meta.modified());
            let age = used.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
            if unused_for.is_some_and(|limit| age < limit) {
                continue;
            }
            let _lock = self.lock(&name)?;
            freed += tree_bytes(&path);
            remove_tree(&path)?;
        }
        Ok(freed)
    }

    fn found(&self, dir: &Path) -> Option<Artifact> {
        let id = fs::read_to_string(dir.join(ID_FILE)).ok()?;
        // The time of last use, for `clean`. A cache on a read-only disk still serves.
        if let Ok(file) = OpenOptions::new().append(true).open(dir.join(ID_FILE)) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(Artifact { dir: dir.to_owned(), id })
    }

    fn lock(&self, key: &str) -> Result<Flock<File>> {
        let path = self.root.join("locks").join(key);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                crate::progress::step(&format!("Waiting for another lab, which is making {key}"), || {
                    Flock::lock(file, FlockArg::LockExclusive)
                        .map_err(|(_, errno)| errno)
                        .with_context(|| format!("lock {}", path.display()))
                })
            }
            Err((_, errno)) => bail!("lock {}: {errno}", path.display()),
        }
    }
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn build_id(recipe: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    digest(format!("{recipe} {} {}", now.as_nanos(), std::process::id()).as_bytes())[..16].to_owned()
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Bytes on disk, not apparent ones: most of what is here is sparse.
fn tree_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Cache {
        let dir = std::env::temp_dir().join(format!("lab-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Cache::at(dir).unwrap()
    }

    #[test]
    fn builds_once_per_recipe() {
        let cache = scratch("once");
        let mut built = 0;
        for _ in 0..2 {
            let artifact = cache
                .get("thing", "recipe 1", |dir| {
                    built += 1;
                    Ok(fs::write(dir.join("file"), "content")?)
                })
                .unwrap();
            assert_eq!(fs::read_to_string(artifact.path("file")).unwrap(), "content");
        }
        assert_eq!(built, 1);
        cache.get("thing", "recipe 2", |dir| Ok(fs::write(dir.join("file"), "other")?)).unwrap();
        assert_eq!(built, 1);
        assert!(cache.clean(Some(Duration::from_secs(3600))).unwrap() == 0);
        assert!(cache.clean(None).unwrap() > 0);
        fs::remove_dir_all(cache.root()).unwrap();
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let cache = scratch("failed");
        let error = cache.get("thing", "recipe", |_| bail!("no")).unwrap_err();
        assert_eq!(format!("{error:#}"), "build thing: no");
        assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
        fs::remove_dir_all(cache.root()).unwrap();
    }
}
