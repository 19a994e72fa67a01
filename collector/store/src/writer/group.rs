//! A group: what several commits want durable with one fsync.

use fleetmend_event::table::Gap;
use fleetmend_event::{Fact, Frame, HostId, Mark, RecordId, Sequence, TimeMicros};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::answer;
use crate::admit::{Admitted, Record, admit};
use crate::clock::ClockAhead;
use crate::commit::Prepared;
use crate::error::CommitError;
use crate::inner::Inner;
use crate::mark::{Pending, StreamKey};
use crate::own::{OwnFrame, own_frames};
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
    record: Record,
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
        prepared: (Vec<Prepared>, Vec<(RecordId, Gap)>),
        reply: Reply,
        room: OwnedSemaphorePermit,
    ) {
        let admitted = {
            let marks = inner.marks.lock();
            admit(&marks, &mut self.pending, host, prepared)
        };
        let Admitted {
            streams,
            records,
            losses,
        } = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                answer(reply, Err(error));
                return;
            }
        };
        for record in records {
            self.put(Staged { host, record });
        }
        self.put_gaps(inner, host, losses.into_iter().map(|loss| loss.gap).collect());
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
            let record = Record {
                id,
                encoded,
                digest: None,
                rows: Some((table, rows)),
                clock: ClockAhead::NONE,
            };
            self.put(Staged { host, record });
            streams.push(key);
        }
        streams
    }

    fn put(&mut self, Staged { host, record }: Staged) {
        let Record {
            id,
            encoded,
            rows,
            clock,
            ..
        } = record;
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
