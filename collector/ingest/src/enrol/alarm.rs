//! What the collector finds out about a host by itself: that two agents claim to be it.
//!
//! A sighting opens a finding of the host, or counts in the one that is open; after an hour without one, or when the
//! host is revoked, the finding is resolved. What is open is in the table `ingest_alarms`, so that a restart neither
//! forgets nor doubles it, and a row stays there until the store has taken it. Rows of one finding are a minute
//! apart at least; hosts that wait to be written are bounded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fleetmend_control::{self as control, Control, Row, Transaction};
use fleetmend_event::table::{Finding, FindingKind, FindingState, Severity, SubjectKind};
use fleetmend_event::{FindingId, HostId, TimeMicros};
use fleetmend_shutdown::{BoxError, TaskKind, Tasks};
use tokio::sync::Notify;

use super::{EnrolError, Enroller, metrics};

/// Hosts whose sightings wait; the rows of the audit are there for more.
const WAITING_MAX: usize = 10_000;
/// After so long without a sighting it is over.
const QUIET: Duration = Duration::from_hours(1);
/// The least time between two rows that say the same with another count.
const AGAIN: Duration = Duration::from_mins(1);
/// How often is looked for what is over, and for what the store did not take.
const EVERY: Duration = Duration::from_secs(10);
/// How long the store may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(30);
/// Findings told at a time.
const TOLD_MAX: i64 = 256;
const RULE: &str = "host-cloned";

/// Where findings of the collector go.
#[async_trait]
pub trait FindingSink: Send + Sync + 'static {
    /// Returns once the finding of the host is durable.
    async fn tell(&self, host: HostId, finding: Finding) -> Result<(), BoxError>;
}

#[derive(Debug)]
struct Sighting {
    count: u64,
    detail: String,
}

/// What was seen and not written down yet. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarms {
    waiting: Arc<Mutex<BTreeMap<HostId, Sighting>>>,
    seen: Arc<Notify>,
}

impl Alarms {
    /// Two agents claim to be this host; the newer comes from `source`.
    pub(super) fn sighted(&self, host: HostId, source: IpAddr, detail: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&host) {
            metrics::alarm_dropped();
            return;
        }
        let sighting = waiting.entry(host).or_insert_with(|| Sighting {
            count: 0,
            detail: String::new(),
        });
        sighting.count = sighting.count.saturating_add(1);
        sighting.detail = format!("the newer stream came from {source}; {detail}");
        drop(waiting);
        self.seen.notify_one();
    }

    fn take(&self) -> BTreeMap<HostId, Sighting> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_back(&self, unwritten: BTreeMap<HostId, Sighting>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, sighting) in unwritten {
            if waiting.len() < WAITING_MAX || waiting.contains_key(&host) {
                let kept = waiting.entry(host).or_insert_with(|| Sighting {
                    count: 0,
                    detail: sighting.detail.clone(),
                });
                kept.count = kept.count.saturating_add(sighting.count);
            } else {
                metrics::alarm_dropped();
            }
        }
    }
}

/// Turns sightings into findings, as a task of `tasks`, until they end.
pub fn spawn_alarms(enroller: &Enroller, sink: Arc<dyn FindingSink>, tasks: &Tasks) {
    let (enroller, token) = (enroller.clone(), tasks.token());
    tasks.spawn("enrolment-alarms", TaskKind::BestEffort, async move {
        let alarms = enroller.audit().alarms().clone();
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok::<(), EnrolError>(()),
                () = alarms.seen.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = enroller.tell_alarms(sink.as_ref()).await {
                tracing::error!(%error, "findings about enrolled hosts could not be kept");
            }
        }
    });
}

