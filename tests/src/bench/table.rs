//! Samples, medians, and the table with its verdicts.

use std::time::Duration;

use anyhow::{Context, Result};

/// One measured run, as `floor measure` prints it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From start to end.
    pub wall: Duration,
    /// User and system time, with children.
    pub cpu: Duration,
    /// Peak RSS of the process itself in bytes; 0 where that was not asked for.
    pub own_rss: u64,
    /// The greatest peak RSS of it and its children, in bytes.
    pub rss: u64,
    /// Exit code.
    pub rc: i32,
}

impl Sample {
    /// From `floor measure`'s line.
    pub fn parse(line: &str) -> Result<Sample> {
        let numbers: Result<Vec<i64>, _> = line.split_whitespace().map(str::parse).collect();
        let numbers = numbers.ok().filter(|numbers| numbers.len() == 6);
        let numbers = numbers.with_context(|| format!("six numbers were expected: {line:?}"))?;
        let micros = |number: i64| Duration::from_micros(number.unsigned_abs());
        Ok(Sample {
            wall: micros(numbers[0]),
            cpu: micros(numbers[1] + numbers[2]),
            own_rss: numbers[3].unsigned_abs() * 1024,
            rss: numbers[4].unsigned_abs() * 1024,
            rc: i32::try_from(numbers[5]).unwrap_or(-1),
        })
    }
}

/// Runs of the same thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The median of what `of` takes from each.
    pub fn median(&self, of: impl Fn(&Sample) -> Duration) -> Duration {
        let mut all: Vec<Duration> = self.0.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    pub fn wall(&self) -> Duration {
        self.median(|sample| sample.wall)
    }

    pub fn cpu(&self) -> Duration {
        self.median(|sample| sample.cpu)
    }

    /// `0.61 s (0.58 to 0.70)`: median, least and most.
    pub fn shown(&self) -> String {
        let least = self.0.iter().map(|sample| sample.wall).min().unwrap_or_default();
        let most = self.0.iter().map(|sample| sample.wall).max().unwrap_or_default();
        format!("{} ({} to {})", seconds(self.wall()), seconds(least), seconds(most))
    }
}

/// In milliseconds below a second.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
    missed: usize,
}

impl Table {
    /// `what` must not be more than `limit`.
    pub fn at_most(&mut self, what: &str, measured: String, value: f64, limit: (f64, &str)) {
        self.row(
            what,
            measured,
            format!("{} {}", number(value), limit.1),
            format!("at most {}", number(limit.0)),
            value <= limit.0,
        );
    }

    /// `what` must not be less than `limit`.
    pub fn at_least(&mut self, what: &str, measured: String, value: f64, limit: (f64, &str)) {
        self.row(
            what,
            measured,
            format!("{} {}", number(value), limit.1),
            format!("at least {}", number(limit.0)),
            value >= limit.0,
        );
    }

    /// Something to know that nothing is demanded of.
    pub fn note(&mut self, what: &str, measured: String) {
        self.rows.push([what.into(), measured, String::new(), String::new(), String::new()]);
    }

    fn row(&mut self, what: &str, measured: String, value: String, limit: String, ok: bool) {
        self.missed += usize::from(!ok);
        let verdict = if ok { "ok" } else { "MISSED" };
        self.rows.push([what.into(), measured, value, limit, verdict.into()]);
    }

    /// How many limits were missed.
    pub fn missed(&self) -> usize {
        self.missed
    }

    /// The same in words.
    pub fn verdict(&self) -> String {
        match self.missed {
            0 => "every limit is kept".into(),
            1 => "1 limit is missed".into(),
            many => format!("{many} limits are missed"),
        }
    }

    /// In Markdown, aligned.
    pub fn render(&self) -> String {
        let head = ["what", "measured", "value", "limit", ""].map(str::to_owned);
        let all: Vec<&[String; 5]> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..5).map(width).collect();
        let line = |row: &[String; 5]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
            format!("|{}\n", cells.collect::<String>())
        };
        let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
        let rows: String = self.rows.iter().map(line).collect();
        format!("{}|{rule}\n{rows}", line(&head))
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_medians() {
        let sample = Sample::parse("612000 100000 20000 0 3000 0").unwrap();
        assert_eq!((sample.wall.as_millis(), sample.cpu.as_millis(), sample.rss), (612, 120, 3000 << 10));
        assert!(Sample::parse("1 2 3").is_err() && Sample::parse("floor: no").is_err());
        let of = |millis: u64| Sample { wall: Duration::from_millis(millis), ..sample };
        let samples = Samples([900, 500, 1200].map(of).to_vec());
        assert_eq!(samples.shown(), "900 ms (500 ms to 1.20 s)");
    }

    #[test]
    fn a_limit_that_is_missed_counts() {
        let mut table = Table::default();
        table.at_most("x", "1.2 s".into(), 1.2, (1.25, "x the floor"));
        table.at_least("y", "1.2 s".into(), 2.9, (3.0, "x quicker"));
        table.note("z", "7".into());
        assert_eq!(table.missed(), 1);
        let text = table.render();
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("2.90 x quicker   | at least 3   | MISSED |"), "{text}");
    }
}
