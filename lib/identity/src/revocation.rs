//! Which hosts are revoked, for the TLS verifier and for streams that are already open.

use std::collections::HashSet;
use std::sync::Arc;

use fleetmend_event::HostId;
use tokio::sync::watch;

use crate::{Fingerprint, PeerIdentity};

/// The revoked hosts, by id and by key. Bounded by the number of hosts ever enrolled: the list is loaded from
/// the collector's table of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedSet {
    hosts: HashSet<HostId>,
    keys: HashSet<Fingerprint>,
}

impl RevokedSet {
    /// Adds a host and its key.
    pub fn insert(&mut self, host: HostId, key: Fingerprint) {
        self.hosts.insert(host);
        self.keys.insert(key);
    }

    /// Whether the peer's key or host id is revoked: a new certificate for either changes nothing.
    pub fn contains(&self, peer: &PeerIdentity) -> bool {
        self.keys.contains(&peer.key) || peer.host().is_some_and(|host| self.hosts.contains(&host))
    }

    /// How many hosts are revoked.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// The present [`RevokedSet`], shared: written by the enroller, read by every handshake, watched by streams.
#[derive(Debug, Clone)]
pub struct Revocations(watch::Sender<Arc<RevokedSet>>);

impl Default for Revocations {
    fn default() -> Self {
        Self::new(RevokedSet::default())
    }
}

impl Revocations {
    /// Starts with a set.
    pub fn new(set: RevokedSet) -> Self {
        Self(watch::Sender::new(Arc::new(set)))
    }

    /// Replaces the set.
    pub fn publish(&self, set: RevokedSet) {
        self.0.send_replace(Arc::new(set));
    }

    /// Adds what is missing of a set. Nobody who watches is woken when nothing is.
    pub fn add(&self, set: &RevokedSet) {
        self.0.send_if_modified(|present| {
            let is_new = !(set.hosts.is_subset(&present.hosts) && set.keys.is_subset(&present.keys));
            if is_new {
                let present = Arc::make_mut(present);
                present.hosts.extend(&set.hosts);
                present.keys.extend(set.keys.iter().cloned());
            }
            is_new
        });
    }

    /// Adds one host.
    pub fn revoke(&self, host: HostId, key: Fingerprint) {
        self.0.send_modify(|set| Arc::make_mut(set).insert(host, key));
    }

    /// The present set.
    pub fn current(&self) -> Arc<RevokedSet> {
        self.0.borrow().clone()
    }

    /// Returns when `peer` is revoked, at once if it already is; a stream selects on it and closes.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn revoked(&self, peer: &PeerIdentity) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so the wait cannot end because it is gone.
        if receiver.wait_for(|set| set.contains(peer)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
