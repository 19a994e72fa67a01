//! Samples that come later than newer ones, while their target is away and the queue to it is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use collector_export::{FactSource, Live, LiveRows, RowSpan, SampleSpan, Series, SourceError};
use fleetmend_event::{HostId, HostScope, TimeMicros};
use fleetmend_testkit::wait_for;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::receiver::Fault;
use crate::testbed::{DEADLINE, Testbed, lately};

/// A source that misses something when it is told to.
struct Missing {
    source: Arc<dyn FactSource>,
    misses: Arc<Notify>,
}

struct MissingLive {
    live: Box<dyn LiveRows>,
    misses: Arc<Notify>,
}

#[async_trait]
impl LiveRows for MissingLive {
    async fn next(&mut self) -> Live {
        tokio::select! {
            biased;
            () = self.misses.notified() => Live::Missed(1),
            told = self.live.next() => told,
        }
    }
}

#[async_trait]
impl FactSource for Missing {
    fn live(&self) -> Box<dyn LiveRows> {
        Box::new(MissingLive {
            live: self.source.live(),
            misses: self.misses.clone(),
        })
    }

    fn tells_all(&self) -> bool {
        self.source.tells_all()
    }

    async fn hosts(&self) -> Result<BTreeMap<HostId, Option<String>>, SourceError> {
        self.source.hosts().await
    }

    async fn samples(&self, span: SampleSpan) -> Result<Vec<Series>, SourceError> {
        self.source.samples(span).await
    }

    async fn rows(
        &self,
        table: &str,
        span: RowSpan,
        scope: &HostScope,
        rows_max: usize,
    ) -> Result<(Vec<RecordBatch>, bool), SourceError> {
        self.source.rows(table, span, scope, rows_max).await
    }

    async fn gaps(
        &self,
        table: &str,
        from: TimeMicros,
        to: TimeMicros,
        scope: &HostScope,
    ) -> Result<Vec<Value>, SourceError> {
        self.source.gaps(table, from, to, scope).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_samples_of_a_lost_queue_are_sent_or_counted() {
    let mut testbed = Testbed::start().await;
    let misses = Arc::new(Notify::new());
    testbed.source = Arc::new(Missing {
        source: testbed.source.clone(),
        misses: misses.clone(),
    });
    let config = testbed.remote_write(json!({ "backfill": "1h" }));
    let begin = lately();
    let running = testbed.run(&config).await;
    testbed.add([begin]).await;
    testbed.arrived([begin]).await;
    let mode = async |mode: &str| {
        let signal = async || testbed.signal(&running).await;
        wait_for(DEADLINE, signal, |signal| signal.mode == mode)
            .await
            .unwrap();
    };
    mode("live").await;

    testbed.receiver.fail_always(Some(Fault::Status(503)));
    testbed.add([begin + 1_000]).await;
    mode("waiting").await;
    misses.notify_one();
    // Long before what reading begins with: the target has newer ones of the first, and none of the second.
    testbed.add_one("system.load.1m", begin - 600_000).await;
    testbed.add_one("late.series", begin - 900_000).await;
    let counted = wait_for(
        DEADLINE,
        async || testbed.signal(&running).await.dropped,
        |dropped| *dropped == 1,
    );
    counted.await.unwrap();
    testbed.receiver.fail_always(None);
    let late = wait_for(
        DEADLINE,
        async || testbed.receiver.samples(),
        |samples| {
            samples
                .keys()
                .any(|(labels, at)| labels.contains("late_series") && *at == begin - 900_000)
        },
    );
    let samples = late.await.unwrap();
    assert!(samples.values().all(|values| values.len() == 1), "{samples:?}");
    assert!(samples.keys().all(|(_, at)| *at != begin - 600_000));
    mode("live").await;
    assert_eq!(testbed.signal(&running).await.dropped, 1);
    running.end().await;
}
