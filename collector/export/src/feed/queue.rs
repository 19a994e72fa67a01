//! What became durable and was not sent yet: bounded; when it is full it is lost, and the store is read instead.

use std::collections::VecDeque;
use std::sync::Arc;

use fleetmend_event::table::{MetricChunk, Table as _};
use fleetmend_shutdown::CancellationToken;
use tokio::time::Instant;

use super::late::Late;
use crate::source::{Live, LiveRows, NewRows};

/// Bytes of decoded rows that wait for one target.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// Metrics that wait for one target.
pub(crate) struct Queue {
    live: Box<dyn LiveRows>,
    /// Hears of what is not taken in.
    late: Late,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Whether the store is being read.
    reading: bool,
    lost: Option<&'static str>,
    closed: bool,
}

/// Rows, and whether they came while the store was read.
pub(crate) struct Waiting {
    pub(crate) rows: Arc<NewRows>,
    pub(crate) again: bool,
}

/// What comes next.
pub(crate) enum Next {
    Rows(Waiting),
    /// The time is over.
    Due,
    Stopped,
    /// Something is missing; why.
    Lost(&'static str),
}

impl Queue {
    pub(crate) fn new(live: Box<dyn LiveRows>, late: Late) -> Self {
        Self {
            live,
            late,
            waiting: VecDeque::new(),
            bytes: 0,
            reading: false,
            lost: None,
            closed: false,
        }
    }

    /// The store is going to be read: what is told from now on waits.
    pub(crate) fn begin_reading(&mut self) {
        self.lose("reading");
        (self.reading, self.lost) = (true, None);
    }

    /// The store is not read any more.
    pub(crate) fn end_reading(&mut self) {
        self.reading = false;
        self.late.rests();
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Whether nothing more will be told.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes in what comes, without an end.
    ///
    /// # Cancel safety
    /// May be dropped: what came is in the queue.
    pub(crate) async fn fill(&mut self) {
        while !self.closed {
            let told = self.live.next().await;
            self.put(told);
        }
        std::future::pending().await
    }

    fn put(&mut self, told: Live) {
        match told {
            Live::Rows(rows) if rows.table != MetricChunk::NAME => {}
            Live::Rows(rows) if rows.withheld => self.lose("withheld"),
            Live::Rows(rows) => {
                if self.reading || self.is_lost() {
                    self.late.told(&rows, false);
                }
                if self.is_lost() {
                    return;
                }
                self.bytes = self.bytes.saturating_add(rows.batch.get_array_memory_size());
                let again = self.reading;
                self.waiting.push_back(Waiting { rows, again });
                if self.bytes > WAITING_BYTES_MAX {
                    self.lose("queue_full");
                }
            }
            Live::Missed(_) => self.lose("missed"),
            Live::Closed => {
                self.closed = true;
                self.lose("closed");
            }
        }
    }

    /// Forgets what waits, for the store to be read instead.
    pub(crate) fn lose(&mut self, reason: &'static str) {
        for waiting in self.waiting.drain(..) {
            self.late.told(&waiting.rows, waiting.again);
        }
        self.bytes = 0;
        self.lost.get_or_insert(reason);
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
            if Instant::now() >= due && !self.waiting.is_empty() {
                return Next::Due;
            }
            if let Some(waiting) = self.waiting.pop_front() {
                let bytes = waiting.rows.batch.get_array_memory_size();
                self.bytes = self.bytes.saturating_sub(bytes);
                return Next::Rows(waiting);
            }
            if let Some(reason) = self.lost {
                return Next::Lost(reason);
            }
            let told = tokio::select! {
                biased;
                () = token.cancelled() => return Next::Stopped,
                told = self.live.next() => told,
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
    use crate::feed::late::Marks;

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
        let told = Told(told.into_iter().collect());
        Queue::new(Box::new(told), crate::feed::late::tests::late(&Marks::default()))
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
            let Next::Rows(waiting) = next(&mut queue).await else {
                panic!("rows were told")
            };
            let chunks = MetricChunk::from_batch(&waiting.rows.batch).unwrap();
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
            assert!(queue.is_lost() && queue.waiting.is_empty() && queue.bytes == 0);
            assert!(matches!(next(&mut queue).await, Next::Lost(lost) if lost == reason));
        }
    }
}
