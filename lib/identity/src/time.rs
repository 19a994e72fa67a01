//! Trusted time: by which certificates, leases and not-after are judged.
//!
//! The last time a collector signed, carried forward by the boot clock (which runs through suspend and is not
//! set by anybody). It is kept in a file; after a reboot the file still gives the earliest moment that it can
//! be. Until the first signed time arrives, and after a reboot until the next one, the system clock is used,
//! never earlier than that moment, and [`TimeSource`] says so.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleetmend_event::TimeMicros;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::{Context, IdentityError, SignatureError, Signed, TrustAnchors, files};

/// How much earlier than our own estimate a signed time may be before it is taken for a replay.
const BACKWARD_MAX: Duration = Duration::from_mins(5);
/// How often at most the file is written: a lost file costs only the earliest moment after a reboot.
const PERSIST_EVERY: Duration = Duration::from_mins(5);

/// The collector's present time, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTime {
    /// Now, at the collector.
    pub unix: TimeMicros,
    /// What the asker chose, hexadecimal: proof that this was signed after it asked. Empty when nobody asked.
    #[serde(default)]
    pub nonce: String,
}

/// Where a time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// Signed by a collector since this boot, carried forward by the boot clock.
    Collector,
    /// The system clock, not earlier than the last time signed before this boot.
    SystemAfterBoot,
    /// The system clock alone: no collector has signed a time yet.
    System,
}

impl TimeSource {
    /// The word for it in status output.
    pub fn as_str(self) -> &'static str {
        match self {
            TimeSource::Collector => "collector",
            TimeSource::SystemAfterBoot => "system clock, bounded by the collector's time before this boot",
            TimeSource::System => "system clock",
        }
    }
}

/// The clocks that [`TrustedTime`] reads.
pub trait Clocks: Send + Sync {
    /// The system's wall clock.
    fn wall(&self) -> TimeMicros;
    /// Time since boot, suspend included.
    fn since_boot(&self) -> Duration;
    /// What this boot is told apart by.
    fn boot_id(&self) -> String;
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClocks;

impl Clocks for SystemClocks {
    fn wall(&self) -> TimeMicros {
        TimeMicros::now()
    }

    fn since_boot(&self) -> Duration {
        let read = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = read
            .split_whitespace()
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or_default()
    }

    fn boot_id(&self) -> String {
        let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        read.trim().to_owned()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Anchor {
    unix: TimeMicros,
    since_boot: Duration,
    boot_id: String,
}

#[derive(Debug, Default)]
struct State {
    anchor: Option<Anchor>,
    persisted: Option<TimeMicros>,
}

/// See the module.
pub struct TrustedTime {
    state: Mutex<State>,
    boot_id: String,
    path: Option<PathBuf>,
    clocks: Box<dyn Clocks>,
}

impl TrustedTime {
    /// The system clock until a signed time arrives, kept nowhere: what a collector uses.
    pub fn system() -> Arc<Self> {
        Arc::new(Self::with(None, None, Box::new(SystemClocks)))
    }

    /// As [`TrustedTime::system`], over other clocks.
    pub fn over(clocks: Box<dyn Clocks>) -> Arc<Self> {
        Arc::new(Self::with(None, None, clocks))
    }

    /// Time since boot, suspend included: for durations.
    pub fn since_boot(&self) -> Duration {
        self.clocks.since_boot()
    }

    /// The system clock, whatever it shows: to be told, never to judge by.
    pub fn wall(&self) -> TimeMicros {
        self.clocks.wall()
    }

    /// Begins with what the file at `path` holds; a damaged file is the same as none.
    pub fn open(path: PathBuf) -> Result<Arc<Self>, IdentityError> {
        Self::open_with(path, Box::new(SystemClocks)).map(Arc::new)
    }

    /// As [`TrustedTime::open`], over other clocks.
    pub fn open_with(path: PathBuf, clocks: Box<dyn Clocks>) -> Result<Self, IdentityError> {
        let anchor = files::read_trusted(&path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self::with(Some(path), anchor, clocks))
    }

    fn with(path: Option<PathBuf>, anchor: Option<Anchor>, clocks: Box<dyn Clocks>) -> Self {
        let persisted = anchor.as_ref().map(|anchor| anchor.unix);
        Self {
            state: Mutex::new(State { anchor, persisted }),
            boot_id: clocks.boot_id(),
            path,
            clocks,
        }
    }

    /// The present time and where it comes from.
    pub fn now(&self) -> (TimeMicros, TimeSource) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(&state)
    }

    fn read(&self, state: &State) -> (TimeMicros, TimeSource) {
        match &state.anchor {
            None => (self.clocks.wall(), TimeSource::System),
            Some(anchor) if anchor.boot_id == self.boot_id => {
                let passed = self.clocks.since_boot().saturating_sub(anchor.since_boot);
                (anchor.unix.plus_micros(micros(passed)), TimeSource::Collector)
            }
            Some(anchor) => (self.clocks.wall().max(anchor.unix), TimeSource::SystemAfterBoot),
        }
    }

    /// Takes over a time that a collector signed; one that lies behind ours is refused as a replay. Writes the
    /// file at most every five minutes, on the calling thread.
    pub fn observe(&self, signed: &Signed<SignedTime>, anchors: &TrustAnchors) -> Result<(), TimeError> {
        let SignedTime { unix, .. } = signed.verify(anchors, Context::Time)?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, source) = self.read(&state);
        let floor = match source {
            TimeSource::Collector => now.plus_micros(micros(BACKWARD_MAX).saturating_neg()),
            TimeSource::SystemAfterBoot | TimeSource::System => {
                state.anchor.as_ref().map_or(TimeMicros(0), |anchor| anchor.unix)
            }
        };
        if unix < floor {
            return Err(TimeError::Replayed {
                signed: unix,
                ours: now,
            });
        }
        self.adopt(state, unix)
    }

