//! Enrolment: one-use tokens become hosts, hosts get their certificates renewed, recovered and revoked.
//!
//! [`Enroller`] is the one owner of the tables `ingest_enrolment_tokens`, `ingest_enrolments`, `ingest_hosts`
//! and `ingest_audit`. It is served on the enrolment listener ([`serve`]) and called by the carrier for
//! renewals; its [`Revocations`] are what the TLS verifier and the open streams look at.
//!
//! # Invariants
//!
//! - A token is looked up by the hash of its secret; the secret itself is stored nowhere. Taking a use and
//!   making the host is one transaction: a token of one use makes one host, however many ask at once.
//! - Asking again with the same key and the same token (an answer that was lost) gives the same host id and
//!   takes no further use. The same key with another token keeps its host id too: the key is the identity.
//! - A revoked key never gets a certificate again, whatever token it shows.
//! - Every refusal is a row of the audit, with the source address and never with a secret. Rows and the rate
//!   at which they are written are bounded; what was left out is counted.
//! - A source that was refused too often is not listened to for the rest of the minute. Requests that succeed
//!   are not limited, so a thousand hosts behind one address can enrol at once.
//!
//! - Which trust bundle a host holds is known: it went with the certificate that the host shows, or the host
//!   says so when it asks. A rotation of keys waits for that ([`Standing`]).
//! - A host that leaves ([`Enroller::unenrol`]) or is taken out ([`Enroller::remove_host`]) is revoked and no longer
//!   counted; its data and its rows in the audit stay.
//! - Two agents of one identity are a finding of the host, until an hour passed without their taking turns
//!   ([`spawn_alarms`]).
//! - The keys are read again when a rotation replaced them in their folder, without a restart.
//!
//! # The collector's clock
//!
//! Nobody stands above it: certificates are judged and dated by it. A clock that is wrong by up to an hour is not
//! noticed by anybody. One that is behind by more lets the fleet follow it (hosts ask the time); one that is ahead
//! by more than a certificate's life and the grace refuses every host until it is set right, and then all come
//! back by themselves, because the grace counts from the latest end that a certificate of the host ever had.
//! Tokens are judged by it too: those that ended under a clock that was ahead are good again after it. A host that
//! was given a certificate under a clock ahead may recover for that much longer. Jumps are audited.
//!
//! # Several collectors, and a control database that is away
//!
//! Collectors that share a control database in PostgreSQL are one enroller: what one takes from a token is taken for
//! all, and a host that one revokes is refused, and its streams closed, by the others at once (the signal
//! `ingest.hosts`; the set of revoked hosts only grows). While the database is away, whoever has a certificate is let
//! in and streams on, judged by what was last read; enrolment, renewal, recovery, revocation and the lists are refused
//! as unavailable, rows of the audit are in the log instead, and findings about hosts wait.
//!
//! # What is thin
//!
//! Keys are not rotated at renewal: the same key gets a new certificate. Tokens carry no policy (group, name).

mod alarm;
mod audit;
mod config;
mod ends;
mod hosts;
mod leave;
mod limit;
mod metrics;
mod refusal;
mod schema;
mod service;
mod sightings;
mod standing;
mod tokens;
mod upkeep;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_control::{Control, Transaction};
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::authority::{HostRequest, IssuedCertificate};
use fleetmend_identity::{
    CollectorAuthority, EnrolmentToken, IdentityError, LiveAuthority, PeerIdentity, Revocations, TokenSecret,
    TrustedTime, tls,
};
use rustls::ServerConfig;

pub use alarm::{FindingSink, spawn_alarms};
pub use audit::{Audit, AuditKind, AuditRow};
pub use config::EnrolConfig;
pub use ends::{KeyEnd, KeyKind};
pub use hosts::EnrolledHost;
pub use refusal::{EnrolError, Refusal};
pub use schema::TABLES;
pub use service::serve;
pub use standing::{Laggard, Standing};
pub use tokens::{TokenState, token_id};

/// Signal that hosts were revoked or removed.
const HOSTS: &str = "ingest.hosts";

/// Issues tokens and certificates; see the module. Clones are the same enroller.
#[derive(Debug, Clone)]
pub struct Enroller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Control,
    authority: LiveAuthority,
    time: Arc<TrustedTime>,
    revocations: Revocations,
    audit: Audit,
    limiter: limit::RefusalLimiter,
    config: EnrolConfig,
}

/// A host that was just enrolled.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Its id.
    pub host: HostId,
    /// Its certificate.
    pub certificate: IssuedCertificate,
}

/// What an enrolling host says of itself: for people, never for trust.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// Salted digest of its machine id.
    pub machine_id_digest: String,
}

impl Enroller {
    /// Makes the tables that are missing and loads the revoked hosts. The database must keep its promises over
    /// a power cut, or a used token can come back.
    pub async fn open(
        pool: Control,
        authority: Arc<CollectorAuthority>,
        config: EnrolConfig,
    ) -> Result<Self, EnrolError> {
        Self::open_with(pool, authority, config, TrustedTime::system()).await
    }

