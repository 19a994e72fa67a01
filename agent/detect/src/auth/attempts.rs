//! What is remembered of attempts, each piece of it bounded.

use std::collections::{HashMap, HashSet, VecDeque};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::AuthEvent;

use super::config::{FAILURES_MAX, KEPT};

/// A map with at most so many entries; the one that was used longest ago makes room.
pub(super) struct Bounded<V> {
    entries: HashMap<String, (TimeMicros, V)>,
    max: usize,
    evicted: u64,
}

impl<V: Default> Bounded<V> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            max,
            evicted: 0,
        }
    }

    pub(super) fn at(&mut self, key: &str, time: TimeMicros) -> &mut V {
        if self.entries.len() >= self.max && !self.entries.contains_key(key) {
            let oldest = self
                .entries
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
                self.evicted += 1;
            }
        }
        let entry = self
            .entries
            .entry(key.to_owned())
            .or_insert_with(|| (time, V::default()));
        entry.0 = entry.0.max(time);
        &mut entry.1
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }
}

/// The times of the last attempts.
#[derive(Debug, Default)]
pub(super) struct Times(VecDeque<TimeMicros>);

impl Times {
    pub(super) fn add(&mut self, time: TimeMicros, count: u64) {
        for _ in 0..count.min(FAILURES_MAX) {
            if self.0.len() >= KEPT {
                self.0.pop_front();
            }
            self.0.push_back(time);
        }
    }

    /// Whether the last `count` of them lie within `span` before `now`.
    pub(super) fn within(&self, count: u64, span_us: i64, now: TimeMicros) -> bool {
        self.count_since(now.plus_micros(-span_us)) >= count
    }

    /// How many are not older, as far as they are remembered.
    pub(super) fn count_since(&self, since: TimeMicros) -> u64 {
        self.0.iter().filter(|time| **time >= since).count() as u64
    }
}

/// An address that failed to log in.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) failures: Times,
    users: VecDeque<(String, TimeMicros)>,
    /// Ports of connections, and whether their attempt was counted without knowing how it was made.
    ports: VecDeque<(u32, bool)>,
}

impl Source {
    /// How many attempts an event is. A daemon tells some twice: that the account does not exist, then that the
    /// password was wrong; or that passwords were wrong, then that the client gave up.
    pub(super) fn attempts(&mut self, event: &AuthEvent) -> u64 {
        // Keys that are offered and refused are no guesses; a connection on which only that happened is one attempt.
        let vague = event.method.as_deref().is_none_or(|method| method == "publickey");
        let Some(port) = event.remote_port else {
            return if event.method.is_none() { 0 } else { event.repeats };
        };
        let known = self.ports.iter_mut().find(|(known, _)| *known == port);
        match known {
            Some(_) if vague => 0,
            Some((_, counted)) if *counted => {
                *counted = false;
                event.repeats.saturating_sub(1)
            }
            Some(_) => event.repeats,
            None => {
                if self.ports.len() >= KEPT {
                    self.ports.pop_front();
                }
                self.ports.push_back((port, vague));
                event.repeats
            }
        }
    }

    pub(super) fn fail(&mut self, time: TimeMicros, user: &str, count: u64) {
        self.failures.add(time, count);
        if let Some(known) = self.users.iter_mut().find(|(known, _)| known == user) {
            known.1 = time;
            return;
        }
        if self.users.len() >= KEPT {
            self.users.pop_front();
        }
        self.users.push_back((user.to_owned(), time));
    }

    pub(super) fn users_since(&self, since: TimeMicros) -> u64 {
        self.users.iter().filter(|(_, time)| *time >= since).count() as u64
    }
}

/// An account that was tried.
#[derive(Debug, Default)]
pub(super) struct Target {
    failures: VecDeque<(TimeMicros, String)>,
}

impl Target {
    pub(super) fn fail(&mut self, time: TimeMicros, address: &str, count: u64) {
        for _ in 0..count.min(FAILURES_MAX) {
            if self.failures.len() >= KEPT {
                self.failures.pop_front();
            }
            self.failures.push_back((time, address.to_owned()));
        }
    }

    /// Failures that are not older, and the addresses that they came from.
    pub(super) fn since(&self, since: TimeMicros) -> (u64, u64) {
        let recent = self.failures.iter().filter(|(time, _)| *time >= since);
        let addresses: HashSet<&str> = recent.clone().map(|(_, address)| address.as_str()).collect();
        (recent.count() as u64, addresses.len() as u64)
    }

    pub(super) fn has(&self, address: &str) -> bool {
        self.failures.iter().any(|(_, known)| known == address)
    }
}
