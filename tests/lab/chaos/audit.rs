//! The count: what was appended, what SQL shows, and what the gap rows explain.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use fleetmend_event::{HostId, TimeMicros};
use serde_json::{Value, json};

use super::faults::Scene;
use super::journal::{self, Life, TABLES};
use crate::timeline::Timeline;

/// The number of each row of a table, and which rows are the generator's.
const NUMBERS: [(&str, &str); 3] = [
    ("cast(description as bigint)", "unit = 'chaos.service'"),
    ("cast(title as bigint)", "rule = 'chaos'"),
    ("cast(value as bigint)", "name = 'chaos.number'"),
];
/// The lane of each table.
const LANES: [&str; 3] = ["events", "critical", "metrics"];
/// Losses that are shown one by one.
const SHOWN: usize = 20;

/// A gap row.
#[derive(Debug)]
struct GapRow {
    table: String,
    lane: String,
    from: i64,
    to: i64,
    count: u64,
    exact: bool,
    reason: String,
}

/// What one table of one host came to.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    appended: u64,
    stored: u64,
    doubled: u64,
    /// Missing, whatever explains it.
    missing: u64,
    /// Missing, and an exact gap row must say so: the spool had promised it, and no gap of anything covers it.
    named: u64,
    lost: u64,
    /// Rows that exact gap rows count.
    exact: u64,
    /// Rows in exact gaps that are stored: shed between their commit and its acknowledgement, which the spool
    /// cannot know of.
    overcounted: u64,
}

/// Everything that the store says.
struct Store {
    /// Runs of numbers that are stored, by host, for each table.
    runs: [BTreeMap<String, Vec<(u64, u64)>>; 3],
    doubled: [BTreeMap<String, u64>; 3],
    gaps: BTreeMap<String, Vec<GapRow>>,
}

/// What all hosts came to.
#[derive(Debug, Default)]
struct Count {
    /// By table.
    sum: [Tally; 3],
    unclean_expected: usize,
    unclean_recorded: usize,
    wipes: usize,
    wipes_recorded: usize,
    /// Hosts whose exact gap rows count too few.
    wrong: Vec<String>,
    examples: Vec<String>,
}

/// Counts, notes checks, and returns the figures.
pub(super) async fn count(scene: &Scene, timeline: &mut Timeline) -> Result<Value> {
    let store = Store::read(scene).await?;
    let mut count = Count::default();
    for index in 0..scene.fleet.hosts.len() {
        count.add_host(scene, &store, index)?;
    }
    count.check(timeline);
    check_rude(scene, &store, timeline);
    check_clones(scene, timeline).await?;
    for example in &count.examples {
        super::progress(format!("lost: {example}"));
    }
    Ok(count.figures(&store))
}

impl Count {
    fn add_host(&mut self, scene: &Scene, store: &Store, index: usize) -> Result<()> {
        let host = scene.fleet.hosts.get(index).context("find an agent")?;
        let mut journals = vec![journal::read(&host.plan.folder)?];
        for clone in scene.clones.iter().filter(|clone| clone.of == index) {
            // The copy was taken of a running host: it begins after an unclean stop.
            self.unclean_expected += 1;
            journals.push(journal::read(&clone.folder)?);
        }
        let gaps = store.gaps.get(&host.id.to_string());
        let gaps = gaps.map(Vec::as_slice).unwrap_or_default();
        self.unclean_recorded += gaps.iter().filter(|gap| gap.is_unclean()).count();
        self.wipes_recorded += gaps.iter().filter(|gap| gap.is_wipe()).count();
        self.wipes += journals.iter().flatten().filter(|life| life.wiped).count();
        for lives in &journals {
            // Only a start says how the life before it ended.
            let ended = lives.iter().rev().skip(1);
            self.unclean_expected += ended.filter(|life| !life.clean && !life.wiped).count();
        }
        for (table, sum) in self.sum.iter_mut().enumerate() {
            let tally = store.tally(host.id, table, &journals, gaps, &mut self.examples);
            if tally.exact < tally.named {
                let (name, exact, named) = (name(table), tally.exact, tally.named);
                self.wrong.push(format!(
                    "agent {index} {name}: {exact} rows in exact gaps, {named} missing"
                ));
            }
            sum.add(tally);
        }
        Ok(())
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.sum.iter().for_each(|tally| total.add(*tally));
        total
    }

    fn check(&self, timeline: &mut Timeline) {
        let total = self.total();
        let everything = self.sum.iter().all(|tally| tally.stored > 0);
        timeline.check("something of every lane was stored", everything);
        timeline.check(
            format!("nothing is lost beyond gap rows ({})", total.lost),
            total.lost == 0,
        );
        timeline.check(
            format!("nothing is stored twice ({})", total.doubled),
            total.doubled == 0,
        );
        let (recorded, expected) = (self.unclean_recorded, self.unclean_expected);
        timeline.check(
            format!("every unclean stop is a gap row ({recorded} of {expected})"),
            recorded == expected,
        );
        timeline.check(
            format!(
                "every wiped spool is a gap row ({} of {})",
                self.wipes_recorded, self.wipes
            ),
            self.wipes_recorded == self.wipes,
        );
        timeline.check(
            format!(
                "exact gap rows count all that was promised and is missing {:?}",
                self.wrong
            ),
            self.wrong.is_empty(),
        );
    }

