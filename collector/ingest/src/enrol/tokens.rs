//! The table of tokens.

use fleetmend_control::{self as control, Control, Row, Transaction};
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::{EnrolmentToken, Fingerprint};

use super::{EnrolError, Refusal};

/// Tokens that are listed at once.
const LISTED_MAX: i64 = 1000;

/// What a token is called where it is listed and revoked: the first digits of the hash of its secret.
pub fn token_id(token: &EnrolmentToken) -> String {
    token.secret().digest().short()
}

/// A token as it is shown: without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenState {
    /// See [`token_id`].
    pub id: String,
    /// When it was issued.
    pub created_at: TimeMicros,
    /// Who had it issued; empty where that was not noted.
    pub created_by: String,
    /// Until when it can be used.
    pub expires_at: TimeMicros,
    /// How many hosts it was for.
    pub uses: u32,
    /// How many hosts it can still enrol.
    pub uses_left: u32,
    /// When it was revoked.
    pub revoked_at: Option<TimeMicros>,
}

pub(super) async fn insert(
    pool: &Control,
    digest: &Fingerprint,
    by: &str,
    now: TimeMicros,
    expires: TimeMicros,
    uses: u32,
) -> Result<(), EnrolError> {
    control::query(
        "INSERT INTO ingest_enrolment_tokens (digest, created_by, created_at, expires_at, uses, uses_left)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(digest.to_string())
    .bind(by)
    .bind(now.0)
    .bind(expires.0)
    .bind(i64::from(uses))
    .bind(i64::from(uses))
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes one use of the token for `host`, or none if the host took one before.
pub(super) async fn take(
    connection: &mut Transaction,
    digest: &Fingerprint,
    host: HostId,
    now: TimeMicros,
) -> Result<(), Refusal> {
    let text = digest.to_string();
    let row = control::query(
        "SELECT expires_at, uses_left, revoked_at FROM ingest_enrolment_tokens WHERE digest = $1",
    )
    .bind(&text)
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(Refusal::TokenUnknown)?;
    if row.try_get::<Option<i64>>("revoked_at")?.is_some() {
        return Err(Refusal::TokenRevoked);
    }
    if now.0 >= row.try_get::<i64>("expires_at")? {
        return Err(Refusal::TokenExpired);
    }
    let first = control::query(
        "INSERT INTO ingest_enrolments (token, host_id, enrolled_at) VALUES ($1, $2, $3)
             ON CONFLICT (token, host_id) DO NOTHING",
    )
    .bind(&text)
    .bind(host.to_string())
    .bind(now.0)
    .execute(&mut *connection)
    .await?;
    if first == 0 {
        return Ok(());
    }
    if row.try_get::<i64>("uses_left")? == 0 {
        return Err(Refusal::TokenUsed);
    }
    control::query("UPDATE ingest_enrolment_tokens SET uses_left = uses_left - 1 WHERE digest = $1")
        .bind(&text)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn all(pool: &Control) -> Result<Vec<TokenState>, EnrolError> {
    let rows = control::query("SELECT digest, created_by, created_at, expires_at, uses, uses_left, revoked_at FROM ingest_enrolment_tokens
         ORDER BY created_at DESC LIMIT $1")
        .bind(LISTED_MAX)
        .fetch_all(pool)
        .await?;
    rows.iter().map(state_of).collect()
}

fn state_of(row: &Row) -> Result<TokenState, EnrolError> {
    let number = |column: &str| -> Result<u32, EnrolError> {
        u32::try_from(row.try_get::<i64>(column)?).map_err(|_| EnrolError::Damaged("number of uses"))
    };
    Ok(TokenState {
        id: row.try_get::<String>("digest")?.chars().take(16).collect(),
        created_at: TimeMicros(row.try_get("created_at")?),
        created_by: row.try_get("created_by")?,
        expires_at: TimeMicros(row.try_get("expires_at")?),
        uses: number("uses")?,
        uses_left: number("uses_left")?,
        revoked_at: row.try_get::<Option<i64>>("revoked_at")?.map(TimeMicros),
    })
}

pub(super) async fn revoke(pool: &Control, id: &str, now: TimeMicros) -> Result<bool, EnrolError> {
    let done =
        control::query("UPDATE ingest_enrolment_tokens SET revoked_at = coalesce(revoked_at, $1) WHERE substr(digest, 1, 16) = $2")
            .bind(now.0)
            .bind(id)
            .execute(pool)
            .await?;
    Ok(done > 0)
}
