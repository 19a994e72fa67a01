//! Forgetting: the ledger keeps what a repetition may still need, and is bounded by that.
//!
//! - *Below the mark.* A stream that moves keeps the claims of its latest records; those further below its mark go.
//! - *Abandoned.* A claim above its mark is of a record whose insert or mark never came, because its collector died
//!   or an engine failed. Its rows may be stored all the same, and its host may come back and send it again: then it
//!   has to give the same rows. So it stays for as long as such rows can be there, which is the retention counted
//!   from when the record was taken, and goes after that, whoever claimed it. The rows of a repetition that comes
//!   later still are new ones, and those of before are gone.
//! - *Epochs.* A host that begins epoch after epoch keeps the latest ones, as in the embedded store: so many with
//!   marks, and as many that were only ever claimed. The latter never push out the former.
//!
//! Each statement may be repeated, by this collector or another one, and stands alone.

use fleetmend_control::{ControlError, composed, query};
use fleetmend_event::{HostId, TimeMicros};

use super::{Ledger, places, signed, sixteen};
use crate::mark::{EPOCHS_PER_HOST_MAX, StreamKey};

/// Streams of one statement.
const STREAMS_PER_STATEMENT: usize = 100;
/// Parameters that tell a stream and its number.
const STREAM_PARAMETERS: usize = 4;

impl Ledger {
    /// Forgets the claims of streams, each below a number.
    pub(in crate::clickhouse) async fn forget_claims(
        &self,
        streams: &[(StreamKey, u64)],
    ) -> Result<(), ControlError> {
        for part in streams.chunks(STREAMS_PER_STATEMENT) {
            let of_stream = |place: usize| {
                let first = place.saturating_mul(STREAM_PARAMETERS).saturating_add(1);
                let at = |more: usize| first.saturating_add(more);
                format!(
                    "(host = ${} AND epoch = ${} AND lane = ${} AND sequence < ${})",
                    first,
                    at(1),
                    at(2),
                    at(3)
                )
            };
            let any: Vec<String> = (0..part.len()).map(of_stream).collect();
            let text = format!("DELETE FROM ledger_claims WHERE {}", any.join(" OR "));
            let forget = part
                .iter()
                .fold(composed(text), |forget, ((host, epoch, lane), before)| {
                    forget
                        .bind(host.as_bytes().as_slice())
                        .bind(epoch.as_bytes().as_slice())
                        .bind(i64::from(lane.code()))
                        .bind(signed(*before))
                });
            forget.execute(&self.control).await?;
        }
        Ok(())
    }

    /// The hosts that the ledger knows, in their order, after one of them.
    pub(in crate::clickhouse) async fn hosts_after(
        &self,
        after: Option<HostId>,
        most: usize,
    ) -> Result<Vec<HostId>, ControlError> {
        let after = after.map_or_else(Vec::new, |host| host.as_bytes().to_vec());
        let rows = query("SELECT host FROM ledger_leases WHERE host > $1 ORDER BY host LIMIT $2")
            .bind(after.as_slice())
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&self.control)
            .await?;
        rows.iter()
            .map(|row| sixteen(row, 0).map(HostId::from_bytes))
            .collect()
    }

    /// Forgets the claims of hosts on records that were taken before a time: none of their rows is there any more.
    pub(in crate::clickhouse) async fn forget_taken_before(
        &self,
        hosts: &[HostId],
        before: TimeMicros,
    ) -> Result<(), ControlError> {
        if hosts.is_empty() {
            return Ok(());
        }
        let text = format!(
            "DELETE FROM ledger_claims WHERE taken_at < $1 AND host IN ({})",
            places(2, hosts.len())
        );
        let forget = hosts.iter().fold(composed(text).bind(before.0), |forget, host| {
            forget.bind(host.as_bytes().as_slice())
        });
        forget.execute(&self.control).await.map(drop)
    }

    /// Forgets the stalest epochs of hosts beyond those that are kept.
    pub(in crate::clickhouse) async fn forget_epochs(&self, hosts: &[HostId]) -> Result<(), ControlError> {
        for host in self.hosts_of_many_epochs(hosts).await? {
            for statement in epoch_statements() {
                composed(statement)
                    .bind(host.as_bytes().as_slice())
                    .bind(epochs_kept())
                    .execute(&self.control)
                    .await?;
            }
        }
        Ok(())
    }

    /// Those of `hosts` that have more epochs than are kept.
    async fn hosts_of_many_epochs(&self, hosts: &[HostId]) -> Result<Vec<HostId>, ControlError> {
        if hosts.is_empty() {
            return Ok(Vec::new());
        }
        let among = places(2, hosts.len());
        let text = format!(
            "SELECT host FROM (SELECT host, epoch FROM ledger_marks WHERE host IN ({among}) UNION \
             SELECT host, epoch FROM ledger_claims WHERE host IN ({among})) AS known \
             GROUP BY host HAVING count(*) > $1"
        );
        let ask = hosts
            .iter()
            .fold(composed(text).bind(epochs_kept()), |ask, host| {
                ask.bind(host.as_bytes().as_slice())
            });
        let rows = ask.fetch_all(&self.control).await?;
        rows.iter()
            .map(|row| sixteen(row, 0).map(HostId::from_bytes))
            .collect()
    }
}

