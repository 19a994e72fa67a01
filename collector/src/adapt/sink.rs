//! The store, as ingest writes to it.

use std::sync::Arc;

use async_trait::async_trait;
use collector_api::LiveHost;
use collector_ingest::{DurableSink, HostsLive, SinkError, TimedFrame};
use collector_store::{ClockAhead, CommitError, FactStore};
use fleetmend_event::table::Gap;
use fleetmend_event::{HostId, Mark, RecordId, TimeMicros};

/// Commits to the store.
pub(crate) struct SinkAdapter(pub(crate) Arc<dyn FactStore>);

fn sink_error(error: CommitError) -> SinkError {
    match error {
        CommitError::OutOfOrder { id, expected, .. } => SinkError::OutOfOrder { id, expected },
        CommitError::Conflict { id } => SinkError::Conflict { id },
        CommitError::Busy { waited } => SinkError::Late { after: waited },
        CommitError::Reserved => SinkError::Refused {
            reason: error.to_string(),
        },
        CommitError::Unavailable { .. }
        | CommitError::Closed
        | CommitError::Newer { .. }
        | CommitError::Encode { .. } => SinkError::Unavailable {
            reason: error.to_string(),
        },
    }
}

#[async_trait]
impl DurableSink for SinkAdapter {
    async fn commit(
        &self,
        host: HostId,
        frames: Vec<TimedFrame>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, SinkError> {
        let timed = |timed: TimedFrame| (timed.frame, ClockAhead::from_micros(timed.clock_ahead_us));
        self.0
            .commit_timed(host, frames.into_iter().map(timed).collect(), gaps)
            .await
            .map_err(sink_error)
    }

    fn declare_lost(&self, host: HostId, id: RecordId) {
        self.0.declare_lost(host, id);
    }

    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, SinkError> {
        self.0.marks(host).await.map_err(sink_error)
    }

    fn last_durable(&self, host: HostId) -> Option<TimeMicros> {
        self.0.last_durable(host)
    }

    fn store_epoch(&self) -> [u8; 16] {
        self.0.epoch()
    }
}

/// Who is connected, as the API shows it.
pub(crate) struct LiveHostsAdapter(pub(crate) HostsLive);

impl collector_api::HostsLive for LiveHostsAdapter {
    fn live_hosts(&self) -> Vec<LiveHost> {
        let view = |host: collector_ingest::LiveHost| LiveHost {
            host_id: host.host,
            connected_since: host.connected_since,
            remote_address: Some(host.address.to_string()),
            last_seen: Some(host.last_seen),
            clock_ahead_ms: host.clock_ahead_ms,
        };
        self.0.snapshot().into_iter().map(view).collect()
    }
}
