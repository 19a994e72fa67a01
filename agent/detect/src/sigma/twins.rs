//! One act that is told twice: by the sensor, under the names that auditd would use, and by auditd's own record. The
//! second of the two says nothing new to a rule that the first has met.
//!
//! Each telling stands for one of the other teller, so that acts that are repeated are counted as often as they were
//! done. What is not told in the same words by both is counted twice rather than not at all.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};

use fleetmend_event::TimeMicros;

use super::event::Fields;

/// Matches that wait for the other teller; the oldest makes room, and is then counted twice.
const WAITING_MAX: usize = 1_024;
/// Between the two times of one act: auditd's are to the millisecond, the sensor's are of another clock.
const APART_US: u64 = 2_000_000;
/// Arguments that both tell.
const ARGUMENTS_MAX: u8 = 32;

/// Who tells of an act in auditd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    Sensor,
    Auditd,
}

/// Matches of one teller that the other has not told yet.
#[derive(Debug, Default)]
pub(super) struct Twins {
    waiting: VecDeque<Told>,
    hashes: RandomState,
}

#[derive(Debug)]
struct Told {
    teller: Teller,
    act: u64,
    time: TimeMicros,
}

impl Twins {
    /// Whether the other teller has told of this match already.
    pub(super) fn is_second(
        &mut self,
        teller: Teller,
        rule: &str,
        fields: &Fields<'_>,
        time: TimeMicros,
    ) -> bool {
        let Some(act) = act(fields) else { return false };
        let act = self.hashes.hash_one((rule, act));
        let first = self.waiting.iter().position(|told| {
            told.teller != teller && told.act == act && told.time.0.abs_diff(time.0) <= APART_US
        });
        if let Some(first) = first {
            return self.waiting.remove(first).is_some();
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Told { teller, act, time });
        false
    }
}

/// What both tell of an act, in one order.
fn act<'a>(fields: &'a Fields<'_>) -> Option<Vec<(&'a str, &'a str)>> {
    let of_both: fn(&str) -> bool = match fields.get("type")? {
        "EXECVE" => is_argument,
        "SYSCALL" => |name| matches!(name, "SYSCALL" | "pid" | "success"),
        "PATH" => |name| matches!(name, "name" | "nametype"),
        _ => return None,
    };
    let all = fields.0.iter().map(|(name, value)| (&**name, &**value));
    let mut told: Vec<(&str, &str)> = all.filter(|(name, _)| *name == "type" || of_both(name)).collect();
    told.sort_unstable();
    Some(told)
}

fn is_argument(name: &str) -> bool {
    let number = name
        .strip_prefix('a')
        .and_then(|number| number.parse::<u8>().ok());
    name == "argc" || number.is_some_and(|number| number < ARGUMENTS_MAX)
}
