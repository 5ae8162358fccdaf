//! What is delivered beside the binary, and what of it can be proved without AWS: its form, its scripts, and what they do with
//! stand-ins for the programs that they run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::debian::ensure_host_tools;
use crate::runner::workspace;

mod packer;
mod smoke;
mod ssm;

fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A directory of programs that come first in the PATH of what is run.
struct StandIns(tempfile::TempDir);

impl StandIns {
    fn new(programs: &[(&str, &str)]) -> StandIns {
        let dir = tempfile::tempdir().unwrap();
        for (name, script) in programs {
            let path = dir.path().join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        StandIns(dir)
    }

    /// The command, with these first in its PATH and nothing on its standard input.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = [self.0.path().to_owned()].into_iter().chain(std::env::split_paths(&path));
        let mut command = Command::new(program.as_ref());
        command.env("PATH", std::env::join_paths(first).unwrap()).stdin(Stdio::null());
        command
    }
}

/// Code, standard output, standard error.
fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn shellcheck(script: &Path) {
    ensure_host_tools(&[("shellcheck", "shellcheck")]).unwrap();
    let (code, said, _) = ended(Command::new("shellcheck").arg(script).output().unwrap());
    assert_eq!(code, 0, "{said}");
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
