//! A store in a folder of its own, and hosts that send to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, Int64Array};
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{MetricChunk, ProcessEvent, TableInfo};
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, Table, TimeMicros};
use fleetmend_shutdown::Tasks;
use tempfile::TempDir;

pub(super) use super::rows::exec;
use crate::{OpenError, Store, StoreConfig};

pub(super) const START: i64 = 1_767_225_600_000_000; // 2026-01-01T00:00:00Z

pub(super) struct Bed {
    pub(super) store: Store,
    pub(super) tasks: Tasks,
}

pub(super) fn config(folder: &Path) -> StoreConfig {
    StoreConfig {
        folder: folder.to_owned(),
        maintenance_interval_ms: 20,
        free_bytes_min: 0,
        // The disk of whoever runs the tests is no concern of theirs.
        disk_alarm: crate::config::DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 0,
        },
        ..StoreConfig::default()
    }
}

pub(super) async fn open(folder: &Path) -> Bed {
    open_with(config(folder)).await
}

pub(super) async fn open_with(config: StoreConfig) -> Bed {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let store = loop {
        match Store::open(config.clone()).await {
            // Whoever had it open may still be letting go of it.
            Err(OpenError::Locked { .. }) if std::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => break opened.expect("open the store"),
        }
    };
    let tasks = Tasks::new();
    store.run(&tasks).expect("run the store");
    Bed { store, tasks }
}

impl Bed {
    /// Ends the store in order.
    pub(super) async fn close(self) {
        let report = self.tasks.drain(Duration::from_secs(20)).await;
        assert!(report.is_clean(), "{report:?}");
        // A query that was answered may hold the folder for a moment more.
        let inner = Arc::downgrade(&self.store.inner);
        drop(self.store);
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while inner.strong_count() > 0 && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The single number that a query gives.
    pub(super) async fn number(&self, query: &str) -> i64 {
        let answer = self
            .store
            .sql(query, crate::QueryLimits::default())
            .await
            .expect(query);
        let column = answer.batches.first().expect("one batch").column(0).clone();
        column
            .as_any()
            .downcast_ref::<Int64Array>()
            .expect("a 64-bit number")
            .value(0)
    }

    /// Waits until a query gives `wanted`.
    pub(super) async fn wait_for(&self, query: &str, wanted: i64) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let last = self.number(query).await;
            if last == wanted {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{query}: wanted {wanted}, last seen {last}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until something holds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A host with a spool.
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) epoch: SpoolEpoch,
    next: [u64; 3],
}

impl Host {
    pub(super) fn new() -> Self {
        Self {
            id: HostId::random(),
            epoch: SpoolEpoch::random(),
            next: [1; 3],
        }
    }

    pub(super) fn frame<T: Table>(&mut self, rows: &[T], from: i64, to: i64) -> Frame {
        let lane = usize::from(T::LANE.code());
        let sequence = Sequence(self.next[lane]);
        self.next[lane] += 1;
        frame_of(
            RecordId {
                epoch: self.epoch,
                lane: T::LANE,
                sequence,
            },
            rows,
            from,
            to,
        )
    }

    /// `count` execs, a millisecond apart.
    pub(super) fn execs(&mut self, count: u32) -> Frame {
        let start = START + i64::try_from(self.next[usize::from(Lane::Events.code())]).unwrap() * 1_000_000;
        let rows: Vec<ProcessEvent> = (0..count)
            .map(|n| exec(start + i64::from(n) * 1_000, n))
            .collect();
        self.frame(&rows, start, start + i64::from(count) * 1_000)
    }

    /// Ten seconds of `series` metric series.
    pub(super) fn metrics(&mut self, series: usize) -> Frame {
        let start = START + i64::try_from(self.next[usize::from(Lane::Metrics.code())]).unwrap() * 10_000_000;
        let rows: Vec<MetricChunk> = (0..series).map(|n| chunk(start, n)).collect();
        self.frame(&rows, start, start + 9_000_000)
    }
}

pub(super) fn frame_of<T: Table>(id: RecordId, rows: &[T], from: i64, to: i64) -> Frame {
    let batch = T::to_batch(rows).unwrap();
    let stamp = Stamp {
        wall: TimeMicros(from),
        boot_us: 1,
    };
    Frame::of_batch(
        id,
        &TableInfo::of::<T>(),
        &batch,
        stamp,
        (TimeMicros(from), TimeMicros(to)),
    )
    .unwrap()
}

pub(super) fn chunk(start: i64, series: usize) -> MetricChunk {
    MetricChunk {
        name: format!("system.metric.{series:03}"),
        unit: "1".into(),
        labels: r#"{"cpu.mode":"user"}"#.into(),
        start_time: TimeMicros(start),
        step_ms: 1_000,
        offset_ms: Vec::new(),
        value: (0..10).map(f64::from).collect(),
    }
}

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Waits until something that has to be asked for holds.
pub(super) async fn eventually_async<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
