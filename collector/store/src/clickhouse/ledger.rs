//! The ledger: marks, leases and claims in the control database, by which several collectors share a ClickHouse.
//!
//! One commit over both engines does not exist. What replaces it, for the records of a host:
//!
//! 1. *Lease.* A collector that answers a host's hello takes the host over: it raises the host's fencing token. A
//!    transaction that finds another token than its own does nothing.
//! 2. *Claim*, before rows are inserted. It says under which digest, time of reception and clock the record's rows
//!    go in. The first claim of an identity stands: whoever brings the record again, on whichever collector and after
//!    whatever crash, inserts the same rows under the same key, and another content is refused.
//! 3. The rows are inserted.
//! 4. *Mark*, in a transaction that checks the token again. Only then the host is told.
//!
//! So a crash between any two steps doubles nothing, whether or not a server remembers what was inserted, and a
//! collector that lost its lease cannot raise marks. Rows without a mark may show; their host sends them again.
//!
//! # Tables
//! `ledger_leases` (host, token, holder, expires_at), `ledger_marks` (host, epoch, lane, sequence, seen_at),
//! `ledger_claims` (host, epoch, lane, kind, sequence, digest, taken_at, clock), `ledger_store` (the store's epoch).
//! `kind` is 0 for a record, 1 for a loss that belongs to none. Claims are kept for the latest [`CLAIMS_KEPT`] records
//! of a stream, so that a repetition can be told from a forgery, and marks of the latest epochs of a host; `forget.rs`
//! says what goes, and why that doubles nothing.
//! Times are microseconds of the collectors' clocks; only the end of a lease is compared across them, and it decides
//! nothing but who may store without a hello.

mod forget;

use std::collections::HashMap;

use fleetmend_control::{Control, ControlError, Migrations, Row, Transaction, composed, query};
use fleetmend_event::{HostId, Lane, Mark, RecordId, Sequence, SpoolEpoch, TimeMicros};

use crate::clock::ClockAhead;
use crate::mark::{Digest, StreamKey};

/// Room of the ledger's tables and of its transactions.
const ROOM: &str = "ledger";
/// Claims kept below a stream's mark.
pub(super) const CLAIMS_KEPT: u64 = 256;
/// Rows of one statement: engines bound the number of parameters.
const ROWS_PER_STATEMENT: usize = 500;

/// Tables of the ledger. Never edited after a release: a change is a new step.
pub const TABLES: Migrations = Migrations {
    room: ROOM,
    steps: &["
CREATE TABLE ledger_store (
    id INTEGER NOT NULL PRIMARY KEY,
    epoch BLOB NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE TABLE ledger_leases (
    host BLOB NOT NULL PRIMARY KEY,
    token INTEGER NOT NULL,
    holder BLOB NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE TABLE ledger_marks (
    host BLOB NOT NULL,
    epoch BLOB NOT NULL,
    lane INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (host, epoch, lane)
);
CREATE TABLE ledger_claims (
    host BLOB NOT NULL,
    epoch BLOB NOT NULL,
    lane INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,
    taken_at INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    PRIMARY KEY (host, epoch, lane, kind, sequence)
);
"],
};

/// The ledger.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    control: Control,
    /// This collector's process.
    holder: [u8; 16],
    lease_micros: i64,
}

/// What is known of a host that was taken over.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) token: i64,
    pub(super) marks: Vec<(Mark, TimeMicros)>,
    /// Digests of the latest records, by stream and number.
    pub(super) digests: Vec<(RecordId, Option<Digest>)>,
}

/// What a claim is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ClaimKind {
    Record,
    Loss,
}

/// Under what the rows of a record go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) host: HostId,
    pub(super) id: RecordId,
    pub(super) kind: ClaimKind,
    /// `None` of a tombstone or a loss.
    pub(super) digest: Option<Digest>,
    pub(super) taken_at: TimeMicros,
    pub(super) clock: ClockAhead,
}

/// How a step of a group of hosts went.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    /// Hosts that are another collector's now; nothing was done for them.
    pub(super) lost: Vec<HostId>,
    /// The claims that stand.
    pub(super) claims: Vec<Claim>,
}

