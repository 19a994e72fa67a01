//! Metrics inside the agent: a fixed set of series and one vector of values per tick.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::TimeMicros;
use crate::table::MetricChunk;

/// What one series is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// OpenTelemetry name.
    pub name: String,
    /// Unit in UCUM.
    pub unit: String,
    /// Attributes.
    pub labels: BTreeMap<String, String>,
}

impl SeriesKey {
    /// A series with these attributes.
    pub fn new<const N: usize>(name: &str, unit: &str, labels: [(&str, &str); N]) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            labels: labels
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// The attributes as the canonical JSON object that tables hold.
    pub fn labels_json(&self) -> String {
        serde_json::to_string(&self.labels).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// An ordered set of series; a frame's values stand in its order. A changed set is a new `Arc`.
pub type SeriesSet = Arc<[SeriesKey]>;

/// One tick: the value of every series of a set at one moment. NaN where a value could not be read.
#[derive(Debug, Clone)]
pub struct MetricFrame {
    /// When the values were read.
    pub time: TimeMicros,
    /// The series.
    pub series: SeriesSet,
    /// Their values, in the same order and number.
    pub values: Vec<f64>,
}

/// Names of sums that only grow until their source restarts; sorted.
const CUMULATIVE: [&str; 31] = [
    "system.cpu.run_queue.latency.bucket",
    "system.cpu.run_queue.latency.count",
    "system.cpu.run_queue.latency.sum",
    "system.cpu.time",
    "system.disk.io",
    "system.disk.io_time",
    "system.disk.merged",
    "system.disk.operation.latency.bucket",
    "system.disk.operation.latency.count",
    "system.disk.operation.latency.sum",
    "system.disk.operation_time",
    "system.disk.operations",
    "system.linux.allocation_stalls",
    "system.linux.context_switches",
    "system.linux.disk.weighted_io_time",
    "system.linux.interrupts",
    "system.linux.network.protocol",
    "system.linux.oom_kills",
    "system.linux.paging.bytes",
    "system.linux.pressure.time",
    "system.linux.reclaim.scanned",
    "system.linux.reclaim.taken",
    "system.network.errors",
    "system.network.io",
    "system.network.packet.count",
    "system.network.packet.dropped",
    "system.network.tcp.retransmits",
    "system.paging.faults",
    "system.paging.operations",
    "system.process.created",
    "system.uptime",
];

/// Whether the series of this name are sums over time, of which the last value says all of those before it. Of any
/// other series a mean says more.
pub fn is_cumulative(name: &str) -> bool {
    CUMULATIVE.binary_search(&name).is_ok()
}

/// Furthest from one frame to the next in one row: offsets are counted in milliseconds, and a clock that was
/// set forward by years fits none.
const STEP_MICROS_MAX: i64 = 3_600_000_000;

/// Turns consecutive frames into one row per series. Frames of different sets yield rows of their own, and so
/// do the frames after a clock that was set back or far forward. Times within 5 % of the step count as regular.
pub fn chunks(frames: &[MetricFrame]) -> Vec<MetricChunk> {
    let mut rows = Vec::new();
    for run in frames.chunk_by(|a, b| Arc::ptr_eq(&a.series, &b.series) && follows(a, b)) {
        let Some(first) = run.first() else { continue };
        let (step_ms, offset_ms) = spacing(run);
        for (index, key) in first.series.iter().enumerate() {
            let value = run
                .iter()
                .map(|frame| frame.values.get(index).copied().unwrap_or(f64::NAN))
                .collect();
            rows.push(MetricChunk {
                name: key.name.clone(),
                unit: key.unit.clone(),
                labels: key.labels_json(),
                start_time: first.time,
                step_ms,
                offset_ms: offset_ms.clone(),
                value,
            });
        }
    }
    rows
}

fn follows(earlier: &MetricFrame, later: &MetricFrame) -> bool {
    (1..=STEP_MICROS_MAX).contains(&later.time.micros_since(earlier.time))
}

/// Step in milliseconds when the frames are evenly spaced, else each frame's offset from the first.
fn spacing(run: &[MetricFrame]) -> (u32, Vec<u32>) {
    let Some(first) = run.first() else {
        return (0, Vec::new());
    };
    let offset = |frame: &MetricFrame| {
        u32::try_from(frame.time.micros_since(first.time).max(0) / 1_000).unwrap_or(u32::MAX)
    };
    let offsets: Vec<u32> = run.iter().map(offset).collect();
    let step = match offsets.as_slice() {
        [] | [_] => 1_000,
        [.., last] => {
            let steps = u32::try_from(offsets.len())
                .unwrap_or(u32::MAX)
                .saturating_sub(1)
                .max(1);
            last.saturating_add(steps / 2) / steps
        }
    };
    let tolerance = step / 20;
    let even = offsets
        .iter()
        .zip(0_u32..)
        .all(|(offset, index)| offset.abs_diff(index.saturating_mul(step)) <= tolerance);
    if even && step > 0 {
        (step, Vec::new())
    } else {
        (0, offsets)
    }
}

impl MetricChunk {
    /// When sample `index` was taken.
    pub fn sample_time(&self, index: usize) -> TimeMicros {
        let millis = if self.step_ms > 0 {
            i64::try_from(index)
                .unwrap_or(i64::MAX)
                .saturating_mul(i64::from(self.step_ms))
        } else {
            self.offset_ms.get(index).copied().map_or(0, i64::from)
        };
        self.start_time.plus_millis(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_known_by_their_names() {
        assert!(CUMULATIVE.is_sorted());
        assert!(is_cumulative("system.network.io") && is_cumulative("system.cpu.time"));
        assert!(!is_cumulative("system.memory.usage") && !is_cumulative("system.cpu.utilization"));
    }

    #[test]
    fn every_sample_keeps_its_time_over_a_clock_that_is_set() {
        let series: SeriesSet = Arc::from([SeriesKey::new("system.load", "1", [])]);
        let year = 365 * 86_400;
        let seconds = [100, 101, 102, 40, 41, 41, 42, 42 + year, 43 + year];
        let frames: Vec<MetricFrame> = seconds
            .iter()
            .map(|second| MetricFrame {
                time: TimeMicros(second * 1_000_000),
                series: series.clone(),
                values: vec![0.0],
            })
            .collect();
        let rows = chunks(&frames);
        let found: Vec<i64> = rows
            .iter()
            .flat_map(|row| (0..row.value.len()).map(|index| row.sample_time(index).0 / 1_000_000))
            .collect();
        assert_eq!(found, seconds);
        assert_eq!(rows.len(), 4, "a run ends where time does not go on");
    }
}
