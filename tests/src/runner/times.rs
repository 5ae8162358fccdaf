//! How long scenarios took on this machine, so that the longest begin first: two workers then end together, and not one of
//! them minutes after the other with the scenario that happened to come last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::Scenario;

/// Seconds by name, kept in the cache directory: `clean` leaves it, since it is no artifact.
#[derive(Debug, Default)]
pub struct Times {
    file: PathBuf,
    seconds: BTreeMap<String, f64>,
}

impl Times {
    /// As far as they are known.
    pub fn load(cache: &Path) -> Times {
        let file = cache.join("scenario-times");
        let text = fs::read_to_string(&file).unwrap_or_default();
        Times { seconds: parse(&text), file }
    }

    /// The longest first; before them those that nobody knows.
    pub fn order(&self, scenarios: &mut [Scenario]) {
        let seconds = |scenario: &Scenario| self.seconds.get(scenario.name).copied().unwrap_or(f64::INFINITY);
        scenarios.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
    }

    /// Takes a time down.
    pub fn record(&mut self, name: &str, seconds: f64) {
        self.seconds.insert(name.to_owned(), seconds);
    }

    /// Writes them for the next run. Only an order depends on it: an error is of no interest.
    pub fn store(&self) {
        let mut text = String::new();
        for (name, seconds) in &self.seconds {
            let _ = writeln!(text, "{name} {seconds:.1}");
        }
        let beside = self.file.with_extension(std::process::id().to_string());
        let _ = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &self.file));
    }
}

fn parse(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, seconds)| Some((name.to_owned(), seconds.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Tier;

    #[test]
    fn unknown_then_longest_first() {
        let times = Times { seconds: parse("a 3.5\nrubbish\nb 10.0\nc x\n"), ..Times::default() };
        let mut list =
            ["a", "b", "new", "newer"].map(|name| Scenario { name, tier: Tier::Normal, run: |_| Ok(()) });
        times.order(&mut list);
        assert_eq!(list.map(|scenario| scenario.name), ["new", "newer", "b", "a"]);
    }
}
