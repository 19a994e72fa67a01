//! What programs usually log, learnt on this host and kept over restarts.

use std::collections::BTreeMap;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::LogRecord;
use serde::{Deserialize, Serialize};

use super::BUCKET_US;

/// Templates that are remembered.
const TEMPLATES_MAX: usize = 4_096;
/// Programs that are remembered.
const PROGRAMS_MAX: usize = 512;
/// Weight of a bucket against those before it: about four hours count.
const WEIGHT: f64 = 0.02;
/// Empty buckets that are learnt at once, after a long silence.
const EMPTY_MAX: i64 = 600;

/// Buckets of a day.
const BACK_MAX: i64 = 288;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Program {
    since: i64,
    used: i64,
    /// Number of the present bucket, and errors in it.
    bucket: i64,
    errors: f64,
    /// Of the buckets before it.
    buckets: u64,
    mean: f64,
    variance: f64,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogBaseline {
    #[serde(default)]
    templates: BTreeMap<u64, i64>,
    #[serde(default)]
    programs: BTreeMap<String, Program>,
    #[serde(skip)]
    evicted: u64,
}

/// How a line stands to what was learnt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) new_template: bool,
    pub(super) known_for_us: i64,
    pub(super) buckets: u64,
    pub(super) errors: f64,
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

impl LogBaseline {
    /// Learns a line.
    pub(super) fn see(&mut self, line: &LogRecord, time: TimeMicros, is_error: bool) -> Seen {
        let new_template = line.template != 0 && self.templates.insert(line.template, time.0).is_none();
        if self.templates.len() > TEMPLATES_MAX {
            let oldest = self
                .templates
                .iter()
                .min_by_key(|(_, used)| **used)
                .map(|(id, _)| *id);
            oldest.and_then(|id| self.templates.remove(&id));
            self.evicted += 1;
        }
        if self.programs.len() >= PROGRAMS_MAX && !self.programs.contains_key(&line.identifier) {
            let oldest = self
                .programs
                .iter()
                .min_by_key(|(_, program)| program.used)
                .map(|(name, _)| name.clone());
            oldest.and_then(|name| self.programs.remove(&name));
            self.evicted += 1;
        }
        let bucket = time.0.div_euclid(BUCKET_US);
        let program = self
            .programs
            .entry(line.identifier.clone())
            .or_insert_with(|| Program {
                since: time.0,
                bucket,
                ..Program::default()
            });
        program.used = program.used.max(time.0);
        program.turn(bucket);
        if is_error {
            program.errors += line.repeats as f64;
        }
        Seen {
            new_template,
            known_for_us: time.0.saturating_sub(program.since),
            buckets: program.buckets,
            errors: program.errors,
            mean: program.mean,
            deviation: program.variance.max(0.0).sqrt(),
        }
    }

    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }
}

impl Program {
    /// Closes buckets up to this one; a late line belongs to the present one. One that is a day behind is not late: the
    /// clock was set back, and what it is ahead of is begun anew.
    fn turn(&mut self, bucket: i64) {
        if self.bucket.saturating_sub(bucket) > BACK_MAX {
            self.bucket = bucket;
            self.since = self.since.min(bucket.saturating_mul(BUCKET_US));
            self.errors = 0.0;
            return;
        }
        let passed = bucket.saturating_sub(self.bucket).clamp(0, EMPTY_MAX);
        for _ in 0..passed {
            let errors = std::mem::take(&mut self.errors);
            // An average over all buckets at first, and over the recent ones later.
            let weight = WEIGHT.max(1.0 / (self.buckets as f64 + 1.0));
            let difference = errors - self.mean;
            self.mean += weight * difference;
            self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
            self.buckets = self.buckets.saturating_add(1);
        }
        self.bucket = self.bucket.max(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_gather_in_a_bucket_that_never_ends() {
        const YEAR: i64 = 105_120;
        let mut program = Program {
            bucket: 10 + YEAR,
            ..Program::default()
        };
        for bucket in 10..40 {
            program.turn(bucket);
            program.errors += 1.0;
        }
        assert_eq!((program.bucket, program.errors), (39, 1.0));
    }
}
