//! The bytes of messages that all streams together may have in memory.
//!
//! A message takes its room before its first byte is read, by the length it states, and gives it back when its
//! records are durable or refused. Who has room needs no more of it, so nobody waits for somebody who waits. Room is
//! given in the order in which it was asked for, and a stream asks for one message at a time: a host that sends
//! much waits as often as it sends. A part is held back for small messages, in which the critical lane travels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A message up to this size may take from what is held back.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;
/// A message up to this size takes no room: there is at most one for each stream.
pub(crate) const FREE_BYTES: usize = 1024;
/// The least that may be set: two of the largest messages.
pub(crate) const BUDGET_BYTES_MIN: u32 = 16 << 20;
/// Part of the budget that is held back for small messages.
const RESERVE_PART: u32 = 8;
/// Most and least bytes of frames that a stream may send ahead of its acknowledgements. The least holds two of the
/// largest frames.
const CREDIT_BYTES: (u64, u64) = (512 * 1024, 2 * 1024 * 1024);

/// The budget; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    common: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    common_max: u32,
    bytes_max: u32,
    taken: AtomicUsize,
    most: AtomicUsize,
}

/// Room of one message; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Room {
    inner: Arc<Inner>,
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes_max: u32) -> Self {
        let reserve = bytes_max / RESERVE_PART;
        let common_max = bytes_max.saturating_sub(reserve);
        let semaphore = |bytes: u32| Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(usize::MAX)));
        Self {
            inner: Arc::new(Inner {
                common: semaphore(common_max),
                reserve: semaphore(reserve),
                common_max,
                bytes_max,
                taken: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            }),
        }
    }

    /// Waits for room for a message of `bytes`; `None` when it takes none.
    ///
    /// # Cancel safety
    /// A dropped wait takes nothing and loses its place.
    pub(crate) async fn room(&self, bytes: usize) -> Option<Room> {
        if bytes <= FREE_BYTES {
            return None;
        }
        let inner = self.inner.clone();
        let asked = u32::try_from(bytes).unwrap_or(u32::MAX).min(inner.common_max);
        let common = inner.common.clone().acquire_many_owned(asked);
        let permit = if bytes <= SMALL_BYTES {
            let reserve = inner.reserve.clone().acquire_many_owned(asked);
            tokio::select! {
                biased;
                permit = common => permit,
                permit = reserve => permit,
            }
        } else {
            common.await
        };
        // Neither semaphore is ever closed.
        let permit = permit.ok()?;
        let taken = inner
            .taken
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        inner.most.fetch_max(taken, Ordering::Relaxed);
        crate::metrics::in_flight(taken);
        Some(Room {
            inner,
            bytes,
            _permit: permit,
        })
    }

    /// Bytes of frames that one of `streams` streams may send ahead of its acknowledgements.
    pub(crate) fn credit(&self, streams: usize) -> u64 {
        let (least, most) = CREDIT_BYTES;
        let streams = u64::try_from(streams).unwrap_or(u64::MAX).max(1);
        (u64::from(self.inner.common_max) / streams).clamp(least, most)
    }

    /// Most bytes that were taken at once.
    pub(crate) fn most_taken(&self) -> usize {
        self.inner.most.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken at once.
    pub(crate) fn bytes_max(&self) -> u32 {
        self.inner.bytes_max
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let before = self.inner.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        crate::metrics::in_flight(before.saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn room_is_never_more_than_the_budget_and_is_given_in_order() {
        let budget = Budget::new(BUDGET_BYTES_MIN);
        let mut rooms = Vec::new();
        while let Some(room) = budget.room(4 * MIB).now_or_never() {
            rooms.push(room);
        }
        assert_eq!(rooms.len(), 3, "an eighth of sixteen is held back");
        let mut waiting = wait_for_room(budget.clone(), 4 * MIB);
        let mut later = wait_for_room(budget.clone(), MIB);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(
            later.as_mut().now_or_never().is_none(),
            "the smaller one does not overtake"
        );
        rooms.pop();
        let room = waiting.as_mut().now_or_never().flatten();
        assert!(room.is_some() && budget.most_taken() <= 14 * MIB);
    }

    #[tokio::test]
    async fn small_message_finds_room_when_large_ones_have_taken_all() {
        let budget = Budget::new(BUDGET_BYTES_MIN);
        let mut rooms = Vec::new();
        while let Some(room) = budget.room(MIB).now_or_never() {
            rooms.push(room);
        }
        assert!(budget.room(SMALL_BYTES).now_or_never().flatten().is_some());
        assert!(
            budget
                .room(FREE_BYTES)
                .now_or_never()
                .is_some_and(|room| room.is_none())
        );
        let small: Vec<_> =
            std::iter::from_fn(|| budget.room(SMALL_BYTES).now_or_never().flatten()).collect();
        assert_eq!(small.len(), 2 * MIB / SMALL_BYTES, "and those are bounded too");
        assert!(budget.most_taken() <= BUDGET_BYTES_MIN as usize);
    }

    #[test]
    fn credit_shrinks_with_the_number_of_streams_and_holds_two_frames() {
        let budget = Budget::new(128 << 20);
        assert_eq!(budget.credit(0), 2 << 20);
        assert_eq!(budget.credit(112), 1 << 20);
        assert_eq!(budget.credit(100_000), 512 << 10);
    }

    type Waiting = std::pin::Pin<Box<dyn Future<Output = Option<Room>> + Send>>;

    fn wait_for_room(budget: Budget, bytes: usize) -> Waiting {
        Box::pin(async move { budget.room(bytes).await })
    }
}
