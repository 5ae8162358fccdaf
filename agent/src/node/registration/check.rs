//! nodeadm's own word on our drop-in, before nodeadm meets it: with a file that it cannot take the node never joins.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::exec;
use crate::persist::atomic;
use crate::root::Root;

/// It parses two small files.
const DEADLINE: Duration = Duration::from_secs(10);
/// Beside our state: nodeadm reads a file by its name, whatever its extension.
const CANDIDATE: &str = "/run/nvme-agent/nodeconfig.candidate";
const STAND_IN: &str = "/run/nvme-agent/nodeconfig.stand-in";
/// `nodeadm config check` wants a whole configuration. The node's own may need the network, which is not there when
/// we run, so one that stands in for it: nothing of it is ever used (nodeadm/internal/api/validation.go).
const WHOLE: &str = "\
apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster: {name: check, apiServerEndpoint: \"https://check.invalid\", certificateAuthority: Y2hlY2s=, cidr: 192.0.2.0/24}
";

/// What nodeadm says of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Good,
    /// It does not take the text: in words.
    Bad(String),
    /// There is nobody to ask, or the answer says nothing about the text.
    Unknown,
}

/// Somebody to ask; a trait so that a fixture tree starts no child process.
pub trait Checker {
    fn check(&self, text: &str) -> Answer;
}

/// This machine's nodeadm.
pub struct Nodeadm<'a> {
    root: &'a Root,
    program: Option<PathBuf>,
}

impl<'a> Nodeadm<'a> {
    pub fn find(root: &'a Root) -> Nodeadm<'a> {
        // Only the running machine's programs are run.
        let program = if root.is_host() { exec::find_program(root, "nodeadm") } else { None };
        Nodeadm { root, program }
    }

    /// Runs the check on these files; [`Answer::Bad`] only where nodeadm itself ended and said so: one that was not done in
    /// time, in a boot in which its binary is still being fetched from a snapshot, has said nothing.
    fn run(&self, program: &Path, files: &[&str]) -> Answer {
        let mut args: Vec<OsString> = vec!["config".into(), "check".into()];
        for file in files {
            args.extend(["--config-source".into(), format!("file://{file}").into()]);
        }
        let output = match exec::run(program, &args, DEADLINE) {
            Ok(output) => output,
            Err(error) => {
                tracing::warn!("nodeadm cannot check our drop-in: {error}");
                return Answer::Unknown;
            }
        };
        let ended = output.status.is_some();
        match output.check(program) {
            Ok(_) => Answer::Good,
            Err(error) if ended => Answer::Bad(error.to_string()),
            Err(_) => Answer::Unknown,
        }
    }
}

impl Checker for Nodeadm<'_> {
    fn check(&self, text: &str) -> Answer {
        let Some(program) = &self.program else { return Answer::Unknown };
        let directory = self.root.join("/run/nvme-agent");
        let made = fs::create_dir_all(&directory).map_err(Error::io(&directory, "make the directory"));
        let written = made
            .and_then(|()| atomic::replace(&self.root.join(STAND_IN), WHOLE))
            .and_then(|()| atomic::replace(&self.root.join(CANDIDATE), text));
        let answer = match written {
            Err(error) => {
                tracing::warn!("cannot have nodeadm check our drop-in: {error}");
                Answer::Unknown
            }
            Ok(()) => match self.run(program, &[STAND_IN, CANDIDATE]) {
                // Only where it takes the stand-in is it our text that it does not take.
                Answer::Bad(problem) => match self.run(program, &[STAND_IN]) {
                    Answer::Good => Answer::Bad(problem),
                    other => {
                        tracing::warn!(
                            "nodeadm does not take what stands in for a whole configuration: {other:?}"
                        );
                        Answer::Unknown
                    }
                },
                other => other,
            },
        };
        for file in [STAND_IN, CANDIDATE] {
            let _ = fs::remove_file(self.root.join(file));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in;

    /// Of a nodeadm that does `script`.
    fn answer(script: &str) -> Answer {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("nodeadm");
        stand_in::program(&program, script);
        let root = Root::new(dir.path());
        Nodeadm { root: &root, program: Some(program) }.check("text")
    }

    #[test]
    fn only_what_nodeadm_says_itself_of_our_text_counts_against_it() {
        assert_eq!(answer("exit 0"), Answer::Good);
        // Two sources are the stand-in and ours.
        let Answer::Bad(problem) = answer("[ $# = 4 ] || { echo no such field >&2; exit 1; }") else {
            panic!()
        };
        assert!(problem.contains("no such field"), "{problem}");
        for elsewhere in ["exit 1", "kill -9 $$"] {
            assert_eq!(answer(elsewhere), Answer::Unknown, "{elsewhere}");
        }
        assert_eq!(answer("[ $# = 4 ] || kill -9 $$"), Answer::Unknown);
    }
}
