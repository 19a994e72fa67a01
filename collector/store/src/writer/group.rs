//! A group: what several commits want durable with one fsync.

use bytes::Bytes;
use fleetmend_event::table::Gap;
use fleetmend_event::{Fact, Frame, HostId, Mark, RecordId, Sequence, TimeMicros};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::answer;
use crate::clock::ClockAhead;
use crate::commit::Prepared;
use crate::error::CommitError;
use crate::inner::Inner;
use crate::mark::{Pending, StreamKey, Verdict};
use crate::metrics as names;
use crate::own::{OwnFrame, never_received, own_frames};
use crate::segment::{ENTRY_HEAD_BYTES, put_entry};
use crate::shape::Rows;

type Reply = oneshot::Sender<Result<Vec<Mark>, CommitError>>;

/// Entries that will be written together.
pub(crate) struct Group {
    now: TimeMicros,
    buffer: Vec<u8>,
    placed: Vec<Placed>,
    pending: Pending,
    waiting: Vec<Waiting>,
}

/// An entry of the group.
pub(crate) struct Placed {
    /// Where its frame begins in the group's bytes.
    pub(crate) offset: u64,
    /// Bytes of the frame.
    pub(crate) length: u32,
    /// Whose it is.
    pub(crate) host: HostId,
    /// Its identity.
    pub(crate) id: RecordId,
    /// Its rows and the place of their table.
    pub(crate) rows: Option<(usize, Rows)>,
    /// How the clock that stamped it stood to the store's.
    pub(crate) clock: ClockAhead,
}

struct Waiting {
    streams: Vec<StreamKey>,
    reply: Reply,
    _room: Option<OwnedSemaphorePermit>,
}

struct Staged {
    host: HostId,
    id: RecordId,
    encoded: Bytes,
    rows: Option<(usize, Rows)>,
    clock: ClockAhead,
}

impl Group {
    /// An empty group.
    pub(crate) fn new(now: TimeMicros) -> Self {
        Self {
            now,
            buffer: Vec::new(),
            placed: Vec::new(),
            pending: Pending::default(),
            waiting: Vec::new(),
        }
    }

    /// Bytes to write.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// What to write.
    pub(crate) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// The entries.
    pub(crate) fn placed(&self) -> &[Placed] {
        &self.placed
    }

    /// When the store took them.
    pub(crate) fn now(&self) -> TimeMicros {
        self.now
    }

    /// The records that become true with it.
    pub(crate) fn pending(&self) -> &Pending {
        &self.pending
    }

    /// Adds the frames of a host and further losses of it, all or none.
    pub(crate) fn commit(
        &mut self,
        inner: &Inner,
        host: HostId,
        (frames, gaps): (Vec<Prepared>, Vec<Gap>),
        reply: Reply,
        room: OwnedSemaphorePermit,
    ) {
        let mut streams: Vec<StreamKey> = Vec::new();
        let mut accepted: Vec<RecordId> = Vec::new();
        let mut staged: Vec<Staged> = Vec::new();
        let mut gaps = gaps;
        let (mut duplicates, mut unreadable) = (0_u64, 0_u64);
        for prepared in frames {
            let id = prepared.frame.id;
            let key = (host, id.epoch, id.lane);
            if !streams.contains(&key) {
                streams.push(key);
            }
            match inner.judge(&self.pending, host, &prepared) {
                Verdict::New { missing } => {
                    if missing > 0 {
                        gaps.push(never_received(
                            &prepared.frame,
                            prepared.clock,
                            missing,
                            inner.last_seen(key),
                        ));
                    }
                    self.pending.accept(host, id, prepared.digest);
                    accepted.push(id);
                    unreadable = unreadable.saturating_add(u64::from(prepared.gap.is_some()));
                    gaps.extend(prepared.gap);
                    staged.push(Staged {
                        host,
                        id,
                        encoded: prepared.encoded,
                        rows: prepared.rows,
                        clock: prepared.clock,
                    });
                }
                Verdict::Duplicate => duplicates = duplicates.saturating_add(1),
                verdict => {
                    self.pending.take_back(host, &accepted);
                    refuse(reply, host, &prepared.frame, verdict);
                    return;
                }
            }
        }
        counter!(names::DUPLICATES).increment(duplicates);
        counter!(names::UNREADABLE).increment(unreadable);
        staged.into_iter().for_each(|entry| self.put(entry));
        self.put_gaps(inner, host, gaps);
        self.waiting.push(Waiting {
            streams,
            reply,
            _room: Some(room),
        });
    }

