//! What waits on disk, and how much of it the collector never got.

use std::io::Write;
use std::path::Path;

use agent_spool::inspect::{self, SpoolReport};
use anyhow::{Context, Result};
use fleetmend_event::{Lane, Mark};

/// What lies in the spool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// Records on disk.
    kept: u64,
    /// Those that the collector does not have; none when it was not asked.
    missing: Option<[u64; 3]>,
    /// Ticks of metrics that were never part of a record.
    staged: u64,
}

impl Unsent {
    /// Looks into the spool; `marks` is what the collector says it has.
    pub(super) fn look(folder: &Path, marks: Option<&[Mark]>) -> Result<Self> {
        if !folder.exists() {
            return Ok(Self::default());
        }
        let report = inspect::inspect(folder)
            .with_context(|| format!("look at what waits in {}", folder.display()))?;
        Ok(Self::of(&report, marks))
    }

    pub(super) fn of(report: &SpoolReport, marks: Option<&[Mark]>) -> Self {
        let mut found = Self {
            staged: report.staged_ticks,
            missing: marks.map(|_| [0; 3]),
            ..Self::default()
        };
        for epoch in &report.epochs {
            for lane in &epoch.lanes {
                let (Some(first), Some(last)) = (lane.first, lane.last) else {
                    continue;
                };
                found.kept = found.kept.saturating_add(lane.frames);
                let durable = marks.into_iter().flatten();
                let durable = durable
                    .filter(|mark| mark.epoch == epoch.epoch && mark.lane == lane.lane)
                    .map(|mark| mark.sequence.0)
                    .max()
                    .unwrap_or(0);
                let behind = last.saturating_sub(durable.max(first.saturating_sub(1)));
                let place = Lane::ALL.iter().position(|of| *of == lane.lane);
                let count = found.missing.as_mut().zip(place);
                if let Some(count) = count.and_then(|(missing, place)| missing.get_mut(place)) {
                    *count = count.saturating_add(behind);
                }
            }
        }
        found
    }

    /// Whether there is anything.
    pub(super) fn is_anything(&self) -> bool {
        self.kept > 0 || self.staged > 0
    }

    /// Whether what never left would be gone, as far as that is known.
    pub(super) fn would_be_lost(&self, purged: bool) -> bool {
        let missing = self.missing.map_or(self.kept, |missing| missing.iter().sum());
        purged && (missing > 0 || self.staged > 0)
    }

    /// Says it to a person.
    pub(super) fn tell(&self, out: &mut impl Write, purged: bool) -> Result<()> {
        if !self.is_anything() {
            writeln!(out, "nothing waits in the spool")?;
            return Ok(());
        }
        let fate = if purged {
            "is deleted: WHAT WAS NOT SENT IS LOST"
        } else {
            "stays on disk; --purge-spool deletes it"
        };
        match self.missing {
            None => writeln!(
                out,
                "the collector cannot be asked what it has: of {} records on disk nobody here knows how many were sent. \
                 All of it {fate}",
                self.kept
            )?,
            Some(missing) if missing.iter().sum::<u64>() == 0 && self.staged == 0 => {
                writeln!(
                    out,
                    "all {} records on disk were sent, and the collector has them",
                    self.kept
                )?;
            }
            Some(missing) => {
                let parts: Vec<String> = Lane::ALL
                    .iter()
                    .zip(missing)
                    .filter(|(_, count)| *count > 0)
                    .map(|(lane, count)| format!("{count} {lane}"))
                    .collect();
                let sum: u64 = missing.iter().sum();
                writeln!(
                    out,
                    "of {} records on disk the collector has {}; {sum} were never sent ({}). What waits {fate}",
                    self.kept,
                    self.kept.saturating_sub(sum),
                    if parts.is_empty() {
                        "none".to_owned()
                    } else {
                        parts.join(", ")
                    }
                )?;
            }
        }
        if self.staged > 0 {
            writeln!(
                out,
                "and the last {} ticks of metrics, which never became a record",
                self.staged
            )?;
        }
        Ok(())
    }
}