    /// Takes over a time that was signed for our own fresh `nonce`: it cannot be a replay, so it may also set
    /// the time back. This is how a host with an implausible clock finds out what time it is.
    pub fn observe_answer(
        &self,
        signed: &Signed<SignedTime>,
        anchors: &TrustAnchors,
        nonce: &[u8; 16],
    ) -> Result<(), TimeError> {
        let answer = signed.verify(anchors, Context::Time)?;
        if answer.nonce != hex::encode(nonce) {
            return Err(TimeError::Nonce);
        }
        self.adopt(
            self.state.lock().unwrap_or_else(PoisonError::into_inner),
            answer.unix,
        )
    }

    fn adopt(&self, mut state: MutexGuard<'_, State>, unix: TimeMicros) -> Result<(), TimeError> {
        let anchor = Anchor {
            unix,
            since_boot: self.clocks.since_boot(),
            boot_id: self.boot_id.clone(),
        };
        let due = state
            .persisted
            .is_none_or(|last| unix.micros_since(last).abs() >= micros(PERSIST_EVERY));
        state.anchor = Some(anchor.clone());
        if let (true, Some(path)) = (due, &self.path) {
            let bytes = serde_json::to_vec(&anchor).map_err(|error| TimeError::Encode(error.to_string()))?;
            files::write_private(path, &bytes)?;
            state.persisted = Some(unix);
        }
        Ok(())
    }
}

/// A signed time was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// Not signed by a collector of the fleet.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not the answer to our question.
    #[error("the signed time answers another question than ours: it is a replay")]
    Nonce,
    /// Earlier than what is known already.
    #[error(
        "the signed time {signed} lies behind the trusted time {ours}: it is a replay, or the collector's clock was set back"
    )]
    Replayed {
        /// What was signed.
        signed: TimeMicros,
        /// What is known.
        ours: TimeMicros,
    },
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// The file's content could not be made.
    #[error("the trusted time cannot be written: {0}")]
    Encode(String),
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = Duration::from_micros(u64::try_from(self.now().0.0).ok()?);
        Some(UnixTime::since_unix_epoch(since_epoch))
    }
}

impl fmt::Debug for TrustedTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, source) = self.now();
        write!(formatter, "TrustedTime({now}, {})", source.as_str())
    }
}

#[cfg(test)]
mod tests;
