//! What processes do on the network, over many connections.
//!
//! Counted by address, by program and by session, never by process. What is remembered is bounded by [`ADDRESSES_MAX`]
//! and its kin; addresses are forgotten when not heard of for longest, and counted.
//!
//! Limits, all of the source: TCP connections as the kernel's sockets see them. A scan by raw packets, and packets to
//! closed ports of this host, are not connections. Bytes are known when a connection ends.

mod address;
mod beacon;
mod dns;
mod pattern;
mod relation;
mod scan;
mod shell;
mod volume;

use fleetmend_event::table::{
    ConnectionOwner, LogRecord, NetworkEvent, NetworkEventKind, ProcessEvent, ProcessSnapshot, Severity,
};
use serde_json::{Value, json};

pub(crate) use self::address::{Far, Reach};
use self::beacon::Beacons;
use self::dns::Names;
use self::relation::Relations;
use self::scan::Scans;
use self::shell::Shells;
use self::volume::Volumes;
use crate::behaviour::{Detection, Raise, Sign, Told};
use crate::config::BehaviourConfig;
use crate::lineage::{Classes, Columns, Who, is_trusted_path};
use crate::tracker::Subject;

/// Most addresses, pairs of program and address, and the like, that each detector remembers.
const ADDRESSES_MAX: usize = 4_096;

/// What is detected here.
pub(crate) fn detections() -> impl Iterator<Item = &'static Detection> {
    [
        scan::ALL,
        beacon::ALL,
        volume::ALL,
        shell::ALL,
        relation::ALL,
        dns::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// A connection as the detectors see it.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    pub(crate) event: &'a NetworkEvent,
    pub(crate) far: Far,
    pub(crate) local_port: u16,
    pub(crate) port: u16,
    /// Whether this host opened it, as far as is known.
    pub(crate) outbound: bool,
}

/// Judges connections.
pub(crate) struct Flows {
    scans: Scans,
    beacons: Beacons,
    volumes: Volumes,
    shells: Shells,
    relations: Relations,
    names: Names,
}

impl Flows {
    pub(crate) fn new(config: &BehaviourConfig) -> Self {
        Self {
            scans: Scans::new(usize::try_from(config.scan_ports).unwrap_or(20)),
            beacons: Beacons::default(),
            volumes: Volumes::new(config.exfiltration_bytes),
            shells: Shells::default(),
            relations: Relations::default(),
            names: Names::default(),
        }
    }

    /// Learns that events of connections were lost: which are open is no longer certain.
    pub(crate) fn miss(&mut self) {
        self.shells.miss();
    }

    /// Judges what happened to a connection.
    pub(crate) fn network(&mut self, event: &NetworkEvent, raise: &mut Raise<'_>) {
        let lineage = raise.lineage;
        let who = lineage.who(columns(event));
        if event.kind == NetworkEventKind::Listen {
            relation::listen(event, &who, raise);
            return;
        }
        let (Some(far), Ok(local_port), Ok(port)) = (
            Far::of(&event.remote_address),
            u16::try_from(event.local_port),
            u16::try_from(event.remote_port),
        ) else {
            return;
        };
        let outbound = match event.kind {
            NetworkEventKind::Connect => true,
            NetworkEventKind::Accept => false,
            _ => self.relations.is_outbound(event, &far, local_port, port),
        };
        let flow = Flow {
            event,
            far,
            local_port,
            port,
            outbound,
        };
        self.relations.note(&flow);
        match event.kind {
            NetworkEventKind::Connect => {
                self.scans.connect(&flow, &who, raise);
                self.beacons.connect(&flow, &who, raise);
                self.shells.opened(&flow);
                self.relations.connect(&flow, &who, raise);
            }
            NetworkEventKind::Accept => {
                self.scans.accept(&flow, &who, raise);
                self.shells.opened(&flow);
            }
            NetworkEventKind::Close => {
                self.shells.closed(&flow);
                self.volumes.closed(&flow, &who, raise);
                relation::closed(&flow, &who, raise);
            }
            NetworkEventKind::Listen => {}
        }
    }

    /// Judges a program that was run, by the connections of its process and of those above it.
    pub(crate) fn exec(&mut self, event: &ProcessEvent, raise: &mut Raise<'_>) {
        self.shells.exec(event, raise);
    }

    /// Forgets a process that ended.
    pub(crate) fn exit(&mut self, event: &ProcessEvent) {
        self.shells.exit(event);
    }

    /// Judges a process of the inventory by its connections.
    pub(crate) fn snapshot(&mut self, row: &ProcessSnapshot, raise: &mut Raise<'_>) {
        self.relations.snapshot(row, raise);
    }

    /// Judges a line of a resolver's log.
    pub(crate) fn log(&mut self, row: &LogRecord, raise: &mut Raise<'_>) {
        self.names.log(row, raise);
    }
}

fn columns(event: &NetworkEvent) -> Columns<'_> {
    // The listener's number for an accepted connection is a guess; it is still the same program.
    let known = event.owner != ConnectionOwner::Unknown;
    Columns {
        pid: if known { event.pid } else { 0 },
        start: event.start_boot_ns,
        comm: &event.comm,
        exe: event.exe.as_deref(),
        uid: event.uid,
        unit: event.unit.as_deref(),
        container: event.container_id.as_deref(),
        ..Columns::default()
    }
}

/// Whether a service of the host does it by itself: no person, no shell, and no program that does what it is told.
fn is_service(who: &Who<'_>) -> bool {
    let told =
        Classes::SHELL | Classes::INTERPRETER | Classes::DOWNLOAD | Classes::NETWORK_TOOL | Classes::SSH;
    who.login_uid.is_none()
        && who.unit.is_some_and(|unit| unit.ends_with(".service"))
        && who.exe.is_some_and(is_trusted_path)
        && !who.own.any(told)
        && !who.line().any(Classes::WEB)
}

/// What makes a sign of a connection, with the numbers behind it.
struct Seen<'a> {
    what: &'static Detection,
    severity: Severity,
    subject: Subject,
    title: String,
    factors: Vec<(&'static str, Value, Value)>,
    event: &'a NetworkEvent,
}

fn tell(seen: Seen<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
    let sign = Sign {
        what: seen.what,
        severity: seen.severity,
        time: seen.event.time,
        subject: seen.subject,
        who: Some(who),
        ppid: None,
    };
    raise.sign(sign, || Told {
        title: seen.title,
        factors: seen.factors,
        evidence: json!({"network_events": seen.event}),
    });
}
