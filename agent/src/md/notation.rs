//! mdadm's notation of a UUID, in mdadm.conf, in `--detail` and in the names of udev's links.

use uuid::Uuid;

/// `uuid` as mdadm prints it and mdadm.conf has it: `1717a165:d6c110a9:c8833362:ca4bb572`.
pub fn mdadm_uuid(uuid: &Uuid) -> String {
    let hex = uuid.simple().to_string();
    [&hex[..8], &hex[8..16], &hex[16..24], &hex[24..]].join(":")
}

/// Reads a UUID as mdadm does (`parse_uuid` in its util.c): 32 hex digits, separated anywhere by `:`, `.`, space or `-`.
pub fn parse_mdadm_uuid(text: &str) -> Option<Uuid> {
    let hex: String = text.chars().filter(|c| !matches!(c, ':' | '.' | ' ' | '-')).collect();
    if hex.len() == 32 { Uuid::try_parse_ascii(hex.as_bytes()).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_as_mdadm_writes_them_and_in_any_spelling_that_it_reads() {
        let uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let text = mdadm_uuid(&uuid);
        assert_eq!(text, "01020304:05060708:090a0b0c:0d0e0f10");
        let spellings =
            [&text, &uuid.to_string(), &uuid.simple().to_string(), "01020304.05060708 090A0B0C:0D0E0F10"];
        for text in spellings {
            assert_eq!(parse_mdadm_uuid(text), Some(uuid), "{text}");
        }
        for text in [
            "",
            "1:2:3:4",
            "0102030405060708090a0b0c0d0e0f1g",
            "{1020304:05060708:090a0b0c:0d0e0f10",
            "\u{e4}",
        ] {
            assert_eq!(parse_mdadm_uuid(text), None, "{text}");
        }
    }
}
