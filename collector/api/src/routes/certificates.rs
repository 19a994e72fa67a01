//! Which certificates end, soonest first: those of hosts, and the collector's own.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use fleetmend_event::TimeMicros;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use crate::auth::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::state::Shared;

/// Longer than any certificate lives.
const DAYS_MAX: u32 = 36_500;
const DAY_MS: i64 = 24 * 3_600_000;
const API_CERTIFICATE: &str = "API";
const API_RENEWAL: &str =
    "by whoever keeps api.tls: put the new files there and reload the collector (SIGHUP)";

/// A certificate as the contract has it.
#[derive(Serialize, ToSchema)]
struct CertificateEnd {
    /// `host` or `collector`.
    holder: &'static str,
    host_id: Option<String>,
    /// Of a host what it called itself when it enrolled, else what the certificate or the key is for.
    name: String,
    /// `null` for the collector's keys and trust bundle, which hold until they are rotated.
    not_after: Option<String>,
    expired: bool,
    /// Always false for the collector's own.
    revoked: bool,
    /// Whether the host's stream stands; `null` for the collector's own.
    connected: Option<bool>,
    last_seen: Option<String>,
    /// Who renews it.
    renewal: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CertificateList {
    items: Vec<CertificateEnd>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificateParameters {
    /// Only those that end within so many days, or have ended, and are not revoked.
    expiring_days: Option<u32>,
}

#[utoipa::path(get, path = "/certificates", tag = "hosts", security(("bearer" = [])), params(CertificateParameters),
    responses((status = 200, body = CertificateList), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<CertificateParameters>,
) -> Result<Json<CertificateList>, Problem> {
    if parameters.expiring_days.is_some_and(|days| days > DAYS_MAX) {
        return Err(Problem::field(
            "expiring_days",
            format!("has to be 0 to {DAYS_MAX}"),
        ));
    }
    let now = TimeMicros::now();
    let until = parameters
        .expiring_days
        .map(|days| now.plus_millis(i64::from(days) * DAY_MS));
    let live: HashMap<_, _> = state
        .hosts
        .live_hosts()
        .into_iter()
        .map(|host| (host.host_id, host))
        .collect();
    let enrolled = state.enrolments.hosts().await?;
    let hosts = enrolled
        .into_iter()
        .filter(|host| host.removed_at.is_none() && caller.scope.sees(host.host_id));
    let hosts = hosts.map(|host| {
        let seen = live.get(&host.host_id);
        let end = CertificateEnd {
            holder: "host",
            host_id: Some(host.host_id.to_string()),
            name: host.hostname,
            not_after: Some(host.certificate_not_after.to_string()),
            expired: host.certificate_not_after <= now,
            revoked: host.revoked,
            connected: Some(seen.is_some_and(|live| live.connected_since.is_some())),
            last_seen: seen.and_then(|live| live.last_seen).map(|time| time.to_string()),
            renewal: "by its agent".to_owned(),
        };
        (Some(host.certificate_not_after), end)
    });
    let own = |name: &str, not_after: Option<TimeMicros>, renewal: &str| {
        let end = CertificateEnd {
            holder: "collector",
            host_id: None,
            name: name.to_owned(),
            not_after: not_after.map(|end| end.to_string()),
            expired: not_after.is_some_and(|end| end <= now),
            revoked: false,
            connected: None,
            last_seen: None,
            renewal: renewal.to_owned(),
        };
        (not_after, end)
    };
    let mut ends: Vec<(Option<TimeMicros>, CertificateEnd)> = hosts.collect();
    let certificates = state.enrolments.certificates().await?;
    ends.extend(
        certificates
            .iter()
            .map(|found| own(&found.name, found.not_after, found.renewal)),
    );
    ends.extend(
        state
            .certificate
            .not_after()
            .map(|end| own(API_CERTIFICATE, Some(end), API_RENEWAL)),
    );
    if let Some(until) = until {
        ends.retain(|(not_after, end)| not_after.is_some_and(|ends| ends <= until) && !end.revoked);
    }
    // A revoked one is nobody's worry: those come last, after what has no end.
    ends.sort_by(|(one, a), (other, b)| {
        (a.revoked, one.is_none(), one, &a.name).cmp(&(b.revoked, other.is_none(), other, &b.name))
    });
    Ok(Json(CertificateList {
        items: ends.into_iter().map(|(_, end)| end).collect(),
    }))
}