impl Ledger {
    /// Makes or alters the tables, and the store's identity.
    pub(crate) async fn open(control: Control, lease_s: u64) -> Result<(Self, [u8; 16]), ControlError> {
        control.migrate(&TABLES).await?;
        let fresh = uuid::Uuid::new_v4();
        query(
            "INSERT INTO ledger_store (id, epoch, created_at) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING",
        )
        .bind(fresh.as_bytes().as_slice())
        .bind(TimeMicros::now().0)
        .execute(&control)
        .await?;
        let row = query("SELECT epoch FROM ledger_store WHERE id = 1")
            .fetch_one(&control)
            .await?;
        let epoch = sixteen(&row, 0)?;
        let lease_micros = i64::try_from(lease_s)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let ledger = Self {
            control,
            holder: *uuid::Uuid::new_v4().as_bytes(),
            lease_micros,
        };
        Ok((ledger, epoch))
    }

    /// Takes a host over, or says nothing when it is this collector's already under `held`. Unless it is `forced`,
    /// a host of another collector that was not silent for long stays there.
    pub(super) async fn take(
        &self,
        host: HostId,
        held: Option<i64>,
        forced: bool,
    ) -> Result<TakeOver, ControlError> {
        let now = TimeMicros::now();
        let mut transaction = self.control.begin(ROOM).await?;
        let lease = query("SELECT token, holder, expires_at FROM ledger_leases WHERE host = $1")
            .bind(host.as_bytes().as_slice())
            .fetch_optional(&mut transaction)
            .await?;
        let (token, ours, expired) = match &lease {
            Some(row) => {
                let ours = sixteen(row, 1)? == self.holder;
                (row.try_get::<i64>(0)?, ours, row.try_get::<i64>(2)? < now.0)
            }
            None => (0, false, true),
        };
        if ours && held == Some(token) {
            return Ok(TakeOver::Held);
        }
        if !forced && !ours && !expired {
            return Ok(TakeOver::Elsewhere);
        }
        let token = token.saturating_add(1);
        query(
            "INSERT INTO ledger_leases (host, token, holder, expires_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host) DO UPDATE SET token = excluded.token, holder = excluded.holder, \
             expires_at = excluded.expires_at",
        )
        .bind(host.as_bytes().as_slice())
        .bind(token)
        .bind(self.holder.as_slice())
        .bind(now.0.saturating_add(self.lease_micros))
        .execute(&mut transaction)
        .await?;
        let taken = Taken {
            token,
            marks: marks(&mut transaction, host).await?,
            digests: digests(&mut transaction, host).await?,
        };
        transaction.commit().await?;
        Ok(TakeOver::Taken(taken))
    }

    /// Claims records for the hosts of `tokens`, all in one transaction.
    pub(super) async fn claim(
        &self,
        tokens: &HashMap<HostId, i64>,
        claims: Vec<Claim>,
    ) -> Result<Stepped, ControlError> {
        let mut transaction = self.control.begin(ROOM).await?;
        let lost = self.lost(&mut transaction, tokens).await?;
        let wanted: Vec<Claim> = claims
            .into_iter()
            .filter(|claim| !lost.contains(&claim.host))
            .collect();
        let mut standing = Vec::with_capacity(wanted.len());
        for part in wanted.chunks(ROWS_PER_STATEMENT) {
            standing.extend(put_claims(&mut transaction, part).await?);
        }
        transaction.commit().await?;
        Ok(Stepped {
            lost,
            claims: standing,
        })
    }

