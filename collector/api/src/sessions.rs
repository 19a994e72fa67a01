//! Sessions and their tokens: random, opaque, kept as SHA-256. A hash needs no salt here: the tokens have 256 bits.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fleetmend_control::{self as control, Control, ControlError, Row, Transaction};
use fleetmend_event::{HostScope, TimeMicros};
use rand::RngCore as _;

use crate::auth::Caller;
use crate::groups::Groups;
use crate::users::{Role, role_of};
use crate::{ApiConfig, StateError};

/// Sessions one user may have; the oldest ends when one more begins.
const SESSIONS_PER_USER_MAX: i64 = 50;

#[derive(Clone)]
pub(crate) struct Sessions {
    pool: Control,
    groups: Groups,
    access: Duration,
    refresh: Duration,
    whole: Duration,
}

/// What a login or a refresh hands out; the only time the tokens are there.
pub(crate) struct Granted {
    pub(crate) access_token: String,
    pub(crate) expires_at: TimeMicros,
    pub(crate) refresh_token: String,
    pub(crate) refresh_expires_at: TimeMicros,
    pub(crate) user: String,
    pub(crate) role: Role,
}

pub(crate) enum Refreshed {
    Granted(Box<Granted>),
    /// It was spent before: somebody has a copy. The session is ended.
    Reused {
        user: String,
    },
    Unknown,
}

impl Sessions {
    pub(crate) fn new(pool: Control, config: &ApiConfig) -> Self {
        Self {
            groups: Groups::new(pool.clone()),
            pool,
            access: Duration::from_secs(config.access_token_s),
            refresh: Duration::from_secs(config.refresh_token_s),
            whole: Duration::from_secs(config.session_s),
        }
    }

    /// Begins a session for a user whose password was found right.
    pub(crate) async fn begin(&self, user: &str, role: Role) -> Result<Granted, StateError> {
        let begin = async {
            let mut transaction = self.pool.begin("api").await?;
            let now = TimeMicros::now();
            let session = uuid::Uuid::now_v7().to_string();
            let ends = after(now, self.whole);
            control::query(
                "INSERT INTO api_sessions (session_id, \"user\", created_at, expires_at) VALUES ($1, $2, $3, $4)",
            )
            .bind(&session)
            .bind(user)
            .bind(now.0)
            .bind(ends.0)
            .execute(&mut transaction)
            .await?;
            sweep(&mut transaction, user, now).await?;
            let granted = self
                .grant(&mut transaction, &session, user, role, now, ends)
                .await?;
            transaction.commit().await?;
            Ok(granted)
        };
        begin.await.map_err(StateError::database("begin a session"))
    }

    /// Spends a refresh token for new ones.
    pub(crate) async fn refresh(&self, token: &str) -> Result<Refreshed, StateError> {
        let now = TimeMicros::now();
        let hash = hash_of(token);
        let refresh = async {
            let mut transaction = self.pool.begin("api").await?;
            let found = control::query(
                "SELECT t.session_id, t.used_at, t.expires_at, s.\"user\", s.expires_at, u.role FROM api_tokens t
                 JOIN api_sessions s USING (session_id) JOIN api_users u ON u.name = s.\"user\"
                 WHERE t.hash = $1 AND t.kind = 'refresh'",
            )
            .bind(&hash)
            .fetch_optional(&mut transaction)
            .await?;
            let Some(row) = found else {
                return Ok(Found::Unknown);
            };
            let (session, user): (String, String) = (row.try_get(0)?, row.try_get(3)?);
            if row.try_get::<Option<i64>>(1)?.is_some() {
                remove(&mut transaction, &session).await?;
                transaction.commit().await?;
                return Ok(Found::Reused(user));
            }
            let ends = TimeMicros(row.try_get(4)?);
            if row.try_get::<i64>(2)? <= now.0 || ends <= now {
                return Ok(Found::Unknown);
            }
            control::query("UPDATE api_tokens SET used_at = $1 WHERE hash = $2")
                .bind(now.0)
                .bind(&hash)
                .execute(&mut transaction)
                .await?;
            let Ok(role) = role_of(row.try_get(5)?) else {
                return Ok(Found::Unknown);
            };
            let granted = self
                .grant(&mut transaction, &session, &user, role, now, ends)
                .await?;
            transaction.commit().await?;
            Ok(Found::Granted(Box::new(granted)))
        };
        Ok(
            match refresh.await.map_err(StateError::database("refresh a session"))? {
                Found::Granted(granted) => Refreshed::Granted(granted),
                Found::Reused(user) => Refreshed::Reused { user },
                Found::Unknown => Refreshed::Unknown,
            },
        )
    }

