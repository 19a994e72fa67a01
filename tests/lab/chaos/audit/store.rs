//! Everything that the store says, and what one table of one host came to by it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use fleetmend_event::HostId;
use serde_json::{Value, json};

use super::super::central::Central;
use super::super::journal::Life;
use super::gaps::{GapRow, covers, covers_unnamed};
use super::{NUMBERS, Tally, name, number_of, text};

/// Losses that are shown one by one.
const SHOWN: usize = 20;

/// Everything that the store says.
#[derive(Debug, Clone)]
pub(super) struct Store {
    /// Runs of numbers that are stored, by host, for each table.
    pub(super) runs: [BTreeMap<String, Vec<(u64, u64)>>; 3],
    pub(super) doubled: [BTreeMap<String, u64>; 3],
    pub(super) gaps: BTreeMap<String, Vec<GapRow>>,
}

impl Store {
    pub(super) async fn read(central: &Central) -> Result<Self> {
        let mut store = Self {
            runs: Default::default(),
            doubled: Default::default(),
            gaps: BTreeMap::new(),
        };
        for (table, (number, condition)) in NUMBERS.iter().enumerate() {
            let all = format!(
                "select host_id, {number} as n from {} where {condition}",
                name(table)
            );
            let runs = format!(
                "select host_id, min(n), max(n) from (select host_id, n, n - row_number() over \
                 (partition by host_id order by n) as run from (select distinct host_id, n from ({all}))) \
                 group by host_id, run"
            );
            let doubled =
                format!("select host_id, count(*) - count(distinct n) from ({all}) group by host_id");
            for row in central.sql(&runs).await? {
                let of = store.runs.get_mut(table).context("find a table")?;
                of.entry(text(&row, 0))
                    .or_default()
                    .push((number_of(&row, 1), number_of(&row, 2)));
            }
            for row in central.sql(&doubled).await? {
                let of = store.doubled.get_mut(table).context("find a table")?;
                of.insert(text(&row, 0), number_of(&row, 1));
            }
        }
        for runs in store.runs.iter_mut().flat_map(BTreeMap::values_mut) {
            runs.sort_unstable();
        }
        let gaps = "select host_id, \"table\", lane, cast(from_time as bigint) - coalesce(clock_ahead_us, 0), \
                    cast(to_time as bigint) - coalesce(clock_ahead_us, 0), count, exactness, reason from gaps";
        for row in central.sql(gaps).await? {
            let micros = |column| text(&row, column).parse().unwrap_or(0);
            store.gaps.entry(text(&row, 0)).or_default().push(GapRow {
                table: text(&row, 1),
                lane: text(&row, 2),
                from: micros(3),
                to: micros(4),
                count: number_of(&row, 5),
                exact: text(&row, 6) == "exact",
                reason: text(&row, 7),
            });
        }
        Ok(store)
    }

    /// Its gap rows of one host.
    pub(super) fn gaps_of(&self, host: HostId) -> &[GapRow] {
        self.gaps
            .get(&host.to_string())
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// What became of the numbers that `journals` say were appended. `zero` is when the boot clock stood at zero.
    pub(super) fn tally(
        &self,
        (host, table): (HostId, usize),
        journals: &[Vec<Life>],
        zero: i64,
        examples: &mut Vec<String>,
    ) -> Tally {
        let gaps = self.gaps_of(host);
        let host = host.to_string();
        let doubled = self.doubled.get(table).and_then(|doubled| doubled.get(&host));
        let runs = self.runs.get(table).and_then(|runs| runs.get(&host));
        let runs = runs.map(Vec::as_slice).unwrap_or_default();
        let exact = gaps.iter().filter(|gap| gap.exact && gap.table == name(table));
        let mut tally = Tally {
            doubled: doubled.copied().unwrap_or(0),
            exact: exact.map(|gap| gap.count).sum(),
            ..Tally::default()
        };
        for (life, number, wiped) in journals.iter().flat_map(|lives| with_wipes(lives)) {
            let promised = life.promised.get(table).copied().unwrap_or(0);
            for batch in life.batches.get(table).into_iter().flatten() {
                let made = zero + batch.boot_us;
                tally.appended += batch.count;
                for missing in
                    (batch.first..batch.first + batch.count).filter(|number| !contains(runs, *number))
                {
                    tally.missing += 1;
                    let killed = missing >= promised;
                    let covered = covers(gaps, table, made, killed)
                        || wiped && gaps.iter().any(|gap| gap.is_wipe() && gap.holds(made));
                    tally.named += u64::from(!killed && !wiped && !covers_unnamed(gaps, table, made));
                    tally.lost += u64::from(!covered);
                    if !covered && examples.len() < SHOWN {
                        examples.push(format!(
                            "host {host} {} {missing} of {}, life {number}, promised: {}, wiped: {wiped}",
                            name(table),
                            batch.time,
                            !killed
                        ));
                    }
                }
            }
        }
        tally.stored = tally.appended - tally.missing;
        tally
    }

    /// Gap rows and what they count, by reason.
    pub(super) fn by_reason(&self) -> Value {
        let mut reasons: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for gap in self.gaps.values().flatten() {
            let word = if gap.reason.contains("never received") {
                "never received"
            } else {
                &gap.reason
            };
            let (rows, count) = reasons.entry(word.to_owned()).or_default();
            *rows += 1;
            *count += gap.count;
        }
        let pair = |(reason, (rows, count))| (reason, json!({"gap_rows": rows, "count": count}));
        reasons.into_iter().map(pair).collect()
    }
}

/// Each life with its number, and whether the spool was wiped after it or a later one.
fn with_wipes(lives: &[Life]) -> impl Iterator<Item = (&Life, usize, bool)> {
    let last = lives.iter().rposition(|life| life.wiped);
    let numbered = lives.iter().enumerate();
    numbered.map(move |(number, life)| (life, number, last.is_some_and(|last| number <= last)))
}

pub(super) fn contains(runs: &[(u64, u64)], number: u64) -> bool {
    let after = runs.partition_point(|(first, _)| *first <= number);
    let before = after.checked_sub(1).and_then(|index| runs.get(index));
    before.is_some_and(|(_, last)| number <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_found_in_its_run_only() {
        let runs = [(1, 4), (7, 7), (9, 12)];
        let found: Vec<u64> = (0..14).filter(|number| contains(&runs, *number)).collect();
        assert_eq!(found, [1, 2, 3, 4, 7, 9, 10, 11, 12]);
    }
}
