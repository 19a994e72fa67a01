//! Where an agent goes when its collector sends it away, and when.

use std::time::Duration;

use fleetmend_event::{Mark, SpoolEpoch};
use fleetmend_identity::TrustedTime;
use fleetmend_shutdown::{Backoff, BoxError};
use fleetmend_testkit::TestFleet;
use tokio::sync::{mpsc, watch};

use crate::error::StreamError;
use crate::{
    FrameSource, Hint, SourceFrame, SourceLimit, StreamConfig, StreamParts, StreamState, StreamTask,
};

struct Nothing;

impl FrameSource for Nothing {
    fn epoch(&self) -> SpoolEpoch {
        SpoolEpoch::random()
    }

    fn spooled(&self) -> Vec<Mark> {
        Vec::new()
    }

    fn resume(&mut self, _: &[Mark]) {}

    fn acknowledge(&self, _: &[Mark]) {}

    async fn next_frames(&mut self, _: SourceLimit) -> Result<Vec<SourceFrame>, BoxError> {
        Ok(Vec::new())
    }

    async fn changed(&mut self) -> bool {
        std::future::pending().await
    }
}

/// The waits of a fleet whose collectors all say goodbye at once.
fn waits(collectors: usize, retry_after: Duration) -> Vec<Duration> {
    let identity = TestFleet::new().unwrap().host().unwrap();
    let config = StreamConfig {
        collectors: (0..collectors).map(|number| format!("c{number}:7444")).collect(),
        ..StreamConfig::default()
    };
    let wait = |_| {
        let parts = StreamParts {
            config: config.clone(),
            agent_version: "test".to_owned(),
            source: Nothing,
            orders: mpsc::channel(1).0,
            results: mpsc::channel(1).1,
            hints: watch::Sender::new(Hint::default()),
            state: watch::Sender::new(StreamState::default()),
        };
        let mut task = StreamTask::new(parts, identity.clone(), &TrustedTime::system()).unwrap();
        let goodbye = StreamError::Goodbye {
            reason: "the collector is stopping".to_owned(),
            retry_after,
            retry: true,
            self_contained: false,
        };
        let mut backoff = Backoff::new(config.retry_first.get(), config.retry_max.get());
        task.after(&goodbye, &mut backoff)
    };
    (0..2_000).map(wait).collect()
}

#[test]
fn a_fleet_that_is_sent_away_does_not_come_at_once() {
    let retry_after = Duration::from_secs(2);
    let spread = waits(2, retry_after);
    let longest = retry_after + StreamConfig::default().retry_first.get();
    assert!(spread.iter().all(|wait| *wait <= longest));
    // With another collector the wait is spread over the whole of what was asked, and nobody waits for its end.
    let early = spread.iter().filter(|wait| **wait < retry_after / 2).count();
    assert!((600..1_200).contains(&early), "{early} of 2000 in the first half");
    for begin in 0..20 {
        let from = Duration::from_millis(begin * 100);
        let there = |wait: &&Duration| **wait >= from && **wait < from + Duration::from_millis(100);
        let count = spread.iter().filter(there).count();
        assert!(count < 220, "{count} of 2000 in 100 ms from {from:?}");
    }
    // The only collector is given the time that it asked for.
    let alone = waits(1, retry_after);
    assert!(alone.iter().all(|wait| *wait >= retry_after && *wait <= longest));
}
