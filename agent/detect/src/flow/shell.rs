//! Shells at the end of a connection.
//!
//! A process that has a connection open and then runs a shell in its place has most likely joined the two; so has one
//! whose child is a shell that waits for a person. What logs people in does just that, and is known by its program.

use fleetmend_event::table::{ConnectionOwner, ProcessEvent, Severity};
use serde_json::{Value, json};

use super::{ADDRESSES_MAX, Flow, Reach};
use crate::act::{is_interactive, process_columns};
use crate::behaviour::{Raise, Sign, Told, declare};
use crate::lineage::Classes;
use crate::recent::Recent;

declare! {
    REVERSE = "reverse-shell" ["T1059.004", "T1071"] ["execution", "command-and-control"] false;
    BIND = "bind-shell" ["T1059.004", "T1571"] ["execution", "command-and-control"] false;
}

/// Ancestors whose connections a shell may be joined to.
const DEPTH: usize = 3;

/// The open connections of a process.
#[derive(Default, Clone)]
struct Joined {
    out: u32,
    inward: u32,
    far: Option<(String, u16, Reach)>,
    /// [`Shells::losses`] when one was opened last.
    losses: u32,
}

/// See the module.
pub(super) struct Shells {
    processes: Recent<(u32, u64), Joined>,
    /// How often events of connections were lost.
    losses: u32,
}

impl Default for Shells {
    fn default() -> Self {
        Self {
            processes: Recent::new("processes with connections", ADDRESSES_MAX),
            losses: 0,
        }
    }
}

impl Shells {
    /// Learns that events were lost, ends of connections among them.
    pub(super) fn miss(&mut self) {
        self.losses = self.losses.wrapping_add(1);
    }

    pub(super) fn opened(&mut self, flow: &Flow<'_>) {
        let event = flow.event;
        let failed = event.error.is_some_and(|error| error != 0);
        if event.pid == 0 || event.owner == ConnectionOwner::Unknown || failed {
            return;
        }
        let joined = self
            .processes
            .touch((event.pid, event.start_boot_ns), Joined::default);
        let count = if flow.outbound {
            &mut joined.out
        } else {
            &mut joined.inward
        };
        *count = count.saturating_add(1);
        joined.losses = self.losses;
        joined.far = Some((flow.far.ip.to_string(), flow.port, flow.far.reach));
    }

    pub(super) fn closed(&mut self, flow: &Flow<'_>) {
        let key = (flow.event.pid, flow.event.start_boot_ns);
        let Some(joined) = self.processes.get_mut(&key) else {
            return;
        };
        let count = if flow.outbound {
            &mut joined.out
        } else {
            &mut joined.inward
        };
        *count = count.saturating_sub(1);
    }

    pub(super) fn exit(&mut self, event: &ProcessEvent) {
        drop(self.processes.remove(&(event.pid, event.start_boot_ns)));
    }

    pub(super) fn exec(&mut self, event: &ProcessEvent, raise: &mut Raise<'_>) {
        let lineage = raise.lineage;
        let who = lineage.who(process_columns(event));
        if !who.own.any(Classes::SHELL) {
            return;
        }
        let own = self.processes.get(&(event.pid, event.start_boot_ns)).cloned();
        let interactive = is_interactive(&event.args);
        let found = own
            .filter(|joined| joined.out + joined.inward > 0)
            .map(|joined| (joined, true));
        // What logs people in, and ssh's own helpers, join shells to connections as their work.
        let gates = Classes::LOGIN | Classes::ELEVATE | Classes::SSH;
        let found = found.or_else(|| {
            let above = lineage.ancestors(event.pid, event.start_boot_ns, DEPTH);
            let others = above
                .iter()
                .filter(|(pid, start)| !lineage.own_of(*pid, *start).is_some_and(|own| own.any(gates)));
            let joined = others.filter_map(|key| self.processes.get(key));
            let far = |joined: &&Joined| {
                joined
                    .far
                    .as_ref()
                    .is_some_and(|(_, _, reach)| *reach != Reach::Loopback)
            };
            let mut open = joined.filter(|joined| joined.out + joined.inward > 0).filter(far);
            open.next()
                .filter(|_| interactive)
                .map(|joined| (joined.clone(), false))
        });
        let Some((joined, in_place)) = found else { return };
        let what = if joined.out > 0 { &REVERSE } else { &BIND };
        let (address, port, reach) = joined.far.unwrap_or_else(|| (String::new(), 0, Reach::Loopback));
        let severity = match (in_place, interactive, reach) {
            (true, true, _) | (false, ..) => Severity::High,
            (true, false, Reach::Loopback) => Severity::Low,
            (true, false, _) => Severity::Medium,
        };
        // Its end may be among what was lost.
        let severity = if joined.losses == self.losses {
            severity
        } else {
            Severity::Low
        };
        let sign = Sign::of(what, severity, event.time, &who, Some(event.ppid));
        raise.sign(sign, || Told {
            title: format!(
                "{} runs at the end of a connection with {address}:{port}",
                who.comm
            ),
            factors: vec![
                ("network.peer.address", json!(address), Value::Null),
                ("network.peer.port", json!(port), Value::Null),
                ("process.command_line", json!(event.args.join(" ")), Value::Null),
            ],
            evidence: json!({"process_events": event}),
        });
    }
}
