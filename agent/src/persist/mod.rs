//! persist: fstab, mdadm.conf, tmpfiles.d: parse, edit, write atomically.
