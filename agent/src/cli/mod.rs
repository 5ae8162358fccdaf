//! The command line: one file a subcommand.

mod args;
mod doctor;
mod explain;
mod gate;
mod install;
mod output;
mod plan;
mod render;
mod report;
mod setup;
mod status;
mod teardown;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::config::{self, Config, Overrides};
use crate::error::Error;
use crate::logging::{self, Kind, Logging};
use crate::root::Root;

const EXIT_CODES: &str = "\
Exit codes of setup, plan, teardown and install:
  0  done; for setup: the state is ready, degraded or absent
  1  an error inside nvme-agent, or a system call that failed
  2  wrong usage of the command line
  3  refused: something is there that must not be overwritten; nothing was changed
  4  the configuration is wrong: file, environment or a flag's value
  5  the environment is unsuitable: not root, another mount namespace, a program missing, old kernel
  6  a drive or a member of the array is missing
  7  a step failed
  8  what is there after the steps is not what was planned
  9  another run is active and did not end in time

Exit codes of gate:
  0  the node may join
  1  it must not
  2  wrong usage of the command line
  4  it must not, and the configuration is wrong

Exit codes of render:
  0  printed
  1  an error, or --verify found another file than the sum says
  2  wrong usage of the command line
  4  an option has a wrong value or does not go with another, or the configuration is wrong
  5  --verify: curl or aws is missing

Exit codes of status:
  0  ready, or absent (no drives, none expected)
  1  what it says could not be written
  2  wrong usage of the command line
  10 degraded
  11 failed
  12 not set up in this boot

Exit codes of doctor:
  0  nothing to do; what is unknown is told
  2  wrong usage of the command line
  10 warnings
  11 problems

Exit codes of report:
  0  the Node says what is the case; or there is nothing to say
  1  the API server did not answer in time, there is no such Node, or a credential plugin failed
  2  wrong usage of the command line
  3  the API server refuses it (401, 403, 422), or its certificate is not to be trusted
  4  the configuration is wrong: kubeconfig, node name, nvme-agent's own
  5  this machine is no Kubernetes node (yet), or its name as one is not known
  9  another report is active and did not end in time

Files:
  /etc/nvme-agent/config.toml    configuration; keys are spelled like the flags, with underscores
  /run/nvme-agent/state.json     what the last setup of this boot came to
  /run/nvme-agent/given.json     what flags and environment gave it, by which gate, report and status go
  /run/nvme-agent/reported.json  what the Node was last told
  /var/lib/nvme-agent/           records of what was made

Environment:
  NVME_AGENT_TARGET and so on for every key of the configuration, NVME_AGENT_CONFIG, NVME_AGENT_LOG_LEVEL.
  Flags override the environment, which overrides the file. What concerns the Node, the drives' models or tmpfiles holds
  for gate, report and status as the last setup of this boot was given it.";

/// Makes the local NVMe drives of an EC2 node one fast filesystem, safely, at every boot
#[derive(Debug, Parser)]
#[command(name = "nvme-agent", version, after_long_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Take every path of the host below this directory (an image that is being built, a test fixture)
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Read this file instead of /etc/nvme-agent/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How much to log [default: info; warn for plan, status and doctor]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    Plan(plan::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Report(report::Args),
    Gate(gate::Args),
    Install(install::Args),
    Render(Box<render::Args>),
    Teardown(teardown::Args),
}

/// How a command that prints a result prints it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// What every subcommand gets.
struct Context {
    root: Root,
    config: Option<PathBuf>,
    logging: Logging,
}

impl Context {
    /// The configuration, with `overrides` on top.
    fn load(&self, overrides: &Overrides) -> Result<Config, Error> {
        config::load(&self.root, self.config.as_deref(), overrides, std::env::vars_os())
    }

    /// What a wrong configuration says about the Node all the same.
    fn salvage(&self, overrides: &Overrides) -> config::Salvaged {
        config::salvage(&self.root, self.config.as_deref(), overrides, std::env::vars_os())
    }

    /// Tells a result: `lines` to the journal where events go there, `text` to a person. Never both to one reader.
    fn tell(&self, lines: &[String], text: &str) -> Result<()> {
        if self.logging.to_journal {
            for line in lines {
                tracing::info!("{line}");
            }
            if self.logging.stdout_is_journal {
                return Ok(());
            }
        }
        output::text(text)
    }

