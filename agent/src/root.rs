//! The root under which every path of the host is taken (`--root`, default `/`).

use std::path::{Component, Path, PathBuf};

/// A directory that stands in for `/`: a fixture tree in tests, an image being built, or the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Root(PathBuf::from("/"))
    }
}

impl Root {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Root(dir.into())
    }

    /// `absolute` (a path of the host, such as `/etc/fstab`) under this root.
    pub fn join(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let mut path = self.0.clone();
        path.extend(
            absolute
                .as_ref()
                .components()
                .filter(|c| !matches!(c, Component::RootDir | Component::ParentDir)),
        );
        path
    }

    /// True for `/`: only then may ioctls, mounts and child processes touch the machine.
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_absolute_paths_below_the_root_and_never_above_it() {
        assert_eq!(Root::new("/fix").join("/etc/fstab"), Path::new("/fix/etc/fstab"));
        assert_eq!(Root::new("/fix").join("/../../etc"), Path::new("/fix/etc"));
        assert_eq!(Root::default().join("/etc/fstab"), Path::new("/etc/fstab"));
    }
}
