//! `cargo lab bench`: what setup costs, against the floor (the same system calls with no checks), against the old script,
//! and against limits of its own. One VM, rounds interleaved, medians: the host is shared and emulation is slow, so that
//! ratios count and absolute times only hint. `cargo lab bench report` needs no VM.

mod fleet;
mod report;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::dist::{self, Build};
use crate::drive::{DriveSpec, MIB, TIB};
use crate::image::Guest;
use crate::lab::Lab;
use crate::progress::step;
use crate::runner::{self, logs_root};
use crate::scenarios::kit;
use crate::vm::Vm;

use table::{Sample, Samples, Table, seconds};

const OLD_SCRIPT: &str = include_str!("../fixtures/old-script.sh");
const AGENT: &str = "nvme-agent setup";
const STATUS: &str = "nvme-agent status";
const SCRIPT: &str = "/root/old-script.sh";
/// mkfs.ext4 of the old script writes gibibytes.
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Rounds of each comparison
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What ten thousand nodes ask of an API server, also of one that throttles
    Report(report::Args),
    /// What status costs at 8 drives, by itself
    Status,
}

/// Measures, and prints the table. False where a limit was missed.
pub fn run(args: &Args) -> Result<bool> {
    if let Some(What::Report(args)) = &args.what {
        return report::run(args);
    }
    let agent = match std::env::var_os(runner::AGENT) {
        Some(path) => PathBuf::from(path),
        None => dist::agent()?,
    };
    let floor = dist::build(&Build::new("floor", "floor"))?;
    let lab = Lab::open()?;
    let mut vm = step("Restoring a VM", || Vm::restore(&lab, Guest::Trixie, &logs_root().join("bench")))?;
    vm.push(&agent, "/usr/bin/nvme-agent")?;
    vm.push(&floor, "/usr/bin/floor")?;
    vm.write(SCRIPT, 0o755, OLD_SCRIPT.as_bytes())?;
    kit::remember(&mut vm)?;
    let mut bench = Bench { vm, table: Table::default(), rounds: args.rounds.max(1) };
    if let Some(What::Status) = &args.what {
        bench.eight()?;
    } else {
        let two = bench.two()?;
        bench.four()?;
        bench.eight()?;
        bench.twenty_four(&two)?;
        bench.none()?;
        bench.binary(&agent)?;
    }
    println!("{}; guest: {}, 2 processors, emulated", host(), Guest::Trixie.name());
    println!("{}\n{}", bench.table.render(), bench.table.verdict());
    Ok(bench.table.missed() == 0)
}

struct Bench<'lab> {
    vm: Vm<'lab>,
    table: Table,
    rounds: usize,
}

/// What one comparison gave.
struct Comparison {
    contenders: Vec<Samples>,
    /// The agent's time less its children's.
    own: Samples,
    /// The same of the floor: what the kernel takes for the system calls, with no checks.
    floor: Samples,
}

