//! Identities: which records are stored, so that sending twice stores once.
//!
//! A *stream* is (host, epoch, lane). Its mark is the highest number that is durable; every number up to it was
//! stored or declared lost. The digests of a stream's latest records are kept to tell a repetition from a forgery;
//! a number whose digest is not known any more counts as a repetition.
//!
//! A host has the marks of its latest [`EPOCHS_PER_HOST_MAX`] epochs; a new one beyond them makes the store forget the
//! epoch that was not heard of for the longest time. An epoch is new at every unclean start of an agent, so that an
//! honest host does not get there; the store's own epochs do not count, and are kept.
//!
//! Numbers that are being written stand in a [`Pending`], which becomes true only once they are durable.

use std::collections::{HashMap, VecDeque};

use fleetmend_event::{HostId, Lane, Mark, RecordId, Sequence, SpoolEpoch, TimeMicros};
use metrics::counter;

use crate::metrics as names;
use crate::own::is_own_epoch;

/// Digests kept per stream. An agent repeats at most what was on the wire when a stream broke.
const DIGESTS_MAX: usize = 256;
/// Epochs of a host whose marks are kept: more unclean starts than a spool outlives, and an answer to a hello that
/// stays within some kilobytes.
pub(crate) const EPOCHS_PER_HOST_MAX: usize = 64;

/// Who numbers records.
pub(crate) type StreamKey = (HostId, SpoolEpoch, Lane);

/// First 16 bytes of a record's SHA-256.
pub(crate) type Digest = [u8; 16];

#[derive(Debug, Clone, Default)]
struct Stream {
    mark: u64,
    /// Digests of the records up to `mark`, the newest last; `None` where it is not known.
    digests: VecDeque<Option<Digest>>,
    /// Records before this number will never come: the sender does not have them.
    lost_before: Option<u64>,
    seen_at: TimeMicros,
    /// When it was last touched, in changes of [`Marks`].
    used: u64,
}

type Streams = HashMap<(SpoolEpoch, Lane), Stream>;

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Store it; `missing` records before it are lost.
    New {
        /// How many numbers are skipped.
        missing: u64,
    },
    /// It is stored already.
    Duplicate,
    /// Another record is stored under its identity.
    Conflict,
    /// A number was skipped.
    OutOfOrder {
        /// Number that was expected.
        expected: u64,
    },
}

/// Every stream the store knows.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    hosts: HashMap<HostId, Streams>,
    /// Counts changes.
    tick: u64,
}

/// Records accepted but not durable yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    streams: HashMap<StreamKey, Vec<(u64, Option<Digest>)>>,
}

impl Marks {
    /// What to do with record `id` of `host`, after those in `pending`.
    pub(crate) fn judge(&self, pending: &Pending, host: HostId, id: RecordId, record: Candidate) -> Verdict {
        let key = (host, id.epoch, id.lane);
        let stream = self.get(key);
        let waiting = pending.streams.get(&key).map(Vec::as_slice).unwrap_or_default();
        let known = stream.is_some() || !waiting.is_empty();
        let mark = waiting
            .last()
            .map_or_else(|| stream.map_or(0, |stream| stream.mark), |(number, _)| *number);
        let number = id.sequence.0;
        if number == 0 {
            return Verdict::OutOfOrder {
                expected: mark.saturating_add(1),
            };
        }
        if number > mark {
            let missing = number.saturating_sub(mark).saturating_sub(1);
            let declared = stream
                .and_then(|stream| stream.lost_before)
                .is_some_and(|before| number <= before);
            return if missing == 0 || declared || !known {
                Verdict::New { missing }
            } else {
                Verdict::OutOfOrder {
                    expected: mark.saturating_add(1),
                }
            };
        }
        let held = waiting
            .iter()
            .find(|(held, _)| *held == number)
            .map(|(_, digest)| *digest);
        let stored = held
            .or_else(|| stream.and_then(|stream| stream.digest_of(number)))
            .flatten();
        match (stored, record) {
            // What was shed after it was sent is still the record that is stored.
            (_, Candidate::Tombstone) | (None, Candidate::Rows(_)) => Verdict::Duplicate,
            (Some(stored), Candidate::Rows(digest)) if stored == digest => Verdict::Duplicate,
            (Some(_), Candidate::Rows(_)) => Verdict::Conflict,
        }
    }

    /// Makes what was pending true.
    pub(crate) fn apply(&mut self, pending: &Pending, now: TimeMicros) {
        for (key, records) in &pending.streams {
            let stream = self.get_or_make(*key);
            for (number, digest) in records {
                stream.advance(*number, *digest);
            }
            stream.seen_at = now;
        }
    }

    /// Takes over a mark from the catalogue or a record from a segment.
    pub(crate) fn raise(&mut self, key: StreamKey, number: u64, digest: Option<Digest>, seen_at: TimeMicros) {
        let stream = self.get_or_make(key);
        if number > stream.mark {
            stream.advance(number, digest);
        }
        stream.seen_at = stream.seen_at.max(seen_at);
    }

    /// Allows the next record of the stream to be any up to `id`.
    pub(crate) fn declare_lost(&mut self, host: HostId, id: RecordId) {
        let stream = self.get_or_make((host, id.epoch, id.lane));
        stream.lost_before = Some(id.sequence.0);
    }