    /// As [`Enroller::open`], with another time than the system's.
    pub async fn open_with(
        pool: Control,
        authority: Arc<CollectorAuthority>,
        config: EnrolConfig,
        time: Arc<TrustedTime>,
    ) -> Result<Self, EnrolError> {
        metrics::describe();
        schema::migrate(&pool).await?;
        let revocations = Revocations::new(hosts::revoked(&pool).await?);
        let audit = Audit::new(pool.clone(), config.audit_rows_max, time.clone());
        let limiter = limit::RefusalLimiter::new(config.refusals_per_minute);
        let inner = Inner {
            pool,
            authority: authority.into(),
            time,
            revocations,
            audit,
            limiter,
            config,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// A new token for `uses` hosts, good for `lifetime`, that the user `by` asked for. Shown once; only the hash
    /// of its secret is kept.
    pub async fn issue_token(
        &self,
        by: &str,
        lifetime: Duration,
        uses: u32,
    ) -> Result<EnrolmentToken, EnrolError> {
        let secret = TokenSecret::generate();
        let token = EnrolmentToken::new(
            &self.inner.config.address,
            self.authority().root_fingerprint(),
            secret,
        )?;
        let now = self.now();
        tokens::insert(
            &self.inner.pool,
            &token.secret().digest(),
            by,
            now,
            later(now, lifetime),
            uses,
        )
        .await?;
        tracing::info!(
            token = token_id(&token),
            by,
            uses,
            ?lifetime,
            "enrolment token issued"
        );
        Ok(token)
    }

    /// The tokens that were issued, newest first, without their secrets.
    pub async fn tokens(&self) -> Result<Vec<TokenState>, EnrolError> {
        tokens::all(&self.inner.pool).await
    }

    /// Makes a token worthless; false when there is none with this id.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, EnrolError> {
        tokens::revoke(&self.inner.pool, id, self.now()).await
    }

    /// The enrolled hosts, revoked ones included, in the order of their enrolment.
    pub async fn hosts(&self) -> Result<Vec<EnrolledHost>, EnrolError> {
        hosts::all(&self.inner.pool).await
    }

    /// Revokes a host: its certificate is refused from now on and its streams are closed. False when there is
    /// no such host.
    pub async fn revoke_host(&self, host: HostId, reason: &str) -> Result<bool, EnrolError> {
        let mut transaction = self.inner.pool.begin("ingest").await?;
        let Some(key) = hosts::revoke(&mut transaction, host, self.now()).await? else {
            return Ok(false);
        };
        transaction.signal(HOSTS).await?;
        transaction.commit().await?;
        self.inner.revocations.revoke(host, key);
        tracing::info!(%host, reason, "host revoked");
        self.inner
            .audit
            .noted(AuditKind::Revoked, None, Some(host), reason)
            .await;
        Ok(true)
    }

    /// What the TLS verifier and the open streams look at.
    pub fn revocations(&self) -> &Revocations {
        &self.inner.revocations
    }

    /// The audit of this room.
    pub fn audit(&self) -> &Audit {
        &self.inner.audit
    }

    /// The collector's authority.
    pub fn authority(&self) -> Arc<CollectorAuthority> {
        self.inner.authority.current()
    }

    /// TLS of the carrier listener.
    pub fn carrier_tls(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        tls::server_for_hosts(&self.inner.authority, &self.inner.revocations, &self.inner.time)
    }

    /// TLS of the enrolment listener.
    pub fn enrolment_tls(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        tls::server_for_enrolment(&self.inner.authority, &self.inner.time)
    }

    /// Enrols the key of `request` with a token's secret.
    ///
    /// # Cancel safety
    ///
    /// Either nothing happened, or the host is enrolled and asking again gives the same host.
    pub async fn enrol(
        &self,
        source: IpAddr,
        secret: &[u8],
        request: &[u8],
        facts: &HostFacts,
    ) -> Result<Enrolled, Refusal> {
        let outcome = match self.inner.limiter.check_at(source, self.inner.time.since_boot()) {
            Ok(()) => self.try_enrol(secret, request, facts).await,
            Err(refusal) => Err(refusal),
        };
        let enrolled = self.settle(AuditKind::Enrol, source, None, outcome).await?;
        metrics::enrolled();
        tracing::info!(host = %enrolled.host, hostname = ?facts.hostname, %source, "host enrolled");
        let detail = format!("serial {}", enrolled.certificate.peer.serial);
        self.inner
            .audit
            .noted(AuditKind::Enrolled, Some(source), Some(enrolled.host), &detail)
            .await;
        Ok(enrolled)
    }

    async fn try_enrol(&self, secret: &[u8], request: &[u8], facts: &HostFacts) -> Result<Enrolled, Refusal> {
        let digest = TokenSecret::from_bytes(secret)
            .ok_or(Refusal::TokenUnknown)?
            .digest();
        let key = HostRequest::parse(request)?.key();
        let mut transaction = self.write().await?;
        let now = self.now();
        let known = hosts::by_key(&mut transaction, &key).await?;
        if known.as_ref().is_some_and(|host| host.revoked_at.is_some()) {
            return Err(Refusal::HostRevoked);
        }
        let host = known.map_or_else(HostId::random, |host| host.host);
        tokens::take(&mut transaction, &digest, host, now).await?;
        let certificate = self.issue(&mut transaction, host, request, now).await?;
        let bundle = self.authority().bundle().version;
        hosts::put(&mut transaction, host, &certificate.peer, facts, now, bundle).await?;
        transaction.commit().await?;
        Ok(Enrolled { host, certificate })
    }

    /// A new certificate for a host that shows its present one; `request` must be of the same key.
    ///
    /// # Cancel safety
    ///
    /// As [`Enroller::enrol`].
    pub async fn renew(
        &self,
        source: IpAddr,
        peer: &PeerIdentity,
        request: &[u8],
    ) -> Result<IssuedCertificate, Refusal> {
        let outcome = self.try_renew(peer, request).await;
        let certificate = self
            .settle(AuditKind::Renew, source, peer.host(), outcome)
            .await?;
        metrics::renewed();
        Ok(certificate)
    }

    async fn try_renew(&self, peer: &PeerIdentity, request: &[u8]) -> Result<IssuedCertificate, Refusal> {
        let host = peer.host().ok_or(Refusal::NotAHost)?;
        if HostRequest::parse(request)?.key() != peer.key {
            return Err(Refusal::OtherKey);
        }
        let mut transaction = self.write().await?;
        let now = self.now();
        match hosts::by_id(&mut transaction, host).await? {
            Some(known) if known.revoked_at.is_some() => return Err(Refusal::HostRevoked),
            Some(known) if known.key != peer.key => return Err(Refusal::OtherKey),
            Some(_) => {}
            // Our own issuer vouches for it: these tables were restored from before it enrolled.
            None => hosts::put(&mut transaction, host, peer, &HostFacts::default(), now, 0).await?,
        }
        let certificate = self.issue(&mut transaction, host, request, now).await?;
        transaction.commit().await?;
        Ok(certificate)
    }

    /// A new certificate for a host whose certificate has ended, by its enrolled key, within the grace.
    ///
    /// # Cancel safety
    ///
    /// As [`Enroller::enrol`].
    pub async fn recover(
        &self,
        source: IpAddr,
        host: HostId,
        request: &[u8],
    ) -> Result<IssuedCertificate, Refusal> {
        let outcome = match self.inner.limiter.check_at(source, self.inner.time.since_boot()) {
            Ok(()) => self.try_recover(host, request).await,
            Err(refusal) => Err(refusal),
        };
        let certificate = self
            .settle(AuditKind::Recover, source, Some(host), outcome)
            .await?;
        let detail = format!("serial {}", certificate.peer.serial);
        tracing::info!(%host, %source, "host recovered from an expired certificate");
        self.inner
            .audit
            .noted(AuditKind::Recovered, Some(source), Some(host), &detail)
            .await;
        Ok(certificate)
    }

    async fn try_recover(&self, host: HostId, request: &[u8]) -> Result<IssuedCertificate, Refusal> {
        let key = HostRequest::parse(request)?.key();
        let mut transaction = self.write().await?;
        let now = self.now();
        let known = hosts::by_id(&mut transaction, host)
            .await?
            .ok_or(Refusal::HostUnknown)?;
        if known.revoked_at.is_some() {
            return Err(Refusal::HostRevoked);
        }
        if known.key != key {
            return Err(Refusal::OtherKey);
        }
        if now > later(known.latest_end, self.inner.config.recovery_grace()) {
            return Err(Refusal::TooLate);
        }
        let certificate = self.issue(&mut transaction, host, request, now).await?;
        transaction.commit().await?;
        Ok(certificate)
    }

    async fn issue(
        &self,
        connection: &mut Transaction,
        host: HostId,
        request: &[u8],
        now: TimeMicros,
    ) -> Result<IssuedCertificate, Refusal> {
        let lifetime = self.inner.config.certificate_lifetime();
        let authority = self.authority();
        let certificate = authority.issue_host(request, host, now, lifetime)?;
        hosts::issued(connection, host, &certificate.peer, authority.bundle().version).await?;
        Ok(certificate)
    }

    async fn settle<T>(
        &self,
        kind: AuditKind,
        source: IpAddr,
        host: Option<HostId>,
        outcome: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if let Err(refusal) = &outcome {
            if let Refusal::Store(error) = refusal {
                tracing::error!(%error, kind = kind.as_str(), "enrolment tables failed");
            }
            metrics::refused(refusal.code());
            if refusal.counts_against_source() {
                self.inner
                    .limiter
                    .refused_at(source, self.inner.time.since_boot());
            }
            self.inner
                .audit
                .refused(kind, source, host, &format!("{}: {refusal}", refusal.code()))
                .await;
        }
        outcome
    }

    async fn write(&self) -> Result<Transaction, Refusal> {
        // Excludes others at once, also those of another collector: two requests cannot both read a token as unused.
        Ok(self.inner.pool.begin("ingest").await?)
    }

    fn now(&self) -> TimeMicros {
        self.inner.time.now().0
    }
}

fn later(time: TimeMicros, duration: Duration) -> TimeMicros {
    time.plus_micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