    /// Commands that change the machine can do so as root only.
    fn require_root(&self, what: &str) -> Result<(), Error> {
        match nix::unistd::geteuid() {
            user if user.is_root() || !self.root.is_host() => Ok(()),
            user => Err(Error::Environment(format!(
                "{what} must run as root, but runs as user id {user}; nothing was changed; try sudo"
            ))),
        }
    }

    /// setup and teardown act on the machine itself: ioctls and mounts know no root directory.
    fn require_host(&self, what: &str) {
        if !self.root.is_host() {
            let message =
                format!("{what} acts on this machine; --root is for plan, status, report and install");
            Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
        }
    }
}

/// The command line's definition, from which man pages and completions are made.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Not help, nor the version.
        if error.use_stderr() && setup::is_boot(std::env::args_os()) {
            setup::give_up_unparsed(&error);
        }
        error.exit()
    });
    let kind = match cli.command {
        Command::Plan(_) | Command::Status(_) | Command::Doctor(_) | Command::Render(_) => Kind::Looks,
        Command::Setup(_) | Command::Report(_) | Command::Gate(_) => Kind::Acts,
        Command::Install(_) | Command::Teardown(_) => Kind::Acts,
    };
    let root = Root::new(cli.global.root);
    let level = log_level(cli.global.log_level, kind);
    let logging = logging::init(&root, kind, level.as_ref().map_or(LevelFilter::INFO, |level| *level));
    let file = cli.global.config.or_else(|| std::env::var_os("NVME_AGENT_CONFIG").map(PathBuf::from));
    let context = Context { root, config: file, logging };
    let level = level.inspect_err(|error| {
        // On another root it changes nothing.
        if context.root.is_host() {
            setup::too_early(&context, &cli.command, error);
        }
    });
    let result = level.map_err(anyhow::Error::from).and_then(|_| match cli.command {
        Command::Setup(args) => setup::run(&context, &args),
        Command::Plan(args) => plan::run(&context, &args),
        Command::Status(args) => status::run(&context, &args),
        Command::Doctor(args) => doctor::run(&context, &args),
        Command::Report(args) => report::run(&context, &args),
        Command::Gate(args) => gate::run(&context, &args),
        Command::Install(args) => install::run(&context, &args),
        Command::Render(args) => render::run(&context, &args),
        Command::Teardown(args) => teardown::run(&context, &args),
    });
    ExitCode::from(result.unwrap_or_else(|error| {
        let end = End::of(&error);
        context.logging.error(&end.message, &end.reason, end.code);
        end.code
    }))
}

/// How a failed command ends. The library's errors have a class and say everything there is to say; whatever else goes
/// wrong at this edge is an error inside nvme-agent.
#[derive(Debug, PartialEq, Eq)]
struct End {
    code: u8,
    /// CamelCase.
    reason: String,
    message: String,
}

impl End {
    fn of(error: &anyhow::Error) -> End {
        match error.downcast_ref::<Error>() {
            Some(error) => {
                End { code: error.exit_code(), reason: error.reason(), message: error.to_string() }
            }
            None => End { code: 1, reason: "InternalError".into(), message: format!("{error:#}") },
        }
    }
}

fn log_level(flag: Option<LogLevel>, kind: Kind) -> Result<LevelFilter, Error> {
    if let Some(level) = flag {
        return Ok(level.into());
    }
    let Some(text) = std::env::var_os("NVME_AGENT_LOG_LEVEL") else {
        return Ok(if kind == Kind::Acts { LevelFilter::INFO } else { LevelFilter::WARN });
    };
    let text = text.to_string_lossy();
    LogLevel::from_str(&text, false).map(LevelFilter::from).map_err(|_| {
        Error::Config(format!(
            "environment variable NVME_AGENT_LOG_LEVEL: expected error, warn, info, debug or trace, found `{}`",
            text.escape_default()
        ))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn an_error_of_the_library_ends_by_its_class_and_any_other_with_1_and_its_causes() {
        let missing = || std::io::Error::other("it is gone");
        let known = Error::Step {
            step: "make-filesystem",
            cause: Box::new(Error::io("/dev/md0", "open")(missing())),
        };
        assert_eq!(
            End::of(&known.into()),
            End {
                code: 7,
                reason: "MakeFilesystemFailed".into(),
                message: "step make-filesystem failed: /dev/md0: cannot open: it is gone".into()
            }
        );
        let other = Err::<(), _>(missing()).context("stdout: cannot write the result").unwrap_err();
        assert_eq!(
            End::of(&other),
            End {
                code: 1,
                reason: "InternalError".into(),
                message: "stdout: cannot write the result: it is gone".into()
            }
        );
    }
}
