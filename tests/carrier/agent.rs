//! An agent without sensors: spool and stream.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agent_spool::{ReadLimit, Recovered, Spool, SpoolConfig, SpoolHandle, SpoolReader};
use agent_stream::{
    FrameSource, Hint, Order, OrderResult, SourceFrame, SourceLanes, SourceLimit, StreamConfig, StreamParts,
    StreamPhase, StreamState, StreamTask,
};
use fleetmend_config::HumanDuration;
use fleetmend_event::table::UnitState;
use fleetmend_event::{HostId, Mark, SpoolEpoch, TimeMicros};
use fleetmend_identity::{LiveIdentity, TrustedTime};
use fleetmend_shutdown::{BoxError, Tasks};
use fleetmend_testkit::wait_for;
use tokio::sync::{mpsc, watch};

use super::PATIENCE;

/// What `wiring.rs` of the agent does.
pub(crate) struct SpoolSource {
    pub(crate) handle: SpoolHandle,
    pub(crate) reader: SpoolReader,
}

impl FrameSource for SpoolSource {
    fn epoch(&self) -> SpoolEpoch {
        self.handle.epoch()
    }

    fn spooled(&self) -> Vec<Mark> {
        self.handle.spooled()
    }

    fn resume(&mut self, durable: &[Mark]) {
        self.reader.resume(durable);
    }

    fn acknowledge(&self, marks: &[Mark]) {
        self.handle.acknowledge(marks);
    }

    async fn next_frames(&mut self, limit: SourceLimit) -> Result<Vec<SourceFrame>, BoxError> {
        let lanes = limit.lanes;
        let limit = ReadLimit {
            frames: limit.frames,
            bytes: limit.bytes,
        };
        let frames = match lanes {
            SourceLanes::All => self.reader.next_frames(limit).await?,
            SourceLanes::Critical => self.reader.next_critical_frames(limit).await?,
        };
        Ok(frames
            .into_iter()
            .map(|frame| SourceFrame {
                id: frame.id,
                bytes: frame.bytes,
            })
            .collect())
    }

    async fn changed(&mut self) -> bool {
        self.reader.changed().await
    }
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) host: HostId,
    pub(crate) spool: SpoolHandle,
    pub(crate) recovered: Recovered,
    pub(crate) state: watch::Receiver<StreamState>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) results: mpsc::Sender<OrderResult>,
    pub(crate) hints: watch::Receiver<Hint>,
    tasks: Tasks,
}

pub(crate) fn spool_config(folder: &Path) -> SpoolConfig {
    SpoolConfig {
        folder: folder.join("spool"),
        events_flush: HumanDuration::from_millis(10),
        ..SpoolConfig::default()
    }
}

/// Waits as a test has them.
pub(crate) fn stream_config(collectors: &[String]) -> StreamConfig {
    StreamConfig {
        collectors: collectors.to_vec(),
        heartbeat: HumanDuration::from_millis(200),
        retry_first: HumanDuration::from_millis(20),
        retry_max: HumanDuration::from_millis(200),
        ..StreamConfig::default()
    }
}

impl Agent {
    pub(crate) fn start(identity: &LiveIdentity, collector: SocketAddr, folder: &Path) -> Self {
        Self::start_with(identity, collector, spool_config(folder))
    }

    pub(crate) fn start_with(identity: &LiveIdentity, collector: SocketAddr, config: SpoolConfig) -> Self {
        let stream = stream_config(&[collector.to_string()]);
        Self::start_as(identity, &TrustedTime::system(), stream, config)
    }

    /// With its own time and its own way to the collector.
    pub(crate) fn start_as(
        identity: &LiveIdentity,
        time: &Arc<TrustedTime>,
        stream: StreamConfig,
        config: SpoolConfig,
    ) -> Self {
        let tasks = Tasks::new();
        let (spool, recovered) = Spool::open(config).unwrap();
        let handle = spool.handle();
        spool.run(&tasks).unwrap();
        let dialer = stream.dialer().unwrap();
        let (orders, received) = mpsc::channel(4);
        let (results, answers) = mpsc::channel(4);
        let parts = StreamParts {
            config: stream,
            agent_version: "test".to_owned(),
            source: SpoolSource {
                handle: handle.clone(),
                reader: handle.reader(),
            },
            orders,
            results: answers,
            hints: watch::Sender::default(),
            state: watch::Sender::default(),
        };
        let (hints, state) = (parts.hints.subscribe(), parts.state.subscribe());
        let stream = StreamTask::new(parts, identity.clone(), time).unwrap();
        stream.through(dialer).spawn(&tasks.child("stream"));
        let host = identity.current().host();
        Self {
            host,
            spool: handle,
            recovered,
            state,
            orders: received,
            results,
            hints,
            tasks,
        }
    }

    pub(crate) fn append(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.spool.append(unit(number));
        }
    }

    /// Units whose text zstd cannot make small.
    pub(crate) fn append_noisy(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let noise: String = (0..64)
                .map(|_| fleetmend_event::HostId::random().to_string())
                .collect();
            self.spool.append(UnitState {
                description: noise,
                ..unit(number)
            });
        }
    }

    pub(crate) async fn flush(&self) {
        assert!(self.spool.flush().await);
    }

    pub(crate) async fn stop(self) {
        let report = self.tasks.drain(PATIENCE).await;
        assert!(report.stragglers.is_empty(), "{:?}", report.stragglers);
    }

    /// Everything is at the collector.
    pub(crate) async fn delivered(&self) {
        self.flush().await;
        let waiting = async || {
            self.spool
                .stat()
                .lanes
                .iter()
                .map(|lane| lane.waiting)
                .sum::<u64>()
        };
        wait_for(PATIENCE, waiting, |waiting| *waiting == 0)
            .await
            .unwrap();
    }

    pub(crate) async fn phase(&self, wanted: StreamPhase) -> StreamState {
        let state = async || self.state.borrow().clone();
        wait_for(PATIENCE, state, |state| state.phase == wanted)
            .await
            .unwrap()
    }
}

pub(crate) fn unit(number: u64) -> UnitState {
    UnitState {
        time: TimeMicros::now(),
        unit: format!("{number}.service"),
        description: "a unit of the test".to_owned(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        sub_state: "running".to_owned(),
        main_pid: 1,
        restart_count: 0,
        result: "success".to_owned(),
    }
}
