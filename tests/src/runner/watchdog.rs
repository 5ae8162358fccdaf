//! Ends a scenario that hangs: a run must end, and name what hung, before a CI's own limit cuts everything off.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Tier;

/// Time that this process has spent on things that count for no scenario.
static EXEMPT: Mutex<Exempt> = Mutex::new(Exempt { spent: Duration::ZERO, since: None, depth: 0 });

struct Exempt {
    spent: Duration,
    since: Option<Instant>,
    depth: u32,
}

/// How long a scenario may take unless the command line says otherwise: far above what any does on a busy machine.
pub fn limit(tier: Tier) -> Duration {
    match tier {
        Tier::Normal => Duration::from_secs(10 * 60),
        // Long matrices: every failpoint, every guest.
        Tier::Full => Duration::from_secs(45 * 60),
    }
}

/// Runs what is made once for all scenarios, such as a guest's image: it is not the scenario that hangs.
pub fn exempt<T>(work: impl FnOnce() -> T) -> T {
    {
        let mut exempt = exemptions();
        exempt.depth += 1;
        exempt.since.get_or_insert_with(Instant::now);
    }
    let result = work();
    let mut exempt = exemptions();
    exempt.depth -= 1;
    if exempt.depth == 0 {
        let spent = exempt.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        exempt.spent += spent;
    }
    result
}

/// Ends this process, and with it its VMs, when the scenario has had `limit`. The reason goes into the file.
pub fn watch(limit: Duration, failure: &Path) {
    let (started, failure) = (Instant::now(), failure.to_owned());
    std::thread::spawn(move || {
        while counted(started) < limit {
            std::thread::sleep(Duration::from_millis(500));
        }
        let text = format!(
            "still not done after {} s: ended by the watchdog (commands.log shows what had run, console.log the guest)",
            limit.as_secs()
        );
        let _ = std::fs::write(&failure, text);
        std::process::exit(3);
    });
}

fn counted(started: Instant) -> Duration {
    let exempt = exemptions();
    let now = exempt.since.map_or(Duration::ZERO, |since| since.elapsed());
    started.elapsed().saturating_sub(exempt.spent + now)
}

fn exemptions() -> MutexGuard<'static, Exempt> {
    EXEMPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preparing_does_not_count() {
        let started = Instant::now();
        exempt(|| exempt(|| std::thread::sleep(Duration::from_millis(300))));
        assert!(started.elapsed() >= Duration::from_millis(300));
        assert!(counted(started) < Duration::from_millis(200), "{:?}", counted(started));
    }
}
