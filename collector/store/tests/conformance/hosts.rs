//! Hosts that send.

use collector_store::ClockAhead;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk, ProcessEvent, TableInfo};
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, Table, TimeMicros};

use crate::rows;

pub(crate) const START: i64 = 1_767_225_600_000_000; // 2026-01-01T00:00:00Z

/// A host with a spool.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) epoch: SpoolEpoch,
    next: [u64; 3],
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            id: HostId::random(),
            epoch: SpoolEpoch::random(),
            next: [1; 3],
        }
    }

    /// The same host in every run.
    pub(crate) fn number(number: u8) -> Self {
        Self {
            id: HostId::from_bytes([number; 16]),
            epoch: SpoolEpoch::from_bytes([number; 16]),
            next: [1; 3],
        }
    }

    /// The identity that the next record of a lane gets.
    pub(crate) fn next_id(&self, lane: Lane) -> RecordId {
        RecordId {
            epoch: self.epoch,
            lane,
            sequence: Sequence(self.next[usize::from(lane.code())]),
        }
    }

    /// Leaves numbers out.
    pub(crate) fn skip(&mut self, lane: Lane, count: u64) {
        self.next[usize::from(lane.code())] += count;
    }

    pub(crate) fn frame<T: Table>(&mut self, rows: &[T], from: i64, to: i64) -> Frame {
        let id = self.next_id(T::LANE);
        self.skip(T::LANE, 1);
        frame_of(id, rows, from, to)
    }

    /// `count` execs, a millisecond apart.
    pub(crate) fn execs(&mut self, count: u32) -> Frame {
        let number = self.next[usize::from(Lane::Events.code())];
        let start = START + i64::try_from(number).unwrap() * 1_000_000;
        let rows: Vec<ProcessEvent> = (0..count)
            .map(|n| exec(start + i64::from(n) * 1_000, n))
            .collect();
        self.frame(&rows, start, start + i64::from(count) * 1_000)
    }

    /// Ten seconds of `series` metric series.
    pub(crate) fn metrics(&mut self, series: usize) -> Frame {
        let number = self.next[usize::from(Lane::Metrics.code())];
        let start = START + i64::try_from(number).unwrap() * 10_000_000;
        let rows: Vec<MetricChunk> = (0..series).map(|n| chunk(start, n)).collect();
        self.frame(&rows, start, start + 9_000_000)
    }
}

/// With nothing known of their clocks.
pub(crate) fn timed(frames: Vec<Frame>) -> Vec<(Frame, ClockAhead)> {
    frames
        .into_iter()
        .map(|frame| (frame, ClockAhead::UNKNOWN))
        .collect()
}

pub(crate) fn frame_of<T: Table>(id: RecordId, rows: &[T], from: i64, to: i64) -> Frame {
    let batch = T::to_batch(rows).unwrap();
    let stamp = Stamp {
        wall: TimeMicros(from),
        boot_us: 1,
    };
    let span = (TimeMicros(from), TimeMicros(to));
    Frame::of_batch(id, &TableInfo::of::<T>(), &batch, stamp, span).unwrap()
}

pub(crate) fn chunk(start: i64, series: usize) -> MetricChunk {
    MetricChunk {
        name: format!("system.metric.{series:03}"),
        unit: "1".into(),
        labels: r#"{"cpu.mode":"user"}"#.into(),
        start_time: TimeMicros(start),
        step_ms: 1_000,
        offset_ms: Vec::new(),
        // One that could not be taken.
        value: (0..10)
            .map(|n| if n == 7 { f64::NAN } else { f64::from(n) + 0.5 })
            .collect(),
    }
}

/// With a text that has to be escaped, and a column that is null now and then.
pub(crate) fn exec(time: i64, pid: u32) -> ProcessEvent {
    ProcessEvent {
        comm: if pid.is_multiple_of(2) {
            "true".into()
        } else {
            "it's \\ ü".into()
        },
        unit: pid.is_multiple_of(3).then(|| "cron.service".into()),
        ..rows::exec(time, pid)
    }
}

/// A loss of `count` rows of process events in the first minute.
pub(crate) fn gap(count: u64, reason: &str) -> Gap {
    Gap {
        time: TimeMicros(START),
        table: "process_events".into(),
        lane: Lane::Events,
        from_time: TimeMicros(START),
        to_time: TimeMicros(START + 60_000_000),
        count,
        exactness: Exactness::Exact,
        stage: GapStage::Spool,
        reason: reason.into(),
    }
}
