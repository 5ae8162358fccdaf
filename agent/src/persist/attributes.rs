//! What a file has besides its text, for the one that takes its place.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::XattrFlags;

/// Owner, mode, and extended attributes (the SELinux label and ACLs are such).
pub(super) fn copy(old: &File, new: &File) -> io::Result<()> {
    let meta = old.metadata()?;
    // Owner first: a change of owner clears setuid bits. Unprivileged (tests, image builds) it may be ours already.
    let mine = new.metadata()?;
    if (mine.uid(), mine.gid()) != (meta.uid(), meta.gid()) {
        std::os::unix::fs::fchown(new, Some(meta.uid()), Some(meta.gid()))?;
    }
    new.set_permissions(Permissions::from_mode(meta.mode() & 0o7777))?;
    for name in xattr_names(old)? {
        // Sums over the content, kept by the kernel itself.
        if matches!(name.as_slice(), b"security.ima" | b"security.evm") {
            continue;
        }
        let name = name.as_slice();
        let mut value = vec![0; 64 << 10];
        let size = rustix::fs::fgetxattr(old, name, &mut value[..])?;
        let value = &value[..size];
        let mut same = vec![0; size + 1];
        if rustix::fs::fgetxattr(new, name, &mut same[..]).is_ok_and(|n| &same[..n] == value) {
            continue;
        }
        rustix::fs::fsetxattr(new, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

fn xattr_names(file: &File) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0_u8; 64 << 10];
    match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(size) => {
            Ok(names[..size].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
        }
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}
