//! Verifying: reading back what a restore would need.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::Watch;
use super::error::BackupError;
use super::fetch::{blocks_of, in_threads, parquet_of};
use super::manifest::{Blob, Link, Manifest};
use super::prune::{PRUNED, Run};
use super::repository::Repository;

/// Faults that are told by their text; more are counted.
const FAULTS_TOLD_MAX: usize = 1_000;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VerifyExtent {
    /// Every object that any backup needs.
    Everything,
    /// Manifests, lists and the chain, and of the other objects this share, chosen at random: 0 to 1.
    Sample(f64),
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// Backups.
    pub backups: u64,
    /// Objects that these need.
    pub objects: u64,
    /// Objects that were read.
    pub objects_read: u64,
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// Faults.
    pub faults: u64,
    /// What they are, as far as there is room.
    pub told: Vec<String>,
    /// Number and digest of the newest manifest: kept elsewhere, they show whether it was replaced.
    pub newest: Option<(u64, String)>,
    /// How long it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl Verified {
    fn fault(&mut self, text: String) {
        self.faults = self.faults.saturating_add(1);
        if self.told.len() < FAULTS_TOLD_MAX {
            self.told.push(text);
        }
    }
}

/// Reads the repository back. Damage is counted and stops nothing. Blocks.
///
/// # Errors
/// When the repository cannot be listed, or it was cancelled.
pub fn verify(
    repository: &Repository,
    extent: VerifyExtent,
    watch: &dyn Watch,
) -> Result<Verified, BackupError> {
    let started = Instant::now();
    let _reading = repository.lock_shared();
    let mut verified = Verified::default();
    let (mut seen, mut needed) = (Vec::new(), BTreeMap::new());
    for listed in repository.list()? {
        verified.backups = verified.backups.saturating_add(1);
        verified.newest = Some((listed.sequence, listed.digest.clone()));
        let previous = match listed.manifest {
            Ok(manifest) => {
                need(repository, &manifest, &mut needed, &mut verified);
                Some(manifest.previous)
            }
            Err(error) => {
                verified.fault(text_of(&error));
                None
            }
        };
        seen.push(Seen {
            link: Link {
                sequence: listed.sequence,
                digest: listed.digest,
            },
            previous,
        });
    }
    let runs: Vec<Run> = match repository.get_small(PRUNED) {
        Ok(runs) => runs.unwrap_or_default(),
        Err(error) => {
            verified.fault(text_of(&error));
            Vec::new()
        }
    };
    check_chain(&seen, &runs, &mut verified);
    verified.objects = needed.len() as u64;
    let chosen: Vec<Blob> = needed
        .into_iter()
        .filter(|_| match extent {
            VerifyExtent::Everything => true,
            VerifyExtent::Sample(share) => rand::random::<f64>() < share,
        })
        .map(|(name, bytes)| Blob { name, bytes })
        .collect();
    let total = chosen
        .iter()
        .fold(0_u64, |sum, blob| sum.saturating_add(blob.bytes));
    let (verified, read) = (Mutex::new(verified), |blob: &Blob| {
        repository.read(blob, &mut io::sink())
    });
    in_threads(&chosen, total, watch, &|blob| {
        let outcome = read(blob);
        let mut verified = verified.lock();
        verified.objects_read = verified.objects_read.saturating_add(1);
        match outcome {
            Ok(()) => verified.bytes_read = verified.bytes_read.saturating_add(blob.bytes),
            Err(error) => verified.fault(text_of(&error)),
        }
        Ok(blob.bytes)
    })?;
    let mut verified = verified.into_inner();
    verified.elapsed = started.elapsed();
    Ok(verified)
}

/// A manifest, and what it follows; `None` when it cannot be read.
struct Seen {
    link: Link,
    previous: Option<Option<Link>>,
}

/// Every manifest but the first follows one that is there, or that was pruned.
fn check_chain(seen: &[Seen], runs: &[Run], verified: &mut Verified) {
    let mut links: BTreeMap<u64, (Option<Link>, Link)> = BTreeMap::new();
    for run in runs {
        links.insert(run.last.sequence, (run.previous.clone(), run.last.clone()));
    }
    for Seen { link, previous } in seen {
        if let Some(previous) = previous {
            links.insert(link.sequence, (previous.clone(), link.clone()));
        }
    }
    let unreadable = |sequence: u64| {
        let mut of = seen.iter().filter(|seen| seen.link.sequence == sequence);
        of.any(|seen| seen.previous.is_none())
    };
    for (sequence, (previous, _)) in &links {
        let Some(previous) = previous else {
            if *sequence != 1 && links.keys().next() != Some(sequence) {
                verified.fault(format!("manifest {sequence} follows nothing"));
            }
            continue;
        };
        match links.get(&previous.sequence) {
            Some((_, link)) if link == previous => {}
            Some(_) => verified.fault(format!(
                "manifest {sequence} does not follow the manifest {} that is there: one of them was replaced",
                previous.sequence
            )),
            // Noted as deleted together, and a kill came before this one was.
            None if runs
                .iter()
                .any(|run| run.covers(*sequence) && run.covers(previous.sequence)) => {}
            // Told already, with its reason.
            None if unreadable(previous.sequence) => {}
            None => verified.fault(format!(
                "manifest {} is missing, which {sequence} follows",
                previous.sequence
            )),
        }
    }
}

/// Adds the objects that a manifest needs; reads its lists.
fn need(
    repository: &Repository,
    manifest: &Manifest,
    needed: &mut BTreeMap<String, u64>,
    verified: &mut Verified,
) {
    let mut add = |blob: &Blob| needed.insert(blob.name.clone(), blob.bytes).is_none();
    let mut fresh = manifest.clone();
    fresh.shards.retain(|shard| add(&shard.list));
    for shard in std::mem::take(&mut fresh.shards) {
        let mut one = fresh.clone();
        one.shards = vec![shard];
        match parquet_of(repository, &one) {
            Ok(entries) => entries.iter().for_each(|entry| {
                add(&entry.blob);
            }),
            Err(error) => verified.fault(format!("backup {}: {}", manifest.sequence, text_of(&error))),
        }
    }
    for database in &manifest.databases {
        if add(&database.blocks) {
            match blocks_of(repository, database) {
                Ok(blocks) => blocks.iter().for_each(|block| {
                    add(block);
                }),
                Err(error) => verified.fault(format!("backup {}: {}", manifest.sequence, text_of(&error))),
            }
        }
    }
    let segments = manifest.segments.iter().chain(&manifest.kept);
    let chunks = segments.flat_map(|segment| &segment.chunks);
    chunks
        .chain(manifest.files.iter().map(|file| &file.blob))
        .for_each(|blob| {
            add(blob);
        });
}

fn text_of(error: &BackupError) -> String {
    crate::commit::chain(error)
}