    fn figures(&self, store: &Store) -> Value {
        let total = self.total();
        let by_table = |pick: fn(&Tally) -> u64| -> Value {
            let tables = TABLES.iter().zip(&self.sum);
            tables
                .map(|(table, tally)| ((*table).to_owned(), json!(pick(tally))))
                .collect()
        };
        json!({
            "appended": by_table(|tally| tally.appended),
            "stored": by_table(|tally| tally.stored),
            "missing": by_table(|tally| tally.missing),
            "lost": total.lost,
            "lost_examples": self.examples,
            "doubled": total.doubled,
            "doubled_by_table": by_table(|tally| tally.doubled),
            "gaps_recorded": {
                "unclean_stops": self.unclean_recorded,
                "wiped_spools": self.wipes_recorded,
                "rows_in_exact_gaps": total.exact,
                "by_reason": store.by_reason(),
            },
            "gaps_expected": {
                "unclean_stops": self.unclean_expected,
                "wiped_spools": self.wipes,
                "rows_in_exact_gaps_min": total.named,
            },
            "gaps_overcounted": total.overcounted,
        })
    }
}

/// The rude host's records: each once, the late ones a gap, the forged ones refused.
fn check_rude(scene: &Scene, store: &Store, timeline: &mut Timeline) {
    let account = &scene.rude.account;
    if account.stored.is_empty() {
        return;
    }
    let host = scene.rude.host.to_string();
    let [runs, ..] = &store.runs;
    let runs = runs.get(&host).map(Vec::as_slice).unwrap_or_default();
    let stored: u64 = runs.iter().map(|(first, last)| last - first + 1).sum();
    let all = account.stored.iter().all(|number| contains(runs, *number));
    let wanted = account.stored.len() as u64;
    timeline.check(
        format!("of the rude host {stored} of {wanted} records are stored, and no other"),
        all && stored == wanted,
    );
    let [doubled, ..] = &store.doubled;
    timeline.check(
        "none of them twice",
        doubled.get(&host).copied().unwrap_or(0) == 0,
    );
    let gaps = store.gaps.get(&host).map(Vec::as_slice).unwrap_or_default();
    let count = |reason: &str| {
        let of = gaps.iter().filter(|gap| gap.reason.contains(reason));
        of.map(|gap| gap.count).sum::<u64>()
    };
    let (late, forged) = (count("never received"), count("identity_conflict"));
    timeline.check(
        format!(
            "its late records ({late} of {}) and forged ones ({forged} of {}) are gaps",
            account.late, account.forged
        ),
        late == account.late && forged == account.forged,
    );
}

async fn check_clones(scene: &Scene, timeline: &mut Timeline) -> Result<()> {
    let audited = scene.central.audited().await?;
    for clone in &scene.clones {
        let host = scene
            .fleet
            .hosts
            .get(clone.of)
            .context("find a cloned host")?
            .id
            .to_string();
        let alarm = audited
            .iter()
            .find(|(kind, of, _)| kind == "clone" && *of == host);
        timeline.check("the cloned host is an alarm in the audit", alarm.is_some());
    }
    Ok(())
}

