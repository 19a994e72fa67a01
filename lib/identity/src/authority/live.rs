//! The authority of a running collector, which a rotation replaces without a restart.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fleetmend_event::TimeMicros;

use super::CollectorAuthority;

/// The present authority, shared: read at every handshake and at every certificate. Clones are the same one.
#[derive(Debug, Clone)]
pub struct LiveAuthority {
    present: Arc<RwLock<Arc<CollectorAuthority>>>,
    /// When the TLS certificate that the listeners show ends, in µs; 0 before the first handshake.
    own_not_after: Arc<AtomicI64>,
}

impl LiveAuthority {
    /// Begins with `authority`.
    pub fn new(authority: Arc<CollectorAuthority>) -> Self {
        Self {
            present: Arc::new(RwLock::new(authority)),
            own_not_after: Arc::default(),
        }
    }

    /// The present authority.
    pub fn current(&self) -> Arc<CollectorAuthority> {
        self.present
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes `authority` the present one: for the next handshake and the next certificate.
    pub fn replace(&self, authority: Arc<CollectorAuthority>) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = authority;
    }

    /// When the TLS certificate that the listeners show ends; `None` before the first handshake.
    pub fn own_not_after(&self) -> Option<TimeMicros> {
        Some(TimeMicros(self.own_not_after.load(Ordering::Relaxed))).filter(|time| time.0 != 0)
    }

    pub(crate) fn shows_until(&self, not_after: TimeMicros) {
        self.own_not_after.store(not_after.0, Ordering::Relaxed);
    }
}

impl From<Arc<CollectorAuthority>> for LiveAuthority {
    fn from(authority: Arc<CollectorAuthority>) -> Self {
        Self::new(authority)
    }
}

impl From<&Arc<CollectorAuthority>> for LiveAuthority {
    fn from(authority: &Arc<CollectorAuthority>) -> Self {
        Self::new(authority.clone())
    }
}

impl From<&LiveAuthority> for LiveAuthority {
    fn from(authority: &LiveAuthority) -> Self {
        authority.clone()
    }
}
