//! Which scenarios a command line means.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Scenario, Tier};

/// What `cargo lab test` was asked for.
#[derive(Debug, Default)]
pub struct Request {
    /// Names, or beginnings of names; none: everything, after format, clippy and unit tests.
    pub names: Vec<String>,
    /// The longer tier too.
    pub full: bool,
    /// Scenarios at a time.
    pub jobs: usize,
    /// How long a scenario may take, where not as [`crate::runner::watchdog`] says.
    pub limit: Option<Duration>,
}

/// The scenarios that a request means.
pub fn select(all: &[Scenario], request: &Request) -> Result<Vec<Scenario>> {
    if let Some(name) =
        request.names.iter().find(|name| !all.iter().any(|scenario| scenario.name.starts_with(name.as_str())))
    {
        bail!("no scenario is called {name} or starts so; cargo lab test --list shows them");
    }
    let exact = |scenario: &Scenario| request.names.iter().any(|name| name == scenario.name);
    let begun =
        |scenario: &Scenario| request.names.iter().any(|name| scenario.name.starts_with(name.as_str()));
    let due = |scenario: &Scenario| scenario.tier == Tier::Normal || request.full;
    Ok(all
        .iter()
        .filter(|scenario| {
            if request.names.is_empty() {
                due(scenario)
            } else {
                exact(scenario) || begun(scenario) && due(scenario)
            }
        })
        .copied()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        let scenario = |name, tier| Scenario { name, tier, run: |_| Ok(()) };
        let all = [
            scenario("fresh-2", Tier::Normal),
            scenario("fresh-all", Tier::Full),
            scenario("reboot", Tier::Normal),
        ];
        let names = |names: &[&str], full| {
            let request = Request {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                full,
                ..Request::default()
            };
            select(&all, &request).map(|found| found.iter().map(|scenario| scenario.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], false).unwrap(), ["fresh-2", "reboot"]);
        assert_eq!(names(&[], true).unwrap().len(), 3);
        assert_eq!(names(&["fresh"], false).unwrap(), ["fresh-2"]);
        assert_eq!(names(&["fresh-all"], false).unwrap(), ["fresh-all"]);
        assert!(names(&["nothing"], false).is_err());
    }
}