    /// The marks of `host`.
    pub(crate) fn of_host(&self, host: HostId) -> Vec<Mark> {
        let streams = self.hosts.get(&host).into_iter().flatten();
        streams
            .map(|((epoch, lane), stream)| mark(*epoch, *lane, stream.mark))
            .collect()
    }

    /// The mark of one stream.
    pub(crate) fn of_stream(&self, (host, epoch, lane): StreamKey) -> Mark {
        let number = self.get((host, epoch, lane)).map_or(0, |stream| stream.mark);
        mark(epoch, lane, number)
    }

    /// When any stream of `host` was last heard of.
    pub(crate) fn last_of_host(&self, host: HostId) -> Option<TimeMicros> {
        let streams = self.hosts.get(&host)?.iter();
        let own = streams.filter(|((epoch, _), _)| !is_own_epoch(*epoch));
        own.map(|(_, stream)| stream.seen_at).filter(|at| at.0 > 0).max()
    }

    /// When a stream was last heard of.
    pub(crate) fn seen_at(&self, key: StreamKey) -> Option<TimeMicros> {
        self.get(key).map(|stream| stream.seen_at).filter(|at| at.0 > 0)
    }

    /// Forgets all of a host: somebody else keeps its marks now.
    pub(crate) fn forget_host(&mut self, host: HostId) {
        self.hosts.remove(&host);
    }

    /// Forgets streams not heard of since `before`; returns how many.
    pub(crate) fn forget_before(&mut self, before: TimeMicros) -> usize {
        let mut forgotten = 0_usize;
        self.hosts.retain(|_, streams| {
            let count = streams.len();
            streams.retain(|_, stream| stream.seen_at >= before);
            forgotten = forgotten.saturating_add(count.saturating_sub(streams.len()));
            !streams.is_empty()
        });
        forgotten
    }

    fn get(&self, (host, epoch, lane): StreamKey) -> Option<&Stream> {
        self.hosts.get(&host)?.get(&(epoch, lane))
    }

    fn get_or_make(&mut self, (host, epoch, lane): StreamKey) -> &mut Stream {
        self.tick = self.tick.saturating_add(1);
        let streams = self.hosts.entry(host).or_default();
        if !streams.contains_key(&(epoch, lane)) {
            make_room(streams, epoch);
        }
        let stream = streams.entry((epoch, lane)).or_default();
        stream.used = self.tick;
        stream
    }
}

/// What a record that came is compared by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Candidate {
    /// A record with rows.
    Rows(Digest),
    /// A record whose rows were shed.
    Tombstone,
}

impl Pending {
    /// Notes an accepted record.
    pub(crate) fn accept(&mut self, host: HostId, id: RecordId, digest: Option<Digest>) {
        self.streams
            .entry((host, id.epoch, id.lane))
            .or_default()
            .push((id.sequence.0, digest));
    }

    /// Highest number that waits in a stream.
    pub(crate) fn last_of(&self, key: &StreamKey) -> Option<u64> {
        self.streams
            .get(key)
            .and_then(|records| records.last())
            .map(|(number, _)| *number)
    }

    /// Takes the last accepted records of a commit back, as many as `accepted` names.
    pub(crate) fn take_back(&mut self, host: HostId, accepted: &[RecordId]) {
        for id in accepted.iter().rev() {
            let key = (host, id.epoch, id.lane);
            if let Some(records) = self.streams.get_mut(&key) {
                records.pop();
                if records.is_empty() {
                    self.streams.remove(&key);
                }
            }
        }
    }
}

impl Stream {
    fn advance(&mut self, number: u64, digest: Option<Digest>) {
        if number != self.mark.saturating_add(1) {
            self.digests.clear();
        }
        self.mark = number;
        self.digests.push_back(digest);
        if self.digests.len() > DIGESTS_MAX {
            self.digests.pop_front();
        }
        if self.lost_before.is_some_and(|before| before <= number) {
            self.lost_before = None;
        }
    }

    fn digest_of(&self, number: u64) -> Option<Option<Digest>> {
        let back = usize::try_from(self.mark.checked_sub(number)?).ok()?;
        let index = self.digests.len().checked_sub(back.checked_add(1)?)?;
        self.digests.get(index).copied()
    }
}

/// Forgets the stalest epoch of a host when `epoch` would be one too many.
fn make_room(streams: &mut Streams, epoch: SpoolEpoch) {
    let mut used: HashMap<SpoolEpoch, u64> = HashMap::new();
    for ((epoch, _), stream) in streams.iter().filter(|((epoch, _), _)| !is_own_epoch(*epoch)) {
        let latest = used.entry(*epoch).or_default();
        *latest = stream.used.max(*latest);
    }
    if is_own_epoch(epoch) || used.contains_key(&epoch) || used.len() < EPOCHS_PER_HOST_MAX {
        return;
    }
    let stalest = used.into_iter().min_by_key(|(_, used)| *used);
    if let Some((stalest, _)) = stalest {
        streams.retain(|(epoch, _), _| *epoch != stalest);
        counter!(names::FORGOTTEN_EPOCHS).increment(1);
    }
}

fn mark(epoch: SpoolEpoch, lane: Lane, number: u64) -> Mark {
    Mark {
        epoch,
        lane,
        sequence: Sequence(number),
    }
}

#[cfg(test)]
mod tests;
