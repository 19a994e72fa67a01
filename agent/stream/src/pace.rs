//! The cap on what leaves the host: a token bucket in bytes.
//!
//! Everything that is sent is charged, with an estimate of what HTTP/2 and TLS add. Frames of the events and
//! metrics lanes wait until the bucket holds something; the critical lane, heartbeats and answers are charged and
//! never wait, so the bucket may be overdrawn, and what follows waits the longer. Over any span of t seconds with
//! no more than that in the critical lane at most `rate · t + burst` bytes and one message leave.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes that HTTP/2, gRPC and TLS add to each message, and to each 16 KiB of it: two frame headers, a record.
const MESSAGE_OVERHEAD: u64 = 64;
const BLOCK_BYTES: u64 = 16 * 1024;
const BLOCK_OVERHEAD: u64 = 40;

/// The bucket; without a rate it never holds anything back.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: Option<Limit>,
    /// Bytes; below 0 when overdrawn.
    balance: f64,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes_per_s: f64,
    burst: f64,
}

impl Pace {
    /// A full bucket.
    pub(crate) fn new(bytes_per_s: Option<u64>, burst: u64) -> Self {
        let limit = bytes_per_s.map(|rate| Limit {
            bytes_per_s: float(rate.max(1)),
            burst: float(burst.max(1)),
        });
        Self {
            limit,
            balance: limit.map_or(0.0, |limit| limit.burst),
            at: Instant::now(),
        }
    }

    /// How long lanes other than the critical have to wait; zero when they need not.
    pub(crate) fn wait(&mut self) -> Duration {
        let Some(limit) = self.limit else {
            return Duration::ZERO;
        };
        self.refill(limit);
        if self.balance >= 1.0 {
            return Duration::ZERO;
        }
        // Some more than nothing: a message of a few bytes is not worth its headers.
        let worth = (limit.bytes_per_s / 10.0).min(limit.burst / 2.0).max(1.0);
        Duration::from_secs_f64((worth - self.balance) / limit.bytes_per_s)
    }

    /// How many bytes the next message should have at most; the first frame goes whatever its size.
    pub(crate) fn room(&mut self) -> usize {
        let Some(limit) = self.limit else {
            return usize::MAX;
        };
        self.refill(limit);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a few MiB; a float becomes the nearest integer"
        )]
        let room = self.balance.clamp(1.0, f64::from(u32::MAX)) as usize;
        room
    }

    /// Takes a message of that many bytes out; what it was with its overhead.
    pub(crate) fn charge(&mut self, bytes: usize) -> u64 {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let blocks = bytes / BLOCK_BYTES + 1;
        let bytes = bytes.saturating_add(MESSAGE_OVERHEAD + blocks.saturating_mul(BLOCK_OVERHEAD));
        if let Some(limit) = self.limit {
            self.refill(limit);
            self.balance -= float(bytes);
        }
        bytes
    }

    fn refill(&mut self, limit: Limit) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.balance = (self.balance + passed * limit.bytes_per_s).min(limit.burst);
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of seconds, far below 2^52")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;
