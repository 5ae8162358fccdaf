//! Quantities for people, short enough for a table.

/// Rounded down to the largest unit that leaves at least two.
pub(super) fn duration(seconds: u64) -> String {
    for (length, unit) in [(86_400, "days"), (3600, "h"), (60, "min")] {
        if seconds / length >= 2 {
            return format!("{} {unit}", seconds / length);
        }
    }
    format!("{seconds} s")
}

/// Rounded down to the largest unit that leaves at least two.
pub(super) fn micros(us: u64) -> String {
    match us {
        2_000_000.. => duration(us / 1_000_000),
        2_000.. => format!("{} ms", us / 1000),
        _ => format!("{us} us"),
    }
}

/// Rounded down to a whole number of the largest unit that leaves at least ten, so that a TiB shows its GiB.
pub(super) fn bytes(n: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if n >> shift >= 10 {
            return format!("{} {unit}", n >> shift);
        }
    }
    match n {
        0 => "0".into(),
        n if n % 1024 == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}

/// Of `whole`, rounded up: what is used at all is not 0 %.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).div_ceil(whole.max(1))
}
