//! Pruning: backups that are too many are deleted, and then the objects that nobody names any more.
//!
//! All backups of the latest hours stay, so that any minute of these can be restored; of older times the newest of
//! each hour and of each day, as many as are wanted. The newest backup always stays.
//!
//! What is deleted stays in the chain: `pruned` holds the runs of numbers that are gone, each with the link of its
//! first manifest and the digest of its last. It is written before anything is deleted. Objects are deleted while
//! nobody reads, and only when every manifest can be read: what cannot be read may need them.

use std::collections::{BTreeSet, HashSet};

use fleetmend_event::TimeMicros;
use serde::{Deserialize, Serialize};

use super::error::BackupError;
use super::fetch::{blocks_of, parquet_of};
use super::manifest::{Link, Manifest};
use super::repository::{Repository, WriteLock};

const HOUR_MICROS: i64 = 3600 * 1_000_000;
/// Where the runs are.
pub(super) const PRUNED: &str = "pruned";

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Hours of which every backup stays.
    pub all_hours: u32,
    /// Hours of which the newest backup stays.
    pub hourly: u32,
    /// Days of which the newest backup stays.
    pub daily: u32,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups.
    pub backups: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether objects were left alone because somebody reads the repository.
    pub postponed: bool,
}

/// Manifests that were deleted, without a gap in their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// What its first one followed.
    pub(super) previous: Option<Link>,
    /// Its last one.
    pub(super) last: Link,
    /// How many.
    pub(super) count: u64,
}

/// What is to be known of a manifest to choose.
struct Seen {
    link: Link,
    previous: Option<Link>,
    time: TimeMicros,
}

impl Run {
    /// Whether a manifest is one of them.
    pub(super) fn covers(&self, sequence: u64) -> bool {
        let first = self.last.sequence.saturating_sub(self.count.saturating_sub(1));
        (first..=self.last.sequence).contains(&sequence)
    }
}

/// Deletes what `keep` does not keep, by the moment `now`. Blocks.
///
/// # Errors
/// [`BackupError`]; the repository is whole at any moment, and the next call goes on.
pub fn prune(repository: &Repository, keep: Keep, now: TimeMicros) -> Result<Pruned, BackupError> {
    let lock = repository.lock()?;
    let mut seen = Vec::new();
    for listed in repository.list()? {
        let manifest = listed.manifest?;
        seen.push(Seen {
            link: Link {
                sequence: listed.sequence,
                digest: listed.digest,
            },
            previous: manifest.previous,
            time: manifest.time,
        });
    }
    let stays = stays(&seen, keep, now);
    let mut pruned = Pruned::default();
    let mut runs: Vec<Run> = repository.get_small(PRUNED)?.unwrap_or_default();
    let gone: Vec<&Seen> = seen
        .iter()
        .filter(|seen| !stays.contains(&seen.link.sequence))
        .collect();
    gone.iter().for_each(|seen| add(&mut runs, seen));
    if !gone.is_empty() {
        repository.put_small(PRUNED, &runs)?;
        repository.sync()?;
    }
    for seen in &gone {
        repository.delete_manifest(&lock, seen.link.sequence)?;
        pruned.backups = pruned.backups.saturating_add(1);
    }
    repository.sync()?;
    sweep(repository, &lock, &stays, &mut pruned)?;
    Ok(pruned)
}

fn sweep(
    repository: &Repository,
    lock: &WriteLock,
    stays: &BTreeSet<u64>,
    pruned: &mut Pruned,
) -> Result<(), BackupError> {
    let Some(alone) = repository.lock_to_delete()? else {
        pruned.postponed = true;
        return Ok(());
    };
    let mut names = HashSet::new();
    for sequence in stays {
        mark(repository, &repository.manifest(*sequence).manifest?, &mut names)?;
    }
    let (objects, bytes) = repository.sweep(lock, &alone, &names)?;
    pruned.objects = objects;
    pruned.bytes = bytes;
    Ok(())
}

/// Adds the names of every object that a manifest needs.
fn mark(
    repository: &Repository,
    manifest: &Manifest,
    names: &mut HashSet<String>,
) -> Result<(), BackupError> {
    // A list that is known was read for another manifest.
    let mut fresh = manifest.clone();
    fresh.shards.retain(|shard| names.insert(shard.list.name.clone()));
    names.extend(
        parquet_of(repository, &fresh)?
            .into_iter()
            .map(|entry| entry.blob.name),
    );
    for database in &manifest.databases {
        if names.insert(database.blocks.name.clone()) {
            names.extend(
                blocks_of(repository, database)?
                    .into_iter()
                    .map(|block| block.name),
            );
        }
    }
    let segments = manifest.segments.iter().chain(&manifest.kept);
    let chunks = segments.flat_map(|segment| &segment.chunks);
    names.extend(chunks.map(|chunk| chunk.name.clone()));
    names.extend(manifest.files.iter().map(|file| file.blob.name.clone()));
    Ok(())
}

/// Numbers of the manifests that stay.
fn stays(seen: &[Seen], keep: Keep, now: TimeMicros) -> BTreeSet<u64> {
    let mut stays: BTreeSet<u64> = seen.last().map(|seen| seen.link.sequence).into_iter().collect();
    let since = |hours: i64| now.0.saturating_sub(hours.saturating_mul(HOUR_MICROS));
    for (micros, wanted) in [(HOUR_MICROS, keep.hourly), (24 * HOUR_MICROS, keep.daily)] {
        let mut spans = HashSet::new();
        for seen in seen.iter().rev() {
            let span = seen.time.0.div_euclid(micros);
            let is_full = spans.len() >= usize::try_from(wanted).unwrap_or(usize::MAX);
            if !is_full && spans.insert(span) {
                stays.insert(seen.link.sequence);
            }
        }
    }
    let recent = seen
        .iter()
        .filter(|seen| seen.time.0 >= since(keep.all_hours.into()))
        .map(|seen| seen.link.sequence);
    stays.extend(recent);
    stays
}

/// Notes a manifest as deleted; runs that meet become one.
fn add(runs: &mut Vec<Run>, seen: &Seen) {
    // Noted before a kill, and deleted now.
    if runs.iter().any(|run| run.covers(seen.link.sequence)) {
        return;
    }
    runs.push(Run {
        previous: seen.previous.clone(),
        last: seen.link.clone(),
        count: 1,
    });
    runs.sort_by_key(|run| run.last.sequence);
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs.drain(..) {
        match joined.last_mut() {
            Some(before) if run.previous.as_ref() == Some(&before.last) => {
                before.last = run.last;
                before.count = before.count.saturating_add(run.count);
            }
            _ => joined.push(run),
        }
    }
    *runs = joined;
}
