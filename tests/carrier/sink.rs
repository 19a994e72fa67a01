//! A sink that remembers everything.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use collector_ingest::{DurableSink, SinkError, TimedFrame};
use fleetmend_event::table::{Gap, Table, UnitState};
use fleetmend_event::{Frame, HostId, Lane, Mark, RecordId, Sequence, SpoolEpoch, TimeMicros};
use tokio::sync::watch;

/// What the sink does to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes it.
    Well,
    /// Answers that it cannot.
    Unavailable,
    /// Does not answer until the mood changes.
    Stuck,
}

#[derive(Debug, Default)]
struct Stored {
    records: BTreeMap<(HostId, RecordId), Bytes>,
    marks: HashMap<(HostId, SpoolEpoch, Lane), u64>,
    lost_before: HashMap<(HostId, SpoolEpoch, Lane), u64>,
    gaps: Vec<(HostId, Gap)>,
    last: HashMap<HostId, TimeMicros>,
    commits: u64,
    repeated: u64,
}

/// Clones are the same sink; it outlives collectors.
#[derive(Debug, Clone)]
pub(crate) struct MemorySink {
    stored: Arc<Mutex<Stored>>,
    mood: Arc<watch::Sender<Mood>>,
    epoch: [u8; 16],
}

impl MemorySink {
    pub(crate) fn new() -> Self {
        let mood = Arc::new(watch::Sender::new(Mood::Well));
        Self {
            stored: Arc::default(),
            mood,
            epoch: *HostId::random().as_bytes(),
        }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn commits(&self) -> u64 {
        self.stored.lock().unwrap().commits
    }

    /// Records that came although they were stored already.
    pub(crate) fn repeated(&self) -> u64 {
        self.stored.lock().unwrap().repeated
    }

    pub(crate) fn frames(&self, host: HostId) -> Vec<Frame> {
        let stored = self.stored.lock().unwrap();
        let of_host = stored.records.iter().filter(|((owner, _), _)| *owner == host);
        of_host.map(|(_, bytes)| Frame::decode(bytes).unwrap()).collect()
    }

    pub(crate) fn gaps(&self, host: HostId) -> Vec<Gap> {
        let stored = self.stored.lock().unwrap();
        stored
            .gaps
            .iter()
            .filter(|(owner, _)| *owner == host)
            .map(|(_, gap)| gap.clone())
            .collect()
    }

    /// Every number of the units of a host, sorted; one that is stored twice is there twice.
    pub(crate) fn units(&self, host: HostId) -> Vec<u64> {
        let mut numbers = Vec::new();
        for frame in self
            .frames(host)
            .iter()
            .filter(|frame| frame.table == UnitState::ID && !frame.tombstone)
        {
            let rows = UnitState::from_batch(&frame.batch().unwrap().unwrap()).unwrap();
            numbers.extend(
                rows.iter()
                    .map(|row| row.unit.trim_end_matches(".service").parse::<u64>().unwrap()),
            );
        }
        numbers.sort_unstable();
        numbers
    }

    /// What is durable of a host.
    pub(crate) fn marks_now(&self, host: HostId) -> Vec<Mark> {
        let stored = self.stored.lock().unwrap();
        let of_host = stored.marks.iter().filter(|((owner, ..), _)| *owner == host);
        of_host
            .map(|((_, epoch, lane), number)| Mark {
                epoch: *epoch,
                lane: *lane,
                sequence: Sequence(*number),
            })
            .collect()
    }

    /// Loses everything, as a store made anew does.
    pub(crate) fn made_anew(&self) -> Self {
        Self::new()
    }
}

#[async_trait]
impl DurableSink for MemorySink {
    async fn commit(
        &self,
        host: HostId,
        frames: Vec<TimedFrame>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, SinkError> {
        let frames: Vec<Frame> = frames.into_iter().map(|timed| timed.frame).collect();
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Stuck).await.unwrap();
        if mood == Mood::Unavailable {
            return Err(SinkError::Unavailable {
                reason: "the test says so".to_owned(),
            });
        }
        let mut stored = self.stored.lock().unwrap();
        // All or none: judged before anything is kept.
        let mut marks = stored.marks.clone();
        let mut kept = Vec::new();
        let mut repeated = 0;
        for frame in &frames {
            let (id, bytes) = (frame.id, frame.encode());
            let mark = marks.entry((host, id.epoch, id.lane)).or_insert(0);
            let number = id.sequence.0;
            if number <= *mark {
                if stored
                    .records
                    .get(&(host, id))
                    .is_some_and(|known| *known != bytes)
                {
                    return Err(SinkError::Conflict { id });
                }
                repeated += 1;
                continue;
            }
            let allowed = stored
                .lost_before
                .get(&(host, id.epoch, id.lane))
                .is_some_and(|before| number <= *before);
            if number > *mark + 1 && !allowed {
                return Err(SinkError::OutOfOrder {
                    id,
                    expected: *mark + 1,
                });
            }
            *mark = number;
            kept.push(((host, id), bytes));
        }
        // A gap goes with its record; one of a record that is not sent along stands for itself.
        for (id, gap) in gaps {
            let is_new = kept.iter().any(|((_, kept), _)| *kept == id);
            if is_new || frames.iter().all(|frame| frame.id != id) {
                stored.gaps.push((host, gap));
            }
        }
        if !kept.is_empty() {
            stored.last.insert(host, TimeMicros::now());
        }
        stored.marks = marks;
        stored.records.extend(kept);
        stored.commits += 1;
        stored.repeated += repeated;
        drop(stored);
        Ok(self.marks_now(host))
    }

    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, SinkError> {
        Ok(self.marks_now(host))
    }

    fn last_durable(&self, host: HostId) -> Option<TimeMicros> {
        self.stored.lock().unwrap().last.get(&host).copied()
    }

    fn declare_lost(&self, host: HostId, id: RecordId) {
        self.stored
            .lock()
            .unwrap()
            .lost_before
            .insert((host, id.epoch, id.lane), id.sequence.0);
    }

    fn store_epoch(&self) -> [u8; 16] {
        self.epoch
    }
}
