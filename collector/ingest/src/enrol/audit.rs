//! The audit of the room: what was refused, and what changed who may speak.
//!
//! Bounded three ways: rows of one source per minute, rows of everybody per minute, rows kept (refusals and other
//! rows apart). What a minute had too many of is counted, and the count goes into the next row (`suppressed`), so that
//! a flood is seen and cannot fill the disk.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleetmend_control::{self as control, Control, Row};
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::{PeerIdentity, TrustedTime};

use super::alarm::Alarms;
use super::sightings::Sightings;
use super::{EnrolError, metrics};

const WINDOW: Duration = Duration::from_mins(1);
/// Refusals of one source that are written per minute: of an address, or of a host that showed a certificate from it,
/// so that one host does not hide what another behind the same address does.
const PER_SOURCE_MAX: u32 = 20;
/// Refusals of all sources that are written per minute.
const TOTAL_MAX: u32 = 600;
/// Longest detail, in characters.
const DETAIL_CHARS_MAX: usize = 400;
/// Old rows are deleted once in so many writes.
const PRUNE_EVERY: u64 = 256;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditKind {
    /// A TLS handshake.
    Handshake,
    /// A request to enrol.
    Enrol,
    /// A request to renew.
    Renew,
    /// A request to recover.
    Recover,
    /// A stream of a host: a stolen host id, a record identity used twice, a malformed message.
    Stream,
    /// Two live streams of one host.
    Clone,
    /// A host enrolled.
    Enrolled,
    /// A host recovered from an expired certificate.
    Recovered,
    /// A host was revoked.
    Revoked,
    /// A host left the fleet by itself.
    Unenrolled,
    /// A host was taken out of the fleet.
    Removed,
    /// The collector took over other keys or another trust bundle.
    Authority,
    /// The collector's own clock jumped.
    Clock,
}

impl AuditKind {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            AuditKind::Handshake => "handshake",
            AuditKind::Enrol => "enrol",
            AuditKind::Renew => "renew",
            AuditKind::Recover => "recover",
            AuditKind::Stream => "stream",
            AuditKind::Clone => "clone",
            AuditKind::Enrolled => "enrolled",
            AuditKind::Recovered => "recovered",
            AuditKind::Revoked => "revoked",
            AuditKind::Unenrolled => "unenrolled",
            AuditKind::Removed => "removed",
            AuditKind::Authority => "authority",
            AuditKind::Clock => "clock",
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Grows with every row.
    pub id: i64,
    /// When.
    pub at: TimeMicros,
    /// About what: see [`AuditKind::as_str`].
    pub kind: String,
    /// Whether something was refused.
    pub refused: bool,
    /// From which address.
    pub source: Option<String>,
    /// Which host.
    pub host: Option<HostId>,
    /// What happened, beginning with a code word.
    pub detail: String,
    /// How many refusals were left out since the row before.
    pub suppressed: i64,
}

/// Writes the audit. Clones write the same one.
#[derive(Debug, Clone)]
pub struct Audit {
    pool: Control,
    rows_max: u32,
    window: Arc<Mutex<Window>>,
    time: Arc<TrustedTime>,
    sightings: Sightings,
    alarms: Alarms,
}

#[derive(Debug)]
struct Window {
    /// Since boot.
    begun: Duration,
    total: u32,
    sources: HashMap<(IpAddr, Option<HostId>), u32>,
    suppressed: i64,
    written: u64,
}

impl Audit {
    pub(super) fn new(pool: Control, rows_max: u32, time: Arc<TrustedTime>) -> Self {
        let window = Window {
            begun: time.since_boot(),
            total: 0,
            sources: HashMap::new(),
            suppressed: 0,
            written: 0,
        };
        Self {
            pool,
            rows_max,
            window: Arc::new(Mutex::new(window)),
            time,
            sightings: Sightings::default(),
            alarms: Alarms::default(),
        }
    }

    /// Writes a refusal, unless the source or everybody together had too many this minute.
    pub async fn refused(&self, kind: AuditKind, source: IpAddr, host: Option<HostId>, detail: &str) {
        tracing::debug!(kind = kind.as_str(), %source, ?host, detail, "refused");
        if let (AuditKind::Clone, Some(host)) = (kind, host) {
            // Whatever becomes of the row: an alarm is not lost in a flood of others' refusals.
            self.alarms.sighted(host, source, detail);
        }
        let admitted = self.window().admit((source, host), self.time.since_boot());
        match admitted {
            Some(suppressed) => {
                self.write(kind, true, Some(source), host, detail, suppressed)
                    .await
            }
            None => metrics::suppressed(),
        }
    }

    /// Writes what changed who may speak; such rows are not limited.
    pub async fn noted(&self, kind: AuditKind, source: Option<IpAddr>, host: Option<HostId>, detail: &str) {
        self.write(kind, false, source, host, detail, 0).await;
    }

    /// Notes that a host showed this certificate and was let in: it holds the trust bundle that came with it.
    pub fn met(&self, peer: &PeerIdentity) {
        self.sightings.showed(peer);
    }

