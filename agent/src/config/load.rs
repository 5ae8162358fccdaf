//! Reading the configuration and laying the sources over one another: defaults, file, environment, flags.
//!
//! Each value is checked where it comes in, so that an error can name the place it came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::given::{self, GIVEN_PATH};
use super::raw::Raw;
use super::{CONFIG_PATH, Config, Directory, check, directories};
use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;

/// Every key that has a flag and an environment variable, as the file spells it.
pub const KEYS: [&str; 21] = [
    "target",
    "layout",
    "filesystem",
    "label",
    "mount_options",
    "chunk",
    "expect_drives",
    "drive_timeout",
    "mkfs_timeout",
    "lock_timeout",
    "unknown_data",
    "tmpfiles",
    "label_domain",
    "label_keys",
    "label_method",
    "on_failure",
    "on_boot_failure",
    "profile",
    "feature_file",
    "match.models",
    "match.vendors",
];

/// Keys of a `[[directory]]` table.
const DIRECTORY_KEYS: [&str; 5] = ["path", "owner", "group", "mode", "selinux_type"];

/// Environment variables that are ours but no configuration keys: the command line reads them.
const OTHER_VARIABLES: [&str; 2] = ["NVME_AGENT_CONFIG", "NVME_AGENT_LOG_LEVEL"];

/// Larger than any sensible configuration, in bytes. A file above it is a mistake.
const MAX_FILE: u64 = 1 << 20;

/// What the command line says: the strongest source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Key (one of [`KEYS`]) and value as typed.
    pub values: Vec<(&'static str, String)>,
    pub wipe_foreign: bool,
    pub adopt: bool,
    /// What this boot's setup was given goes over the file; see [`given`].
    pub as_set_up: bool,
}

impl Overrides {
    /// For what judges or tells what came of this boot's setup.
    pub fn as_set_up() -> Overrides {
        Overrides { as_set_up: true, ..Overrides::default() }
    }
}

/// The environment variable for a key: `NVME_AGENT_MATCH_MODELS` for `match.models`.
pub fn variable(key: &str) -> String {
    format!("NVME_AGENT_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// The flag for a key: `--match-models` for `match.models`.
pub fn flag(key: &str) -> String {
    format!("--{}", key.replace(['.', '_'], "-"))
}

/// The configuration: flags over `NVME_AGENT_*` of `env` over `file` over defaults.
///
/// `file` is what `--config` named and must exist; without it `/etc/nvme-agent/config.toml` under `root` is
/// read where it exists. Between file and environment comes what this boot's setup was given, where `overrides` say so.
///
/// # Errors
/// [`Error::Config`]: one line that names the file and line, variable or flag, the key, and what is expected.
pub fn load(
    root: &Root,
    file: Option<&Path>,
    overrides: &Overrides,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config> {
    let mut layers = Layers { named: file.is_some(), ..Layers::default() };
    if let Some((path, text)) = read(root, file)? {
        layers.file(&path, &text)?;
    }
    if overrides.as_set_up {
        for (key, value) in given::read(root)? {
            layers.set(&key, Raw::Word(value), GIVEN_PATH.into())?;
        }
    }
    layers.environment(env)?;
    for (key, value) in &overrides.values {
        layers.give(key, Raw::Word(value.clone()), flag(key))?;
    }
    let mut config = layers.finish()?;
    config.wipe_foreign = overrides.wipe_foreign;
    config.adopt = overrides.adopt;
    Ok(config)
}

/// The text of the config file; none where the default one does not exist.
pub(super) fn read(root: &Root, file: Option<&Path>) -> Result<Option<(PathBuf, String)>> {
    let path = file.map_or_else(|| root.join(CONFIG_PATH), Path::to_path_buf);
    let wrong = |problem: String| Error::Config(format!("{}: {problem}", path.display()));
    let at = if file.is_none() { root.follow(CONFIG_PATH) } else { path.clone() };
    let opened = match atomic::open(&at) {
        Ok(opened) => opened,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            return match path.symlink_metadata() {
                Ok(_) => Err(wrong("is a symbolic link to nothing; mend it or remove it".into())),
                Err(_) => Ok(None),
            };
        }
        Err(e) => return Err(wrong(format!("cannot read the configuration: {e}"))),
    };
    let mut bytes = Vec::new();
    opened
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| wrong(format!("cannot read the configuration: {e}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(wrong(format!(
            "is larger than {MAX_FILE} bytes; that is no configuration of nvme-agent"
        )));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some((path, text))),
        Err(e) => {
            let line =
                1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Err(Error::Config(format!("{}:{line}: is not UTF-8 text", path.display())))
        }
    }
}

/// The configuration as it grows, and where each value came from.
#[derive(Default)]
struct Layers {
    config: Config,
    origin: BTreeMap<String, String>,
    /// The file is one that others do not read by themselves.
    named: bool,
}

impl Layers {
    fn set(&mut self, key: &str, raw: Raw, origin: String) -> Result<()> {
        let named = if origin.starts_with("--") { origin.clone() } else { format!("{origin}: {key}") };
        check::set(&mut self.config, key, raw).map_err(|e| Error::Config(format!("{named}: {e}")))?;
        self.origin.insert(key.to_owned(), origin);
        Ok(())
    }

    /// From where others do not look: a flag, the environment, a file that was named.
    fn give(&mut self, key: &str, raw: Raw, origin: String) -> Result<()> {
        let word = raw.word();
        self.set(key, raw, origin)?;
        if let (Some(word), true) = (word, given::is_shared(key)) {
            self.config.given.insert(key.to_owned(), word);
        }
        Ok(())
    }

    fn set_from_file(&mut self, key: &str, raw: Raw, origin: String) -> Result<()> {
        if self.named { self.give(key, raw, origin) } else { self.set(key, raw, origin) }
    }

