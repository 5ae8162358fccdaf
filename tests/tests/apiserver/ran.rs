//! How a run of the agent ended, and what must be nowhere in what it says.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use lab::apiserver::secrets::Secrets;

/// Secrets of all tests so far: none may be in any output.
static SECRETS: Mutex<Option<Secrets>> = Mutex::new(None);

fn with_secrets<T>(work: impl FnOnce(&mut Secrets) -> T) -> T {
    let mut secrets = SECRETS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    work(secrets.get_or_insert_default())
}

/// A token from now on searched for.
pub fn secret_token(token: &str) {
    with_secrets(|secrets| secrets.token(token));
}

/// A key in PEM from now on searched for.
pub fn secret_key(pem: &str) {
    with_secrets(|secrets| secrets.key(pem));
}

/// How a run of the agent ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub time: Duration,
}

impl Ran {
    /// It went well.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// It ended with `code` and one line of error that has all of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("nvme-agent: error: ")).collect();
        assert_eq!(errors.len(), 1, "{}", self.stderr);
        for word in words {
            assert!(errors[0].contains(word), "no `{word}` in {}", errors[0]);
        }
        self
    }

    /// No secret of any test is in what was said, nor in a file below `root`.
    #[track_caller]
    pub fn no_secret(&self, root: &Path) {
        with_secrets(|secrets| {
            for text in [&self.stdout, &self.stderr] {
                assert_eq!(secrets.found_in(text), None, "a secret in the output");
            }
            // The token that a machine of its own has for its kubelet.
            let own = root.join("var/lib/kubelet/token");
            assert_eq!(secrets.found_below(root, &[&own]).unwrap(), None, "a secret in a file");
        });
    }
}