    pub(super) fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    pub(super) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The newest rows, newest first.
    pub async fn newest(&self, limit: u32) -> Result<Vec<AuditRow>, EnrolError> {
        self.before(TimeMicros(i64::MAX), limit).await
    }

    /// The newest rows before a time, newest first.
    pub async fn before(&self, before: TimeMicros, limit: u32) -> Result<Vec<AuditRow>, EnrolError> {
        let rows = control::query("SELECT id, at, kind, refused, source, host_id, detail, suppressed FROM ingest_audit WHERE at < $1 ORDER BY at DESC, id DESC LIMIT $2")
            .bind(before.0)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        let row_of = |row: &Row| {
            Ok(AuditRow {
                id: row.try_get("id")?,
                at: TimeMicros(row.try_get("at")?),
                kind: row.try_get("kind")?,
                refused: row.try_get("refused")?,
                source: row.try_get("source")?,
                host: row
                    .try_get::<Option<String>>("host_id")?
                    .and_then(|text| text.parse().ok()),
                detail: row.try_get("detail")?,
                suppressed: row.try_get("suppressed")?,
            })
        };
        rows.iter().map(row_of).collect()
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(
        &self,
        kind: AuditKind,
        refused: bool,
        source: Option<IpAddr>,
        host: Option<HostId>,
        detail: &str,
        suppressed: i64,
    ) {
        let detail: String = detail
            .chars()
            .filter(|character| !character.is_control())
            .take(DETAIL_CHARS_MAX)
            .collect();
        let written = control::query(
            "INSERT INTO ingest_audit (at, kind, refused, source, host_id, detail, suppressed)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.time.now().0.0)
        .bind(kind.as_str())
        .bind(refused)
        .bind(source.map(|source| source.to_string()))
        .bind(host.map(|host| host.to_string()))
        .bind(detail)
        .bind(suppressed)
        .execute(&self.pool)
        .await;
        match written {
            Ok(_) => metrics::audited(),
            Err(error) => tracing::error!(%error, kind = kind.as_str(), "audit row could not be written"),
        }
        if self.window().prune_is_due() {
            self.prune().await;
        }
    }

    /// Refusals and the rest apart: a flood of refusals must not push out who enrolled and who was revoked.
    async fn prune(&self) {
        for refused in [true, false] {
            let pruned = control::query(
                "DELETE FROM ingest_audit WHERE refused = $1 AND id <=
                 (SELECT id FROM ingest_audit WHERE refused = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)",
            )
            .bind(refused)
            .bind(i64::from(self.rows_max))
            .execute(&self.pool)
            .await;
            if let Err(error) = pruned {
                tracing::warn!(%error, "old audit rows could not be deleted");
            }
        }
    }
}

impl Window {
    /// How many refusals were left out before this one, when it is to be written.
    fn admit(&mut self, source: (IpAddr, Option<HostId>), now: Duration) -> Option<i64> {
        if now.saturating_sub(self.begun) >= WINDOW {
            self.begun = now;
            self.total = 0;
            self.sources.clear();
        }
        // Sources are entered only while rows are written, so there are never more than TOTAL_MAX of them.
        let full = self.total >= TOTAL_MAX
            || self
                .sources
                .get(&source)
                .is_some_and(|count| *count >= PER_SOURCE_MAX);
        if full {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.total += 1;
        *self.sources.entry(source).or_insert(0) += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    fn prune_is_due(&mut self) -> bool {
        self.written = self.written.wrapping_add(1);
        self.written.is_multiple_of(PRUNE_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_do_not_push_out_who_was_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Control::sqlite(&folder.path().join("control.sqlite"))
            .await
            .unwrap();
        super::super::schema::migrate(&pool).await.unwrap();
        let audit = Audit::new(pool, 10, TrustedTime::system());
        let revoked = HostId::random();
        audit
            .noted(AuditKind::Revoked, None, Some(revoked), "stolen")
            .await;
        let sources = (0..).map(|number: u32| IpAddr::V4(number.into()));
        for source in sources.take(usize::try_from(PRUNE_EVERY).unwrap() - 1) {
            audit
                .refused(AuditKind::Enrol, source, None, "token_unknown")
                .await;
        }
        let rows = audit.newest(1_000).await.unwrap();
        assert_eq!(rows.iter().filter(|row| row.refused).count(), 10);
        assert!(rows.iter().any(|row| row.host == Some(revoked)));
    }

    #[test]
    fn a_flood_is_counted_not_written() {
        let now = Duration::ZERO;
        let mut window = Window {
            begun: now,
            total: 0,
            sources: HashMap::new(),
            suppressed: 0,
            written: 0,
        };
        let (loud, quiet): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let written = (0..1000)
            .filter(|_| window.admit((loud, None), now).is_some())
            .count();
        assert_eq!(written, 20);
        assert_eq!(window.admit((quiet, None), now), Some(980));
        let behind = Some(HostId::random());
        assert_eq!(
            window.admit((loud, behind), now),
            Some(0),
            "a host behind a loud address"
        );
        for number in 0..20_000_u32 {
            window.admit((IpAddr::V4(number.into()), None), now);
        }
        assert!(window.sources.len() <= 600);
        assert!(window.admit((loud, None), now + WINDOW).is_some());
    }
}
