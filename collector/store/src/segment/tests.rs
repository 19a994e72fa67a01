use bytes::Bytes;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Gap, TableInfo};
use fleetmend_event::{Frame, Lane, RecordId, Sequence, SpoolEpoch, Table};
use proptest::prelude::*;

use super::*;

fn frame(sequence: u64) -> Frame {
    let id = RecordId {
        epoch: SpoolEpoch::from_bytes([7; 16]),
        lane: Lane::Critical,
        sequence: Sequence(sequence),
    };
    let batch = Gap::to_batch::<Gap>(&[]).unwrap();
    let stamp = Stamp {
        wall: TimeMicros(1),
        boot_us: 2,
    };
    Frame::of_batch(
        id,
        &TableInfo::of::<Gap>(),
        &batch,
        stamp,
        (TimeMicros(3), TimeMicros(4)),
    )
    .unwrap()
}

fn segment(entries: u64) -> Vec<u8> {
    let mut bytes = header(1, TimeMicros(5)).to_vec();
    for sequence in 1..=entries {
        put_entry(
            &mut bytes,
            HostId::from_bytes([9; 16]),
            (TimeMicros(6), ClockAhead::from_micros(Some(-8))),
            &frame(sequence).encode(),
        );
    }
    bytes
}

fn sequences(scan: &Scan) -> Vec<u64> {
    scan.entries
        .iter()
        .map(|entry| entry.frame.id.sequence.0)
        .collect()
}

#[test]
fn entries_come_back_as_they_were() {
    let scan = scan(&segment(3).into());
    assert_eq!((sequences(&scan), scan.damage), (vec![1, 2, 3], vec![]));
    assert_eq!(
        (scan.entries[0].host, scan.entries[0].ingested_at),
        (HostId::from_bytes([9; 16]), TimeMicros(6))
    );
    assert_eq!(scan.entries[0].clock.micros(), Some(-8));
    assert_eq!(scan.entries[2].frame, frame(3));
}

#[test]
fn file_names_carry_the_number() {
    assert_eq!(number_of(&file_name(42)), Some(42));
    assert_eq!((number_of("42.tmp"), number_of("x.seg")), (None, None));
}

#[test]
fn layout_of_version_two_does_not_change() {
    let mut bytes = header(0x0102, TimeMicros(0x0304)).to_vec();
    let at = bytes.len();
    put_entry(
        &mut bytes,
        HostId::from_bytes([0xaa; 16]),
        (TimeMicros(0x0506), ClockAhead::from_micros(Some(0x0708))),
        &frame(1).encode(),
    );
    assert_eq!(&bytes[..4], b"FMS\x01");
    assert_eq!(&bytes[8..24], &[2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[at..at + 4], b"FME\x02");
    assert_eq!(&bytes[at + 8..at + 24], &[0xaa; 16]);
    assert_eq!(&bytes[at + 24..at + 32], &[6, 5, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        bytes[at + 36..at + 40],
        bytes[at + 52..at + 56],
        "the frame's checksum ties the head to it"
    );
    assert_eq!(&bytes[at + 40..at + 48], &[8, 7, 0, 0, 0, 0, 0, 0]);
}

/// An entry as version 1 wrote it.
fn put_entry_of_version_one(buffer: &mut Vec<u8>, frame: &[u8]) {
    let mut rest = vec![9; 16];
    rest.extend(6_i64.to_le_bytes());
    rest.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
    rest.extend(&frame[4..8]);
    buffer.extend(b"FME\x01");
    buffer.extend(crc32c::crc32c(&rest).to_le_bytes());
    buffer.extend(rest);
    buffer.extend(frame);
}

#[test]
fn entries_of_version_one_are_read_between_newer_ones() {
    let mut bytes = segment(1);
    for sequence in [2, 3] {
        put_entry_of_version_one(&mut bytes, &frame(sequence).encode());
    }
    let clock = ClockAhead::from_micros(Some(4));
    put_entry(
        &mut bytes,
        HostId::from_bytes([9; 16]),
        (TimeMicros(6), clock),
        &frame(4).encode(),
    );
    let found = scan(&bytes.clone().into());
    assert_eq!((sequences(&found), found.damage), (vec![1, 2, 3, 4], vec![]));
    let clocks = found.entries.iter().map(|entry| entry.clock.micros());
    assert_eq!(clocks.collect::<Vec<_>>(), [Some(-8), None, None, Some(4)]);
    assert!(
        found
            .entries
            .iter()
            .all(|entry| entry.ingested_at == TimeMicros(6))
    );
    assert_eq!(found.entries[2].frame, frame(3));
}

proptest! {
    #[test]
    fn cut_segment_gives_its_whole_entries_and_one_tail(cut in 0_usize..1_000_000) {
        let whole = segment(4);
        let entry = (whole.len() - SEGMENT_HEADER_BYTES) / 4;
        let cut = cut % whole.len();
        let scan = scan(&Bytes::from(whole[..cut].to_vec()));
        let kept = cut.saturating_sub(SEGMENT_HEADER_BYTES) / entry;
        prop_assert_eq!(scan.entries.len(), kept);
        let is_clean = cut >= SEGMENT_HEADER_BYTES && (cut - SEGMENT_HEADER_BYTES).is_multiple_of(entry);
        prop_assert!(scan.damage.len() == usize::from(!is_clean && cut > 0));
        prop_assert!(scan.damage.iter().all(|damage| damage.is_tail));
    }

    #[test]
    fn flipped_bit_costs_at_most_its_own_entry(at in 0_usize..1_000_000, bit in 0_u8..8) {
        let mut bytes = segment(4);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let scan = scan(&bytes.clone().into());
        let entry = (bytes.len() - SEGMENT_HEADER_BYTES) / 4;
        let hit = at.checked_sub(SEGMENT_HEADER_BYTES).map(|offset| offset / entry);
        let expected: Vec<u64> = (0..4_usize).filter(|index| Some(*index) != hit).map(|index| index as u64 + 1).collect();
        prop_assert_eq!(sequences(&scan), expected);
        prop_assert_eq!(scan.damage.len(), 1);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let length = bytes.len() as u64;
        let scan = scan(&Bytes::from(bytes));
        prop_assert!(scan.damage.iter().all(|damage| damage.offset + damage.bytes <= length));
    }
}
