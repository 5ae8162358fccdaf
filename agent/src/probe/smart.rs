//! SMART / Health Information, log page 0x02: NVM Express Base Specification 2.0, 5.16.1.3. 512 bytes.

use serde::{Deserialize, Serialize};

/// Log page identifier.
pub const PAGE: u8 = 0x02;
/// Length in bytes.
pub const LEN: usize = 512;
/// "Data units" are thousands of 512 bytes.
const DATA_UNIT: u128 = 512_000;
/// 0 degrees Celsius, in whole Kelvin as drives count.
const KELVIN: i32 = 273;

/// Bits of `critical_warning`, from bit 0 on, as the JSON says them.
pub const WARNINGS: [&str; 6] =
    ["spare-low", "temperature", "reliability-degraded", "read-only", "backup-failed", "pmr-unreliable"];

/// What the drive says of its health. A field that is 0 may be one that the drive does not keep: Nitro leaves some so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smart {
    /// Of [`WARNINGS`], those that are set.
    pub critical_warnings: Vec<String>,
    /// In degrees Celsius; none where the drive reports none (0 Kelvin).
    pub temperature_celsius: Option<i32>,
    /// Spare blocks that are left, in percent.
    pub spare_percent: u8,
    /// Below this the drive warns, in percent; 0 where it has no such limit.
    pub spare_threshold_percent: u8,
    /// Of the life that the vendor expects, in percent; above 100 possible, 255 for more.
    pub wear_percent: u8,
    /// In bytes, as all counts clamped to 64 bits.
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub power_on_hours: u64,
    pub unsafe_shutdowns: u64,
    /// Data that could not be had back, and other failures of the medium.
    pub media_errors: u64,
    pub error_log_entries: u64,
}

/// The page's fields; none of a page that is cut off.
pub fn decode(page: &[u8]) -> Option<Smart> {
    let page: &[u8; LEN] = page.first_chunk()?;
    let wide = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&page[at..at + 16]);
        u128::from_le_bytes(bytes)
    };
    let clamped = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    let kelvin = u16::from_le_bytes([page[1], page[2]]);
    let set = |bit: &usize| page[0] & 1 << bit != 0;
    Some(Smart {
        critical_warnings: (0..WARNINGS.len()).filter(set).map(|bit| WARNINGS[bit].to_owned()).collect(),
        temperature_celsius: (kelvin != 0).then(|| i32::from(kelvin) - KELVIN),
        spare_percent: page[3],
        spare_threshold_percent: page[4],
        wear_percent: page[5],
        read_bytes: clamped(wide(32).saturating_mul(DATA_UNIT)),
        written_bytes: clamped(wide(48).saturating_mul(DATA_UNIT)),
        power_on_hours: clamped(wide(128)),
        unsafe_shutdowns: clamped(wide(144)),
        media_errors: clamped(wide(160)),
        error_log_entries: clamped(wide(176)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_field_is_where_the_specification_has_it() {
        let mut page = [0; LEN];
        page[0] = 0b1001;
        page[1..3].copy_from_slice(&323_u16.to_le_bytes());
        (page[3], page[4], page[5]) = (90, 10, 3);
        for (at, value) in [(32, 1_u128), (48, 2), (112, 3), (128, 4), (144, 5), (160, 6), (176, 7)] {
            page[at..at + 16].copy_from_slice(&value.to_le_bytes());
        }
        let smart = decode(&page).unwrap();
        let expected = Smart {
            critical_warnings: vec!["spare-low".into(), "read-only".into()],
            temperature_celsius: Some(50),
            spare_percent: 90,
            spare_threshold_percent: 10,
            wear_percent: 3,
            read_bytes: 512_000,
            written_bytes: 1_024_000,
            power_on_hours: 4,
            unsafe_shutdowns: 5,
            media_errors: 6,
            error_log_entries: 7,
        };
        assert_eq!(smart, expected);
    }

    #[test]
    fn zeroes_are_no_temperature_and_what_is_too_large_is_clamped() {
        assert_eq!(decode(&[0; LEN]), Some(Smart::default()));
        let all = decode(&[0xff; LEN]).unwrap();
        assert_eq!((all.read_bytes, all.media_errors, all.critical_warnings.len()), (u64::MAX, u64::MAX, 6));
        assert_eq!(decode(&[0; LEN - 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(page in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(decode(&page).is_some(), page.len() >= LEN);
        }
    }
}
