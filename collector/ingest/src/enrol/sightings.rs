//! Which trust bundle a host was found to hold, until it is written down.
//!
//! A host takes a bundle over together with a certificate, in one file; so whoever shows a certificate holds the
//! bundle that went with it. Sightings are collected here and written some seconds later in one transaction: a
//! thousand hosts that come back at once are not a thousand commits. What a crash loses is seen again at the next
//! connection; until then a rotation waits needlessly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fleetmend_control::{self as control, Control};
use fleetmend_event::HostId;
use fleetmend_identity::PeerIdentity;

use super::{EnrolError, hosts};

/// Hosts that wait to be written. More are seen again at their next connection.
const WAITING_MAX: usize = 100_000;

#[derive(Debug)]
enum Sighting {
    /// It showed the certificate with this serial number.
    Showed(String),
    /// It said that it holds this version.
    Said(u64),
}

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Sightings(Arc<Mutex<HashMap<HostId, Sighting>>>);

impl Sightings {
    pub(super) fn showed(&self, peer: &PeerIdentity) {
        if let Some(host) = peer.host() {
            self.put(host, Sighting::Showed(peer.serial.clone()));
        }
    }

    pub(super) fn said(&self, host: HostId, version: u64) {
        self.put(host, Sighting::Said(version));
    }

    fn put(&self, host: HostId, sighting: Sighting) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX || waiting.contains_key(&host) {
            waiting.insert(host, sighting);
        }
    }

    /// Writes down what was seen since the last time.
    ///
    /// # Cancel safety
    ///
    /// What was not written is seen again at the host's next connection.
    pub(super) async fn flush(&self, pool: &Control) -> Result<(), EnrolError> {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return Ok(());
        }
        let mut transaction = pool.begin("ingest").await?;
        for (host, sighting) in waiting {
            let query = match sighting {
                Sighting::Showed(serial) => control::query(
                    "UPDATE ingest_hosts SET bundle_seen = bundle_sent
                     WHERE host_id = $1 AND serial = $2 AND bundle_seen < bundle_sent",
                )
                .bind(host.to_string())
                .bind(serial),
                Sighting::Said(version) => control::query(
                    "UPDATE ingest_hosts SET bundle_seen = $2 WHERE host_id = $1 AND bundle_seen < $2",
                )
                .bind(host.to_string())
                .bind(hosts::stored(version)),
            };
            query.execute(&mut transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}
