//! Whether an ELF file needs nothing of the system that it runs on.
//!
//! Read here and not asked of `file` or `readelf`, whose answers are prose and which a fresh machine may lack. A static
//! position-independent executable has a dynamic section too, so what counts is what that section asks for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::target::Arch;

const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const DYNAMIC_NULL: u64 = 0;
const DYNAMIC_NEEDED: u64 = 1;

/// Fails unless the file is an executable for this machine without interpreter and without shared libraries.
pub fn check_static(path: &Path, arch: Arch) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    check(&bytes, arch).with_context(|| format!("{} must be a static binary", path.display()))
}

fn check(elf: &[u8], arch: Arch) -> Result<()> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let machine = u16::from_le_bytes(field(elf, 18)?);
    let expected = arch.elf_machine();
    ensure!(machine == expected, "machine {machine}, expected {expected} ({})", arch.name());
    let table = u64::from_le_bytes(field(elf, 32)?);
    let (size, count) = (u16::from_le_bytes(field(elf, 54)?), u16::from_le_bytes(field(elf, 56)?));
    ensure!(count > 0, "no program headers");
    for index in 0..u64::from(count) {
        let at = table.saturating_add(index * u64::from(size));
        match u32::from_le_bytes(field(elf, at)?) {
            SEGMENT_INTERPRETER => bail!("it asks for a dynamic loader"),
            SEGMENT_DYNAMIC => check_dynamic(elf, at)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_dynamic(elf: &[u8], header: u64) -> Result<()> {
    let start = u64::from_le_bytes(field(elf, header.saturating_add(8))?);
    let size = u64::from_le_bytes(field(elf, header.saturating_add(32))?);
    for entry in 0..size / 16 {
        match u64::from_le_bytes(field(elf, start.saturating_add(entry * 16))?) {
            DYNAMIC_NULL => break,
            DYNAMIC_NEEDED => bail!("it needs a shared library"),
            _ => {}
        }
    }
    Ok(())
}

fn field<const N: usize>(elf: &[u8], at: u64) -> Result<[u8; N]> {
    usize::try_from(at)
        .ok()
        .and_then(|at| elf.get(at..at.checked_add(N)?)?.try_into().ok())
        .with_context(|| format!("ends before offset {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, one program header of `kind`, and a dynamic section with one entry of `tag`.
    fn elf(kind: u32, tag: u64) -> Vec<u8> {
        let mut elf = vec![0; 152];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18..20].copy_from_slice(&Arch::X86_64.elf_machine().to_le_bytes());
        elf[32..40].copy_from_slice(&64_u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56_u16.to_le_bytes());
        elf[56..58].copy_from_slice(&1_u16.to_le_bytes());
        elf[64..68].copy_from_slice(&kind.to_le_bytes());
        elf[72..80].copy_from_slice(&120_u64.to_le_bytes());
        elf[96..104].copy_from_slice(&32_u64.to_le_bytes());
        elf[120..128].copy_from_slice(&tag.to_le_bytes());
        elf
    }

    fn verdict(elf: &[u8]) -> String {
        check(elf, Arch::X86_64).map_or_else(|error| format!("{error:#}"), |()| "static".to_owned())
    }

    #[test]
    fn static_or_not() {
        assert_eq!(verdict(&elf(1, 0)), "static");
        assert_eq!(verdict(&elf(SEGMENT_DYNAMIC, 30)), "static", "a static PIE has a dynamic section");
        assert_eq!(verdict(&elf(SEGMENT_DYNAMIC, DYNAMIC_NEEDED)), "it needs a shared library");
        assert_eq!(verdict(&elf(SEGMENT_INTERPRETER, 0)), "it asks for a dynamic loader");
        assert_eq!(verdict(b"#!/bin/sh"), "not a 64-bit little-endian ELF file");
        let other = check(&elf(1, 0), Arch::Aarch64).unwrap_err();
        assert_eq!(other.to_string(), "machine 62, expected 183 (aarch64)");
    }

    #[test]
    fn cut_short_is_an_error_and_no_panic() {
        let whole = elf(SEGMENT_DYNAMIC, 30);
        for length in 0..136 {
            assert!(check(&whole[..length], Arch::X86_64).is_err(), "{length} bytes");
        }
        let mut wild = whole;
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(check(&wild, Arch::X86_64).is_err());
    }

    #[test]
    fn this_test_is_not_static() {
        // True with a gnu toolchain, the only one that builds the lab itself.
        let error = check_static(Path::new("/proc/self/exe"), Arch::X86_64).unwrap_err();
        assert!(format!("{error:#}").contains("dynamic loader"), "{error:#}");
    }
}
