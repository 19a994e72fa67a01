use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::batch::{compress, decompress as plain_of};
use crate::frame::FRAME_BODY_BYTES_MAX;
use crate::{SpoolEpoch, TimeMicros};

const SMALL: Limits = Limits {
    slots: 3,
    plain_bytes: 4_096,
};

fn frame(epoch: u8, lane: Lane, sequence: u64, table: u16, plain: &[u8]) -> Frame {
    Frame {
        id: RecordId {
            epoch: SpoolEpoch::from_bytes([epoch; 16]),
            lane,
            sequence: Sequence(sequence),
        },
        table,
        schema_version: 1,
        tombstone: false,
        rows: 7,
        made_at: TimeMicros(1),
        made_boot_us: 2,
        from_time: TimeMicros(3),
        to_time: TimeMicros(4),
        body: compress(plain).unwrap().into(),
    }
}

/// Bytes that do not compress by themselves.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Two frames of one table, the second little different from the first.
fn pair() -> (Frame, Frame) {
    let mut plain = noise(1, 2_000);
    let first = frame(1, Lane::Metrics, 1, 1, &plain);
    plain[1_000] ^= 0xff;
    (first, frame(1, Lane::Metrics, 2, 1, &plain))
}

/// The second of a pair as it travels, and a receiver that has the first.
fn sent() -> (Frame, Bytes, Bases) {
    let (first, second) = pair();
    let (mut sender, mut receiver) = (Bases::new(SMALL), Bases::new(SMALL));
    assert_eq!(
        receiver.restore(&sender.shorten(&first.encode())),
        Ok(first.encode())
    );
    let relative = sender.shorten(&second.encode());
    assert!(is_relative(&relative), "the second is not relative");
    (second, relative, receiver)
}

fn assert_same(found: &Bytes, expected: &Frame) {
    let found = Frame::decode(found).unwrap();
    assert_eq!(found.fixed_head(), expected.fixed_head());
    assert_eq!(found.id, expected.id);
    if expected.tombstone {
        assert!(found.tombstone && found.body.is_empty());
    } else {
        assert_eq!(plain_of(&found.body).unwrap(), plain_of(&expected.body).unwrap());
    }
}

/// The body of a relative frame changed by `change`, its header made to agree.
fn with_body(relative: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut frame = Frame::decode_as(CODEC_RELATIVE, relative).unwrap();
    let mut body = frame.body.to_vec();
    change(&mut body);
    frame.body = body.into();
    frame.encode_as(CODEC_RELATIVE)
}

fn lane() -> impl Strategy<Value = Lane> {
    prop_oneof![Just(Lane::Critical), Just(Lane::Events), Just(Lane::Metrics)]
}

/// Epoch, lane, table, whether it was shed, and the body: mostly another's with some bytes changed, some too long.
type Draw = (u8, Lane, u16, bool, u64, usize, Vec<(usize, u8)>);

