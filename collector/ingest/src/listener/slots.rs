//! Who has connections: bounded in all, for each address, and for each host.
//!
//! An address that has its share is closed at once; one that shakes many hands waits for its own. IPv6 addresses
//! count by their network of 64 bits, for whoever has one has all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fleetmend_event::HostId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often one that has too many is named.
const NAMED_EVERY: Duration = Duration::from_mins(1);

/// Whose connections are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Address(IpAddr),
    Host(HostId),
}

/// Connections of every owner; there is an entry for each that has one.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    owners: Arc<Mutex<HashMap<Owner, Held>>>,
}

#[derive(Debug)]
struct Held {
    connections: usize,
    handshakes: Arc<Semaphore>,
    named: Option<Instant>,
}

/// The slot of one connection in the count of its owner.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    owner: Owner,
}

/// An owner has too many connections; whether it has not been named for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany {
    pub(super) name_it: bool,
}

impl Slots {
    /// A connection of an address, and where its handshake waits for its turn.
    pub(super) fn of_address(
        &self,
        address: IpAddr,
        most: usize,
        handshakes: usize,
    ) -> Result<(Slot, Arc<Semaphore>), TooMany> {
        self.take(Owner::Address(network(address)), most, handshakes)
    }

    /// A connection of a host.
    pub(super) fn of_host(&self, host: HostId, most: usize) -> Result<Slot, TooMany> {
        self.take(Owner::Host(host), most, 0).map(|(slot, _)| slot)
    }

    fn take(&self, owner: Owner, most: usize, handshakes: usize) -> Result<(Slot, Arc<Semaphore>), TooMany> {
        let mut owners = self.owners.lock();
        let held = owners.entry(owner).or_insert_with(|| Held {
            connections: 0,
            handshakes: Arc::new(Semaphore::new(handshakes)),
            named: None,
        });
        if held.connections >= most {
            let name_it = held.named.is_none_or(|named| named.elapsed() >= NAMED_EVERY);
            if name_it {
                held.named = Some(Instant::now());
            }
            return Err(TooMany { name_it });
        }
        held.connections += 1;
        let slot = Slot {
            slots: self.clone(),
            owner,
        };
        Ok((slot, held.handshakes.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.slots.owners.lock().entry(self.owner) {
            let connections = held.get().connections.saturating_sub(1);
            held.get_mut().connections = connections;
            if connections == 0 {
                held.remove();
            }
        }
    }
}

/// What a connection holds as long as it is open.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _total: OwnedSemaphorePermit,
    pub(super) _address: Slot,
    pub(super) _host: Option<Slot>,
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// Calls that a connection has open, and when the last ended.
#[derive(Debug, Clone)]
pub struct Calls {
    inner: Arc<CallsInner>,
}

#[derive(Debug)]
struct CallsInner {
    open: AtomicUsize,
    ended: Mutex<Instant>,
}

/// A call that is open until this is dropped.
#[derive(Debug)]
pub struct OpenCall(Calls);

impl Default for Calls {
    fn default() -> Self {
        Self {
            inner: Arc::new(CallsInner {
                open: AtomicUsize::new(0),
                ended: Mutex::new(Instant::now()),
            }),
        }
    }
}

impl Calls {
    /// Notes that a call begins.
    pub fn begin(&self) -> OpenCall {
        self.inner.open.fetch_add(1, Ordering::AcqRel);
        OpenCall(self.clone())
    }

    /// Since when there has been no call; none while there is one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.inner.open.load(Ordering::Acquire) == 0).then(|| *self.inner.ended.lock())
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        *self.0.inner.ended.lock() = Instant::now();
        self.0.inner.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_has_its_share_and_is_named_once_when_it_wants_more() {
        let slots = Slots::default();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let first = slots.of_address(address, 2, 1).unwrap();
        let _second = slots.of_address(address, 2, 1).unwrap();
        assert_eq!(
            slots.of_address(address, 2, 1).unwrap_err(),
            TooMany { name_it: true }
        );
        assert_eq!(
            slots.of_address(address, 2, 1).unwrap_err(),
            TooMany { name_it: false }
        );
        assert!(slots.of_address("10.0.0.2".parse().unwrap(), 2, 1).is_ok());
        drop(first);
        assert!(slots.of_address(address, 2, 1).is_ok());
        assert_eq!(slots.owners.lock().len(), 1, "who has none is forgotten");
    }

    #[test]
    fn network_of_an_address_counts_as_one() {
        let slots = Slots::default();
        let _slot = slots.of_address("2001:db8::1".parse().unwrap(), 1, 1).unwrap();
        assert!(
            slots
                .of_address("2001:db8::ffff:2".parse().unwrap(), 1, 1)
                .is_err()
        );
        assert!(slots.of_address("2001:db8:0:1::1".parse().unwrap(), 1, 1).is_ok());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let _mapped = slots.of_address(mapped, 1, 1).unwrap();
        assert!(slots.of_address("10.0.0.1".parse().unwrap(), 1, 1).is_err());
    }
}
