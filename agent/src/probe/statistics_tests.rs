use proptest::prelude::*;

use super::*;

/// A page as a drive would make it: counts 1 to 9 in order, and histograms of (lower, upper, count).
fn page(magic: u32, reads: &[(u64, u64, u32)], writes: &[(u64, u64, u32)]) -> Vec<u8> {
    let mut page = vec![0; LEN];
    page[..4].copy_from_slice(&magic.to_le_bytes());
    page[4..8].copy_from_slice(&1_u32.to_le_bytes());
    for (at, value) in [8, 16, 24, 32, 40, 48, 72, 80, 88].into_iter().zip(1_u64..) {
        page[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    for (at, bins) in [(READ_HISTOGRAM, reads), (WRITE_HISTOGRAM, writes)] {
        page[at..at + 8].copy_from_slice(&(bins.len() as u64).to_le_bytes());
        for (bin, (lower, upper, count)) in bins.iter().enumerate() {
            let at = at + 8 + bin * 24;
            page[at..at + 8].copy_from_slice(&lower.to_le_bytes());
            page[at + 8..at + 16].copy_from_slice(&upper.to_le_bytes());
            page[at + 16..at + 20].copy_from_slice(&count.to_le_bytes());
        }
    }
    page
}

#[test]
fn the_pages_of_both_kinds_of_volume_say_the_same_fields() {
    let reads = [(0, 64, 49), (64, 128, 1), (128, 256, 48), (256, 512, 1), (512, 4096, 1)];
    for magic in [MAGIC_EBS, MAGIC_INSTANCE_STORE] {
        let expected = Statistics {
            read_ops: 1,
            write_ops: 2,
            read_bytes: 3,
            written_bytes: 4,
            read_us: 5,
            write_us: 6,
            iops_exceeded_us: 7,
            throughput_exceeded_us: 8,
            queue_length: 9,
            read_latency: Some(Latency { p50_us: 128, p99_us: 512 }),
            write_latency: None,
        };
        assert_eq!(decode(&page(magic, &reads, &[])), Some(expected));
    }
}

#[test]
fn one_operation_is_every_percentile() {
    let said = decode(&page(MAGIC_INSTANCE_STORE, &[], &[(0, 10, 0), (10, 20, 1), (20, 30, 0)])).unwrap();
    assert_eq!(said.write_latency, Some(Latency { p50_us: 20, p99_us: 20 }));
}

#[test]
fn a_page_that_is_cut_off_zeroed_or_anothers_is_none() {
    let whole = page(MAGIC_INSTANCE_STORE, &[], &[]);
    assert!(decode(&whole).is_some());
    assert_eq!(decode(&whole[..LEN - 1]), None);
    assert_eq!(decode(&[]), None);
    assert_eq!(decode(&[0; LEN]), None);
    assert_eq!(decode(&[0xff; LEN]), None);
    assert_eq!(decode(&page(MAGIC_EBS.swap_bytes(), &[], &[])), None);
}

#[test]
fn counts_that_cannot_be_are_clamped_to_the_page() {
    let full: Vec<(u64, u64, u32)> = (0..64).map(|bin| (bin, bin + 1, u32::MAX)).collect();
    let mut hostile = page(MAGIC_INSTANCE_STORE, &full, &full);
    for at in [READ_HISTOGRAM, WRITE_HISTOGRAM] {
        hostile[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    }
    let said = decode(&hostile).unwrap();
    assert_eq!(said.read_latency, Some(Latency { p50_us: 32, p99_us: 64 }));
    assert_eq!(said.write_latency, said.read_latency);
}

proptest! {
    #[test]
    fn any_bytes_are_taken_without_panic(
        magic in prop_oneof![Just(MAGIC_EBS), Just(MAGIC_INSTANCE_STORE), any::<u32>()],
        mut bytes in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        if let Some(head) = bytes.first_chunk_mut() {
            *head = magic.to_le_bytes();
        }
        let ours = bytes.len() >= LEN && matches!(magic, MAGIC_EBS | MAGIC_INSTANCE_STORE);
        prop_assert_eq!(decode(&bytes).is_some(), ours);
    }
}