    /// Who has this access token, if anybody.
    pub(crate) async fn caller(&self, token: &str) -> Result<Option<Caller>, StateError> {
        let now = TimeMicros::now();
        let row = control::query(
            "SELECT s.session_id, s.\"user\", s.expires_at, u.role FROM api_tokens t JOIN api_sessions s USING (session_id)
             JOIN api_users u ON u.name = s.\"user\"
             WHERE t.hash = $1 AND t.kind = 'access' AND t.expires_at > $2 AND s.expires_at > $2",
        )
        .bind(hash_of(token))
        .bind(now.0)
        .fetch_optional(&self.pool)
        .await
        .map_err(StateError::database("find a session"))?;
        self.caller_of(row).await
    }

    /// The caller of a session that still stands.
    pub(crate) async fn by_id(&self, session: &str) -> Result<Option<Caller>, StateError> {
        let row = control::query(
            "SELECT s.session_id, s.\"user\", s.expires_at, u.role FROM api_sessions s JOIN api_users u ON u.name = s.\"user\"
             WHERE s.session_id = $1 AND s.expires_at > $2",
        )
        .bind(session)
        .bind(TimeMicros::now().0)
        .fetch_optional(&self.pool)
        .await
        .map_err(StateError::database("find a session"))?;
        self.caller_of(row).await
    }

    /// Ends a session.
    pub(crate) async fn end(&self, session: &str) -> Result<(), StateError> {
        let end = async {
            let mut transaction = self.pool.begin("api").await?;
            remove(&mut transaction, session).await?;
            transaction.commit().await
        };
        end.await.map_err(StateError::database("end a session"))
    }

    /// The caller with what the caller may see now.
    async fn caller_of(&self, row: Option<Row>) -> Result<Option<Caller>, StateError> {
        let Some(row) = row else {
            return Ok(None);
        };
        let (user, role): (String, Role) = (row.try_get(1)?, role_of(row.try_get(3)?)?);
        let scope = self.scope_of(&user, role).await?;
        Ok(Some(Caller {
            session_id: row.try_get(0)?,
            user,
            session_expires_at: TimeMicros(row.try_get(2)?),
            role,
            scope,
        }))
    }

    /// What a user may see now.
    pub(crate) async fn scope_of(&self, user: &str, role: Role) -> Result<HostScope, StateError> {
        match role {
            Role::Admin => Ok(HostScope::All),
            Role::Viewer => self.groups.scope_of(user).await,
        }
    }

    async fn grant(
        &self,
        connection: &mut Transaction,
        session: &str,
        user: &str,
        role: Role,
        now: TimeMicros,
        ends: TimeMicros,
    ) -> Result<Granted, ControlError> {
        let expires_at = after(now, self.access).min(ends);
        let refresh_expires_at = after(now, self.refresh).min(ends);
        let granted = Granted {
            access_token: random_token("fma_"),
            expires_at,
            refresh_token: random_token("fmr_"),
            refresh_expires_at,
            user: user.to_owned(),
            role,
        };
        let tokens = [
            (&granted.access_token, "access", expires_at),
            (&granted.refresh_token, "refresh", refresh_expires_at),
        ];
        for (token, kind, until) in tokens {
            control::query(
                "INSERT INTO api_tokens (hash, session_id, kind, expires_at) VALUES ($1, $2, $3, $4)",
            )
            .bind(hash_of(token))
            .bind(session)
            .bind(kind)
            .bind(until.0)
            .execute(&mut *connection)
            .await?;
        }
        Ok(granted)
    }
}

enum Found {
    Granted(Box<Granted>),
    Reused(String),
    Unknown,
}

/// Removes what has expired, and the oldest sessions of a user who has too many.
async fn sweep(connection: &mut Transaction, user: &str, now: TimeMicros) -> Result<(), ControlError> {
    control::query(
        "DELETE FROM api_sessions WHERE expires_at <= $1 OR (\"user\" = $2 AND session_id NOT IN
         (SELECT session_id FROM api_sessions WHERE \"user\" = $2 ORDER BY created_at DESC LIMIT $3))",
    )
    .bind(now.0)
    .bind(user)
    .bind(SESSIONS_PER_USER_MAX)
    .execute(&mut *connection)
    .await?;
    control::query(
        "DELETE FROM api_tokens WHERE expires_at <= $1 OR session_id NOT IN (SELECT session_id FROM api_sessions)",
    )
    .bind(now.0)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

async fn remove(connection: &mut Transaction, session: &str) -> Result<(), ControlError> {
    control::query("DELETE FROM api_tokens WHERE session_id = $1")
        .bind(session)
        .execute(&mut *connection)
        .await?;
    control::query("DELETE FROM api_sessions WHERE session_id = $1")
        .bind(session)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

pub(crate) fn after(now: TimeMicros, duration: Duration) -> TimeMicros {
    now.plus_micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

/// 256 random bits behind a prefix that secret scanners can know.
pub(crate) fn random_token(prefix: &str) -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

pub(crate) fn hash_of(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes())
        .as_ref()
        .to_vec()
}
