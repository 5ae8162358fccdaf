//! How values are spelled in the configuration: sizes, durations, vendor ids, modes.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Sizes: a number of bytes, or `"512K"`, `"1M"`.
pub mod bytes {
    use super::*;

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Size {
            Number(u64),
            Text(String),
        }
        match Size::deserialize(deserializer)? {
            Size::Number(n) => Ok(n),
            Size::Text(text) => super::parse_size(&text).map_err(D::Error::custom),
        }
    }
}

/// `512K`, `1M`, `64KiB`, `4096` as bytes.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{}` is not a size; expected bytes or a number with K, M or G", text.escape_default());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number(digits.trim()).and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// Durations: a number of seconds, or `"90s"`, `"2m"`.
pub mod seconds {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Time {
            Number(u64),
            Text(String),
        }
        match Time::deserialize(deserializer)? {
            Time::Number(n) => Ok(Duration::from_secs(n)),
            Time::Text(text) => super::parse_duration(&text).map_err(D::Error::custom),
        }
    }
}

/// `90`, `90s`, `2m` as a duration.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match text.strip_suffix('m') {
        Some(digits) => (digits, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    number(digits).and_then(|n| n.checked_mul(factor)).map(Duration::from_secs).ok_or_else(|| {
        format!("`{}` is not a duration; expected seconds, such as 90, 90s or 2m", text.escape_default())
    })
}

/// Decimal digits only; `parse` alone would take a sign.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// PCI vendor ids: numbers, or `"0x1d0f"`.
pub mod vendors {
    use super::*;
    use serde::ser::SerializeSeq;

    pub fn serialize<S: Serializer>(value: &[u16], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(value.len()))?;
        for vendor in value {
            list.serialize_element(&format!("{vendor:#06x}"))?;
        }
        list.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Id {
            Number(u16),
            Text(String),
        }
        let parse = |id| match id {
            Id::Number(n) => Ok(n),
            Id::Text(text) => super::parse_vendor(&text).map_err(D::Error::custom),
        };
        Vec::<Id>::deserialize(deserializer)?.into_iter().map(parse).collect()
    }
}

/// `0x1d0f` or `1d0f` as a PCI vendor id.
///
/// # Errors
/// A sentence that quotes the text.
pub fn parse_vendor(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    // from_str_radix alone would take a sign.
    match digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => u16::from_str_radix(digits, 16).ok(),
        false => None,
    }
    .ok_or_else(|| format!("`{}` is not a PCI vendor id such as 0x1d0f", text.escape_default()))
}

/// Modes: an octal string such as `"0750"`.
pub mod octal {
    use super::*;

    pub fn serialize<S: Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:04o}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(mode),
            _ => Err(D::Error::custom(format!("`{text}` is not an octal mode such as \"0750\""))),
        }
    }
}

pub fn root_name() -> String {
    "root".into()
}

pub fn default_mode() -> u32 {
    0o755
}
