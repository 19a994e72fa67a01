//! Configuration of enrolment.

use std::time::Duration;

use fleetmend_identity::Address;
use serde::{Deserialize, Serialize};

const DAY_S: u64 = 24 * 3600;

/// What enrolment allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnrolConfig {
    /// `host:port` of the enrolment listener as hosts reach it, an IPv6 address in brackets: it goes into tokens.
    pub address: String,
    /// `host:port` of the carrier listeners as hosts reach them: enrolled hosts are told.
    pub collectors: Vec<String>,
    /// Life of a host's certificate in seconds. Short, so that a stolen key is of use for days, not years.
    pub certificate_lifetime_s: u64,
    /// How long after its certificate ended a host may still recover, in seconds: a long holiday.
    pub recovery_grace_s: u64,
    /// Refusals of one source address per minute before it is not listened to for the rest of the minute.
    pub refusals_per_minute: u32,
    /// Rows of the audit that are kept; the oldest go first. About 200 bytes each.
    pub audit_rows_max: u32,
}

impl Default for EnrolConfig {
    fn default() -> Self {
        Self {
            address: "localhost:7443".to_owned(),
            collectors: vec!["localhost:7444".to_owned()],
            certificate_lifetime_s: 7 * DAY_S,
            recovery_grace_s: 30 * DAY_S,
            refusals_per_minute: 30,
            audit_rows_max: 100_000,
        }
    }
}

impl EnrolConfig {
    /// Every address that is none: the key and what is wrong.
    pub fn faults(&self) -> Vec<(String, String)> {
        let collectors = self.collectors.iter().enumerate();
        let named = collectors.map(|(index, address)| (format!("collectors[{index}]"), address));
        std::iter::once(("address".to_owned(), &self.address))
            .chain(named)
            .filter_map(|(key, address)| Some((key, address.parse::<Address>().err()?.to_string())))
            .collect()
    }

    pub(super) fn certificate_lifetime(&self) -> Duration {
        Duration::from_secs(self.certificate_lifetime_s)
    }

    pub(super) fn recovery_grace(&self) -> Duration {
        Duration::from_secs(self.recovery_grace_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_looked_at_before_a_token_carries_them() {
        assert_eq!(EnrolConfig::default().faults(), []);
        let config = EnrolConfig {
            address: "2001:db8::1:7443".to_owned(),
            collectors: vec!["[2001:db8::1]:7444".to_owned(), "collector.example".to_owned()],
            ..EnrolConfig::default()
        };
        let keys: Vec<String> = config.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["address", "collectors[1]"]);
    }
}