impl Bench<'_> {
    /// 2 drives: floor, agent and script; nothing to do; status.
    fn two(&mut self) -> Result<Comparison> {
        self.plug(2)?;
        let mkfs = self.execs("2 x 1 TiB")?;
        let floor = floor(2, &mkfs, &mut self.vm)?;
        let result = self.compare("2 x 1 TiB", self.rounds, &[&floor, AGENT, SCRIPT])?;
        self.against_floor("2 x 1 TiB", &result);
        self.against_script("2 x 1 TiB", &result.contenders[2], &result.contenders[1], 3.0);

        self.run_once(AGENT)?;
        let many = 3 * self.rounds;
        let [status, nothing, truth] =
            self.interleaved("2 drives that are set up", many, [STATUS, AGENT, "/bin/true"])?;
        let measured = format!("{}; /bin/true {}", status.shown(), truth.shown());
        self.table.at_most("status", measured, ratio(status.wall(), truth.wall()), (3.0, "x /bin/true"));
        let limit = (100.0, "ms");
        self.table.at_most(
            "setup with nothing to do, 2 drives",
            nothing.shown(),
            millis(nothing.wall()),
            limit,
        );
        let least = nothing.0.iter().map(|sample| sample.rss).max().unwrap_or_default();
        self.table.note("peak RSS, nothing to do", format!("{:.1} MiB", mebibytes(least)));
        self.unplug()?;
        Ok(result)
    }

    /// 4 drives: agent and script, and what each writes.
    fn four(&mut self) -> Result<()> {
        self.plug(4)?;
        let result = self.compare("4 x 1 TiB", self.rounds.div_ceil(2), &[AGENT, SCRIPT])?;
        self.against_script("4 x 1 TiB", &result.contenders[1], &result.contenders[0], 4.0);
        let ours = self.written(AGENT)?;
        let theirs = self.written(SCRIPT)?;
        let shown = |(now, later): (u64, u64)| {
            format!("{:.0} MiB, later {:.0} MiB", mebibytes(now), mebibytes(later))
        };
        self.table.note("written at 4 x 1 TiB by the script", shown(theirs));
        let written = "written by setup at 4 x 1 TiB";
        self.table.at_most(written, shown(ours), mebibytes(ours.0), (64.0, "MiB"));
        self.table.at_most("left to ext4lazyinit by setup", shown(ours), mebibytes(ours.1), (1024.0, "MiB"));
        self.unplug()
    }

    /// 8 drives: status, which asks each of them and the filesystem by a child of its own.
    fn eight(&mut self) -> Result<()> {
        self.plug(8)?;
        self.run_once(AGENT)?;
        let many = 3 * self.rounds;
        let [status, truth] = self.interleaved("8 drives that are set up", many, [STATUS, "/bin/true"])?;
        let measured = format!("{}; /bin/true {}", status.shown(), truth.shown());
        let limit = (4.0, "x /bin/true");
        self.table.at_most("status, 8 drives", measured, ratio(status.wall(), truth.wall()), limit);
        let line = self.vm.ok(&format!("FLOOR_RSS=1 floor measure {STATUS}"))?;
        let peak = Sample::parse(&line)?.own_rss;
        let measured = format!("{:.1} MiB", mebibytes(peak));
        self.table.at_most("peak RSS of status, 8 drives", measured, mebibytes(peak), (8.0, "MiB"));
        self.unplug()
    }

    /// 24 drives: floor and agent, own time, memory.
    fn twenty_four(&mut self, two: &Comparison) -> Result<()> {
        self.plug(24)?;
        let mkfs = self.execs("24 x 1 TiB")?;
        let floor = floor(24, &mkfs, &mut self.vm)?;
        let result = self.compare("24 x 1 TiB", self.rounds, &[&floor, AGENT])?;
        self.against_floor("24 x 1 TiB", &result);
        // The kernel's own work grows with the drives and with the filesystem that is mounted, and is measured here in
        // the floor: where that alone takes more than twice as long, no more than that is asked of the agent.
        let floor = ratio(result.floor.wall(), two.floor.wall());
        let measured = format!(
            "{}, for 2: {}; floor {}, for 2: {}",
            result.own.shown(),
            seconds(two.own.wall()),
            seconds(result.floor.wall()),
            seconds(two.floor.wall())
        );
        let grown = ratio(result.own.wall(), two.own.wall());
        self.table.at_most("own time for 24 drives", measured, grown, (floor.max(2.0), "x that for 2"));

        kit::reset(&mut self.vm)?;
        let line = self.vm.ok(&format!("FLOOR_RSS=1 floor measure {AGENT}"))?;
        let peak = Sample::parse(&line)?.own_rss;
        let measured = format!("{:.1} MiB", mebibytes(peak));
        self.table.at_most("peak RSS of setup, 24 drives", measured, mebibytes(peak), (10.0, "MiB"));
        let [nothing] = self.interleaved("24 drives that are set up", self.rounds, [AGENT])?;
        self.table.note("setup with nothing to do, 24 drives", nothing.shown());
        self.unplug()
    }

    fn none(&mut self) -> Result<()> {
        let [none, truth] = self.interleaved("no drives", 3 * self.rounds, [AGENT, "/bin/true"])?;
        let measured = format!("{}; /bin/true {}", none.shown(), truth.shown());
        self.table.at_most("setup without drives", measured, millis(none.wall()), (50.0, "ms"));
        Ok(())
    }

    fn binary(&mut self, agent: &Path) -> Result<()> {
        let bytes = std::fs::metadata(agent).with_context(|| format!("stat {}", agent.display()))?.len();
        let measured = format!("{:.2} MiB", mebibytes(bytes));
        self.table.at_most("binary", measured, mebibytes(bytes), (6.0, "MiB"));
        Ok(())
    }

    fn plug(&mut self, count: usize) -> Result<()> {
        step(&format!("Plugging in {count} drives of 1 TiB"), || self.vm.plug(&DriveSpec::many(count, TIB)))?;
        Ok(())
    }

    fn unplug(&mut self) -> Result<()> {
        kit::reset(&mut self.vm)?;
        self.vm.unplug_all()
    }

    /// Every contender on blank drives, round by round, each round beginning with another; one round before does not count.
    fn compare(&mut self, label: &str, rounds: usize, contenders: &[&str]) -> Result<Comparison> {
        let contestants = vec![Samples::default(); contenders.len()];
        let mut result =
            Comparison { contenders: contestants, own: Samples::default(), floor: Samples::default() };
        step(&format!("{label}: {rounds} rounds of {} contenders", contenders.len()), || {
            for round in 0..=rounds {
                for turn in 0..contenders.len() {
                    let index = (round + turn) % contenders.len();
                    let sample = self.run_once(contenders[index])?;
                    if round == 0 {
                        continue;
                    }
                    result.contenders[index].0.push(sample);
                    let (children, own) = if contenders[index] == AGENT {
                        let state = kit::state(&mut self.vm)?;
                        (state["children_ms"].as_u64(), &mut result.own)
                    } else if contenders[index].starts_with("floor ") {
                        let text = self.vm.ok("cat /run/floor.children_ms")?;
                        (text.trim().parse().ok(), &mut result.floor)
                    } else {
                        continue;
                    };
                    let children = children.context("nothing says how long the children took")?;
                    let wall = sample.wall.saturating_sub(Duration::from_millis(children));
                    own.0.push(Sample { wall, ..sample });
                }
            }
            Ok(())
        })?;
        Ok(result)
    }

    /// One run on blank drives; the filesystem must be there afterwards.
    fn run_once(&mut self, command: &str) -> Result<Sample> {
        kit::reset(&mut self.vm)?;
        let script = format!(
            "udevadm settle; floor measure {command}; findmnt -n -t ext4 /tmp > /dev/null; udevadm settle"
        );
        let running = self.vm.spawn(&format!("set -e; {script}"))?;
        let output = self.vm.wait_within(DEADLINE, running)?;
        ensure!(output.rc == 0, "{command}: {output:?}");
        let sample = Sample::parse(&output.out)?;
        ensure!(sample.rc == 0, "{command} ended with {}: {}", sample.rc, output.err);
        Ok(sample)
    }

    /// Short commands in turn, as the machine is.
    fn interleaved<const N: usize>(
        &mut self,
        label: &str,
        rounds: usize,
        commands: [&str; N],
    ) -> Result<[Samples; N]> {
        let measures: String = commands.iter().map(|command| format!("floor measure {command}\n")).collect();
        let script = format!("for n in $(seq {}); do {measures} done", rounds + 1);
        let text = step(&format!("{label}: {rounds} rounds of {N} commands"), || self.vm.ok(&script))?;
        let mut samples: [Samples; N] = std::array::from_fn(|_| Samples::default());
        for (number, line) in text.lines().enumerate().skip(N) {
            let sample = Sample::parse(line)?;
            ensure!(sample.rc == 0, "{} ended with {}", commands[number % N], sample.rc);
            samples[number % N].0.push(sample);
        }
        Ok(samples)
    }

    /// Programs that setup executes, counted; returns the command line of mkfs.
    fn execs(&mut self, label: &str) -> Result<String> {
        kit::reset(&mut self.vm)?;
        let text = self.vm.ok(&format!(
            "strace -f -qq -s 9999 -e trace=execve -e signal=none -o /run/execs {AGENT} > /dev/null; grep ' = 0$' /run/execs"
        ))?;
        // The first is the agent itself.
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let [mkfs] = lines.as_slice() else { bail!("setup of blank drives executes more than mkfs: {text}") };
        let arguments = mkfs.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let (arguments, _) = arguments.with_context(|| format!("no arguments: {mkfs}"))?;
        let program = mkfs.split('"').nth(1).context("no program")?;
        let words: Vec<&str> = arguments.split(", ").skip(1).map(|word| word.trim_matches('"')).collect();
        self.table
            .note(&format!("programs executed by setup, {label}"), format!("{}: {program}", lines.len()));
        Ok(format!("{program} {}", words.join(" ")))
    }

    /// Bytes written to the drives when the command ends, and what the kernel will write to inode tables in the background.
    fn written(&mut self, command: &str) -> Result<(u64, u64)> {
        let sectors = "awk '{ n += $7 } END { print n }' $(for c in /sys/class/nvme/nvme*; do
                           read -r m < $c/model; case $m in *Instance*) echo /sys/block/${c##*/}n1/stat;; esac; done)";
        kit::reset(&mut self.vm)?;
        let script = format!(
            "set -e; {sectors}; floor measure {command} > /dev/null; {sectors}
             dumpe2fs -h /dev/md0 2> /dev/null | awk '/^Inode (count|size):/ {{ print $3 }}'"
        );
        let running = self.vm.spawn(&script)?;
        let output = self.vm.wait_within(DEADLINE, running)?;
        let numbers: Vec<u64> = output.out.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let [before, after, inodes, size] = numbers.as_slice() else { bail!("{command}: {output:?}") };
        Ok(((after - before) * 512, inodes * size))
    }

    fn against_floor(&mut self, label: &str, result: &Comparison) {
        let (floor, agent) = (&result.contenders[0], &result.contenders[1]);
        let measured = format!("{}; floor {}", agent.shown(), floor.shown());
        let what = format!("setup, {label}");
        self.table.at_most(&what, measured, ratio(agent.wall(), floor.wall()), (1.25, "x the floor"));
        let cpu = format!("{}; floor {}", seconds(agent.cpu()), seconds(floor.cpu()));
        self.table.note(&format!("{what}: user and system time"), cpu);
    }

    fn against_script(&mut self, label: &str, script: &Samples, agent: &Samples, least: f64) {
        let measured = format!("{}; script {}", agent.shown(), script.shown());
        let what = format!("setup against the old script, {label}");
        self.table.at_least(&what, measured, ratio(script.wall(), agent.wall()), (least, "x quicker"));
    }
}

/// The floor's command line for the drives that are plugged in.
fn floor(count: usize, mkfs: &str, vm: &mut Vm) -> Result<String> {
    let names = vm.devices()?;
    let drives: Option<Vec<String>> = (0..count)
        .map(|index| names.get(&vm.drives[index].serial).map(|name| format!("/dev/{name}")))
        .collect();
    Ok(format!("floor setup {} -- {mkfs}", drives.context("a drive is not there")?.join(" ")))
}

/// Where this was measured.
fn host() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, m)| m);
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{count} processors ({model}), load {load} at the end")
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(1e-6)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