impl Store {
    async fn read(scene: &Scene) -> Result<Self> {
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
            for row in scene.central.sql(&runs).await? {
                let of = store.runs.get_mut(table).context("find a table")?;
                of.entry(text(&row, 0))
                    .or_default()
                    .push((number_of(&row, 1), number_of(&row, 2)));
            }
            for row in scene.central.sql(&doubled).await? {
                let of = store.doubled.get_mut(table).context("find a table")?;
                of.insert(text(&row, 0), number_of(&row, 1));
            }
        }
        for runs in store.runs.iter_mut().flat_map(BTreeMap::values_mut) {
            runs.sort_unstable();
        }
        let gaps = "select host_id, \"table\", lane, cast(from_time as bigint), cast(to_time as bigint), count, exactness, reason from gaps";
        for row in scene.central.sql(gaps).await? {
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

    fn tally(
        &self,
        host: HostId,
        table: usize,
        journals: &[Vec<Life>],
        gaps: &[GapRow],
        examples: &mut Vec<String>,
    ) -> Tally {
        let of_host = |counts: &[BTreeMap<String, u64>; 3]| {
            counts
                .get(table)
                .and_then(|counts| counts.get(&host.to_string()))
                .copied()
                .unwrap_or(0)
        };
        let runs = self.runs.get(table).and_then(|runs| runs.get(&host.to_string()));
        let runs = runs.map(Vec::as_slice).unwrap_or_default();
        let exact = gaps.iter().filter(|gap| gap.exact && gap.table == name(table));
        let mut tally = Tally {
            doubled: of_host(&self.doubled),
            exact: exact.map(|gap| gap.count).sum(),
            ..Tally::default()
        };
        for (life, number, wiped) in journals.iter().flat_map(|lives| with_wipes(lives)) {
            let promised = life.promised.get(table).copied().unwrap_or(0);
            for batch in life.batches.get(table).into_iter().flatten() {
                tally.appended += batch.count;
                for missing in
                    (batch.first..batch.first + batch.count).filter(|number| !contains(runs, *number))
                {
                    tally.missing += 1;
                    let killed = missing >= promised;
                    let covered = covers(gaps, table, batch.time, killed)
                        || wiped && gaps.iter().any(|gap| gap.is_wipe() && gap.holds(batch.time));
                    tally.named += u64::from(!killed && !wiped && !covers_unnamed(gaps, table, batch.time));
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
        tally.overcounted = tally.exact.saturating_sub(tally.missing);
        tally
    }

    /// Gap rows and what they count, by reason.
    fn by_reason(&self) -> Value {
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

impl GapRow {
    fn is_unclean(&self) -> bool {
        self.reason == "unclean_stop"
    }

    /// The host came back with a new spool that remembers nothing.
    fn is_wipe(&self) -> bool {
        self.reason == "spool_replaced"
    }

    fn holds(&self, time: TimeMicros) -> bool {
        self.from <= time.0 && time.0 <= self.to
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.appended += other.appended;
        self.stored += other.stored;
        self.doubled += other.doubled;
        self.missing += other.missing;
        self.named += other.named;
        self.lost += other.lost;
        self.exact += other.exact;
        self.overcounted += other.overcounted;
    }
}

/// Whether a gap row explains a missing number: one of an unclean stop only what was never promised.
fn covers(gaps: &[GapRow], table: usize, time: TimeMicros, killed: bool) -> bool {
    let of_table = |gap: &&GapRow| gap.table == name(table) && gap.holds(time);
    let unclean = |gap: &&GapRow| killed && gap.is_unclean() && gap.holds(time);
    gaps.iter().any(|gap| of_table(&gap) || unclean(&gap)) || covers_unnamed(gaps, table, time)
}

/// Whether it lies in a gap that names its lane and no table.
fn covers_unnamed(gaps: &[GapRow], table: usize, time: TimeMicros) -> bool {
    let lane = LANES.get(table).copied().unwrap_or_default();
    gaps.iter().any(|gap| {
        gap.table == "*" && !gap.is_unclean() && !gap.is_wipe() && gap.lane == lane && gap.holds(time)
    })
}

/// Each life with its number, and whether the spool was wiped after it or a later one.
fn with_wipes(lives: &[Life]) -> impl Iterator<Item = (&Life, usize, bool)> {
    let last = lives.iter().rposition(|life| life.wiped);
    let numbered = lives.iter().enumerate();
    numbered.map(move |(number, life)| (life, number, last.is_some_and(|last| number <= last)))
}

fn contains(runs: &[(u64, u64)], number: u64) -> bool {
    let after = runs.partition_point(|(first, _)| *first <= number);
    let before = after.checked_sub(1).and_then(|index| runs.get(index));
    before.is_some_and(|(_, last)| number <= *last)
}

fn name(table: usize) -> &'static str {
    TABLES.get(table).copied().unwrap_or_default()
}

/// A cell as text; whole numbers may come as text where they could be larger than a double holds.
fn text(row: &[Value], column: usize) -> String {
    match row.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

fn number_of(row: &[Value], column: usize) -> u64 {
    text(row, column).parse().unwrap_or(0)
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

    #[test]
    fn unclean_stop_explains_only_what_was_never_promised() {
        let gap = |table: &str, reason: &str| GapRow {
            table: table.to_owned(),
            lane: "events".to_owned(),
            from: 10,
            to: 20,
            count: 0,
            exact: false,
            reason: reason.to_owned(),
        };
        let unclean = [gap("*", "unclean_stop")];
        assert!(covers(&unclean, 2, TimeMicros(15), true));
        assert!(!covers(&unclean, 2, TimeMicros(15), false));
        assert!(!covers(&unclean, 2, TimeMicros(21), true));
        let quota = [gap("units", "quota")];
        assert!(covers(&quota, 0, TimeMicros(15), false));
        assert!(!covers(&quota, 1, TimeMicros(15), false));
        let restored = [gap("*", "records 3 to 5 never received")];
        assert!(covers(&restored, 0, TimeMicros(15), false) && !covers(&restored, 1, TimeMicros(15), false));
    }
}
