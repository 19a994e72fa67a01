//! What has to hold of a store after a crash.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, Int64Array};
use collector_store::{HostGap, QueryLimits, Store};
use fleetmend_event::table::GapStage;
use fleetmend_event::{HostId, Lane};
use fleetmend_shutdown::Tasks;
use tokio::runtime::Runtime;

use crate::workload::{LANES, RECORDS, SAID, config, frame, hosts};

/// The gaps that a store tells.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// So many of stage `restore`.
    Restored(usize),
    /// That the catalogue was lost, of nothing.
    CatalogueLost,
}

/// How a gap begins that says nothing but that the catalogue was lost.
const LOST: &str = "the catalogue was lost and made anew";

/// Opens the store that a crash left, and looks at all that was acknowledged; the first thing that is wrong.
pub(crate) fn holds(folder: &Path, said: &[String]) -> Result<(), String> {
    runtime().block_on(async {
        let store = open(folder).await?;
        in_it(store, &acknowledged(said), 0).await
    })
}

/// As [`holds`], after the catalogue and its copy went with the crash.
pub(crate) fn holds_without_catalogue(folder: &Path, said: &[String]) -> Result<(), String> {
    lose(folder);
    runtime().block_on(async {
        let store = open(folder).await?;
        checked(store, &acknowledged(said), Told::CatalogueLost).await
    })
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) async fn open(folder: &Path) -> Result<Store, String> {
    let opened = Store::open(config(folder)).await;
    opened.map_err(|error| format!("cannot open: {error:?}"))
}

/// Looks at a store that was opened, in which as many gaps are told as it should have, and closes it.
pub(crate) async fn in_it(
    store: Store,
    acknowledged: &HashMap<(HostId, Lane), u64>,
    gaps: usize,
) -> Result<(), String> {
    checked(store, acknowledged, Told::Restored(gaps)).await
}

async fn checked(
    store: Store,
    acknowledged: &HashMap<(HostId, Lane), u64>,
    told: Told,
) -> Result<(), String> {
    let tasks = Tasks::new();
    store.run(&tasks).unwrap();
    let found = look(&store, acknowledged, told).await;
    tasks.drain(Duration::from_secs(30)).await;
    found
}

fn lose(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("catalogue.")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// The last number that was acknowledged of every stream.
fn acknowledged(said: &[String]) -> HashMap<(HostId, Lane), u64> {
    let mut last = HashMap::new();
    for line in said {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [SAID, host, lane, sequence] = words[..] else {
            assert_eq!(words.len(), 3, "the child said {line:?}");
            continue;
        };
        let lane = Lane::from_code(lane.parse().unwrap()).unwrap();
        last.insert((host.parse().unwrap(), lane), sequence.parse().unwrap());
    }
    last
}

/// The number behind the last time that the child said it had done something.
pub(crate) fn last_done(said: &[String], what: &str) -> Option<u64> {
    said.iter().rev().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [SAID, done, number] = words[..] else {
            return None;
        };
        (done == what).then(|| number.parse().unwrap())
    })
}

async fn look(store: &Store, acknowledged: &HashMap<(HostId, Lane), u64>, told: Told) -> Result<(), String> {
    for ((host, lane), last) in acknowledged {
        let marks = store.marks(*host);
        let mark = marks
            .iter()
            .find(|mark| mark.lane == *lane)
            .map_or(0, |mark| mark.sequence.0);
        if mark < *last {
            return Err(format!("{host} {lane:?}: mark {mark}, acknowledged {last}"));
        }
        // What expired is not there; its mark is.
        if *lane != Lane::Critical {
            let rows = rows(store, *host, *lane, *last).await?;
            if rows != *last {
                return Err(format!(
                    "{host} {lane:?}: {rows} of {last} acknowledged records are there"
                ));
            }
        }
    }
    no_other_gap(store, told).await?;
    let sent_again = again(store).await;
    sent_again.map_err(|error| format!("sent again: {error}"))?;
    no_other_gap(store, told).await
}

/// Sends everything again, as agents do that were told less than they know; all of it is there once then.
async fn again(store: &Store) -> Result<(), String> {
    for host in hosts() {
        let frames = LANES
            .iter()
            .flat_map(|lane| (1..=RECORDS).map(|n| frame(*lane, n)));
        let marks = store
            .commit(host, frames.collect())
            .await
            .map_err(|error| error.to_string())?;
        for mark in &marks {
            if mark.sequence.0 != RECORDS {
                return Err(format!("{host} {:?}: mark {}", mark.lane, mark.sequence));
            }
        }
        for lane in [Lane::Events, Lane::Metrics] {
            let rows = rows(store, host, lane, RECORDS).await?;
            if rows != RECORDS {
                return Err(format!("{host} {lane:?}: {rows} of {RECORDS} records are there"));
            }
        }
    }
    Ok(())
}

/// How many of the records up to `last` are there; an error when one is there twice.
async fn rows(store: &Store, host: HostId, lane: Lane, last: u64) -> Result<u64, String> {
    let (table, number, each) = match lane {
        Lane::Metrics => ("metrics", "value", 10),
        _ => ("process_events", "pid", 1),
    };
    let query = format!(
        "SELECT count(*) FILTER (WHERE n = {each}), count(*) FILTER (WHERE n > {each}), count(*) FILTER (WHERE n < {each}) \
         FROM (SELECT {number}, count(*) AS n FROM {table} WHERE host_id = '{host}' AND {number} <= {last} GROUP BY {number})"
    );
    let counts = numbers(store, &query).await?;
    match counts[..] {
        [once, 0, 0] => Ok(u64::try_from(once).unwrap()),
        _ => Err(format!("{host} {lane:?}: once, more, less: {counts:?}")),
    }
}

/// No gaps but those that are to be told.
async fn no_other_gap(store: &Store, told: Told) -> Result<(), String> {
    let query = match told {
        Told::Restored(_) => "SELECT stage FROM gaps".to_owned(),
        Told::CatalogueLost => format!("SELECT stage FROM gaps WHERE reason NOT LIKE '{LOST}%' OR count > 0"),
    };
    let answer = store
        .sql(&query, QueryLimits::default())
        .await
        .map_err(|error| error.to_string())?;
    let fits = match told {
        Told::Restored(gaps) => {
            let of_restore = |gap: &&HostGap| gap.gap.stage == GapStage::Restore;
            let restored = answer.gaps.iter().filter(of_restore).count();
            answer.rows() == gaps && restored == answer.gaps.len() && restored <= gaps
        }
        Told::CatalogueLost => {
            let is_told = |held: &HostGap| held.gap.reason.starts_with(LOST);
            answer.rows() == 0 && answer.gaps.iter().all(is_told)
        }
    };
    if fits {
        Ok(())
    } else {
        Err(format!("gaps: {:?} {:?}", answer.gaps, answer.batches))
    }
}

async fn numbers(store: &Store, query: &str) -> Result<Vec<i64>, String> {
    let answer = store
        .sql(query, QueryLimits::default())
        .await
        .map_err(|error| format!("{query}: {error}"))?;
    let batch = answer.batches.first().ok_or("no row")?;
    let number = |column: &std::sync::Arc<dyn Array>| {
        let numbers = column.as_any().downcast_ref::<Int64Array>();
        numbers
            .map(|numbers| numbers.value(0))
            .ok_or_else(|| "no number".to_owned())
    };
    batch.columns().iter().map(number).collect()
}
