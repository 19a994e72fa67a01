//! Access logs of web servers: each line is a request, for rules only; none becomes a row.
//!
//! Lines over the rate are not looked at. These and records that find the channel full are counted, and the probe
//! `logs.access` says so; no row is missing, so that there is no gap. Secrets are masked before a record leaves.

mod form;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::flow::{Bucket, RATE_LIMIT};
use super::metric;
use crate::masking::mask_text;

/// The probe of these logs.
pub(super) const PROBE: &str = "logs.access";
/// Field that holds a line of no known form.
const WHOLE: &str = "message";
/// What ends a part of a request that may be a secret.
const ENDS: [char; 6] = ['?', '&', ';', '/', ' ', '"'];

/// A request as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRecord {
    /// When the server logged it; when it was read, where the line does not say.
    pub time: TimeMicros,
    /// `nginx` or `apache`, where the place of the log says so.
    pub service: Option<&'static str>,
    /// What the line has, under the names that Sigma gives the fields of web servers.
    pub fields: BTreeMap<String, String>,
}

/// See the module.
pub(super) struct Accesses {
    rules: Option<Sender<AccessRecord>>,
    bucket: Bucket,
    seen: u64,
    told: u64,
    lost: u64,
    lost_at: Option<Instant>,
}

impl Accesses {
    /// Takes so many lines a second over the long run; tells nobody until [`Self::tell`].
    pub(super) fn new(lines_per_s: u32, now_us: u64) -> Self {
        Self {
            rules: None,
            bucket: Bucket::new(lines_per_s.into(), now_us),
            seen: 0,
            told: 0,
            lost: 0,
            lost_at: None,
        }
    }

    /// Where records go.
    pub(super) fn tell(&mut self, rules: Sender<AccessRecord>) {
        self.rules = Some(rules);
    }

    /// Takes a line of the log at `path`.
    pub(super) fn line(&mut self, path: &str, bytes: &[u8], now_us: u64) {
        let Some(rules) = &self.rules else { return };
        self.seen = self.seen.saturating_add(1);
        self.bucket.fill(now_us);
        if !self.bucket.has_one() {
            return self.lose(RATE_LIMIT);
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches(['\r', '\0']);
        if text.trim().is_empty() {
            return;
        }
        self.bucket.take_one();
        match rules.try_send(record(path, text, TimeMicros::now())) {
            Ok(()) => {
                self.told = self.told.saturating_add(1);
                metric::access("told");
            }
            Err(TrySendError::Full(_)) => self.lose("channel_full"),
            // The hub is gone; the end is near.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    fn lose(&mut self, reason: &'static str) {
        metric::access(reason);
        self.lost = self.lost.saturating_add(1);
        self.lost_at = Some(Instant::now());
    }

    /// The row of the probe, of the logs that are read; a loss is told so long. `None` where there are no such logs.
    pub(super) fn status(&self, read: &[String], recent: Duration) -> Option<ProbeStatus> {
        if read.is_empty() || self.rules.is_none() {
            return None;
        }
        let losing = self.lost_at.is_some_and(|at| at.elapsed() < recent);
        let (state, more, hint) = if losing {
            (
                ProbeState::Degraded,
                "; rules did not see every request of the last minute",
                "collect.logs.access_lines_per_s says how many they see, at the cost of the agent's budget",
            )
        } else {
            (ProbeState::Real, "", "")
        };
        Some(ProbeStatus {
            time: TimeMicros::now(),
            probe: PROBE.to_owned(),
            state,
            reason: format!("rules see the requests of {}{more}", read.join(", ")),
            hint: hint.to_owned(),
            seen: self.seen,
            delivered: self.told,
            lost: self.lost,
        })
    }
}

/// A line as rules see it. One of no known form is shown whole: what is written oddly on purpose is not hidden by that.
fn record(path: &str, line: &str, now: TimeMicros) -> AccessRecord {
    let (time, mut fields) = match form::parse(line) {
        Some(request) => (request.time, request.fields),
        None => {
            metric::access_unparsed();
            (None, BTreeMap::from([(WHOLE.to_owned(), line.to_owned())]))
        }
    };
    for value in fields.values_mut() {
        *value = masked(value);
    }
    AccessRecord {
        time: time.unwrap_or(now),
        service: service(path),
        fields,
    }
}

/// Masks what looks like a secret and can hardly be anything else. The client chooses the names: `token=` before an
/// attack must not hide it from rules.
fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for part in text.split_inclusive(ENDS) {
        let body = part.trim_end_matches(ENDS);
        if may_be_secret(body) {
            masked.push_str(&mask_text(body));
            masked.push_str(part.get(body.len()..).unwrap_or_default());
        } else {
            masked.push_str(part);
        }
    }
    masked
}

fn may_be_secret(part: &str) -> bool {
    let value = part.split_once(['=', ':']).map_or(part, |(_, value)| value);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~=".contains(&byte);
    !value.is_empty() && !value.contains("..") && value.bytes().all(is_plain)
}

/// Whose log it is, by the folders that it lies in.
fn service(path: &str) -> Option<&'static str> {
    path.split('/').find_map(|name| match name {
        "nginx" => Some("nginx"),
        "apache2" | "httpd" | "apache" => Some("apache"),
        _ => None,
    })
}
