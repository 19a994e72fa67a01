//! What has to hold of a store after a crash.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use collector_store::{HostGap, QueryLimits, Store};
use fleetmend_event::table::GapStage;
use fleetmend_event::{Frame, HostId, Lane};
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
    }
    let held = rows(store).await?;
    for ((host, lane), last) in acknowledged {
        // What expired is not there; its mark is.
        if *lane != Lane::Critical {
            are_there(&held, *host, *lane, *last)?;
        }
    }
    no_other_gap(store, told).await?;
    let sent_again = again(store).await;
    sent_again.map_err(|error| format!("sent again: {error}"))?;
    no_other_gap(store, told).await
}

/// Every record of a host, made once for all points.
static FRAMES: LazyLock<Vec<Frame>> = LazyLock::new(|| {
    LANES
        .iter()
        .flat_map(|lane| (1..=RECORDS).map(|n| frame(*lane, n)))
        .collect()
});

/// Sends everything again, as agents do that were told less than they know; all of it is there once then.
async fn again(store: &Store) -> Result<(), String> {
    for host in hosts() {
        let marks = store
            .commit(host, FRAMES.clone())
            .await
            .map_err(|error| error.to_string())?;
        for mark in &marks {
            if mark.sequence.0 != RECORDS {
                return Err(format!("{host} {:?}: mark {}", mark.lane, mark.sequence));
            }
        }
    }
    let held = rows(store).await?;
    for host in hosts() {
        for lane in [Lane::Events, Lane::Metrics] {
            are_there(&held, host, lane, RECORDS)?;
            let others = held.get(&(host, lane)).map_or(0, HashMap::len) as u64 - RECORDS;
            if others > 0 {
                return Err(format!("{host} {lane:?}: {others} records that nobody sent"));
            }
        }
    }
    Ok(())
}

/// How often each record's number stands in the rows of a host and a lane.
type Held = HashMap<(HostId, Lane), HashMap<u64, i64>>;

/// What the store holds of every host; one question, for a crash is looked at many hundred times.
async fn rows(store: &Store) -> Result<Held, String> {
    let query = "SELECT CAST(host_id AS VARCHAR), 'events', CAST(pid AS BIGINT), count(*) \
                 FROM process_events GROUP BY host_id, pid \
                 UNION ALL SELECT CAST(host_id AS VARCHAR), 'metrics', CAST(value AS BIGINT), count(*) \
                 FROM metrics GROUP BY host_id, value";
    let answer = store
        .sql(query, QueryLimits::default())
        .await
        .map_err(|error| format!("{query}: {error}"))?;
    let mut held = Held::new();
    for batch in &answer.batches {
        let texts = |column| cast(batch.column(column), &DataType::Utf8).map_err(|error| error.to_string());
        let (hosts, lanes) = (texts(0)?, texts(1)?);
        let (hosts, lanes) = (hosts.as_string::<i32>(), lanes.as_string::<i32>());
        let numbers = batch.column(2).as_primitive::<Int64Type>();
        let counts = batch.column(3).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let host = hosts.value(row).parse().map_err(|error| format!("{error}"))?;
            let lane = match lanes.value(row) {
                "events" => Lane::Events,
                _ => Lane::Metrics,
            };
            let number = u64::try_from(numbers.value(row)).map_err(|error| error.to_string())?;
            let again = held
                .entry((host, lane))
                .or_default()
                .insert(number, counts.value(row));
            assert_eq!(again, None, "groups are distinct");
        }
    }
    Ok(held)
}

/// Whether the records up to `last` are there, each once.
fn are_there(held: &Held, host: HostId, lane: Lane, last: u64) -> Result<(), String> {
    let each = if lane == Lane::Metrics { 10 } else { 1 };
    let of_lane = held.get(&(host, lane));
    for number in 1..=last {
        let count = of_lane.and_then(|counts| counts.get(&number)).copied();
        if count != Some(each) {
            return Err(format!(
                "{host} {lane:?}: record {number} of {last} has {} rows instead of {each}",
                count.unwrap_or_default()
            ));
        }
    }
    Ok(())
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
