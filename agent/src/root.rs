//! The root under which every path of the host is taken (`--root`, default `/`).

use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// So many links are followed on one way, as the kernel does (include/linux/namei.h, MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// Where links lead that go round: nothing is there.
const NOWHERE: &str = "/too many levels of symbolic links";

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

    /// Where `path` leads for the system that has this root, as a path of that system: every link on the way is followed, an
    /// absolute one starts again at the root, and `..` ends there. What is not there stays as it is named. `may` is asked
    /// about each path before that is touched; none where it says no.
    pub fn resolve(&self, path: &Path, may: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
        let mut found = PathBuf::from("/");
        let mut ahead = Vec::new();
        push(&mut ahead, path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                found.pop();
                continue;
            }
            found.push(name);
            if !may(&found) {
                return None;
            }
            let Ok(to) = fs::read_link(self.join(&found)) else { continue };
            links += 1;
            if links > MAX_LINKS {
                return Some(NOWHERE.into());
            }
            found.pop();
            if to.is_absolute() {
                found = PathBuf::from("/");
            }
            push(&mut ahead, &to);
        }
        Some(found)
    }

    /// As [`Root::join`], for what is to be read: an image's own links do not lead out of it to the host's files.
    pub fn follow(&self, path: impl AsRef<Path>) -> PathBuf {
        // On the host the kernel follows them.
        let to = if self.is_host() { None } else { self.resolve(path.as_ref(), &|_| true) };
        to.map_or_else(|| self.join(path), |to| self.join(to))
    }

    /// True for `/`: only then may ioctls, mounts and child processes touch the machine.
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// Puts the names of `path` on top of those that are still ahead, the first of them last.
fn push(ahead: &mut Vec<OsString>, path: &Path) {
    let names = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    ahead.extend(names.rev().map(|c| c.as_os_str().to_owned()));
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with these links.
    fn with(links: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (at, to) in links {
            let at = root.join(at);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            symlink(to, at).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn links_lead_where_they_would_if_the_root_was_the_systems() {
        let (_dir, root) = with(&[
            ("/lib", "/usr/lib"),
            ("/usr/lib/os", "../../etc/os"),
            ("/etc/os", "/opt/./os//release"),
            ("/out", "../../../../etc"),
            ("/etc/null", "/dev/null"),
        ]);
        for (path, leads) in [
            ("/etc/fstab", "/etc/fstab"),
            ("/lib/modules", "/usr/lib/modules"),
            ("/lib/os", "/opt/os/release"),
            ("/out/fstab", "/etc/fstab"),
            ("/etc/../../etc/null", "/dev/null"),
            ("/", "/"),
        ] {
            assert_eq!(root.resolve(path.as_ref(), &|_| true), Some(leads.into()), "{path}");
            assert_eq!(root.follow(path), root.join(leads));
        }
        // Whoever follows them has nothing of the host's, however they go round.
        let (_dir, round) = with(&[("/a", "/b"), ("/b", "a/../b"), ("/self", "self")]);
        for path in ["/a", "/b/x", "/self"] {
            assert!(
                !round.follow(path).exists() && round.follow(path).starts_with(round.as_path()),
                "{path}"
            );
        }
    }

    #[test]
    fn nothing_is_touched_before_it_may_be_and_nothing_on_the_way_is_left_out() {
        let (_dir, root) = with(&[("/opt", "nfs/opt"), ("/etc/x", "/opt/x")]);
        let asked = RefCell::new(Vec::new());
        let may = |path: &Path| {
            asked.borrow_mut().push(path.display().to_string());
            // Whoever has looked already does not see it.
            if path == Path::new("/etc/y") {
                symlink("/etc/x", root.join(path)).unwrap();
            }
            !path.starts_with("/nfs")
        };
        assert_eq!(root.resolve("/etc/y".as_ref(), &may), None);
        assert_eq!(*asked.borrow(), ["/etc", "/etc/y", "/etc", "/etc/x", "/opt", "/nfs"]);
    }

    #[test]
    fn joins_absolute_paths_below_the_root_and_never_above_it() {
        assert_eq!(Root::new("/fix").join("/etc/fstab"), Path::new("/fix/etc/fstab"));
        assert_eq!(Root::new("/fix").join("/../../etc"), Path::new("/fix/etc"));
        assert_eq!(Root::default().join("/etc/fstab"), Path::new("/etc/fstab"));
    }
}
