//! Events: what they take on disk, and how one of them is found.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{NetworkEvent, ProcessEvent, table_by_id};
use fleetmend_event::{Frame, HostId, Lane, RecordId, Table, TimeMicros};
use serde_json::{Map, Value, json};

use super::bed::{self, Bed, Times, time};
use super::load::{Stream, load};
use super::mix::{Event, Server};
use super::{Found, SEED, Size};
use crate::report::progress;

const HOSTS: u32 = 100;
/// Events of a host's turn, as two frames: what an agent sends that comes back.
const TURN: usize = 2_000;
const DAY_US: f64 = 86_400e6;
const RUNS: usize = 25;
/// Every so many turns an event is remembered, to be looked for.
const REMEMBER_EVERY: u64 = 7;
/// The columns that name a row.
const IDENTITY: [&str; 3] = ["record_epoch", "record_sequence", "record_row"];

/// An event that has to be found.
#[derive(Debug, Clone)]
struct Known {
    host: HostId,
    record: RecordId,
    row: usize,
    event: ProcessEvent,
}

struct Sender {
    stream: Stream,
    server: Server,
    left: u64,
    turn: u64,
    known: Arc<Mutex<Vec<Known>>>,
}

/// Measures.
pub(super) async fn measure(folder: &Path, size: Size) -> Result<Found> {
    let mut found = Found::default();
    let wanted = size.of(100_000_000, 400_000);
    let per_host = wanted / u64::from(HOSTS);
    let events = per_host * u64::from(HOSTS);
    progress(format!("store {events} events of {HOSTS} hosts"));
    let begin = TimeMicros::now().plus_millis(-86_400_000);
    let known = Arc::new(Mutex::new(Vec::new()));
    let sender = |number: u32| Sender {
        stream: Stream::new(SEED, number as usize, Lane::Events),
        server: Server::new(SEED, number, begin, DAY_US / per_host as f64),
        left: per_host,
        turn: u64::from(number),
        known: known.clone(),
    };
    let bed = Bed::open(folder).await?;
    let loaded = load(&bed.store, (0..HOSTS).map(sender).collect(), send).await?;
    let settled = bed.settle().await?;
    bed.close().await?;
    let bed = Bed::open(folder).await?;
    let bytes = bed::note_disk(&mut found, "events", &bed)?;
    found.figure("stored_bytes_per_event", bytes as f64 / events as f64);
    found.figure("ingest_events_per_s", events as f64 / loaded.took.as_secs_f64());
    found.figure(
        "ingest_and_compact_events_per_s",
        events as f64 / (loaded.took + settled).as_secs_f64(),
    );
    found.condition(
        "events",
        json!({"events": events, "hosts": HOSTS, "loaded_in_s": loaded.took.as_secs_f64(),
               "settled_after_s": settled.as_secs_f64(), "generator_s": loaded.making.as_secs_f64()}),
    );
    check(&bed, events).await?;
    let known = std::mem::take(&mut *known.lock().unwrap_or_else(PoisonError::into_inner));
    ask(&mut found, &bed, &spread(known)).await?;
    bed.close().await?;
    bed::note_peak(&mut found, "events")?;
    Ok(found)
}

/// Times the queries over a store that is there already: the events that are looked for are taken from itself, so that
/// only times are to be believed.
pub(super) async fn ask_again(folder: &Path, size: Size) -> Result<Found> {
    let mut found = Found::default();
    let bed = Bed::open(folder).await?;
    let turns = size.of(100_000_000, 400_000) / u64::from(HOSTS) / TURN as u64;
    let mut known = Vec::new();
    for number in 0..4 * RUNS {
        let mut stream = Stream::new(SEED, (number * 37) % HOSTS as usize, Lane::Events);
        // A turn is a frame of processes and one of connections.
        stream.next = 1 + 2 * ((number as u64 * 29) % turns.max(1));
        let (record, row) = (stream.take(), 400 + number);
        let query = format!(
            "SELECT * FROM {} WHERE host_id = '{}' AND record_epoch = '{}' AND record_sequence = {} AND record_row = {row}",
            ProcessEvent::NAME,
            stream.host,
            record.epoch,
            record.sequence,
        );
        let answer = bed.sql(&query).await?;
        for batch in &answer.batches {
            for event in ProcessEvent::from_batch(batch).context("read an event")? {
                known.push(Known {
                    host: stream.host,
                    record,
                    row,
                    event,
                });
            }
        }
    }
    ensure!(
        known.len() == 4 * RUNS,
        "{} events were found to look for",
        known.len()
    );
    ask(&mut found, &bed, &known).await?;
    bed.close().await?;
    bed::note_peak(&mut found, "events")?;
    Ok(found)
}

/// A host's next events, as a frame of each table.
fn send(sender: &mut Sender) -> Result<Option<(HostId, Vec<Frame>)>> {
    let count = TURN.min(usize::try_from(sender.left)?);
    if count == 0 {
        return Ok(None);
    }
    sender.left -= count as u64;
    let (mut processes, mut connections) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        match sender.server.next() {
            Event::Process(row) => processes.push(*row),
            Event::Network(row) => connections.push(*row),
        }
    }
    let mut frames = Vec::new();
    sender.turn += 1;
    if let Some(row) = (processes.len() / 2..processes.len()).next() {
        let record = sender.stream.take();
        if sender.turn.is_multiple_of(REMEMBER_EVERY)
            && let Some(event) = processes.get(row).cloned()
        {
            let known = Known {
                host: sender.stream.host,
                record,
                row,
                event,
            };
            let mut all = sender.known.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(known);
        }
        frames.push(frame(record, &processes, |row| row.time)?);
    }
    if !connections.is_empty() {
        frames.push(frame(
            sender.stream.take(),
            &connections,
            |row: &NetworkEvent| row.time,
        )?);
    }
    Ok(Some((sender.stream.host, frames)))
}

