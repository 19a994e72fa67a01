//! What accounts usually do: from which networks they log in, with which keys, and whether they become another.
//! Learnt on this host, and kept over restarts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::AuthEvent;
use serde::{Deserialize, Serialize};

/// Accounts that are remembered.
const USERS_MAX: usize = 1_024;
/// Learning that began further ahead than this began by a clock that was wrong.
const AHEAD_MAX_US: i64 = 24 * 3_600_000_000;
/// Networks, and keys, of one account.
const EACH_MAX: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    used: i64,
    #[serde(default)]
    networks: Vec<String>,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    elevated: bool,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownUsers {
    /// When learning began, in microseconds; 0 before that.
    #[serde(default)]
    since: i64,
    #[serde(default)]
    users: BTreeMap<String, Known>,
    #[serde(skip)]
    evicted: u64,
}

/// What a login shows that was not known.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) network: Option<String>,
    pub(super) key: Option<String>,
}

impl KnownUsers {
    /// Learns a login; says what is new about it, once learning is over and where the account is known.
    pub(super) fn login(&mut self, event: &AuthEvent, time: TimeMicros, learn_us: i64) -> Fresh {
        let learnt = self.is_over(time, learn_us);
        let known = self.user(&event.user, time);
        let network = event.remote_address.as_deref().map(network);
        let network = network.filter(|network| remember(&mut known.networks, network));
        let key = event
            .key_fingerprint
            .clone()
            .filter(|key| remember(&mut known.keys, key));
        Fresh {
            network: network.filter(|_| learnt && known.networks.len() > 1),
            key: key.filter(|_| learnt && known.keys.len() > 1),
        }
    }

    /// Learns that an account became another; says whether that is new.
    pub(super) fn elevates(&mut self, user: &str, time: TimeMicros, learn_us: i64) -> bool {
        let learnt = self.is_over(time, learn_us);
        let known = self.user(user, time);
        !std::mem::replace(&mut known.elevated, true) && learnt && user != "root"
    }

    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    fn is_over(&mut self, time: TimeMicros, learn_us: i64) -> bool {
        // A clock that was ahead would have learning never end.
        if self.since == 0 || self.since.saturating_sub(time.0) > AHEAD_MAX_US {
            self.since = time.0.max(1);
        }
        time.0.saturating_sub(self.since) >= learn_us
    }

    fn user(&mut self, name: &str, time: TimeMicros) -> &mut Known {
        if self.users.len() >= USERS_MAX && !self.users.contains_key(name) {
            let oldest = self
                .users
                .iter()
                .min_by_key(|(_, known)| known.used)
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.users.remove(&oldest);
                self.evicted += 1;
            }
        }
        let known = self.users.entry(name.to_owned()).or_default();
        known.used = known.used.max(time.0);
        known
    }
}

/// Remembers a word; says whether it is new. The oldest makes room.
fn remember(known: &mut Vec<String>, word: &str) -> bool {
    if let Some(at) = known.iter().position(|known| known == word) {
        // The most recent is last.
        let word = known.remove(at);
        known.push(word);
        return false;
    }
    if known.len() >= EACH_MAX {
        known.remove(0);
    }
    known.push(word.to_owned());
    true
}

/// The network of an address, as wide as one customer of a provider has it: 24 bits, or 64.
fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Err(_) => address.to_owned(),
    }
}
