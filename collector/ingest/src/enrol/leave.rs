//! Leaving the fleet: by the host itself, or by order of an operator.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fleetmend_event::HostId;
use fleetmend_identity::PeerIdentity;

use super::{AuditKind, EnrolError, Enroller, HOSTS, HostFacts, Refusal, hosts};

/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 200;

impl Enroller {
    /// Takes a host out of the fleet: revokes it, closes its streams, and counts it no longer. What it sent stays.
    /// Asked again it changes nothing. False when there is no such host.
    ///
    /// # Cancel safety
    ///
    /// Either nothing happened, or the host is removed and asking again finishes what follows.
    pub async fn remove_host(&self, host: HostId, reason: &str) -> Result<bool, EnrolError> {
        let now = self.now();
        let mut transaction = self.inner.pool.begin("ingest").await?;
        let Some(key) = hosts::remove(&mut transaction, host, now).await? else {
            return Ok(false);
        };
        transaction.signal(HOSTS).await?;
        transaction.commit().await?;
        self.inner.revocations.revoke(host, key);
        tracing::info!(%host, reason, "host removed");
        self.audit()
            .noted(AuditKind::Removed, None, Some(host), reason)
            .await;
        Ok(true)
    }

    /// Every host that left the fleet or was taken out of it.
    ///
    /// # Errors
    /// When the control database is away.
    pub async fn removed_hosts(&self) -> Result<BTreeSet<HostId>, EnrolError> {
        hosts::removed(&self.inner.pool).await
    }

    /// The host that shows this certificate leaves the fleet by itself.
    ///
    /// # Cancel safety
    ///
    /// As [`Enroller::remove_host`].
    pub async fn unenrol(&self, source: IpAddr, peer: &PeerIdentity, reason: &str) -> Result<(), Refusal> {
        let outcome = self.try_unenrol(peer).await;
        let host = self
            .settle(AuditKind::Unenrolled, source, peer.host(), outcome)
            .await?;
        self.inner.revocations.revoke(host, peer.key);
        tracing::info!(%host, %source, "host left the fleet");
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        let detail = format!("left: {reason}");
        self.audit()
            .noted(AuditKind::Unenrolled, Some(source), Some(host), &detail)
            .await;
        Ok(())
    }

    async fn try_unenrol(&self, peer: &PeerIdentity) -> Result<HostId, Refusal> {
        let host = peer.host().ok_or(Refusal::NotAHost)?;
        let now = self.now();
        let mut transaction = self.write().await?;
        match hosts::by_id(&mut transaction, host).await? {
            // A certificate of a key that the host no longer has takes nobody out.
            Some(known) if known.key != peer.key => return Err(Refusal::OtherKey),
            Some(_) => {}
            // Our own issuer vouches for it: these tables were restored from before it enrolled, and must know its
            // key to refuse it.
            None => hosts::put(&mut transaction, host, peer, &HostFacts::default(), now, 0).await?,
        }
        hosts::remove(&mut transaction, host, now).await?;
        transaction.signal(HOSTS).await?;
        transaction.commit().await?;
        Ok(host)
    }
}
