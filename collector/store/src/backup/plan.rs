//! Plan: which backup a restore takes, and which segments it writes to land on the moment asked for.
//!
//! The last backup before the moment is the base: its Parquet files and catalogue are as they were. What came after it stands
//! in segments, those of the base itself and those of the backups up to the first one after the moment, compacted
//! ones included (`kept.rs`): all whose number is above what the base had compacted, each as the latest of these backups
//! holds it, cut at the moment. That is exact as long as no backup between was pruned, and none says that a
//! segment is missing. A base with Parquet files that hold later rows than the moment, as when a compaction ended
//! while it looked, gives way to the one before.
//!
//! Where that cannot be, the backup after the moment is cut there if nothing it compacted is later; and else the
//! backup before the moment is taken as it is.

use std::collections::{BTreeMap, VecDeque};

use fleetmend_event::TimeMicros;

use super::error::BackupError;
use super::manifest::{Manifest, SegmentEntry};
use super::repository::{ReadLock, Repository};

/// Backups before the moment that may be the base.
const BASES_MAX: usize = 8;

/// What would be restored. While it is held, nothing of the repository is deleted.
#[derive(Debug)]
pub struct Plan {
    /// The backup that is taken.
    pub manifest: Manifest,
    /// Where its segments are cut.
    pub until: Option<TimeMicros>,
    /// The state that is restored is that of this moment.
    pub lands_at: TimeMicros,
    /// By their numbers.
    pub(super) segments: Vec<SegmentEntry>,
    #[expect(dead_code, reason = "held for its lock")]
    reading: ReadLock,
}

impl Plan {
    /// A whole backup.
    pub fn whole(repository: &Repository, manifest: Manifest) -> Self {
        Self {
            reading: repository.lock_shared(),
            lands_at: manifest.time,
            until: None,
            segments: manifest.segments.clone(),
            manifest,
        }
    }

    fn cut(repository: &Repository, manifest: Manifest, segments: Vec<SegmentEntry>, at: TimeMicros) -> Self {
        Self {
            until: Some(at),
            lands_at: at,
            segments,
            ..Self::whole(repository, manifest)
        }
    }

    /// Bytes of the content that a restore writes at most.
    pub fn bytes(&self) -> u64 {
        let sum = |segments: &[SegmentEntry]| {
            let bytes = segments.iter().map(|segment| segment.bytes);
            bytes.fold(0, u64::saturating_add)
        };
        self.manifest
            .bytes()
            .saturating_sub(sum(&self.manifest.segments))
            .saturating_add(sum(&self.segments))
    }
}

/// Chooses what to restore: the newest backup, or the state at `to`.
///
/// # Errors
/// When there is no backup that old, or none that can be read. One that cannot be read is passed over when another
/// one holds the moment, but never the newest when that is asked for.
pub fn plan(repository: &Repository, to: Option<TimeMicros>) -> Result<Plan, BackupError> {
    // Before the first look: what is found stays until it is restored.
    let _reading = repository.lock_shared();
    let sequences = repository.sequences()?;
    let Some(newest) = sequences.last() else {
        return Err(BackupError::Empty {
            path: repository.folder().to_owned(),
        });
    };
    match to {
        None => Ok(Plan::whole(repository, repository.manifest(*newest).manifest?)),
        Some(to) => plan_moment(repository, &sequences, to),
    }
}

fn plan_moment(repository: &Repository, sequences: &[u64], to: TimeMicros) -> Result<Plan, BackupError> {
    let (mut oldest, mut unreadable) = (None, None);
    // Ends with the latest that was seen; each continues the one before it.
    let mut chain: VecDeque<Manifest> = VecDeque::new();
    for sequence in sequences {
        let manifest = match repository.manifest(*sequence).manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::error!(sequence, %error, "a backup cannot be read; it is passed over");
                unreadable.get_or_insert(error);
                continue;
            }
        };
        oldest.get_or_insert(manifest.time);
        if manifest.time > to {
            return match chain.pop_back() {
                Some(before) => Ok(between(repository, chain, (before, manifest), to)),
                None => Err(unreadable.unwrap_or_else(|| too_early(to, oldest))),
            };
        }
        if chain.back().is_some_and(|before| !manifest.continues(before)) {
            chain.clear();
        }
        if chain.len() == BASES_MAX {
            chain.pop_front();
        }
        chain.push_back(manifest);
    }
    match (chain.pop_back(), unreadable) {
        (Some(last), _) => Ok(Plan::whole(repository, last)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(too_early(to, oldest)),
    }
}

fn too_early(wanted: TimeMicros, oldest: Option<TimeMicros>) -> BackupError {
    BackupError::TooEarly {
        wanted: wanted.to_string(),
        oldest: oldest.map(|time| time.to_string()).unwrap_or_default(),
    }
}

/// The moment lies between two backups; `chain` are those before, each of which the next one continues.
fn between(
    repository: &Repository,
    chain: VecDeque<Manifest>,
    (before, after): (Manifest, Manifest),
    to: TimeMicros,
) -> Plan {
    let is_base = |manifest: &Manifest| manifest.newest_compacted().is_none_or(|newest| newest <= to);
    if after.continues(&before) {
        let mut segments = segments_of(&after);
        let bases = std::iter::once(&before).chain(chain.iter().rev());
        for base in bases {
            // The latest version of a segment is the one that counts.
            for (number, segment) in segments_of(base) {
                segments.entry(number).or_insert(segment);
            }
            if is_base(base) {
                segments.retain(|number, _| *number > base.compacted_to);
                return Plan::cut(repository, base.clone(), segments.into_values().collect(), to);
            }
        }
    }
    if is_base(&after) {
        let segments = after.segments.clone();
        return Plan::cut(repository, after, segments, to);
    }
    Plan::whole(repository, before)
}

fn segments_of(manifest: &Manifest) -> BTreeMap<u64, SegmentEntry> {
    let all = manifest.kept.iter().chain(&manifest.segments);
    all.map(|segment| (segment.number, segment.clone())).collect()
}
