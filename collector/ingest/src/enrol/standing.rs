//! How far the fleet has followed a rotation of keys.

use fleetmend_control::{self as control, Control, Row};
use fleetmend_event::{HostId, TimeMicros};

use super::{EnrolConfig, EnrolError, hosts, later};

/// Laggards that are named.
const NAMED_MAX: i64 = 20;
/// The step of the tables that notes who has seen which bundle.
const STEP_OF_BUNDLES: i64 = 3;

/// A host that has not seen a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laggard {
    /// Its id.
    pub host: HostId,
    /// What it called itself.
    pub hostname: String,
    /// The version it is known to hold; 0 when none is.
    pub seen: u64,
    /// When its last certificate ends, or ended.
    pub not_after: TimeMicros,
}

/// The hosts that count for a rotation: not revoked, and not so long gone that they cannot recover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many hosts count.
    pub hosts: u64,
    /// How many of them have not seen the bundle.
    pub behind: u64,
    /// Some of those, the longest unheard of first.
    pub named: Vec<Laggard>,
}

impl Standing {
    /// Reads from the control database how many hosts have seen bundle `version`. A database in which no collector
    /// of this version has run yet is the same as no host. The collector may be running.
    pub async fn read(
        pool: &Control,
        config: &EnrolConfig,
        version: u64,
        now: TimeMicros,
    ) -> Result<Self, EnrolError> {
        if pool.steps_applied("ingest").await? < STEP_OF_BUNDLES {
            return Ok(Self::default());
        }
        // Whose certificates ended before this cannot come back.
        let gone = now.plus_micros(now.micros_since(later(now, config.recovery_grace())));
        let counted = "revoked_at IS NULL AND latest_end >= $1";
        let counts = format!(
            "SELECT count(*), coalesce(sum(CASE WHEN bundle_seen < $2 THEN 1 ELSE 0 END), 0) FROM ingest_hosts WHERE {counted}"
        );
        let row = control::composed(counts)
            .bind(gone.0)
            .bind(hosts::stored(version))
            .fetch_one(pool)
            .await?;
        let count = |index: usize| -> Result<u64, EnrolError> {
            u64::try_from(row.try_get::<i64>(index)?).map_err(|_| EnrolError::Damaged("count"))
        };
        let (all, behind) = (count(0)?, count(1)?);
        let names = format!(
            "SELECT host_id, hostname, bundle_seen, not_after FROM ingest_hosts
             WHERE {counted} AND bundle_seen < $2 ORDER BY not_after, host_id LIMIT $3"
        );
        let rows = control::composed(names)
            .bind(gone.0)
            .bind(hosts::stored(version))
            .bind(NAMED_MAX)
            .fetch_all(pool)
            .await?;
        let laggard = |row: &Row| -> Result<Laggard, EnrolError> {
            let host = row.try_get::<String>("host_id")?;
            Ok(Laggard {
                host: host.parse().map_err(|_| EnrolError::Damaged("host id"))?,
                hostname: row.try_get("hostname")?,
                seen: u64::try_from(row.try_get::<i64>("bundle_seen")?).unwrap_or(0),
                not_after: TimeMicros(row.try_get("not_after")?),
            })
        };
        Ok(Self {
            hosts: all,
            behind,
            named: rows.iter().map(laggard).collect::<Result<_, _>>()?,
        })
    }
}
