//! The table of hosts.

use std::collections::BTreeSet;

use fleetmend_control::{self as control, Control, Executor, Row, Transaction};
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::{Fingerprint, PeerIdentity, RevokedSet};

use super::{EnrolError, HostFacts};

/// Longest text a host may say of itself, in characters.
const FACT_CHARS_MAX: usize = 255;

/// A host as the collector knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledHost {
    /// Its id.
    pub host: HostId,
    /// Fingerprint of its key.
    pub key: Fingerprint,
    /// What it called itself when it enrolled.
    pub hostname: String,
    /// When it enrolled first.
    pub enrolled_at: TimeMicros,
    /// When it was revoked.
    pub revoked_at: Option<TimeMicros>,
    /// When it left the fleet or was taken out of it; then it is revoked too.
    pub removed_at: Option<TimeMicros>,
    /// Serial number of its last certificate.
    pub serial: String,
    /// When its last certificate ends.
    pub not_after: TimeMicros,
    /// The latest end that any of its certificates ever had: from there the grace for recovery counts.
    pub latest_end: TimeMicros,
    /// Version of the trust bundle that went with its last certificate.
    pub bundle_sent: u64,
    /// Version of the trust bundle that it is known to hold.
    pub bundle_seen: u64,
}

/// In words, because a connection that was open when a column was added may still know the table without it.
const COLUMNS: &str = "host_id, key, hostname, enrolled_at, revoked_at, removed_at, serial, not_after, latest_end, bundle_sent, \
    bundle_seen";

fn host_of(row: &Row) -> Result<EnrolledHost, EnrolError> {
    let text = |column: &str| row.try_get::<String>(column);
    let version = |column: &str| -> Result<u64, EnrolError> {
        u64::try_from(row.try_get::<i64>(column)?).map_err(|_| EnrolError::Damaged("bundle version"))
    };
    Ok(EnrolledHost {
        host: text("host_id")?
            .parse()
            .map_err(|_| EnrolError::Damaged("host id"))?,
        key: text("key")?
            .parse()
            .map_err(|_| EnrolError::Damaged("key fingerprint"))?,
        hostname: text("hostname")?,
        enrolled_at: TimeMicros(row.try_get("enrolled_at")?),
        revoked_at: row.try_get::<Option<i64>>("revoked_at")?.map(TimeMicros),
        removed_at: row.try_get::<Option<i64>>("removed_at")?.map(TimeMicros),
        serial: text("serial")?,
        not_after: TimeMicros(row.try_get("not_after")?),
        latest_end: TimeMicros(row.try_get("latest_end")?),
        bundle_sent: version("bundle_sent")?,
        bundle_seen: version("bundle_seen")?,
    })
}

pub(super) async fn by_key(
    connection: &mut Transaction,
    key: &Fingerprint,
) -> Result<Option<EnrolledHost>, EnrolError> {
    let row = control::composed(format!("SELECT {COLUMNS} FROM ingest_hosts WHERE key = $1"))
        .bind(key.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(host_of).transpose()
}

pub(super) async fn by_id(
    connection: &mut Transaction,
    host: HostId,
) -> Result<Option<EnrolledHost>, EnrolError> {
    let row = control::composed(format!("SELECT {COLUMNS} FROM ingest_hosts WHERE host_id = $1"))
        .bind(host.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(host_of).transpose()
}

pub(super) async fn all(pool: &Control) -> Result<Vec<EnrolledHost>, EnrolError> {
    let rows = control::composed(format!(
        "SELECT {COLUMNS} FROM ingest_hosts ORDER BY enrolled_at, host_id"
    ))
    .fetch_all(pool)
    .await?;
    rows.iter().map(host_of).collect()
}

/// Adds the host, or takes over what it now says of itself.
pub(super) async fn put(
    connection: &mut Transaction,
    host: HostId,
    peer: &PeerIdentity,
    facts: &HostFacts,
    now: TimeMicros,
    bundle: u64,
) -> Result<(), EnrolError> {
    let short = |text: &str| -> String {
        text.chars()
            .filter(|character| !character.is_control())
            .take(FACT_CHARS_MAX)
            .collect()
    };
    control::query(
        "INSERT INTO ingest_hosts (host_id, key, hostname, machine_id_digest, enrolled_at, serial, not_after,
             latest_end, bundle_sent, bundle_seen)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)
         ON CONFLICT (host_id) DO UPDATE SET
             hostname = excluded.hostname, machine_id_digest = excluded.machine_id_digest",
    )
    .bind(host.to_string())
    .bind(peer.key.to_string())
    .bind(short(&facts.hostname))
    .bind(short(&facts.machine_id_digest))
    .bind(now.0)
    .bind(&peer.serial)
    .bind(peer.not_after.0)
    .bind(peer.not_after.0)
    .bind(stored(bundle))
    .execute(connection)
    .await?;
    Ok(())
}

