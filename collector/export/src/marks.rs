//! What a target has of each host: the time of the newest sample of every series.
//!
//! By these a sample that comes again, live or from the store, is known without asking the target, so that the two ways
//! may overlap. Per host bounded by the store's limit of series, and by [`SERIES_MAX`].
//!
//! # Format of a host's marks, version 1
//! `version u8 = 1`, `newest i64 LE` (µs; the least there is for none), `count u32 LE`, then per series, by rising hash: `hash u64 LE`, and as an
//! LEB128 number how many µs its newest sample is older than `newest`; at last the CRC32C of all that, `u32 LE`.

use std::collections::HashMap;
use std::hash::Hasher;

use fleetmend_event::TimeMicros;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Series of one host whose marks are kept; a series beyond has its samples sent again after a restart.
const SERIES_MAX: usize = 100_000;

/// What one target has of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostMarks {
    newest: Option<i64>,
    series: HashMap<u64, i64>,
}

/// Why bytes are no marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MarksError {
    #[error("they are of version {0}, which this build does not know")]
    Version(u8),
    #[error("they are damaged")]
    Damaged,
}

/// Which series, the same in every run.
pub(crate) fn series_hash(name: &str, unit: &str, labels: &str) -> u64 {
    let mut hasher = twox_hash::XxHash64::with_seed(0);
    for part in [name, unit, labels] {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

impl HostMarks {
    /// Time of the newest sample that the target has of any series, or that it was said will not be sent to it.
    pub(crate) fn newest(&self) -> Option<TimeMicros> {
        self.newest.map(TimeMicros)
    }

    /// What is up to `until` and was not sent will not be.
    pub(crate) fn pass_over(&mut self, until: TimeMicros) {
        self.newest = self.newest.max(Some(until.0));
    }

    /// Whether a sample is newer than all that the target has of its series.
    pub(crate) fn is_new(&self, series: u64, time: TimeMicros) -> bool {
        self.series.get(&series).is_none_or(|mark| time.0 > *mark)
    }

    /// The target has this sample.
    pub(crate) fn raise(&mut self, series: u64, time: TimeMicros) {
        self.newest = self.newest.max(Some(time.0));
        if self.series.len() >= SERIES_MAX && !self.series.contains_key(&series) {
            return;
        }
        let mark = self.series.entry(series).or_insert(time.0);
        *mark = time.0.max(*mark);
    }

    /// Forgets series of which nothing came since `before`; what keeps a host with ever new series small.
    pub(crate) fn forget_before(&mut self, before: TimeMicros) {
        self.series.retain(|_, mark| *mark >= before.0);
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut series: Vec<(u64, i64)> = self.series.iter().map(|(hash, mark)| (*hash, *mark)).collect();
        series.sort_unstable();
        let newest = self.newest.unwrap_or(i64::MIN);
        let mut bytes = vec![VERSION];
        bytes.extend(newest.to_le_bytes());
        bytes.extend(u32::try_from(series.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (hash, mark) in series {
            bytes.extend(hash.to_le_bytes());
            put_number(&mut bytes, newest.abs_diff(mark));
        }
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, MarksError> {
        let version = *bytes.first().ok_or(MarksError::Damaged)?;
        if version != VERSION {
            return Err(MarksError::Version(version));
        }
        let body = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(MarksError::Damaged)?;
        let (body, checksum) = bytes.split_at(body);
        if crc32c::crc32c(body).to_le_bytes() != *checksum {
            return Err(MarksError::Damaged);
        }
        read(body.get(1..).unwrap_or_default()).ok_or(MarksError::Damaged)
    }
}

fn read(mut rest: &[u8]) -> Option<HostMarks> {
    let newest = i64::from_le_bytes(take(&mut rest)?);
    let count = u32::from_le_bytes(take(&mut rest)?);
    let mut series = HashMap::new();
    for _ in 0..count {
        let hash = u64::from_le_bytes(take(&mut rest)?);
        let older = i64::try_from(take_number(&mut rest)?).ok()?;
        series.insert(hash, newest.checked_sub(older)?);
    }
    let newest = (newest > i64::MIN).then_some(newest);
    rest.is_empty().then_some(HostMarks { newest, series })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let [byte] = take::<1>(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> HostMarks {
        let mut marks = HostMarks::default();
        marks.raise(7, TimeMicros(1_700_000_000_000_000));
        marks.raise(2, TimeMicros(1_700_000_000_000_300));
        marks
    }

    /// What version 1 wrote: it stays readable.
    const FIXTURE: &str = "012c411e18240a0600020000000200000000000000000700000000000000ac02";

    #[test]
    fn marks_of_version_1_are_read() {
        let mut bytes = hex::decode(FIXTURE).unwrap();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        assert_eq!(hex::encode(some().to_bytes()), hex::encode(&bytes));
        assert_eq!(HostMarks::from_bytes(&bytes).unwrap(), some());
    }

    #[test]
    fn damaged_marks_are_refused() {
        let bytes = some().to_bytes();
        for end in 0..bytes.len() {
            assert!(HostMarks::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(HostMarks::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        assert_eq!(HostMarks::from_bytes(&[9]), Err(MarksError::Version(9)));
    }

    #[test]
    fn sample_is_new_once() {
        let mut marks = HostMarks::default();
        assert_eq!(marks.newest(), None);
        assert!(marks.is_new(1, TimeMicros(5)));
        marks.raise(1, TimeMicros(5));
        assert!(!marks.is_new(1, TimeMicros(5)) && !marks.is_new(1, TimeMicros(4)));
        assert!(marks.is_new(1, TimeMicros(6)) && marks.is_new(2, TimeMicros(1)));
        assert_eq!(marks.newest(), Some(TimeMicros(5)));
        marks.forget_before(TimeMicros(6));
        assert!(marks.is_new(1, TimeMicros(5)));
        marks.pass_over(TimeMicros(3));
        assert_eq!(marks.newest(), Some(TimeMicros(5)));
        marks.pass_over(TimeMicros(7));
        assert_eq!(HostMarks::from_bytes(&marks.to_bytes()).unwrap(), marks);
        assert_eq!(marks.newest(), Some(TimeMicros(7)));
        assert!(
            marks.is_new(1, TimeMicros(6)),
            "what is told live is sent all the same"
        );
    }

    proptest! {
        #[test]
        fn marks_come_back_as_they_were(samples in prop::collection::vec((any::<u64>(), 0..i64::MAX / 2), 0..50)) {
            let mut marks = HostMarks::default();
            for (series, time) in samples {
                marks.raise(series, TimeMicros(time));
            }
            prop_assert_eq!(HostMarks::from_bytes(&marks.to_bytes()).unwrap(), marks);
        }

        #[test]
        fn any_bytes_are_marks_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            bytes.insert(0, VERSION);
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            if let Ok(marks) = HostMarks::from_bytes(&bytes) {
                prop_assert_eq!(HostMarks::from_bytes(&marks.to_bytes()).unwrap(), marks);
            }
        }
    }
}
