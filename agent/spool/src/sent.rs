//! How far frames may have been sent, known across a kill.
//!
//! What was handed out may be stored at the collector though nobody acknowledged it. So the spool sheds and thins
//! only beyond it, and says in the file `sent` how far it goes before it hands anything out: a few frames ahead, so
//! that the file is written once for many. A start that finds no such file takes everything for sent.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fleetmend_event::{Lane, RecordId, SpoolEpoch};
use serde::{Deserialize, Serialize};

use crate::disk::{Access, Disk};
use crate::index::Index;
use crate::layout::Layout;

const VERSION: u32 = 1;
/// So many frames are noted ahead.
const AHEAD: u64 = 128;
/// Of metrics, which a copy of the disk may have completed otherwise: so many may be sent again after a start.
const AHEAD_METRICS: u64 = 8;
/// A mark has some 80 bytes, and there are three for an epoch.
const BYTES_MAX: u64 = 1024 * 1024;

/// The file `sent`.
#[derive(Debug)]
pub(crate) struct Sent {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    durable: BTreeMap<(SpoolEpoch, Lane), u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    marks: Vec<(SpoolEpoch, Lane, u64)>,
}

impl Sent {
    /// Reads the file and tells the index; what cannot be understood is as good as no file. `current` is new when the
    /// index has nothing of it.
    pub(crate) fn open(layout: &Layout, index: &mut Index) -> Self {
        let mut sent = Self {
            disk: layout.disk().clone(),
            path: layout.sent(),
            durable: BTreeMap::new(),
        };
        let known = sent.read();
        for epoch in &mut index.epochs {
            for lane in Lane::ALL.iter().copied() {
                let index = epoch.lanes.get_mut(lane);
                let last = index.next.saturating_sub(1);
                let place = (epoch.epoch, lane);
                let mark = match &known {
                    Some(marks) => marks.get(&place).copied().unwrap_or(0),
                    None => last,
                };
                index.sent = last.min(mark);
                // What may not have been handed out is, though the collector has the number.
                let handed = if known.is_some() && lane == Lane::Metrics {
                    mark.saturating_sub(AHEAD_METRICS)
                } else {
                    mark
                };
                index.handed = last.min(handed).max(index.acknowledged);
                if mark > 0 {
                    sent.durable.insert(place, mark);
                }
            }
        }
        if known.is_none()
            && let Err(error) = sent.write()
        {
            tracing::debug!(%error, "could not note how far frames were sent");
        }
        sent
    }

    /// Whether anything of the lane was ever sent.
    pub(crate) fn knows(&self, epoch: SpoolEpoch, lane: Lane) -> bool {
        self.durable.contains_key(&(epoch, lane))
    }

    fn read(&self) -> Option<BTreeMap<(SpoolEpoch, Lane), u64>> {
        let file = self.disk.open(&self.path, Access::Read).ok()?;
        let bytes = file.read_whole(BYTES_MAX).ok()?;
        let content: Content = serde_json::from_slice(&bytes).ok()?;
        let marks = content.marks.into_iter();
        (content.version == VERSION).then(|| {
            marks
                .map(|(epoch, lane, number)| ((epoch, lane), number))
                .collect()
        })
    }

    /// Notes, durably, that these are about to be sent; of epochs that are gone nothing is kept.
    pub(crate) fn reserve(
        &mut self,
        ids: impl Iterator<Item = RecordId>,
        epochs: &[SpoolEpoch],
    ) -> io::Result<()> {
        let mut more: BTreeMap<(SpoolEpoch, Lane), u64> = BTreeMap::new();
        for id in ids {
            let place = (id.epoch, id.lane);
            if self
                .durable
                .get(&place)
                .is_none_or(|noted| *noted < id.sequence.0)
            {
                let ahead = if id.lane == Lane::Metrics {
                    AHEAD_METRICS
                } else {
                    AHEAD
                };
                more.insert(place, id.sequence.0.saturating_add(ahead));
            }
        }
        if more.is_empty() {
            return Ok(());
        }
        let before = self.durable.clone();
        self.durable.extend(more);
        self.durable.retain(|(epoch, _), _| epochs.contains(epoch));
        self.write().inspect_err(|_| self.durable = before)
    }

    fn write(&self) -> io::Result<()> {
        let content = Content {
            version: VERSION,
            marks: self
                .durable
                .iter()
                .map(|((epoch, lane), number)| (*epoch, *lane, *number))
                .collect(),
        };
        let fresh = self.path.with_extension("new");
        let mut file = self.disk.open(&fresh, Access::Create)?;
        file.write_all(&serde_json::to_vec(&content)?)?;
        file.sync_all()?;
        self.disk.rename(&fresh, &self.path)?;
        self.path
            .parent()
            .map_or(Ok(()), |folder| self.disk.sync_folder(folder))
    }
}
