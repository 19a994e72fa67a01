//! How many streams there may be: in all, and of one host.

use std::collections::HashMap;
use std::sync::Arc;

use fleetmend_event::HostId;
use parking_lot::Mutex;

/// Streams that are open; there is an entry for each host that has one.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    open: Arc<Mutex<Open>>,
    of_host_max: usize,
    all_max: usize,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    hosts: HashMap<HostId, usize>,
}

/// A stream that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    streams: Streams,
    host: HostId,
}

/// Why there is no place for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// The host has too many.
    Host,
    /// There are too many in all.
    All,
}

impl Streams {
    pub(crate) fn new(all_max: usize, of_host_max: usize) -> Self {
        Self {
            open: Arc::default(),
            of_host_max,
            all_max,
        }
    }

    /// A place for a stream of `host`.
    pub(crate) fn admit(&self, host: HostId) -> Result<Admitted, Crowded> {
        let mut open = self.open.lock();
        let of_host = open.hosts.get(&host).copied().unwrap_or(0);
        if of_host >= self.of_host_max {
            return Err(Crowded::Host);
        }
        if open.all >= self.all_max {
            return Err(Crowded::All);
        }
        open.all += 1;
        open.hosts.insert(host, of_host.saturating_add(1));
        Ok(Admitted {
            streams: self.clone(),
            host,
        })
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.lock().all
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        open.all = open.all.saturating_sub(1);
        let left = open
            .hosts
            .get(&self.host)
            .map_or(0, |open| open.saturating_sub(1));
        if left == 0 {
            open.hosts.remove(&self.host);
        } else {
            open.hosts.insert(self.host, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_for_a_host_and_in_all() {
        let streams = Streams::new(3, 2);
        let (greedy, other) = (HostId::random(), HostId::random());
        let first = streams.admit(greedy).unwrap();
        let _second = streams.admit(greedy).unwrap();
        assert_eq!(streams.admit(greedy).unwrap_err(), Crowded::Host);
        let _third = streams.admit(other).unwrap();
        assert_eq!(streams.admit(HostId::random()).unwrap_err(), Crowded::All);
        drop(first);
        assert!(streams.admit(greedy).is_ok());
        assert_eq!(
            streams.open.lock().hosts.len(),
            2,
            "a place that was given up is free"
        );
    }
}
