//! Basic authentication, for clients of Prometheus' API only: Grafana and promtool know nothing of sessions.
//!
//! User and password are those of a login, and guessing them is as slow ([`crate::throttle`]). A pair that was right is
//! remembered, keyed by a hash under a key of this process, so that a dashboard's hundred queries cost one Argon2id: it
//! holds for [`KNOWN_FOR`] at most and only while the stored hash is the same. In place of the password an access token
//! is taken too.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleetmend_event::TimeMicros;
use parking_lot::Mutex;

use crate::audit::AuditEntry;
use crate::auth::Caller;
use crate::problem::{Code, Problem};
use crate::routes::is_prometheus;
use crate::state::{ApiState, Remote};
use crate::throttle::Try;

/// A pair is looked at again after this long.
const KNOWN_FOR: Duration = Duration::from_secs(300);
/// Pairs remembered; past that all are forgotten, which costs each one hash more.
const KNOWN_MAX: usize = 1_000;
/// Longest user and password, encoded.
const CREDENTIALS_BYTES_MAX: usize = 2_048;

/// Pairs that were right.
pub(crate) struct Known {
    key: hmac::Key,
    pairs: Mutex<HashMap<Vec<u8>, (String, Instant)>>,
}

impl Default for Known {
    fn default() -> Self {
        let mut secret = [0; 32];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut secret);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            pairs: Mutex::default(),
        }
    }
}

impl Known {
    fn tag(&self, user: &str, password: &str) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        // A user's name has no NUL.
        for part in [user, "\0", password] {
            context.update(part.as_bytes());
        }
        context.sign().as_ref().to_vec()
    }

    /// Whether the pair was right when `hash` was already what is stored.
    fn holds(&self, tag: &[u8], hash: &str, now: Instant) -> bool {
        let pairs = self.pairs.lock();
        pairs
            .get(tag)
            .is_some_and(|(known, until)| known == hash && now < *until)
    }

    fn add(&self, tag: Vec<u8>, hash: String, now: Instant) {
        let mut pairs = self.pairs.lock();
        if pairs.len() >= KNOWN_MAX {
            pairs.clear();
        }
        pairs.insert(tag, (hash, now + KNOWN_FOR));
    }
}

/// Who calls, by the header of a request for Prometheus' API; nobody without one.
pub(crate) async fn caller(
    state: &ApiState,
    route: Option<&str>,
    headers: HeaderMap,
    remote: Option<Remote>,
) -> Result<Option<Caller>, Problem> {
    let Some((user, password)) = credentials(&headers) else {
        return Ok(None);
    };
    if !route.is_some_and(is_prometheus) {
        return Ok(None);
    }
    if password.starts_with("fma_") {
        return Ok(state.sessions.caller(&password).await?);
    }
    let user: String = user.chars().take(64).collect();
    let tag = state.basic.tag(&user, &password);
    if let Some((hash, role)) = state.accounts.stored(&user).await?
        && state.basic.holds(&tag, &hash, Instant::now())
    {
        return caller_of(state, user, role).await;
    }
    let attempt = Try::new(&user, remote.map(|remote| remote.0.ip()));
    let wait = state.throttle.wait(&attempt, Instant::now());
    if wait > Duration::ZERO {
        metrics::counter!(crate::metrics::LOGINS, "outcome" => "throttled").increment(1);
        let seconds = u32::try_from(wait.as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let detail = format!("too many failed logins; try again in {seconds} s");
        return Err(Problem::new(Code::LoginThrottled, detail).retry_after(seconds));
    }
    let delay = state.throttle.count(&attempt, Instant::now());
    tokio::time::sleep(delay).await;
    let found = state.accounts.check_stored(&user, &password).await?;
    let outcome = if found.is_some() { "allowed" } else { "refused" };
    metrics::counter!(crate::metrics::LOGINS, "outcome" => outcome).increment(1);
    let entry = AuditEntry {
        actor: &user,
        action: "login",
        subject: &user,
        detail: "Basic authentication",
        remote,
    };
    match found {
        Some((hash, role)) => {
            state.audit.allowed(entry).await?;
            state.throttle.succeed(&attempt);
            state.basic.add(tag, hash, Instant::now());
            caller_of(state, user, role).await
        }
        None => {
            state.audit.refused(entry).await?;
            Err(Problem::new(Code::WrongCredentials, "user or password is wrong"))
        }
    }
}

/// No session stands behind it: whatever needs one finds none.
async fn caller_of(state: &ApiState, user: String, role: crate::Role) -> Result<Option<Caller>, Problem> {
    let scope = state.sessions.scope_of(&user, role).await?;
    Ok(Some(Caller {
        user,
        role,
        scope,
        session_id: String::new(),
        session_expires_at: TimeMicros::now(),
    }))
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > CREDENTIALS_BYTES_MAX {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_holds_for_its_time_and_its_stored_hash() {
        let known = Known::default();
        let now = Instant::now();
        let tag = known.tag("viewer", "a password");
        known.add(tag.clone(), "hash".to_owned(), now);
        assert!(known.holds(&tag, "hash", now));
        assert!(
            !known.holds(&tag, "another hash", now),
            "the password was changed"
        );
        assert!(!known.holds(&tag, "hash", now + KNOWN_FOR));
        assert!(!known.holds(&known.tag("viewer", "another"), "hash", now));
        for pair in 0..2 * KNOWN_MAX {
            known.add(known.tag("viewer", &pair.to_string()), String::new(), now);
        }
        assert!(known.pairs.lock().len() <= KNOWN_MAX);
    }
}