fn frame<T: Table>(id: RecordId, rows: &[T], time: impl Fn(&T) -> TimeMicros) -> Result<Frame> {
    let (from, to) = rows.first().zip(rows.last()).context("make a frame of nothing")?;
    let (from, to) = (time(from), time(to));
    let table = table_by_id(T::ID).context("find a table")?;
    let batch = T::to_batch(rows).context("make a batch")?;
    let stamp = Stamp {
        wall: to,
        boot_us: id.sequence.0,
    };
    let frame = Frame::of_batch(id, table, &batch, stamp, (from, to)).context("encode a frame")?;
    ensure!(frame.fits(), "a frame of {} bytes is too long", frame.body.len());
    Ok(frame)
}

/// Some of them, from all times and hosts.
fn spread(known: Vec<Known>) -> Vec<Known> {
    let step = (known.len() / (4 * RUNS)).max(1);
    known.into_iter().step_by(step).collect()
}

/// Every event is there once.
async fn check(bed: &Bed, events: u64) -> Result<()> {
    let mut stored = 0;
    for table in [ProcessEvent::NAME, NetworkEvent::NAME] {
        let answer = bed.sql(&format!("SELECT count(*) AS n FROM {table}")).await?;
        let rows = collector_store::to_json_rows(&answer.batches)?;
        let count = rows.first().and_then(|row| row.get("n")?.as_u64());
        stored += count.with_context(|| format!("count the rows of {table}"))?;
    }
    ensure!(stored == events, "{stored} events are stored of {events}");
    Ok(())
}

async fn ask(found: &mut Found, bed: &Bed, known: &[Known]) -> Result<()> {
    let at = |run: usize| known.get(run % known.len().max(1)).context("remember an event");
    let day = |event: &ProcessEvent| {
        let hour = 3_600_000_000;
        let (from, to) = (event.time.0 - hour, event.time.0 + hour);
        format!("time >= to_timestamp_micros({from}) AND time < to_timestamp_micros({to})")
    };
    let find = async |condition: String, known: &Known| {
        let query = format!("SELECT * FROM {} WHERE {condition}", ProcessEvent::NAME);
        let answer = bed.sql(&query).await?;
        let rows = collector_store::to_json_rows(&answer.batches)?;
        let is_it = |row: &&Map<String, Value>| {
            let number = |column: &str| row.get(column).and_then(Value::as_u64);
            row.get("host_id").and_then(Value::as_str) == Some(&known.host.to_string())
                && number("pid") == Some(known.event.pid.into())
                && number("boot_ns") == Some(known.event.boot_ns)
        };
        ensure!(
            rows.iter().filter(is_it).count() == 1,
            "{condition}: {} rows, and not once the one with {known:?}",
            rows.len()
        );
        Ok(rows.len())
    };
    let mut worst = f64::NAN;
    let mut note = |found: &mut Found, kind: &str, times: &Times| {
        worst = worst.max(times.p95());
        found.figure(format!("query_event_by_{kind}_p95_ms"), times.p95());
        found.condition(format!("query_event_by_{kind}"), times.told());
    };
    let by_pid = async |run: usize| {
        let known = at(run)?;
        let condition = format!("pid = {} AND host_id = '{}'", known.event.pid, known.host);
        find(condition, known).await.map(|_| ())
    };
    note(
        found,
        "pid_and_host",
        &time(bed, "pid_and_host", RUNS, by_pid).await?,
    );
    let by_pid_and_time = async |run: usize| {
        let known = at(run + RUNS)?;
        let condition = format!("pid = {} AND {}", known.event.pid, day(&known.event));
        find(condition, known).await.map(|_| ())
    };
    note(
        found,
        "pid_and_hours",
        &time(bed, "pid_and_hours", RUNS, by_pid_and_time).await?,
    );
    let by_pid_only = async |run: usize| {
        let known = at(run + 2 * RUNS)?;
        find(format!("pid = {}", known.event.pid), known)
            .await
            .map(|_| ())
    };
    note(found, "pid", &time(bed, "pid", RUNS, by_pid_only).await?);
    if has_identity(bed).await? {
        let by_id = async |run: usize| {
            let known = at(run + 3 * RUNS)?;
            let condition = format!(
                "record_epoch = '{}' AND record_sequence = {} AND record_row = {}",
                known.record.epoch, known.record.sequence, known.row
            );
            let rows = find(condition, known).await?;
            ensure!(rows == 1, "{rows} rows have one identity");
            Ok(())
        };
        note(found, "id", &time(bed, "id", RUNS, by_id).await?);
    } else {
        found.not_measured("query_event_by_id_p95_ms", "rows have no identity in SQL yet");
    }
    found.figure("query_event_p95_ms", worst);
    Ok(())
}

async fn has_identity(bed: &Bed) -> Result<bool> {
    let answer = bed
        .sql(&format!("SELECT * FROM {} LIMIT 1", ProcessEvent::NAME))
        .await?;
    let has = |column: &str| answer.schema.column_with_name(column).is_some();
    Ok(IDENTITY.into_iter().all(has))
}