    /// Raises marks of the hosts of `tokens`; gives the hosts back that were lost.
    pub(super) async fn mark(
        &self,
        tokens: &HashMap<HostId, i64>,
        marks: &[(StreamKey, u64)],
        now: TimeMicros,
    ) -> Result<Vec<HostId>, ControlError> {
        let mut transaction = self.control.begin(ROOM).await?;
        let lost = self.lost(&mut transaction, tokens).await?;
        let ours: Vec<(StreamKey, u64)> = marks
            .iter()
            .filter(|((host, ..), _)| !lost.contains(host))
            .copied()
            .collect();
        for part in ours.chunks(ROWS_PER_STATEMENT) {
            put_marks(&mut transaction, part, now).await?;
        }
        let expires = now.0.saturating_add(self.lease_micros);
        let hosts: Vec<HostId> = tokens
            .keys()
            .filter(|host| !lost.contains(host))
            .copied()
            .collect();
        for part in hosts.chunks(ROWS_PER_STATEMENT) {
            let text = format!(
                "UPDATE ledger_leases SET expires_at = $1 WHERE host IN ({})",
                places(2, part.len())
            );
            let renew = part.iter().fold(composed(text).bind(expires), |renew, host| {
                renew.bind(host.as_bytes().as_slice())
            });
            renew.execute(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(lost)
    }

    /// Whether the control database answers.
    pub(super) async fn look(&self) -> Result<(), ControlError> {
        query("SELECT id FROM ledger_store WHERE id = 1")
            .fetch_one(&self.control)
            .await
            .map(drop)
    }

    async fn lost(
        &self,
        transaction: &mut Transaction,
        tokens: &HashMap<HostId, i64>,
    ) -> Result<Vec<HostId>, ControlError> {
        let mut lost = Vec::new();
        let hosts: Vec<HostId> = tokens.keys().copied().collect();
        for part in hosts.chunks(ROWS_PER_STATEMENT) {
            let text = format!(
                "SELECT host, token, holder FROM ledger_leases WHERE host IN ({})",
                places(1, part.len())
            );
            let ask = part
                .iter()
                .fold(composed(text), |ask, host| ask.bind(host.as_bytes().as_slice()));
            let mut held: HashMap<HostId, i64> = HashMap::new();
            for row in ask.fetch_all(&mut *transaction).await? {
                if sixteen(&row, 2)? == self.holder {
                    held.insert(HostId::from_bytes(sixteen(&row, 0)?), row.try_get(1)?);
                }
            }
            lost.extend(part.iter().filter(|host| held.get(host) != tokens.get(host)));
        }
        Ok(lost)
    }
}

/// How the taking of a host went.
#[derive(Debug)]
pub(super) enum TakeOver {
    /// It was this collector's under the token that it knows.
    Held,
    /// It is now.
    Taken(Taken),
    /// It is another collector's.
    Elsewhere,
}

/// Puts claims; gives those that stand, which are older ones where there were some.
async fn put_claims(transaction: &mut Transaction, claims: &[Claim]) -> Result<Vec<Claim>, ControlError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    // The update changes nothing; it makes the row that stands come back.
    let text = format!(
        "INSERT INTO ledger_claims (host, epoch, lane, kind, sequence, digest, taken_at, clock) VALUES {} \
         ON CONFLICT (host, epoch, lane, kind, sequence) DO UPDATE SET clock = ledger_claims.clock \
         RETURNING host, epoch, lane, kind, sequence, digest, taken_at, clock",
        rows(claims.len(), 8)
    );
    let put = claims.iter().fold(composed(text), |put, claim| {
        let digest: &[u8] = claim.digest.as_ref().map_or(&[], |digest| digest.as_slice());
        put.bind(claim.host.as_bytes().as_slice())
            .bind(claim.id.epoch.as_bytes().as_slice())
            .bind(i64::from(claim.id.lane.code()))
            .bind(i64::from(claim.kind == ClaimKind::Loss))
            .bind(signed(claim.id.sequence.0))
            .bind(digest)
            .bind(claim.taken_at.0)
            .bind(claim.clock.to_code())
    });
    let rows = put.fetch_all(transaction).await?;
    rows.iter().map(claim_of).collect()
}

fn claim_of(row: &Row) -> Result<Claim, ControlError> {
    let is_loss: i64 = row.try_get(3)?;
    Ok(Claim {
        host: HostId::from_bytes(sixteen(row, 0)?),
        id: id_of(row, (1, 2, 4))?,
        kind: if is_loss == 0 {
            ClaimKind::Record
        } else {
            ClaimKind::Loss
        },
        digest: row.try_get::<Vec<u8>>(5)?.try_into().ok(),
        taken_at: TimeMicros(row.try_get(6)?),
        clock: ClockAhead::from_code(row.try_get(7)?),
    })
}

async fn put_marks(
    transaction: &mut Transaction,
    marks: &[(StreamKey, u64)],
    now: TimeMicros,
) -> Result<(), ControlError> {
    let text = format!(
        "INSERT INTO ledger_marks (host, epoch, lane, sequence, seen_at) VALUES {} \
         ON CONFLICT (host, epoch, lane) DO UPDATE SET seen_at = excluded.seen_at, sequence = \
         CASE WHEN excluded.sequence > ledger_marks.sequence THEN excluded.sequence ELSE ledger_marks.sequence END",
        rows(marks.len(), 5)
    );
    let put = marks
        .iter()
        .fold(composed(text), |put, ((host, epoch, lane), number)| {
            put.bind(host.as_bytes().as_slice())
                .bind(epoch.as_bytes().as_slice())
                .bind(i64::from(lane.code()))
                .bind(signed(*number))
                .bind(now.0)
        });
    put.execute(transaction).await.map(drop)
}

async fn marks(transaction: &mut Transaction, host: HostId) -> Result<Vec<(Mark, TimeMicros)>, ControlError> {
    let rows =
        query("SELECT epoch, lane, sequence, seen_at FROM ledger_marks WHERE host = $1 ORDER BY seen_at")
            .bind(host.as_bytes().as_slice())
            .fetch_all(transaction)
            .await?;
    let mark = |row: &Row| {
        let id = id_of(row, (0, 1, 2))?;
        let mark = Mark {
            epoch: id.epoch,
            lane: id.lane,
            sequence: id.sequence,
        };
        Ok((mark, TimeMicros(row.try_get(3)?)))
    };
    rows.iter().map(mark).collect()
}

/// Digests of what is claimed up to the marks, in the order of their numbers.
async fn digests(
    transaction: &mut Transaction,
    host: HostId,
) -> Result<Vec<(RecordId, Option<Digest>)>, ControlError> {
    let rows = query(
        "SELECT c.epoch, c.lane, c.sequence, c.digest FROM ledger_claims c JOIN ledger_marks m \
         ON m.host = c.host AND m.epoch = c.epoch AND m.lane = c.lane \
         WHERE c.host = $1 AND c.kind = 0 AND c.sequence <= m.sequence AND c.sequence > m.sequence - $2 \
         ORDER BY c.sequence",
    )
    .bind(host.as_bytes().as_slice())
    .bind(signed(CLAIMS_KEPT))
    .fetch_all(transaction)
    .await?;
    let digest = |row: &Row| Ok((id_of(row, (0, 1, 2))?, row.try_get::<Vec<u8>>(3)?.try_into().ok()));
    rows.iter().map(digest).collect()
}

fn id_of(row: &Row, (epoch, lane, sequence): (usize, usize, usize)) -> Result<RecordId, ControlError> {
    let lane = u8::try_from(row.try_get::<i64>(lane)?)
        .ok()
        .and_then(Lane::from_code);
    let number = u64::try_from(row.try_get::<i64>(sequence)?);
    Ok(RecordId {
        epoch: SpoolEpoch::from_bytes(sixteen(row, epoch)?),
        lane: lane.ok_or(ControlError::Stored("a lane"))?,
        sequence: Sequence(number.map_err(|_| ControlError::Stored("a record's number"))?),
    })
}

fn sixteen(row: &Row, column: usize) -> Result<[u8; 16], ControlError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes
        .try_into()
        .map_err(|_| ControlError::Stored("an id of sixteen bytes"))
}

/// `($1, $2), ($3, $4)`.
fn rows(count: usize, width: usize) -> String {
    let row = |row: usize| format!("({})", places(row.saturating_mul(width).saturating_add(1), width));
    (0..count).map(row).collect::<Vec<_>>().join(", ")
}

/// `$3, $4`.
fn places(first: usize, count: usize) -> String {
    let place = |number: usize| format!("${}", first.saturating_add(number));
    (0..count).map(place).collect::<Vec<_>>().join(", ")
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
