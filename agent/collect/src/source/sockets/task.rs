//! The thread that reads the tables.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Exactness, GapStage};

use super::diag::Diag;
use super::follow::SocketFollower;
use super::{Reading, SocketEntry, proc_net};
use crate::pace::PaceHandle;
use crate::process::Inventory;
use crate::process::proc_fs::ProcFs;
use crate::source::delivery::{Delivery, Fault};

/// Network namespaces beside the own one that are read.
const NAMESPACES_MAX: usize = 64;
/// Longest nap, so that the end of the process is prompt.
const NAP: Duration = Duration::from_millis(250);

/// See the module.
pub(crate) struct Poller {
    inventory: Inventory,
    follower: SocketFollower,
    delivery: Delivery,
    poll: Duration,
    sockets_max: usize,
    pace: PaceHandle,
    diag: Option<Diag>,
    /// When the first of several readings in a row left sockets out: a gap is told once.
    told_full: bool,
}

/// Whether the tables can be read: over sock_diag, or at least of /proc.
///
/// # Errors
/// What each of the two refuses with.
pub(crate) fn works(proc: &ProcFs) -> Result<Option<String>, String> {
    let refused = match Diag::open().and_then(|diag| diag.dump(&mut |_| {})) {
        Ok(_) => return Ok(None),
        Err(error) => format!("sock_diag: {error}"),
    };
    match proc_net::read(&own_table(proc, "tcp"), &mut |_| {}) {
        Ok(_) => Ok(Some(refused)),
        Err(error) => Err(format!("{refused}; /proc/net/tcp: {error}")),
    }
}

fn own_table(proc: &ProcFs, table: &str) -> std::path::PathBuf {
    proc.path(std::process::id(), &format!("net/{table}"))
}

impl Poller {
    pub(crate) fn new(
        inventory: Inventory,
        delivery: Delivery,
        poll: Duration,
        sockets_max: usize,
        pace: PaceHandle,
    ) -> Self {
        Self {
            follower: SocketFollower::new(inventory.clone()),
            inventory,
            delivery,
            poll,
            sockets_max,
            pace,
            diag: None,
            told_full: false,
        }
    }

    /// Body of the thread.
    pub(crate) fn run(&mut self, stopped: impl Fn() -> bool) {
        while !stopped() {
            self.round();
            let rested = Instant::now();
            while !stopped() && rested.elapsed() < self.poll * self.pace.inventory_times() {
                std::thread::sleep(NAP.min(self.poll));
            }
        }
        self.delivery.flush();
    }

    /// Reads once, and sends what is new.
    pub(crate) fn round(&mut self) {
        let began = TimeMicros::now();
        match self.read() {
            Ok(reading) => {
                self.delivery.set_fault(None);
                self.delivery
                    .note_read(u64::try_from(reading.sockets.len()).unwrap_or(u64::MAX));
                self.note_left_out(&reading, began);
                for row in self.follower.take(&reading) {
                    self.delivery.send(row.into());
                }
            }
            Err(error) => self.delivery.set_fault(Some(&Fault {
                reason: format!("the socket tables cannot be read: {error}"),
                hint: "check that /proc is mounted and that the unit allows AF_NETLINK".to_owned(),
            })),
        }
        self.delivery.flush();
    }

    /// What is beyond the bound is not followed; it is one gap for as long as it is so.
    fn note_left_out(&mut self, reading: &Reading, began: TimeMicros) {
        let full = reading.left_out > 0;
        if full && !self.told_full {
            let count = reading.left_out;
            self.delivery.lose(
                began,
                count,
                Exactness::AtLeast,
                GapStage::Collect,
                "too_many_sockets",
            );
            tracing::warn!(left_out = count, "more sockets than sources.sockets_max are open");
        }
        self.told_full = full;
    }

    fn read(&mut self) -> io::Result<Reading> {
        let proc = self.inventory.proc().clone();
        let own = namespace(&proc, std::process::id());
        let sockets_max = self.sockets_max;
        let mut reading = Reading::default();
        let mut put = |namespace: Option<u32>, entry: SocketEntry| {
            if reading.sockets.len() < sockets_max {
                reading.sockets.push((namespace, entry));
            } else {
                reading.left_out += 1;
            }
        };
        let mut whole = self.read_own(&proc, &mut |entry| put(own, entry))?;
        for (other, pid) in others(&proc, own) {
            for table in ["net/tcp", "net/tcp6"] {
                let read = proc_net::read(&proc.path(pid, table), &mut |entry| put(Some(other), entry));
                // A process that ended meanwhile says nothing of its namespace's sockets; tcp6 may be missing.
                whole &= read.unwrap_or(table == "net/tcp6");
            }
        }
        reading.whole = whole && reading.left_out == 0;
        Ok(reading)
    }

    /// The own namespace: over sock_diag, or of /proc where that is refused.
    fn read_own(&mut self, proc: &ProcFs, take: &mut dyn FnMut(SocketEntry)) -> io::Result<bool> {
        if self.diag.is_none() {
            self.diag = Diag::open().ok();
        }
        if let Some(diag) = &self.diag {
            let mut found = Vec::new();
            if let Ok(whole) = diag.dump(&mut |entry| found.push(entry)) {
                found.into_iter().for_each(take);
                return Ok(whole);
            }
            self.diag = None;
        }
        let whole = proc_net::read(&own_table(proc, "tcp"), take)?;
        // A kernel without version 6 has no such table.
        Ok(whole & proc_net::read(&own_table(proc, "tcp6"), take).unwrap_or(true))
    }
}

/// Inode out of `net:[4026531833]`.
fn namespace(proc: &ProcFs, pid: u32) -> Option<u32> {
    let link = std::fs::read_link(proc.path(pid, "ns/net")).ok()?;
    link.to_str()?
        .strip_prefix("net:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// One process of each other network namespace.
fn others(proc: &ProcFs, own: Option<u32>) -> HashMap<u32, u32> {
    let mut found = HashMap::new();
    for pid in proc.pids().unwrap_or_default() {
        if let Some(namespace) = namespace(proc, pid)
            && Some(namespace) != own
            && (found.len() < NAMESPACES_MAX || found.contains_key(&namespace))
        {
            found.entry(namespace).or_insert(pid);
        }
    }
    found
}
