use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> BackupKey {
    BackupKey::new(&[byte; 32])
}

fn sealed(content: &[u8], name: &str, key: Option<&BackupKey>, squeeze: Squeeze) -> Vec<u8> {
    let mut out = Vec::new();
    let from = (&mut &*content as &mut dyn Read, content.len() as u64);
    let digest = seal(from, name, key, squeeze, &mut out).unwrap();
    assert_eq!(digest, digest_of(content));
    out
}

fn opened(sealed: &[u8], name: &str, key: Option<&BackupKey>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    open(&mut &*sealed, name, key, 8 << 20, &mut out).map(|_| out)
}

/// Lengths around the ends of chunks.
const LENGTHS: [usize; 7] = [
    0,
    1,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES,
    2 * CHUNK_BYTES + 7,
];

fn content(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[test]
fn content_of_any_length_comes_back() {
    for length in LENGTHS {
        for squeeze in [Squeeze::No, Squeeze::Yes] {
            for key in [None, Some(key(1))] {
                let sealed = sealed(&content(length), "a", key.as_ref(), squeeze);
                assert_eq!(opened(&sealed, "a", key.as_ref()).unwrap(), content(length));
            }
        }
    }
}

#[test]
fn same_content_is_sealed_differently_each_time() {
    let key = key(1);
    let one = sealed(b"content", "a", Some(&key), Squeeze::No);
    assert_ne!(one, sealed(b"content", "a", Some(&key), Squeeze::No));
    assert!(!one.windows(7).any(|window| window == b"content"));
}

#[test]
fn another_key_or_name_opens_nothing() {
    let sealed = sealed(b"content", "a", Some(&key(1)), Squeeze::Yes);
    for (name, key) in [("a", Some(key(2))), ("b", Some(key(1))), ("a", None)] {
        let error = opened(&sealed, name, key.as_ref()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
    }
}

#[test]
fn chunks_are_neither_left_out_nor_exchanged() {
    let key = key(1);
    let whole = sealed(&content(3 * CHUNK_BYTES), "a", Some(&key), Squeeze::No);
    let step = CHUNK_BYTES + TAG_BYTES;
    let chunk = |number: usize| whole[HEAD_BYTES + number * step..HEAD_BYTES + (number + 1) * step].to_vec();
    let head = whole[..HEAD_BYTES].to_vec();
    for order in [vec![0, 1], vec![1, 2], vec![1, 0, 2], vec![0, 1, 2, 2], vec![]] {
        let forged: Vec<u8> = head
            .iter()
            .copied()
            .chain(order.iter().flat_map(|number| chunk(*number)))
            .collect();
        opened(&forged, "a", Some(&key)).unwrap_err();
    }
}

#[test]
fn no_more_is_written_than_was_expected() {
    for squeeze in [Squeeze::No, Squeeze::Yes] {
        let sealed = sealed(&content(5_000), "a", None, squeeze);
        let mut out = Vec::new();
        open(&mut &*sealed, "a", None, 4_999, &mut out).unwrap_err();
        assert_eq!(out.len(), 0);
        // A head that claims less than the content has.
        let mut lying = sealed.clone();
        lying[8..16].copy_from_slice(&10_u64.to_le_bytes());
        open(&mut &*lying, "a", None, 4_999, &mut out).unwrap_err();
        assert!(out.len() <= 10, "{}", out.len());
    }
}

#[test]
fn fixture_of_version_1_is_read() {
    const PLAIN: &str = "464d42010000000007000000000000000000000000000000000000000000000000000000000000000000000000000000636f6e74656e74";
    let fixture = hex::decode(PLAIN).unwrap();
    assert_eq!(opened(&fixture, "objects/00/00", None).unwrap(), b"content");
    let mut later = fixture;
    later[3] = 2;
    let error = opened(&later, "objects/00/00", None).unwrap_err();
    assert!(error.to_string().contains("version 1"), "{error}");
}

#[test]
fn fixture_of_an_encrypted_file_of_version_1_is_read() {
    let fixture = hex::decode(include_str!("fixture-encrypted-1.hex").trim()).unwrap();
    assert_eq!(
        opened(&fixture, "manifests/1", Some(&key(7))).unwrap(),
        content(600)
    );
}

proptest! {
    #[test]
    fn damage_anywhere_is_noticed(
        length in 0_usize..2_000,
        at in 0_usize..10_000,
        flip in 1_u8..,
        cut in any::<bool>(),
        squeeze in any::<bool>(),
    ) {
        let key = key(1);
        let squeeze = if squeeze { Squeeze::Yes } else { Squeeze::No };
        let mut damaged = sealed(&content(length), "a", Some(&key), squeeze);
        let at = at % damaged.len();
        if cut {
            damaged.truncate(at);
        } else {
            damaged[at] ^= flip;
        }
        prop_assert!(opened(&damaged, "a", Some(&key)).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..4_000), tail in any::<bool>()) {
        let mut bytes = bytes;
        if tail {
            bytes.splice(0..bytes.len().min(8), [MAGIC.as_slice(), &[COMPRESSED, 0, 0, 0]].concat());
        }
        let mut out = Vec::new();
        let outcome = open(&mut bytes.as_slice(), "a", None, 10_000, &mut out);
        prop_assert!(out.len() <= 10_000);
        prop_assert!(outcome.is_err() || outcome.unwrap().1 == out.len() as u64);
    }
}
