//! Errors of the library, by class. Every one names the device or path, what was expected and what was found,
//! and what to do next; the class decides the exit code.

use std::path::{Path, PathBuf};

use crate::plan::{Reason, Refusal};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value, an environment variable or the config file is wrong.
    #[error("{0}")]
    Config(String),
    /// Not root, another mount namespace, a program that is missing.
    #[error("{0}")]
    Environment(String),
    /// The judgement is to change nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// A step did not work.
    #[error("step {step} failed: {cause}")]
    Step { step: &'static str, cause: Box<Error> },
    /// What is there after the steps is not what the plan promised.
    #[error("verification failed: {0}")]
    Verify(String),
    /// Another run holds the lock beyond the deadline.
    #[error("another nvme-agent run holds {} for longer than {seconds} s; look with `nvme-agent status`", .path.display())]
    Busy { path: PathBuf, seconds: u64 },
    /// The API server, or its certificate, does not allow it; trying again does not help.
    #[error("{0}")]
    ApiRefused(String),
    /// The API server could not be reached or did not answer in time, or there is no such Node.
    #[error("{0}")]
    Api(String),
    /// A system call on a path or device.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// A child process that failed, was killed at its deadline, or could not be started.
    #[error("{program} {problem}{}", tail(.output))]
    Child { program: String, problem: String, output: String },
    /// Anything that has a message of its own.
    #[error("{0}")]
    Other(String),
}

fn tail(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!("; it said: {text}"),
    }
}

impl Error {
    /// For `map_err`: an error of a system call on `path`, where `action` completes "cannot ...".
    pub fn io<E: Into<std::io::Error>>(
        path: impl AsRef<Path>,
        action: &'static str,
    ) -> impl FnOnce(E) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, action, source: source.into() }
    }

    /// Exit code of every command but `status`; the table is in the README and in `--help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Other(_) | Error::Io { .. } | Error::Child { .. } | Error::Api(_) => 1,
            Error::Refused(refusal) if refusal.reason.is_missing() => 6,
            // A program is missing, or the kernel lacks what is needed, whoever noticed it.
            Error::Refused(refusal)
                if matches!(refusal.reason, Reason::MkfsMissing | Reason::KernelTooOld) =>
            {
                5
            }
            Error::Refused(_) | Error::ApiRefused(_) => 3,
            Error::Config(_) => 4,
            Error::Environment(_) => 5,
            Error::Step { cause, .. } => match cause.exit_code() {
                1 => 7,
                code => code,
            },
            Error::Verify(_) => 8,
            Error::Busy { .. } => 9,
        }
    }

    /// The reason code, CamelCase, as in the state file.
    pub fn reason(&self) -> String {
        match self {
            Error::Config(_) => "BadConfiguration".into(),
            Error::Environment(_) => "UnsuitableEnvironment".into(),
            Error::Refused(refusal) => refusal.reason.to_string(),
            Error::Step { step, .. } => {
                let camel: String = step.split('-').map(|w| w[..1].to_ascii_uppercase() + &w[1..]).collect();
                format!("{camel}Failed")
            }
            Error::Verify(_) => "VerificationFailed".into(),
            Error::Busy { .. } => "AnotherRunIsActive".into(),
            Error::ApiRefused(_) => "ApiRefused".into(),
            Error::Api(_) => "ApiUnavailable".into(),
            Error::Io { .. } | Error::Child { .. } | Error::Other(_) => "SetupFailed".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_with_the_code_of_its_class() {
        let code =
            |reason| Error::Refused(Refusal { reason, found: Vec::new(), next: String::new() }).exit_code();
        assert_eq!(code(Reason::ForeignData), 3);
        assert_eq!(code(Reason::FstabConflict), 3);
        assert_eq!(code(Reason::DriveMissing), 6);
        assert_eq!(code(Reason::MemberMissing), 6);
        // Documented as "a program missing", and so said by the step, too.
        assert_eq!(code(Reason::MkfsMissing), 5);
        assert_eq!(code(Reason::KernelTooOld), 5);
    }
}
