//! What became durable and was not sent yet: bounded; when it is full it is lost, and the store is read instead.

use std::collections::VecDeque;
use std::sync::Arc;

use fleetmend_event::table::{MetricChunk, Table as _};
use fleetmend_shutdown::CancellationToken;
use tokio::time::Instant;

use crate::source::{Live, LiveRows, NewRows};

/// Bytes of decoded rows that wait for one target.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// Metrics that wait for one target.
pub(crate) struct Queue {
    /// Gone once the queue is lost, so that whoever tells does not hold back what is not wanted any more.
    live: Option<Box<dyn LiveRows>>,
    waiting: VecDeque<Arc<NewRows>>,
    bytes: usize,
    lost: Option<&'static str>,
}

/// What comes next.
pub(crate) enum Next {
    Rows(Arc<NewRows>),
    /// The time is over.
    Due,
    Stopped,
    /// Something is missing; why.
    Lost(&'static str),
}

impl Queue {
    pub(crate) fn new(live: Box<dyn LiveRows>) -> Self {
        Self {
            live: Some(live),
            waiting: VecDeque::new(),
            bytes: 0,
            lost: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Takes in what comes, without an end.
    ///
    /// # Cancel safety
    /// May be dropped: what came is in the queue.
    pub(crate) async fn fill(&mut self) {
        loop {
            let Some(live) = &mut self.live else {
                return std::future::pending().await;
            };
            let told = live.next().await;
            self.put(told);
        }
    }

    fn put(&mut self, told: Live) {
        match told {
            Live::Rows(rows) if rows.table != MetricChunk::NAME => {}
            Live::Rows(rows) if rows.withheld => self.lose("withheld"),
            Live::Rows(rows) => {
                self.bytes = self.bytes.saturating_add(rows.batch.get_array_memory_size());
                self.waiting.push_back(rows);
                if self.bytes > WAITING_BYTES_MAX {
                    self.lose("queue_full");
                }
            }
            Live::Missed(_) => self.lose("missed"),
            Live::Closed => self.lose("closed"),
        }
    }

    fn lose(&mut self, reason: &'static str) {
        self.live = None;
        self.waiting.clear();
        self.bytes = 0;
        self.lost = Some(reason);
    }

    /// The next rows, until `due`.
    ///
    /// # Cancel safety
    /// May be dropped: nothing is lost.
    pub(crate) async fn next(&mut self, due: Instant, token: &CancellationToken) -> Next {
        loop {
            if token.is_cancelled() {
                return Next::Stopped;
            }
            if let Some(rows) = self.waiting.pop_front() {
                self.bytes = self.bytes.saturating_sub(rows.batch.get_array_memory_size());
                return if Instant::now() >= due {
                    self.bytes = self.bytes.saturating_add(rows.batch.get_array_memory_size());
                    self.waiting.push_front(rows);
                    Next::Due
                } else {
                    Next::Rows(rows)
                };
            }
            if let Some(reason) = self.lost {
                return Next::Lost(reason);
            }
            let Some(live) = &mut self.live else {
                return Next::Lost("closed");
            };
            let told = tokio::select! {
                biased;
                () = token.cancelled() => return Next::Stopped,
                told = live.next() => told,
                () = tokio::time::sleep_until(due) => return Next::Due,
            };
            self.put(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use fleetmend_event::table::{Finding, MetricChunk};
    use fleetmend_event::{HostId, Table, TimeMicros};

    use super::*;

    struct Told(VecDeque<Live>);

    #[async_trait]
    impl LiveRows for Told {
        async fn next(&mut self) -> Live {
            match self.0.pop_front() {
                Some(told) => told,
                None => std::future::pending().await,
            }
        }
    }

    fn rows(table: &'static str, samples: usize, withheld: bool) -> Live {
        let chunk = MetricChunk {
            name: "a".to_owned(),
            unit: "1".to_owned(),
            labels: "{}".to_owned(),
            start_time: TimeMicros(1),
            step_ms: 1,
            offset_ms: Vec::new(),
            value: vec![0.0; samples],
        };
        Live::Rows(Arc::new(NewRows {
            host: HostId::random(),
            table,
            batch: MetricChunk::to_batch(&[chunk]).unwrap(),
            withheld,
        }))
    }

    fn queue(told: impl IntoIterator<Item = Live>) -> Queue {
        Queue::new(Box::new(Told(told.into_iter().collect())))
    }

    async fn next(queue: &mut Queue) -> Next {
        let due = Instant::now() + Duration::from_secs(20);
        queue.next(due, &CancellationToken::new()).await
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_come_out_in_their_order_and_others_do_not() {
        let mut queue = queue([
            rows(Finding::NAME, 1, false),
            rows(MetricChunk::NAME, 1, false),
            rows(MetricChunk::NAME, 2, false),
        ]);
        for samples in [1, 2] {
            let Next::Rows(rows) = next(&mut queue).await else {
                panic!("rows were told")
            };
            let chunks = MetricChunk::from_batch(&rows.batch).unwrap();
            assert_eq!(chunks[0].value.len(), samples);
        }
        assert!(matches!(next(&mut queue).await, Next::Due));
    }

    #[tokio::test(start_paused = true)]
    async fn queue_that_misses_something_is_lost_and_empty() {
        let full = (0..5).map(|_| rows(MetricChunk::NAME, 1 << 20, false));
        for (told, reason) in [
            (full.collect(), "queue_full"),
            (vec![rows(MetricChunk::NAME, 1, false), Live::Missed(3)], "missed"),
            (vec![rows(MetricChunk::NAME, 1, true)], "withheld"),
            (vec![Live::Closed], "closed"),
        ] {
            let mut queue = queue(told);
            let filled = tokio::time::timeout(Duration::from_secs(1), queue.fill()).await;
            assert!(filled.is_err(), "it has no end");
            assert!(queue.is_lost() && queue.len() == 0 && queue.live.is_none());
            assert!(matches!(next(&mut queue).await, Next::Lost(lost) if lost == reason));
        }
    }
}
