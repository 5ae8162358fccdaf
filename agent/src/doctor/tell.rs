//! The report for people: what needs doing first, then a line for each check that is fine, then one that sums it up; within
//! 2,500 characters, which is what the SSM console shows of a command's output.

use std::fmt::{self, Display, Write};

use super::{Check, Report, Verdict};
use crate::logging::one_line;

/// What fits there.
const SCREEN: usize = 2500;
/// Width of the column of names.
const NAMES: usize = 16;

/// How much is shown; JSON has it all.
#[derive(Clone, Copy)]
struct Limits {
    /// Characters of a sentence.
    sentence: usize,
    /// A line for each check that is fine, not one for all of them.
    fine: bool,
}

const ALL: [Limits; 5] = [
    Limits { sentence: 600, fine: true },
    Limits { sentence: 300, fine: false },
    Limits { sentence: 160, fine: false },
    Limits { sentence: 80, fine: false },
    Limits { sentence: 50, fine: false },
];

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = ALL.map(|limits| self.text(limits));
        let fits = texts.iter().find(|text| text.len() <= SCREEN).or(texts.last());
        f.write_str(fits.map_or("", String::as_str))
    }
}

impl Report {
    fn text(&self, limits: Limits) -> String {
        let mut text = String::with_capacity(SCREEN);
        for verdict in [Verdict::Problem, Verdict::Warning] {
            for check in self.with(verdict) {
                line(&mut text, verdict, &check.name, &check.found, limits);
                if let Some(next) = &check.next {
                    // Without the columns: the sentence is what matters.
                    let _ = writeln!(text, "         do: {}", cut(next, limits.sentence));
                }
            }
        }
        self.unknown(&mut text, limits);
        if limits.fine {
            for check in self.with(Verdict::Ok) {
                line(&mut text, Verdict::Ok, &check.name, &check.found, limits);
            }
        } else {
            let names: Vec<&str> = self.with(Verdict::Ok).map(|check| check.name.as_str()).collect();
            let _ = writeln!(text, "{:<8} {}", Verdict::Ok.as_str(), names.join(" "));
        }
        let fine = self.with(Verdict::Ok).count();
        let _ = writeln!(
            text,
            "{}: {}, {}, {} unknown, {fine} ok",
            self.verdict.as_str(),
            count(self.problems, "problem"),
            count(self.warnings, "warning"),
            self.unknown
        );
        text
    }

    /// Many are unknown for one reason: it is said once.
    fn unknown(&self, text: &mut String, limits: Limits) {
        let mut said: Vec<&str> = Vec::new();
        for check in self.with(Verdict::Unknown) {
            if said.contains(&check.found.as_str()) {
                continue;
            }
            said.push(&check.found);
            let alike = self.with(Verdict::Unknown).filter(|other| other.found == check.found);
            let names: Vec<&str> = alike.map(|check| check.name.as_str()).collect();
            match names.as_slice() {
                [name] => line(text, Verdict::Unknown, name, &check.found, limits),
                names => {
                    let _ = writeln!(
                        text,
                        "unknown  {}: {}",
                        names.join(" "),
                        cut(&check.found, limits.sentence)
                    );
                }
            }
        }
    }

    fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(move |check| check.verdict == verdict)
    }
}

fn line(text: &mut String, verdict: Verdict, name: &str, found: &str, limits: Limits) {
    let _ = writeln!(text, "{:<8} {name:<NAMES$} {}", verdict.as_str(), cut(found, limits.sentence));
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn cut(text: &str, limit: usize) -> String {
    // ASCII after this, so that bytes are characters.
    let text = one_line(text);
    match text.get(..limit) {
        Some(head) if text.len() > limit => format!("{head}..."),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::of(vec![
            Check::ok("configuration", "valid"),
            Check::warning("tmpfiles", "setup corrects it", "Run `nvme-agent setup`."),
            Check::unknown("drives", "needs root"),
            Check::problem("fstab", "line 3 is malformed", "Mend line 3 of /etc/fstab."),
            Check::unknown("uuid-links", "needs root"),
            Check::ok("unit", "enabled"),
        ])
    }

    #[test]
    fn what_needs_doing_comes_first_and_a_sum_last() {
        insta::assert_snapshot!(report().to_string(), @r"
        problem  fstab            line 3 is malformed
                 do: Mend line 3 of /etc/fstab.
        warning  tmpfiles         setup corrects it
                 do: Run `nvme-agent setup`.
        unknown  drives uuid-links: needs root
        ok       configuration    valid
        ok       unit             enabled
        problem: 1 problem, 1 warning, 2 unknown, 2 ok
        ");
    }

    #[test]
    fn the_verdict_is_the_worst_and_what_is_unknown_asks_for_nothing() {
        assert_eq!((report().verdict, report().verdict.exit_code()), (Verdict::Problem, 11));
        let of = |checks| Report::of(checks).verdict.exit_code();
        assert_eq!(of(vec![Check::ok("a", ""), Check::unknown("b", "")]), 0);
        assert_eq!(of(vec![Check::warning("a", "", ""), Check::unknown("b", "")]), 10);
    }

    #[test]
    fn a_long_report_is_cut_to_what_a_console_shows_and_keeps_every_name() {
        let names: Vec<String> = (0..26).map(|n| format!("check-{n}")).collect();
        let bad = |name: &String| Check::problem(name, "x\u{e9}\n".repeat(500), "y".repeat(900));
        let mut checks: Vec<Check> = names.iter().take(8).map(bad).collect();
        checks.extend(names.iter().skip(8).map(|name| Check::ok(name, "z".repeat(100))));
        let text = Report::of(checks).to_string();
        assert!(text.len() <= SCREEN, "{}", text.len());
        assert!(text.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{text}");
        assert!(names.iter().all(|name| text.contains(name.as_str())), "{text}");
        assert!(text.ends_with("problem: 8 problems, 0 warnings, 0 unknown, 18 ok\n"), "{text}");
    }
}
