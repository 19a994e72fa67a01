//! Makes a recording: a real agent and a real collector, and in between somebody who writes down what they say.

use std::path::Path;
use std::sync::{Arc, Mutex};

use agent_spool::SpoolConfig;
use agent_stream::OrderResult;
use bytes::Bytes;
use fleetmend_config::HumanDuration;
use fleetmend_event::metric::{MetricFrame, SeriesKey, SeriesSet};
use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk, Table, UnitState};
use fleetmend_event::{HostId, Lane, TimeMicros};
use fleetmend_identity::LiveIdentity;
use fleetmend_testkit::{TestFleet, wait_for};
use tokio::task::JoinSet;

use super::raw::{RawCarrier, RawStream};
use super::recording::{Direction, Recording};
use crate::PATIENCE;
use crate::agent::{Agent, spool_config, unit};
use crate::collector::Collector;
use crate::sink::MemorySink;

pub(super) const ORDER: [u8; 16] = [7; 16];
pub(super) const ENVELOPE: &str = "{\"order\":1}";
pub(super) const HINT_MS: u32 = 1_000;
const BEGIN: TimeMicros = TimeMicros(1_767_225_600_000_000);

/// The spool keeps what was acknowledged, so that it can be kept as it is.
pub(super) fn keeping(folder: &Path) -> SpoolConfig {
    SpoolConfig {
        retention: HumanDuration::from_secs(7 * 24 * 3_600),
        ..spool_config(folder)
    }
}

/// A session from hello to goodbye: what waits in the spool, then live rows, an order and a hint.
pub(super) async fn record() -> Recording {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let identity = fleet.host().unwrap();
    let mut collector = Collector::start(&fleet, &sink).await;
    let tap = RawCarrier::start(&fleet).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let tap_tasks = tap.tasks.clone();
    let address = tap.address;
    tasks.spawn(pass(tap, identity.clone(), collector.address, log.clone()));

    let mut agent = Agent::start_with(&identity, address, keeping(fleet.folder()));
    append(&agent, 0..20);
    agent.delivered().await;
    let host = agent.host;
    collector
        .hosts
        .send_order(host, ORDER, ENVELOPE.to_owned())
        .unwrap();
    let order = tokio::time::timeout(PATIENCE, agent.orders.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((order.order_id, order.envelope.as_str()), (ORDER, ENVELOPE));
    let result = OrderResult {
        order_id: ORDER,
        accepted: false,
        reason: "no policy".to_owned(),
    };
    agent.results.send(result).await.unwrap();
    tokio::time::timeout(PATIENCE, collector.results.recv())
        .await
        .unwrap()
        .unwrap();
    collector.hosts.hint_metrics_interval(host, HINT_MS).unwrap();
    for round in 1..4 {
        append(&agent, round * 20..(round + 1) * 20);
        agent.delivered().await;
    }
    let rows = stored(&sink, host);
    collector.stop().await;
    let said = async || agent.state.borrow().last_error.clone().unwrap_or_default();
    wait_for(PATIENCE, said, |said| said.contains("goodbye"))
        .await
        .unwrap();
    agent.stop().await;
    tasks.shutdown().await;
    tap_tasks.drain(PATIENCE).await;

    let messages = std::mem::take(&mut *log.lock().unwrap());
    let mut recording = Recording {
        messages,
        rows,
        ..Recording::default()
    };
    recording.keep_spool(&keeping(fleet.folder()).folder);
    recording
}

/// Rows of every lane.
fn append(agent: &Agent, numbers: std::ops::Range<u64>) {
    let series: SeriesSet = vec![
        SeriesKey::new("system.cpu.utilization", "1", [("cpu.mode", "user")]),
        SeriesKey::new("system.memory.usage", "By", [("system.memory.state", "used")]),
    ]
    .into();
    for number in numbers.clone() {
        agent.spool.append(UnitState {
            time: at(number),
            ..unit(number)
        });
        agent.spool.append(MetricFrame {
            time: at(number),
            series: series.clone(),
            values: vec![0.25 * f64::from(u32::try_from(number).unwrap()), 4_096.0],
        });
    }
    agent.spool.append(Gap {
        time: at(numbers.end),
        table: "process_events".to_owned(),
        lane: Lane::Events,
        from_time: at(numbers.start),
        to_time: at(numbers.end),
        count: numbers.end,
        exactness: Exactness::Exact,
        stage: GapStage::Kernel,
        reason: "ring_full".to_owned(),
    });
}

fn at(number: u64) -> TimeMicros {
    BEGIN.plus_millis(i64::try_from(number).unwrap() * 1_000)
}

/// Every row that the sink holds, in words that no later column changes.
pub(super) fn stored(sink: &MemorySink, host: HostId) -> Vec<String> {
    let mut rows = Vec::new();
    for frame in sink.frames(host) {
        let Some(batch) = frame.batch().unwrap() else {
            continue;
        };
        if frame.table == UnitState::ID {
            let units = UnitState::from_batch(&batch).unwrap();
            rows.extend(units.iter().map(|row| {
                format!(
                    "unit {} {} {} {}",
                    row.time, row.unit, row.active_state, row.description
                )
            }));
        } else if frame.table == Gap::ID {
            let gaps = Gap::from_batch(&batch).unwrap();
            rows.extend(gaps.iter().map(|row| {
                format!(
                    "gap {} {} {} {} {} {}",
                    row.time, row.table, row.from_time, row.to_time, row.count, row.reason
                )
            }));
        } else if frame.table == MetricChunk::ID {
            for row in MetricChunk::from_batch(&batch).unwrap() {
                for (place, value) in row.value.iter().enumerate() {
                    let step = i64::from(row.step_ms) * i64::try_from(place).unwrap();
                    let offset = row.offset_ms.get(place).map_or(step, |offset| i64::from(*offset));
                    let time = row.start_time.plus_millis(offset);
                    rows.push(format!(
                        "metric {time} {} {} {} {value}",
                        row.name, row.unit, row.labels
                    ));
                }
            }
        } else {
            rows.push(format!("table {}", frame.table));
        }
    }
    rows.sort();
    rows
}

/// Passes every stream on to the collector, and writes it down.
async fn pass(
    mut tap: RawCarrier,
    identity: LiveIdentity,
    collector: std::net::SocketAddr,
    log: Arc<Mutex<Vec<(Direction, Bytes)>>>,
) {
    let mut is_first = true;
    while let Some(mut opened) = tap.opened.recv().await {
        // The session ends with the first goodbye.
        if !std::mem::replace(&mut is_first, false) {
            continue;
        }
        let Ok(Some(hello)) = opened.up.message().await else {
            continue;
        };
        log.lock().unwrap().push((Direction::Up, hello.clone()));
        let mut stream = RawStream::open(&identity, collector, hello).await;
        loop {
            let (direction, message) = tokio::select! {
                up = opened.up.message() => (Direction::Up, up),
                down = stream.down.message() => (Direction::Down, down),
            };
            let Ok(Some(message)) = message else { break };
            log.lock().unwrap().push((direction, message.clone()));
            let passed = match direction {
                Direction::Up => stream.up.send(message).await.is_ok(),
                Direction::Down => opened.down.send(Ok(message)).await.is_ok(),
            };
            if !passed {
                break;
            }
        }
    }
}