    fn finish(self) -> Result<Config> {
        check::whole(&self.config).map_err(|(key, problem)| {
            let origin = self.origin.get(key).map_or("built-in default", String::as_str);
            Error::Config(format!("{origin}: {key}: {problem}"))
        })?;
        Ok(self.config)
    }

    fn environment(&mut self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<()> {
        // Sorted: with two mistakes it is always the same one that gets named.
        let ours: BTreeMap<String, OsString> = env
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
            .filter(|(name, _)| name.starts_with("NVME_AGENT_"))
            .filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()))
            .collect();
        for (name, value) in ours {
            if let Some(flag) = one_run_only(name.trim_start_matches("NVME_AGENT_")) {
                return Err(Error::Config(format!("{name}: {}", only_by_flag(flag))));
            }
            let known: Vec<(String, &str)> = KEYS.iter().map(|key| (variable(key), *key)).collect();
            let Some((_, key)) = known.iter().find(|(variable, _)| *variable == name) else {
                if name.starts_with("NVME_AGENT_DIRECTORY") {
                    return Err(Error::Config(format!(
                        "{name}: directories cannot be given in the environment; write [[directory]] tables in {CONFIG_PATH}"
                    )));
                }
                let near = nearest(&name, known.iter().map(|(v, _)| v.as_str()).chain(OTHER_VARIABLES));
                return Err(Error::Config(format!(
                    "unknown environment variable {name}; the nearest valid one is {near}"
                )));
            };
            let value = value
                .into_string()
                .map_err(|_| Error::Config(format!("environment variable {name}: is not UTF-8 text")))?;
            self.give(key, Raw::Word(value), format!("environment variable {name}"))?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str) -> Result<()> {
        let place = |at: usize| {
            let line = 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count();
            format!("{}:{line}", path.display())
        };
        let table = DeTable::parse(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            Error::Config(format!("{}: not valid TOML: {}", place(at), e.message().replace('\n', "; ")))
        })?;
        for (key, value) in table.get_ref() {
            let (name, at) = (key.get_ref().as_ref(), place(key.span().start));
            match (name, value.get_ref()) {
                ("match", DeValue::Table(inner)) => {
                    for (key, value) in inner {
                        let (dotted, at) = (format!("match.{}", key.get_ref()), place(key.span().start));
                        if !KEYS.contains(&dotted.as_str()) {
                            return Err(unknown(&at, &dotted));
                        }
                        self.set_from_file(&dotted, Raw::from(value.get_ref()), at)?;
                    }
                }
                ("match", other) => {
                    return Err(Error::Config(format!(
                        "{at}: match: expected a table, found {}",
                        other.type_str()
                    )));
                }
                ("directory", DeValue::Array(tables)) => {
                    for (n, table) in tables.iter().enumerate() {
                        self.directory(n, table, &place)?;
                    }
                }
                ("directory", other) => {
                    return Err(Error::Config(format!(
                        "{at}: directory: expected [[directory]] tables, found {}",
                        other.type_str()
                    )));
                }
                _ if KEYS.contains(&name) => self.set_from_file(name, Raw::from(value.get_ref()), at)?,
                _ => return Err(unknown(&at, name)),
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        n: usize,
        table: &Spanned<DeValue>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let at = place(table.span().start);
        let DeValue::Table(inner) = table.get_ref() else {
            let found = table.get_ref().type_str();
            return Err(Error::Config(format!("{at}: directory[{n}]: expected a table, found {found}")));
        };
        let mut directory = Directory {
            owner: super::values::root_name(),
            group: super::values::root_name(),
            mode: super::values::default_mode(),
            ..Directory::default()
        };
        for (key, value) in inner {
            let (name, at) = (key.get_ref().as_ref(), place(key.span().start));
            if !DIRECTORY_KEYS.contains(&name) {
                let near = nearest(name, DIRECTORY_KEYS);
                return Err(Error::Config(format!(
                    "{at}: unknown key `directory[{n}].{}`; the nearest valid key is `{near}`",
                    name.escape_default()
                )));
            }
            directories::set(&mut directory, name, Raw::from(value.get_ref()))
                .map_err(|e| Error::Config(format!("{at}: directory[{n}].{name}: {e}")))?;
        }
        if directory.path.is_empty() {
            return Err(Error::Config(format!("{at}: directory[{n}]: has no `path`")));
        }
        self.config.directories.push(directory);
        self.origin.insert("directory".into(), at);
        Ok(())
    }
}

/// The flag, where `name` is a word that may hold for one run only.
fn one_run_only(name: &str) -> Option<&'static str> {
    match name.to_ascii_lowercase().replace('-', "_").as_str() {
        "wipe_foreign" => Some("--wipe-foreign"),
        "adopt" => Some("--adopt"),
        _ => None,
    }
}

fn only_by_flag(flag: &str) -> String {
    format!(
        "not allowed here, where it would hold at every boot; it exists on the command line only, as {flag}"
    )
}

fn unknown(at: &str, key: &str) -> Error {
    if let Some(flag) = one_run_only(key) {
        return Error::Config(format!("{at}: {key}: {}", only_by_flag(flag)));
    }
    let near = nearest(key, KEYS.into_iter().chain(["match", "directory"]));
    Error::Config(format!("{at}: unknown key `{}`; the nearest valid key is `{near}`", key.escape_default()))
}

/// The candidate with the smallest edit distance; the first of several.
fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> &'a str {
    // Only the head of a word counts: the distance costs the product of the lengths.
    let word: String = word.chars().take(64).collect::<String>().replace('-', "_");
    candidates.into_iter().min_by_key(|c| strsim::osa_distance(&word, c)).unwrap_or_default()
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
