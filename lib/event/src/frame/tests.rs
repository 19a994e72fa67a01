use proptest::prelude::*;

use super::*;
use crate::table::{Exactness, Gap, GapStage, Table};

fn sample() -> Frame {
    let rows = vec![Gap {
        time: TimeMicros(5),
        table: "metrics".into(),
        lane: Lane::Metrics,
        from_time: TimeMicros(1),
        to_time: TimeMicros(4),
        count: 7,
        exactness: Exactness::AtLeast,
        stage: GapStage::Spool,
        reason: "spool_quota".into(),
    }];
    let id = RecordId {
        epoch: SpoolEpoch::from_bytes([9; 16]),
        lane: Lane::Critical,
        sequence: Sequence(3),
    };
    let stamp = Stamp {
        wall: TimeMicros(6),
        boot_us: 8,
    };
    let batch = Gap::to_batch(&rows).unwrap();
    Frame::of_batch(
        id,
        &TableInfo::of::<Gap>(),
        &batch,
        stamp,
        (TimeMicros(1), TimeMicros(5)),
    )
    .unwrap()
}

#[test]
fn frame_comes_back_as_it_was() {
    let frame = sample();
    let decoded = Frame::decode(&frame.encode()).unwrap();
    assert_eq!(decoded, frame);
    assert_eq!(
        Gap::from_batch(&decoded.batch().unwrap().unwrap()).unwrap()[0].count,
        7
    );
}

#[test]
fn header_stands_as_specified() {
    let bytes = sample().encode();
    assert_eq!(&bytes[..4], b"FMR\x01");
    assert_eq!(bytes[12], 0, "lane");
    assert_eq!(bytes[13], 1, "codec");
    assert_eq!(&bytes[24..40], &[9; 16], "epoch");
    assert_eq!(&bytes[40..48], &3_u64.to_le_bytes(), "sequence");
}

#[test]
fn shed_frame_keeps_its_number_and_loses_its_body() {
    let shed = Frame::decode(&sample().shed().encode()).unwrap();
    assert!(shed.tombstone && shed.body.is_empty());
    assert_eq!((shed.id, shed.rows), (sample().id, 1));
    assert!(shed.batch().unwrap().is_none());
}

#[test]
fn body_over_the_limit_is_refused_by_its_header() {
    let mut bytes = sample().encode().to_vec();
    bytes[8..12].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    assert_eq!(
        Frame::decode(&bytes.into()),
        Err(FrameError::TooLong { bytes: 1 << 30 })
    );
}

#[test]
fn body_that_lies_about_itself_is_an_error() {
    let mut frame = sample();
    frame.body = Bytes::from_static(b"not zstd");
    assert!(matches!(frame.batch(), Err(BatchError::Zstd(_))));
    frame.body = zstd::bulk::compress(b"not arrow at all", 1).unwrap().into();
    assert!(frame.batch().is_err());
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(position in 0_usize..2_000, bit in 0_u8..8) {
        let mut bytes = sample().encode().to_vec();
        let position = position % bytes.len();
        bytes[position] ^= 1 << bit;
        prop_assert!(Frame::decode(&bytes.into()).is_err());
    }

    #[test]
    fn any_cut_is_noticed(keep in 0_usize..2_000) {
        let bytes = sample().encode();
        let keep = keep % bytes.len();
        prop_assert!(Frame::decode(&bytes.slice(..keep)).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let compressed = zstd::bulk::compress(&bytes, 1).unwrap();
        prop_assert!(Frame::decode(&Bytes::from(bytes.clone())).is_err());
        prop_assert!(crate::batch::decode(&bytes).is_err());
        prop_assert!(crate::batch::decode(&compressed).is_err());
    }
}

#[test]
fn facts_of_metrics_are_their_samples() {
    let frame = sample();
    assert_eq!(frame.facts(), Some(1));
    assert_eq!(frame.shed().facts(), None);
    let chunk = |values: Vec<f64>| MetricChunk {
        name: "load".into(),
        unit: "1".into(),
        labels: "{}".into(),
        start_time: TimeMicros(1),
        step_ms: 1_000,
        offset_ms: Vec::new(),
        value: values,
    };
    let batch = MetricChunk::to_batch(&[chunk(vec![1.0, 2.0, 3.0]), chunk(vec![4.0])]).unwrap();
    let stamp = Stamp {
        wall: TimeMicros(6),
        boot_us: 8,
    };
    let times = (TimeMicros(1), TimeMicros(5));
    let frame = Frame::of_batch(frame.id, &TableInfo::of::<MetricChunk>(), &batch, stamp, times).unwrap();
    assert_eq!((frame.rows, frame.facts()), (2, Some(4)));
}

#[test]
fn flag_that_only_a_newer_version_knows_is_refused() {
    let mut bytes = sample().encode().to_vec();
    bytes[19] |= 0x80;
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    let refused = Frame::decode(&Bytes::from(bytes));
    assert!(
        matches!(refused, Err(FrameError::Unknown { field: "flags", .. })),
        "{refused:?}"
    );
}