/// A version as the database holds it.
pub(super) fn stored(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// Records the host's new certificate and the bundle that goes with it.
pub(super) async fn issued(
    connection: &mut Transaction,
    host: HostId,
    peer: &PeerIdentity,
    bundle: u64,
) -> Result<(), EnrolError> {
    control::query(
        "UPDATE ingest_hosts SET serial = $1, not_after = $2, bundle_sent = $4,
             latest_end = CASE WHEN latest_end > $3 THEN latest_end ELSE $3 END
         WHERE host_id = $5",
    )
    .bind(&peer.serial)
    .bind(peer.not_after.0)
    .bind(peer.not_after.0)
    .bind(stored(bundle))
    .bind(host.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks the host as revoked and returns its key; `None` when there is no such host.
pub(super) async fn revoke(
    connection: impl Executor,
    host: HostId,
    now: TimeMicros,
) -> Result<Option<Fingerprint>, EnrolError> {
    let row = control::query(
        "UPDATE ingest_hosts SET revoked_at = coalesce(revoked_at, $1) WHERE host_id = $2 RETURNING key",
    )
    .bind(now.0)
    .bind(host.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(key_of).transpose()
}

/// Takes the host out of the fleet, its key included, and returns the key; `None` when there is no such host.
pub(super) async fn remove(
    connection: impl Executor,
    host: HostId,
    now: TimeMicros,
) -> Result<Option<Fingerprint>, EnrolError> {
    let row = control::query(
        "UPDATE ingest_hosts SET revoked_at = coalesce(revoked_at, $1), removed_at = coalesce(removed_at, $1)
         WHERE host_id = $2 RETURNING key",
    )
    .bind(now.0)
    .bind(host.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(key_of).transpose()
}

fn key_of(row: Row) -> Result<Fingerprint, EnrolError> {
    row.try_get::<String>("key")?
        .parse()
        .map_err(|_| EnrolError::Damaged("key fingerprint"))
}

/// The hosts that are in the fleet no more.
pub(super) async fn removed(pool: &Control) -> Result<BTreeSet<HostId>, EnrolError> {
    let rows = control::query("SELECT host_id FROM ingest_hosts WHERE removed_at IS NOT NULL")
        .fetch_all(pool)
        .await?;
    let id = |row: &Row| {
        let id = row.try_get::<&str>(0)?.parse();
        id.map_err(|_| EnrolError::Damaged("host id"))
    };
    rows.iter().map(id).collect()
}

/// The hosts that are revoked.
pub(super) async fn revoked(pool: &Control) -> Result<RevokedSet, EnrolError> {
    let rows = control::composed(format!(
        "SELECT {COLUMNS} FROM ingest_hosts WHERE revoked_at IS NOT NULL"
    ))
    .fetch_all(pool)
    .await?;
    let mut set = RevokedSet::default();
    for row in &rows {
        let host = host_of(row)?;
        set.insert(host.host, host.key);
    }
    Ok(set)
}