fn draw() -> impl Strategy<Value = Draw> {
    (
        0..2_u8,
        lane(),
        0..3_u16,
        prop::bool::weighted(0.1),
        0..3_u64,
        0..5_000_usize,
        vec((0..5_000_usize, any::<u8>()), 0..20),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_comes_back_whole(draws in vec(draw(), 1..30)) {
        let (mut sender, mut receiver) = (Bases::new(SMALL), Bases::new(SMALL));
        for (draw, number) in draws.into_iter().zip(1_u64..) {
            let (epoch, lane, table, shed, kind, bytes, changes) = draw;
            let mut plain = noise(kind, bytes);
            for (at, byte) in changes {
                if let Some(place) = plain.get_mut(at) {
                    *place = byte;
                }
            }
            let whole = frame(epoch, lane, number, table, &plain);
            let whole = if shed { whole.shed() } else { whole };
            let travels = sender.shorten(&whole.encode());
            prop_assert!(travels.len() <= whole.encoded_len());
            assert_same(&receiver.restore(&travels).unwrap(), &whole);
            prop_assert_eq!(sender.bytes(), receiver.bytes());
            prop_assert!(receiver.bytes() <= SMALL.slots * SMALL.plain_bytes);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_refused_or_whole(
        bytes in vec(any::<u8>(), 0..300),
        flips in vec((0..2_100_usize, 1..=255_u8), 0..4),
    ) {
        let (_, relative, mut receiver) = sent();
        let damaged = with_body(&relative, |body| {
            for (at, bits) in flips {
                let length = body.len();
                body[at % length] ^= bits;
            }
        });
        for hostile in [damaged, with_body(&relative, |body| *body = bytes.clone()), bytes.clone().into()] {
            if let Ok(whole) = receiver.restore(&hostile) {
                prop_assert!(whole == hostile || Frame::decode(&whole).is_ok());
            }
            prop_assert!(receiver.bytes() <= SMALL.slots * SMALL.plain_bytes);
        }
        decompress(&bytes, b"prefix", 1_000).ok();
    }
}

#[test]
fn relative_frame_is_short_and_is_no_frame_for_anybody_else() {
    let (second, relative, mut receiver) = sent();
    assert!(relative.len() < second.encoded_len() / 4, "{}", relative.len());
    assert!(matches!(
        Frame::decode(&relative),
        Err(FrameError::Unknown {
            field: "codec",
            value: 2
        })
    ));
    assert_same(&receiver.restore(&relative).unwrap(), &second);
}

#[test]
fn frame_sent_again_has_the_same_digest_whole_or_relative() {
    let (second, relative, mut receiver) = sent();
    let restored = Frame::decode(&receiver.restore(&relative).unwrap()).unwrap();
    // Another version of zstd gives other bytes for the same body.
    let other = Frame {
        body: zstd::bulk::compress(&plain_of(&second.body).unwrap(), 9)
            .unwrap()
            .into(),
        ..second.clone()
    };
    assert_ne!(other.encode(), second.encode());
    for same in [&restored, &other] {
        assert_eq!(same.fixed_head(), second.fixed_head());
        assert_eq!(plain_of(&same.body).unwrap(), plain_of(&second.body).unwrap());
    }
    let later = Frame {
        rows: 8,
        ..second.clone()
    };
    assert_ne!(later.fixed_head(), second.fixed_head());
}

#[test]
fn missing_base_is_named() {
    let (second, relative, mut receiver) = sent();
    let missing = Err(RelativeError::NoBase {
        sequence: Sequence(2),
        base: Sequence(1),
    });
    assert_eq!(Bases::new(SMALL).restore(&relative), missing);
    receiver.clear();
    assert_eq!((receiver.restore(&relative), receiver.bytes()), (missing, 0));
    // As it is stored it is taken from whoever has nothing.
    assert_eq!(receiver.restore(&second.encode()), Ok(second.encode()));
}

#[test]
fn other_epoch_begins_anew() {
    let (first, second) = pair();
    let mut sender = Bases::new(SMALL);
    sender.shorten(&first.encode());
    let mut second = second;
    second.id.epoch = SpoolEpoch::from_bytes([2; 16]);
    assert_eq!(sender.shorten(&second.encode()), second.encode());
}

#[test]
fn wrong_base_is_refused() {
    let (_, relative, _) = sent();
    let mut receiver = Bases::new(SMALL);
    let other = frame(1, Lane::Metrics, 1, 1, &noise(2, 2_000));
    receiver.restore(&other.encode()).unwrap();
    let refused = receiver.restore(&relative);
    assert!(
        matches!(
            refused,
            Err(RelativeError::WrongBase | RelativeError::Zstd { .. })
        ),
        "{refused:?}"
    );
}

#[test]
fn bomb_is_refused_before_it_is_decompressed() {
    let (_, relative, mut receiver) = sent();
    for bytes in [SMALL.plain_bytes + 1, 1 << 30] {
        let bomb = if bytes < 1 << 20 {
            zstd::bulk::compress(&vec![0; bytes], 3).unwrap()
        } else {
            // A header alone: it claims a gigabyte.
            let mut head = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
            head.extend(u32::try_from(bytes).unwrap().to_le_bytes());
            head
        };
        let hostile = with_body(&relative, |body| {
            body.truncate(PREFACE_BYTES);
            body.extend(&bomb);
        });
        let refused = receiver.restore(&hostile);
        assert!(
            matches!(refused, Err(RelativeError::TooLong { .. })),
            "{refused:?}"
        );
    }
    // One that states less than it gives.
    let mut liar = zstd::bulk::compress(&vec![0; 100_000], 3).unwrap();
    let at = liar
        .windows(4)
        .position(|bytes| bytes == 100_000_u32.to_le_bytes())
        .unwrap();
    liar[at..at + 4].copy_from_slice(&100_u32.to_le_bytes());
    assert!(matches!(
        decompress(&liar, b"", SMALL.plain_bytes),
        Err(RelativeError::Zstd { .. })
    ));
    // One that states nothing.
    let mut open = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    std::io::Write::write_all(&mut open, &[0; 100]).unwrap();
    let open = open.finish().unwrap();
    assert!(matches!(
        decompress(&open, b"", SMALL.plain_bytes),
        Err(RelativeError::TooLong { .. })
    ));
}

#[test]
fn truncated_body_is_refused_at_every_length() {
    let (second, relative, mut receiver) = sent();
    let bytes = Frame::decode_as(CODEC_RELATIVE, &relative).unwrap().body.len();
    for length in 0..bytes {
        let cut = with_body(&relative, |body| body.truncate(length));
        assert!(
            receiver.restore(&cut).is_err(),
            "{length} of {bytes} bytes were taken"
        );
        let cut = relative.slice(..length.min(relative.len() - 1));
        assert!(!receiver.restore(&cut).is_ok_and(|whole| whole != cut));
    }
    // What was refused took no base away.
    assert_same(&receiver.restore(&relative).unwrap(), &second);
}

#[test]
fn tombstone_and_trailing_bytes_are_refused() {
    let (_, relative, mut receiver) = sent();
    let mut shed = Frame::decode_as(CODEC_RELATIVE, &relative).unwrap();
    shed.tombstone = true;
    let trailing: Bytes = [relative.as_ref(), b"!"].concat().into();
    for hostile in [shed.encode_as(CODEC_RELATIVE), trailing] {
        let refused = receiver.restore(&hostile);
        assert!(
            matches!(refused, Err(RelativeError::Malformed { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn longest_relative_body_fits_into_a_frame_whatever_it_holds() {
    let plain = noise(3, Limits::OWN.plain_bytes);
    let (mut sender, mut receiver) = (Bases::new(Limits::OWN), Bases::new(Limits::OWN));
    for number in [1, 2] {
        let whole = frame(1, Lane::Events, number, 9, &plain);
        assert!(whole.fits(), "{} of {FRAME_BODY_BYTES_MAX}", whole.body.len());
        let travels = sender.shorten(&whole.encode());
        assert_eq!(is_relative(&travels), number == 2);
        assert_same(&receiver.restore(&travels).unwrap(), &whole);
    }
}

#[test]
fn both_ends_keep_what_both_can() {
    let large = Limits {
        slots: 9,
        plain_bytes: 10,
    };
    let common = Limits {
        slots: 3,
        plain_bytes: 10,
    };
    assert_eq!(large.common(SMALL), Some(common));
    assert_eq!(SMALL.common(Limits { slots: 0, ..SMALL }), None);
}
