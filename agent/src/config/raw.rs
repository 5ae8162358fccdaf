//! A value as it comes in, before anybody knows whether it is right, and its way to a type.

use std::time::Duration;

use toml::de::DeValue;

use super::UNIT_TIMEOUT;
use super::values::parse_duration;

/// A value as its source spelled it.
pub enum Raw {
    /// From a flag or the environment: text that may stand for any type.
    Word(String),
    /// A string of the file.
    Text(String),
    Integer(i64),
    List(Vec<Raw>),
    /// A type that no key has, by name.
    Other(&'static str),
}

impl From<&DeValue<'_>> for Raw {
    fn from(value: &DeValue<'_>) -> Raw {
        match value {
            DeValue::String(text) => Raw::Text(text.to_string()),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
                .map_or(Raw::Other("an integer out of range"), Raw::Integer),
            DeValue::Array(list) => Raw::List(list.iter().map(|v| Raw::from(v.get_ref())).collect()),
            DeValue::Float(_) => Raw::Other("a float"),
            DeValue::Boolean(_) => Raw::Other("a boolean"),
            DeValue::Datetime(_) => Raw::Other("a date"),
            DeValue::Table(_) => Raw::Other("a table"),
        }
    }
}

pub type Checked<T> = Result<T, String>;

impl Raw {
    pub fn found(&self) -> String {
        match self {
            Raw::Word(text) | Raw::Text(text) => quoted(text),
            Raw::Integer(n) => format!("the integer {n}"),
            Raw::List(_) => "a list".into(),
            Raw::Other(what) => (*what).into(),
        }
    }

    /// As a flag would say it; none where no flag could.
    pub fn word(&self) -> Option<String> {
        match self {
            Raw::Word(text) | Raw::Text(text) => Some(text.clone()),
            // Where a flag takes one beside text it is a vendor id, and hexadecimal.
            Raw::Integer(n) => Some(format!("{n:#x}")),
            Raw::List(list) => Some(list.iter().map(Raw::word).collect::<Option<Vec<_>>>()?.join(",")),
            Raw::Other(_) => None,
        }
    }

    pub fn text(self, expected: &str) -> Checked<String> {
        match self {
            Raw::Word(text) | Raw::Text(text) => Ok(text),
            other => Err(format!("expected {expected} as a string, found {}", other.found())),
        }
    }

    pub fn number(self, expected: &str) -> Checked<u64> {
        let wrong = |raw: &Raw| format!("expected {expected}, found {}", raw.found());
        match &self {
            Raw::Integer(n) => u64::try_from(*n).map_err(|_| wrong(&self)),
            Raw::Word(text) => text.trim().parse().map_err(|_| wrong(&self)),
            _ => Err(wrong(&self)),
        }
    }

    /// A list; in the environment and on the command line separated by commas.
    pub fn list(self, expected: &str) -> Checked<Vec<Raw>> {
        match self {
            Raw::List(list) => Ok(list),
            Raw::Word(text) => Ok(text.split(',').map(|item| Raw::Word(item.trim().to_owned())).collect()),
            other => Err(format!("expected a list of {expected}, found {}", other.found())),
        }
    }

    pub fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Checked<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let text = self.text(&expected)?;
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("expected {expected}, found {}", quoted(&text)))
    }

    pub fn seconds(self) -> Checked<Duration> {
        let found = self.found();
        let time = match self {
            Raw::Word(text) | Raw::Text(text) => parse_duration(&text)?,
            other => Duration::from_secs(other.number("seconds, or a string such as \"90s\" or \"2m\"")?),
        };
        match time.as_secs() {
            1..=UNIT_TIMEOUT => Ok(time),
            _ => Err(format!("expected 1 s to {} min, found {found}", UNIT_TIMEOUT / 60)),
        }
    }
}

/// Quoted for an error message: nothing that a terminal would obey, and not without end.
pub fn quoted(text: &str) -> String {
    let head: String = text.chars().take(80).collect();
    let more = if head.len() < text.len() { "..." } else { "" };
    format!("`{}{more}`", head.escape_default())
}
