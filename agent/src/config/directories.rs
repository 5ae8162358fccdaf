//! What a value of a `[[directory]]` table must be. Pure, as [`check`](super::check).

use super::Directory;
use super::raw::{Checked, Raw, quoted};

/// Checks one value of a `[[directory]]` table.
pub fn set(directory: &mut Directory, key: &str, raw: Raw) -> Checked<()> {
    match key {
        "path" => directory.path = relative(&raw.text("a path under the mount")?)?,
        "owner" => directory.owner = owner(raw)?,
        "group" => directory.group = owner(raw)?,
        "mode" => {
            let text = raw.text("an octal mode such as \"0750\"")?;
            let digits =
                !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
            match u32::from_str_radix(&text, 8) {
                Ok(mode) if digits && mode <= 0o7777 => directory.mode = mode,
                _ => return Err(format!("expected an octal mode such as \"0750\", found {}", quoted(&text))),
            }
        }
        "selinux_type" => {
            let text = raw.text("an SELinux type such as container_file_t")?;
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!(
                    "expected an SELinux type such as container_file_t, found {}",
                    quoted(&text)
                ));
            }
            directory.selinux_type = Some(text);
        }
        other => return Err(format!("no such key: {other}")),
    }
    Ok(())
}

fn relative(text: &str) -> Checked<String> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let plain =
        text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@:".contains(&b));
    if text.starts_with('/') || parts.is_empty() || parts.contains(&"..") || !plain {
        return Err(format!(
            "expected a path relative to the mount, of letters, digits and . _ - + @ :, without `..`, found {}",
            quoted(text)
        ));
    }
    Ok(parts.join("/"))
}

/// A name, or a number, of a user or a group.
fn owner(raw: Raw) -> Checked<String> {
    let text = match raw {
        Raw::Integer(n) if u32::try_from(n).is_ok_and(|n| n != u32::MAX) => return Ok(n.to_string()),
        other => other.text("a name or a number")?,
    };
    let plain = !text.is_empty()
        && text.len() <= 64
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-$".contains(&b));
    let number = text.bytes().all(|b| b.is_ascii_digit());
    // u32::MAX is chown's "leave as it is".
    match plain && (!number || text.parse::<u32>().is_ok_and(|n| n != u32::MAX)) {
        true => Ok(text),
        false => Err(format!("expected a name or a number, found {}", quoted(&text))),
    }
}
