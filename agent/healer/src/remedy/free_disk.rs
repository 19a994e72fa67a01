//! Free disk space: delete files that the policy's places allow, oldest first, until enough is free.
//!
//! Files that a process holds open are left alone: deleting them frees nothing and may hurt. They are found by
//! the paths of open descriptors, so one that is open under another name (another mount namespace) or only
//! mapped is not seen. Cannot be undone; the plan names every file before one is deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;
use fleetmend_event::remedy::Ending;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::files::{self, Candidate, Space};
use super::{ApplyError, Host, Reading, Treatment, Truth, Undone};
use crate::ledger::hash_text;
use crate::policy::Place;

/// Files that one action may delete: what its journal record can name.
const FILES_MAX: usize = 4096;
/// Names that the evidence lists; all of them are in its hash.
const NAMES_SHOWN_MAX: usize = 50;
/// Characters of a path that the evidence shows.
const PATH_SHOWN_MAX: usize = 200;
/// Planned beyond the need, because a file may be gone or open when its turn comes.
const SPARE_FILES: usize = 32;

/// What is deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeDiskPlan {
    path: PathBuf,
    used_pct_min: u32,
    used_pct_target: u32,
    places: Vec<Place>,
    candidates: Vec<Candidate>,
    /// Which candidates were deleted, once that is over; unknown after a crash.
    #[serde(default)]
    deleted: Option<Vec<usize>>,
}

impl FreeDiskPlan {
    pub(super) fn make(
        host: &Host,
        path: &str,
        places: Vec<Place>,
        used_pct_min: u32,
        used_pct_target: u32,
    ) -> Result<Self, String> {
        let path = PathBuf::from(path);
        let (space, device) = files::space(&files::open_folder(&path)?)?;
        let now_s = TimeMicros::now().0.div_euclid(1_000_000);
        let mut candidates = Vec::new();
        let mut faults = Vec::new();
        for (index, place) in places.iter().enumerate() {
            match files::candidates(index, place, device, now_s) {
                Ok(found) => candidates.extend(without_open(host, place, found)),
                Err(fault) => faults.push(fault),
            }
        }
        candidates.sort_by_key(|candidate| candidate.modified_s);
        let candidates = chosen(candidates, &places, space.excess_bytes(used_pct_target));
        if candidates.is_empty() && space.used_pct() >= f64::from(used_pct_min) {
            let faults = if faults.is_empty() {
                String::new()
            } else {
                format!(" ({})", faults.join("; "))
            };
            return Err(format!(
                "no file in the policy's places on {} may be deleted{faults}",
                path.display()
            ));
        }
        Ok(Self {
            path,
            used_pct_min,
            used_pct_target,
            places,
            candidates,
            deleted: None,
        })
    }

    fn space(&self) -> Result<Space, String> {
        files::open_folder(&self.path)
            .and_then(|folder| files::space(&folder))
            .map(|(space, _)| space)
    }

    /// Candidates that were deleted; after a crash those that are not there any more, which somebody else may
    /// have taken away.
    fn gone(&self) -> Vec<&Candidate> {
        if let Some(deleted) = &self.deleted {
            return deleted
                .iter()
                .filter_map(|index| self.candidates.get(*index))
                .collect();
        }
        let folders: BTreeMap<usize, _> = self.open_places();
        let is_gone = |candidate: &&Candidate| {
            folders
                .get(&candidate.place)
                .is_some_and(|place| files::is_gone(place, candidate))
        };
        self.candidates.iter().filter(is_gone).collect()
    }

    /// Deletes one after the other; `deleted` has those that are gone also when it ends early.
    fn delete_until_enough(
        &self,
        host: &Host,
        halted: &dyn Fn() -> Option<String>,
        deleted: &mut Vec<usize>,
    ) -> Result<Vec<String>, ApplyError> {
        let folders = self.open_places();
        let mut deleted_bytes: BTreeMap<usize, u64> = BTreeMap::new();
        let mut faults = Vec::new();
        let open: Vec<PathBuf> = self
            .places
            .iter()
            .flat_map(|place| host.procfs.open_files_below(&place.path))
            .collect();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let space = self.space().map_err(ApplyError)?;
            if space.excess_bytes(self.used_pct_target) == 0 {
                break;
            }
            let (Some(place), Some(folder)) =
                (self.places.get(candidate.place), folders.get(&candidate.place))
            else {
                continue;
            };
            let so_far = deleted_bytes.entry(candidate.place).or_default();
            if so_far.saturating_add(candidate.bytes) > place.bytes_max {
                continue;
            }
            if open.contains(&full_path(&place.path, candidate)) {
                faults.push(format!("{} is open", candidate.name));
                continue;
            }
            if let Some(reason) = halted() {
                let count = deleted.len();
                return Err(ApplyError(format!("ended after {count} files: {reason}")));
            }
            match files::delete(folder, candidate) {
                Ok(()) => {
                    *so_far = so_far.saturating_add(candidate.bytes);
                    deleted.push(index);
                }
                Err(fault) => faults.push(fault),
            }
        }
        Ok(faults)
    }

    fn open_places(&self) -> BTreeMap<usize, std::os::fd::OwnedFd> {
        let places = self.places.iter().enumerate();
        places
            .filter_map(|(index, place)| Some((index, files::open_folder(&place.path).ok()?)))
            .collect()
    }

    fn path_of(&self, candidate: &Candidate) -> String {
        let place = self
            .places
            .get(candidate.place)
            .map_or(Path::new(""), |place| place.path.as_path());
        full_path(place, candidate).display().to_string()
    }
}