impl Enroller {
    /// One turn of [`spawn_alarms`].
    ///
    /// # Cancel safety
    ///
    /// What was not told is told the next time; sightings that were being written down may be lost, and are in the
    /// audit.
    pub(super) async fn tell_alarms(&self, sink: &dyn FindingSink) -> Result<(), EnrolError> {
        let now = self.now();
        let sighted = self.audit().alarms().take();
        if let Err(error) = write_down(&self.inner.pool, &sighted, now).await {
            self.audit().alarms().put_back(sighted);
            return Err(error);
        }
        for (host, finding) in untold(&self.inner.pool, now).await? {
            let (open, seen) = (finding.state == FindingState::Open, finding.count);
            let told = tokio::time::timeout(TELL_TIMEOUT, sink.tell(host, finding)).await;
            match told {
                Ok(Ok(())) => told_now(&self.inner.pool, host, open, seen, now).await?,
                Ok(Err(error)) => {
                    tracing::warn!(%host, %error, "finding about a host could not be stored yet");
                    return Ok(());
                }
                Err(_) => {
                    tracing::warn!(%host, "finding about a host was not stored in time");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Writes sightings into the table, and closes what is over.
async fn write_down(
    pool: &Control,
    sighted: &BTreeMap<HostId, Sighting>,
    now: TimeMicros,
) -> Result<(), EnrolError> {
    let mut transaction = pool.begin("ingest").await?;
    for (host, sighting) in sighted {
        sight(&mut transaction, *host, sighting, now).await?;
    }
    control::query(
        "UPDATE ingest_alarms SET open = 0, told = 0 WHERE open = 1 AND (last_time < $1
             OR host_id IN (SELECT host_id FROM ingest_hosts WHERE revoked_at IS NOT NULL))",
    )
    .bind(before(now, QUIET).0)
    .execute(&mut transaction)
    .await?;
    Ok(transaction.commit().await?)
}

async fn sight(
    connection: &mut Transaction,
    host: HostId,
    sighting: &Sighting,
    now: TimeMicros,
) -> Result<(), EnrolError> {
    // A finding that is over stays over: the next is another one, unless the store was not told yet.
    control::query(
        "INSERT INTO ingest_alarms (host_id, finding_id, open, first_time, last_time, count, detail, told, told_at)
         VALUES ($1, $2, 1, $3, $3, $4, $5, 0, 0)
         ON CONFLICT (host_id) DO UPDATE SET open = 1, last_time = $3, count = ingest_alarms.count + $4, detail = $5,
             told = 0",
    )
    .bind(host.to_string())
    .bind(FindingId::random().to_string())
    .bind(now.0)
    .bind(i64::try_from(sighting.count).unwrap_or(i64::MAX))
    .bind(&sighting.detail)
    .execute(connection)
    .await?;
    Ok(())
}

/// What the store is to be told now.
async fn untold(pool: &Control, now: TimeMicros) -> Result<Vec<(HostId, Finding)>, EnrolError> {
    let rows = control::query(
        "SELECT host_id, finding_id, open, first_time, count, detail FROM ingest_alarms WHERE told = 0 AND (open = 0 OR told_at <= $1 OR told_at > $2)
         ORDER BY host_id LIMIT $3",
    )
    .bind(before(now, AGAIN).0)
    // Told by a clock that was ahead.
    .bind(now.0)
    .bind(TOLD_MAX)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| finding_of(row, now)).collect()
}

async fn told_now(
    pool: &Control,
    host: HostId,
    open: bool,
    count: u64,
    now: TimeMicros,
) -> Result<(), EnrolError> {
    let done = if open {
        control::query("UPDATE ingest_alarms SET told = CASE WHEN count = $1 THEN 1 ELSE 0 END, told_at = $2 WHERE host_id = $3 AND open = 1")
            .bind(i64::try_from(count).unwrap_or(i64::MAX))
            .bind(now.0)
    } else {
        control::query("DELETE FROM ingest_alarms WHERE host_id = $1 AND open = 0")
    };
    done.bind(host.to_string()).execute(pool).await?;
    Ok(())
}

fn finding_of(row: &Row, now: TimeMicros) -> Result<(HostId, Finding), EnrolError> {
    let text = |column: &str| row.try_get::<String>(column);
    let host: HostId = text("host_id")?
        .parse()
        .map_err(|_| EnrolError::Damaged("host id"))?;
    let open: bool = row.try_get("open")?;
    let finding = Finding {
        time: now,
        finding_id: text("finding_id")?
            .parse()
            .map_err(|_| EnrolError::Damaged("finding id"))?,
        kind: FindingKind::Threshold,
        rule: RULE.to_owned(),
        title: "two agents claim to be this host: its key was copied, with an image of it or by a thief".to_owned(),
        severity: Severity::High,
        state: if open {
            FindingState::Open
        } else {
            FindingState::Resolved
        },
        first_time: TimeMicros(row.try_get("first_time")?),
        count: u64::try_from(row.try_get::<i64>("count")?).unwrap_or(0),
        score: None,
        subject_kind: SubjectKind::Host,
        subject: host.to_string(),
        pid: None,
        start_boot_ns: None,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: serde_json::json!({
            "noticed_by": "collector",
            "last": text("detail")?,
            "what_to_do": "revoke the host, remove the identity folder on each of the two, and enrol each with a token of its own",
        })
        .to_string(),
    };
    Ok((host, finding))
}

fn before(now: TimeMicros, span: Duration) -> TimeMicros {
    now.plus_micros(
        i64::try_from(span.as_micros())
            .unwrap_or(i64::MAX)
            .saturating_neg(),
    )
}

#[cfg(test)]
mod tests;