    /// Adds rows of the store.
    pub(crate) fn own(&mut self, inner: &Inner, host: HostId, frames: Vec<OwnFrame>, reply: Reply) {
        let streams = self.put_own(inner, host, frames);
        self.waiting.push(Waiting {
            streams,
            reply,
            _room: None,
        });
    }

    /// Answers everybody who waits, once the group is durable.
    pub(crate) fn acknowledge(self, inner: &Inner) {
        for Waiting {
            streams,
            reply,
            _room,
        } in self.waiting
        {
            answer(reply, Ok(inner.marks_of(&streams)));
        }
    }

    /// Tells everybody who waits that nothing was stored.
    pub(crate) fn refuse(self, error: &CommitError) {
        for Waiting { reply, .. } in self.waiting {
            answer(reply, Err(error.clone()));
        }
    }

    fn put_gaps(&mut self, inner: &Inner, host: HostId, gaps: Vec<Gap>) {
        if gaps.is_empty() {
            return;
        }
        match own_frames(inner.own_epoch, gaps.into_iter().map(Fact::from).collect()) {
            Ok(frames) => {
                self.put_own(inner, host, frames);
            }
            Err(error) => tracing::error!(%host, %error, "cannot record a gap"),
        }
    }

    fn put_own(&mut self, inner: &Inner, host: HostId, frames: Vec<OwnFrame>) -> Vec<StreamKey> {
        let mut streams = Vec::new();
        for OwnFrame {
            template,
            table,
            rows,
        } in frames
        {
            let key = (host, inner.own_epoch, template.id.lane);
            let last = self
                .pending
                .last_of(&key)
                .unwrap_or_else(|| inner.marks_of(&[key]).first().map_or(0, |mark| mark.sequence.0));
            let id = RecordId {
                epoch: inner.own_epoch,
                lane: template.id.lane,
                sequence: Sequence(last).next(),
            };
            let encoded = Frame { id, ..template }.encode();
            self.pending.accept(host, id, None);
            self.put(Staged {
                host,
                id,
                encoded,
                rows: Some((table, rows)),
                clock: ClockAhead::NONE,
            });
            streams.push(key);
        }
        streams
    }

    fn put(
        &mut self,
        Staged {
            host,
            id,
            encoded,
            rows,
            clock,
        }: Staged,
    ) {
        let offset = self.buffer.len().saturating_add(ENTRY_HEAD_BYTES) as u64;
        put_entry(&mut self.buffer, host, (self.now, clock), &encoded);
        let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        self.placed.push(Placed {
            offset,
            length,
            host,
            id,
            rows,
            clock,
        });
    }
}

fn refuse(reply: Reply, host: HostId, frame: &Frame, verdict: Verdict) {
    let id = frame.id;
    let (reason, error) = match verdict {
        Verdict::OutOfOrder { expected } => (
            "out_of_order",
            CommitError::OutOfOrder {
                id,
                expected,
                found: id.sequence.0,
            },
        ),
        _ => {
            tracing::error!(%host, epoch = %id.epoch, lane = %id.lane, sequence = %id.sequence, "another record under a number that is stored");
            ("conflict", CommitError::Conflict { id })
        }
    };
    counter!(names::REFUSED, "reason" => reason).increment(1);
    answer(reply, Err(error));
}
