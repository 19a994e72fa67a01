//! The count: what was appended, what SQL shows, and what the gap rows explain.
//!
//! It is made again over answers that were falsified (`audit/doubt.rs`), so that a count that could not fail fails.

mod clocks;
mod doubt;
mod gaps;
mod store;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::store::{Store, contains};
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

/// What one table of one host came to.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    appended: u64,
    stored: u64,
    doubled: u64,
    /// Missing, whatever explains it.
    missing: u64,
    /// Missing, and an exact gap row must say so: the spool had promised it, and no gap that counts nothing covers it.
    named: u64,
    lost: u64,
    /// Rows that exact gap rows count.
    exact: u64,
}

/// What the generators did.
struct Told<'a> {
    scene: &'a Scene,
    /// The journals of each host, those of its clones after its own.
    journals: Vec<Vec<Vec<Life>>>,
    /// When the boot clock stood at zero, by the collector's wall clock.
    zero: i64,
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
    /// Hosts whose exact gap rows count too few or too many.
    wrong: Vec<String>,
    /// Gap rows that nobody counted and that would explain anything.
    wide: usize,
    /// Unclean stops of which nobody knows when they were.
    unknown_stops: usize,
    examples: Vec<String>,
}

/// Counts, notes checks, and returns the figures.
pub(super) async fn count(scene: &Scene, timeline: &mut Timeline) -> Result<Value> {
    let store = Store::read(&scene.central).await?;
    let told = Told {
        scene,
        journals: scene
            .fleet
            .hosts
            .iter()
            .enumerate()
            .map(|(index, host)| {
                let mut journals = vec![journal::read(&host.plan.folder)?];
                for clone in scene.clones.iter().filter(|clone| clone.of == index) {
                    journals.push(journal::read(&clone.folder)?);
                }
                Ok(journals)
            })
            .collect::<Result<_>>()?,
        zero: super::clock::zero_us()?,
    };
    let count = Count::of(&told, &store);
    count.check(timeline);
    if scene.count("links-half-open") > 0 {
        let exact = count.total().exact;
        timeline.check(
            format!("there were exact gap rows to compare ({exact} rows)"),
            exact > 0,
        );
    }
    check_rude(scene, &store, timeline);
    check_clones(scene, timeline).await?;
    let clocks = clocks::check(scene, &told.journals, told.zero, timeline).await?;
    doubt::check(&told, &store, &count, timeline);
    for example in &count.examples {
        super::progress(format!("lost: {example}"));
    }
    let mut figures = count.figures(&store);
    if let Some(figures) = figures.as_object_mut() {
        figures.insert("clocks".to_owned(), clocks);
    }
    Ok(figures)
}

impl Count {
    fn of(told: &Told<'_>, store: &Store) -> Self {
        let mut count = Self::default();
        let hosts = told.scene.fleet.hosts.iter().zip(&told.journals);
        for (index, (host, journals)) in hosts.enumerate() {
            let gaps = store.gaps_of(host.id);
            // A clone's copy was taken of a running host: it begins after an unclean stop.
            count.unclean_expected += journals.len().saturating_sub(1);
            count.unclean_recorded += gaps.iter().filter(|gap| gap.is_unclean()).count();
            count.wipes_recorded += gaps.iter().filter(|gap| gap.is_wipe()).count();
            count.wipes += journals.iter().flatten().filter(|life| life.wiped).count();
            count.wide += gaps.iter().filter(|gap| gap.is_too_wide()).count();
            count.unknown_stops += gaps.iter().filter(|gap| gap.is_unknown_stop()).count();
            for lives in journals {
                // Only a start says how the life before it ended.
                let ended = lives.iter().rev().skip(1);
                count.unclean_expected += ended.filter(|life| !life.clean && !life.wiped).count();
            }
            for (table, sum) in count.sum.iter_mut().enumerate() {
                let tally = store.tally((host.id, table), journals, told.zero, &mut count.examples);
                let (exact, named, missing) = (tally.exact, tally.named, tally.missing);
                if exact < named || exact > missing {
                    let name = name(table);
                    count.wrong.push(format!(
                        "agent {index} {name}: {exact} rows in exact gaps, {named} to {missing} missing"
                    ));
                }
                sum.add(tally);
            }
        }
        count
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
                "exact gap rows count all that was promised and is missing, and nothing that is stored {:?}",
                self.wrong
            ),
            self.wrong.is_empty(),
        );
        timeline.check(
            format!(
                "no gap without a count is longer than what can have been lost ({})",
                self.wide
            ),
            self.wide == 0,
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
                "unclean_stops_of_unknown_time": self.unknown_stops,
                "wiped_spools": self.wipes_recorded,
                "rows_in_exact_gaps": total.exact,
                "by_reason": store.by_reason(),
            },
            "gaps_expected": {
                "unclean_stops": self.unclean_expected,
                "wiped_spools": self.wipes,
                "rows_in_exact_gaps_min": total.named,
                "rows_in_exact_gaps_max": total.missing,
            },
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

impl Tally {
    fn add(&mut self, other: Tally) {
        self.appended += other.appended;
        self.stored += other.stored;
        self.doubled += other.doubled;
        self.missing += other.missing;
        self.named += other.named;
        self.lost += other.lost;
        self.exact += other.exact;
    }
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
