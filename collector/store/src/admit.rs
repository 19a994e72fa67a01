//! Admission: which records of a commit are new, whichever form they are stored in afterwards.

use bytes::Bytes;
use fleetmend_event::table::Gap;
use fleetmend_event::{Frame, HostId, RecordId};
use metrics::counter;

use crate::clock::ClockAhead;
use crate::commit::Prepared;
use crate::error::CommitError;
use crate::mark::{Digest, Marks, Pending, StreamKey, Verdict};
use crate::metrics as names;
use crate::own::never_received;
use crate::shape::Rows;

/// What a commit adds to a store.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// Streams of its records, those that are stored already too.
    pub(crate) streams: Vec<StreamKey>,
    /// Records that are new, in their order.
    pub(crate) records: Vec<Record>,
    /// Losses that go with it.
    pub(crate) losses: Vec<Loss>,
}

/// A record that is new.
#[derive(Debug)]
pub(crate) struct Record {
    /// Its identity.
    pub(crate) id: RecordId,
    /// The frame as bytes.
    pub(crate) encoded: Bytes,
    /// What tells it from another one; `None` for a tombstone.
    pub(crate) digest: Option<Digest>,
    /// Its rows and the place of their table.
    pub(crate) rows: Option<(usize, Rows)>,
    /// How the clock that stamped it stood to the store's.
    pub(crate) clock: ClockAhead,
}

/// A loss and the record that it came to light with.
#[derive(Debug)]
pub(crate) struct Loss {
    /// That record; number 0 for what came before a stream.
    pub(crate) id: RecordId,
    /// Which of the record's losses it is.
    pub(crate) kind: LossKind,
    /// The loss.
    pub(crate) gap: Gap,
}

/// A record has at most one loss of each kind, so that id and kind name a loss, also when it is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LossKind {
    /// Rows of the record, or what its sender gave up.
    Told,
    /// Records before it.
    Skipped,
}

/// Judges the frames of a host, all or none: what is new becomes pending.
pub(crate) fn admit(
    marks: &Marks,
    pending: &mut Pending,
    host: HostId,
    (frames, gaps): (Vec<Prepared>, Vec<(RecordId, Gap)>),
) -> Result<Admitted, CommitError> {
    let told = |(id, gap)| Loss {
        id,
        kind: LossKind::Told,
        gap,
    };
    let mut admitted = Admitted {
        losses: gaps.into_iter().map(told).collect(),
        ..Admitted::default()
    };
    let mut accepted: Vec<RecordId> = Vec::new();
    let (mut duplicates, mut unreadable) = (0_u64, 0_u64);
    for prepared in frames {
        let id = prepared.frame.id;
        let key = (host, id.epoch, id.lane);
        if !admitted.streams.contains(&key) {
            admitted.streams.push(key);
        }
        match marks.judge(pending, host, id, prepared.candidate) {
            Verdict::New { missing } => {
                if missing > 0 {
                    let gap = never_received(&prepared.frame, prepared.clock, missing, marks.seen_at(key));
                    let kind = LossKind::Skipped;
                    admitted.losses.push(Loss { id, kind, gap });
                }
                pending.accept(host, id, prepared.digest);
                accepted.push(id);
                unreadable = unreadable.saturating_add(u64::from(prepared.gap.is_some()));
                admitted.losses.extend(prepared.gap.map(|gap| told((id, gap))));
                admitted.records.push(Record {
                    id,
                    encoded: prepared.encoded,
                    digest: prepared.digest,
                    rows: prepared.rows,
                    clock: prepared.clock,
                });
            }
            Verdict::Duplicate => duplicates = duplicates.saturating_add(1),
            verdict => {
                pending.take_back(host, &accepted);
                return Err(refusal(host, &prepared.frame, verdict));
            }
        }
    }
    counter!(names::DUPLICATES).increment(duplicates);
    counter!(names::UNREADABLE).increment(unreadable);
    Ok(admitted)
}

fn refusal(host: HostId, frame: &Frame, verdict: Verdict) -> CommitError {
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
        _ => ("conflict", conflict(host, id)),
    };
    counter!(names::REFUSED, "reason" => reason).increment(1);
    error
}

/// Another record under a number that is stored: it is told, and refused.
pub(crate) fn conflict(host: HostId, id: RecordId) -> CommitError {
    tracing::error!(%host, epoch = %id.epoch, lane = %id.lane, sequence = %id.sequence, "another record under a number that is stored");
    CommitError::Conflict { id }
}