impl Treatment for FreeDiskPlan {
    fn describe(&self) -> String {
        let bytes: u64 = self.candidates.iter().map(|candidate| candidate.bytes).sum();
        let oldest = self
            .candidates
            .first()
            .map(|first| self.path_of(first))
            .unwrap_or_default();
        format!(
            "delete up to {} files ({} KiB), beginning with {oldest}, until {} is at most {} % full",
            self.candidates.len(),
            bytes / 1024,
            self.path.display(),
            self.used_pct_target
        )
    }

    fn check(&self, _host: &Host) -> Reading {
        let space = match self.space() {
            Ok(space) => space,
            Err(reason) => return Reading::new(Truth::Unknown, reason, json!({})),
        };
        let used = space.used_pct();
        let full = used >= f64::from(self.used_pct_min) && space.excess_bytes(self.used_pct_target) > 0;
        let detail = format!(
            "{} is {used:.1} % full; from {} % it counts as full",
            self.path.display(),
            self.used_pct_min
        );
        Reading::new(
            if full { Truth::Yes } else { Truth::No },
            detail,
            measured(&space),
        )
    }

    fn apply(&mut self, host: &Host, halted: &dyn Fn() -> Option<String>) -> Result<(), ApplyError> {
        let mut deleted = Vec::new();
        let outcome = self.delete_until_enough(host, halted, &mut deleted);
        let nothing = deleted.is_empty();
        self.deleted = Some(deleted);
        let mut faults = outcome?;
        if nothing && !faults.is_empty() {
            faults.truncate(5);
            return Err(ApplyError(format!("nothing was deleted: {}", faults.join("; "))));
        }
        Ok(())
    }

    fn verify(&self, _host: &Host) -> Reading {
        let space = match self.space() {
            Ok(space) => space,
            Err(reason) => return Reading::new(Truth::Unknown, reason, json!({})),
        };
        let gone = self.gone();
        let mut after = measured(&space);
        if let Some(object) = after.as_object_mut() {
            let names: Vec<String> = gone.iter().map(|candidate| self.path_of(candidate)).collect();
            let bytes: u64 = gone.iter().map(|candidate| candidate.bytes).sum();
            let shown: Vec<_> = gone
                .iter()
                .take(NAMES_SHOWN_MAX)
                .map(|candidate| json!({"path": shown(&self.path_of(candidate)), "bytes": candidate.bytes}))
                .collect();
            object.insert("deleted_files".to_owned(), json!(gone.len()));
            object.insert("deleted_bytes".to_owned(), json!(bytes));
            object.insert("deleted".to_owned(), json!(shown));
            object.insert(
                "deleted_names_hash".to_owned(),
                json!(hash_text(&names.join("\n"))),
            );
        }
        let enough = space.excess_bytes(self.used_pct_target) == 0;
        let detail = format!(
            "{} is {:.1} % full after {} files",
            self.path.display(),
            space.used_pct(),
            gone.len()
        );
        Reading::new(if enough { Truth::Yes } else { Truth::No }, detail, after)
    }

    fn undo(&self, _host: &Host) -> Undone {
        match self.gone().len() {
            0 => Undone::Nothing("no file was deleted".to_owned()),
            count => Undone::Impossible(format!("{count} deleted files cannot be brought back")),
        }
    }

    fn settle(&self, host: &Host) -> (Ending, String) {
        let (gone, reading) = (self.gone().len(), self.verify(host));
        match (gone, reading.truth) {
            (0, _) => (Ending::NoOp, "no file was deleted".to_owned()),
            // Only we delete what the plan names, oldest first; and it was measured again.
            (_, Truth::Yes) => (Ending::Healed, reading.detail),
            _ => (Ending::FailedSafe, format!("interrupted: {}", reading.detail)),
        }
    }
}

/// The end of a path tells more than its beginning.
fn shown(path: &str) -> String {
    let count = path.chars().count();
    path.chars().skip(count.saturating_sub(PATH_SHOWN_MAX)).collect()
}

fn measured(space: &Space) -> serde_json::Value {
    let used_pct = (space.used_pct() * 10.0).round() / 10.0;
    json!({"used_pct": used_pct, "used_bytes": space.used_bytes, "usable_bytes": space.usable_bytes})
}

fn without_open(host: &Host, place: &Place, found: Vec<Candidate>) -> Vec<Candidate> {
    let open = host.procfs.open_files_below(&place.path);
    found
        .into_iter()
        .filter(|candidate| !open.contains(&full_path(&place.path, candidate)))
        .collect()
}

fn full_path(place: &Path, candidate: &Candidate) -> PathBuf {
    let folder = candidate.folder.strip_prefix("./").unwrap_or(&candidate.folder);
    let folder = if folder == "." {
        place.to_owned()
    } else {
        place.join(folder)
    };
    folder.join(&candidate.name)
}

/// The oldest files that free what is needed, and some to spare, within each place's bytes.
fn chosen(candidates: Vec<Candidate>, places: &[Place], need_bytes: u64) -> Vec<Candidate> {
    let mut of_place: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut total, mut spare, mut taken) = (0_u64, 0, Vec::new());
    for candidate in candidates {
        if taken.len() >= FILES_MAX || spare >= SPARE_FILES || need_bytes == 0 {
            break;
        }
        let bytes = of_place.entry(candidate.place).or_default();
        let allowed = places.get(candidate.place).map_or(0, |place| place.bytes_max);
        if candidate.bytes == 0 || bytes.saturating_add(candidate.bytes) > allowed {
            continue;
        }
        if total >= need_bytes {
            spare += 1;
        }
        *bytes = bytes.saturating_add(candidate.bytes);
        total = total.saturating_add(candidate.bytes);
        taken.push(candidate);
    }
    taken
}

#[cfg(test)]
mod tests;