fn epochs_kept() -> i64 {
    i64::try_from(EPOCHS_PER_HOST_MAX).unwrap_or(i64::MAX)
}

/// Of a host ($1), beyond so many epochs ($2): claims and marks of epochs that have marks, then those that have none.
fn epoch_statements() -> [String; 3] {
    const MARKED: &str = "SELECT epoch FROM ledger_marks WHERE host = $1";
    let stale = |table: &str| {
        format!(
            "DELETE FROM {table} WHERE host = $1 AND epoch NOT IN (SELECT epoch FROM ledger_marks \
             WHERE host = $1 GROUP BY epoch ORDER BY max(seen_at) DESC LIMIT $2) AND epoch IN ({MARKED})"
        )
    };
    let only_claimed = format!(
        "DELETE FROM ledger_claims WHERE host = $1 AND epoch NOT IN ({MARKED}) AND epoch NOT IN \
         (SELECT epoch FROM ledger_claims WHERE host = $1 AND epoch NOT IN ({MARKED}) \
         GROUP BY epoch ORDER BY max(taken_at) DESC LIMIT $2)"
    );
    [stale("ledger_claims"), stale("ledger_marks"), only_claimed]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use fleetmend_control::{Control, ControlConfig};
    use fleetmend_event::{Lane, RecordId, Sequence, SpoolEpoch};

    use super::super::{Claim, ClaimKind, TakeOver};
    use super::*;
    use crate::clock::ClockAhead;

    fn epoch(number: u8) -> SpoolEpoch {
        SpoolEpoch::from_bytes([number; 16])
    }

    fn claim(host: HostId, number: u8) -> Claim {
        Claim {
            host,
            id: RecordId {
                epoch: epoch(number),
                lane: Lane::Events,
                sequence: Sequence(7),
            },
            kind: ClaimKind::Record,
            digest: None,
            taken_at: TimeMicros(i64::from(number)),
            clock: ClockAhead::NONE,
        }
    }

    // The conformance suite asks PostgreSQL the same.
    #[tokio::test]
    async fn sqlite_forgets_what_is_due_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sqlite");
        let control = Control::open(&ControlConfig::default(), &path).await.unwrap();
        let (ledger, _) = Ledger::open(control.clone(), 60).await.unwrap();
        let host = HostId::from_bytes([1; 16]);
        let TakeOver::Taken(taken) = ledger.take(host, None, true).await.unwrap() else {
            panic!("nobody has it");
        };
        let tokens = HashMap::from([(host, taken.token)]);
        let claims = (1..=70).map(|number| claim(host, number)).collect();
        assert_eq!(ledger.claim(&tokens, claims).await.unwrap().claims.len(), 70);
        let stream = (host, epoch(1), Lane::Events);
        ledger.mark(&tokens, &[(stream, 7)], TimeMicros(1)).await.unwrap();
        let left = async || -> i64 {
            let row = query("SELECT count(*) FROM ledger_claims")
                .fetch_one(&control)
                .await;
            row.unwrap().try_get(0).unwrap()
        };
        assert_eq!(ledger.hosts_after(None, 10).await.unwrap(), [host]);
        assert_eq!(ledger.hosts_after(Some(host), 10).await.unwrap(), []);
        ledger.forget_epochs(&[host]).await.unwrap();
        assert_eq!(
            left().await,
            1 + 64,
            "the one with a mark, and the latest without"
        );
        ledger.forget_claims(&[(stream, 7)]).await.unwrap();
        assert_eq!(left().await, 1 + 64, "seven is not below seven");
        ledger.forget_claims(&[(stream, 8)]).await.unwrap();
        assert_eq!(left().await, 64);
        ledger.forget_taken_before(&[host], TimeMicros(61)).await.unwrap();
        assert_eq!(left().await, 10, "61 to 70");
    }
}
