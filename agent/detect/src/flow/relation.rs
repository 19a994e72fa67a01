//! Who connects or listens at all: web servers' children, unusual listeners, tunnels, miners.

use std::net::IpAddr;

use fleetmend_event::table::{NetworkEvent, ProcessSnapshot, Severity};
use serde_json::{Value, json};

use super::{ADDRESSES_MAX, Far, Flow, Reach, Seen, tell};
use crate::behaviour::{Raise, Sign, Told, declare, program};
use crate::lineage::{Classes, Columns, Who, base_name};
use crate::recent::Recent;

declare! {
    WEB_CHILD = "web-server-child-connects" ["T1505.003", "T1071"] ["persistence", "command-and-control"] false;
    LISTENER = "unusual-listener" ["T1571", "T1205"] ["command-and-control", "persistence"] false;
    FORWARD = "ssh-remote-forward" ["T1572"] ["command-and-control"] false;
    DNS_TUNNEL = "tunnel-over-dns-port" ["T1572", "T1071.004"] ["command-and-control"] false;
    MINER = "miner-connection" ["T1496"] ["impact"] false;
}

/// Ports of mining pools.
const POOL_PORTS: &[u16] = &[3333, 4444, 5555, 7777, 9999, 14433, 14444, 45560, 45700];
/// Use of a core from which a process with a connection to a pool's port works for it.
const MINING_CORE_PCT: f64 = 80.0;
/// What a transfer of a zone takes; a tunnel takes longer and more.
const DNS_LONG_US: u64 = 120_000_000;
const DNS_BYTES: u64 = 5_000_000;

/// A connection by its ends, as one side sees it.
type Ends = (u16, IpAddr, u16);

/// What is remembered of connections.
pub(super) struct Relations {
    /// Whether this host opened a connection.
    opened: Recent<Ends, bool>,
    /// Processes with a connection to a port of pools.
    pools: Recent<(u32, u64), (String, u16, NetworkEvent)>,
}

impl Default for Relations {
    fn default() -> Self {
        Self {
            opened: Recent::new("open connections", ADDRESSES_MAX * 4),
            pools: Recent::new("pool connections", 256),
        }
    }
}

impl Relations {
    /// Whether this host opened the connection that ends; by its ports where its beginning was not seen.
    pub(super) fn is_outbound(
        &mut self,
        event: &NetworkEvent,
        far: &Far,
        local_port: u16,
        port: u16,
    ) -> bool {
        let process = (event.pid, event.start_boot_ns);
        let to_pool = self
            .pools
            .get(&process)
            .is_some_and(|(address, pool, _)| *pool == port && *address == far.ip.to_string());
        if to_pool {
            drop(self.pools.remove(&process));
        }
        self.opened
            .remove(&(local_port, far.ip, port))
            .unwrap_or(local_port >= 32_768 && port < 32_768)
    }

    pub(super) fn note(&mut self, flow: &Flow<'_>) {
        use fleetmend_event::table::NetworkEventKind::{Accept, Connect};
        let failed = flow.event.error.is_some_and(|error| error != 0);
        if matches!(flow.event.kind, Connect | Accept) && !failed {
            let ends = (flow.local_port, flow.far.ip, flow.port);
            *self.opened.touch(ends, || flow.outbound) = flow.outbound;
        }
    }

    pub(super) fn connect(&mut self, flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
        if flow.far.reach == Reach::Loopback {
            return;
        }
        let failed = flow.event.error.is_some_and(|error| error != 0);
        if POOL_PORTS.contains(&flow.port) && who.pid != 0 && !failed {
            let entry = (flow.far.ip.to_string(), flow.port, flow.event.clone());
            // The latest: an earlier one may be at its end.
            drop(self.pools.remove(&(who.pid, who.start)));
            self.pools.touch((who.pid, who.start), || entry);
        }
        web_child(flow, who, raise);
    }

    /// A process that mines is busy and has a connection to a pool.
    pub(super) fn snapshot(&mut self, row: &ProcessSnapshot, raise: &mut Raise<'_>) {
        if row.cpu_core_pct < MINING_CORE_PCT {
            return;
        }
        let Some((address, port, event)) = self.pools.get(&(row.pid, row.start_boot_ns)) else {
            return;
        };
        let lineage = raise.lineage;
        let who = lineage.who(Columns {
            pid: row.pid,
            start: row.start_boot_ns,
            ppid: Some(row.ppid),
            comm: &row.comm,
            exe: row.exe.as_deref(),
            uid: row.uid,
            unit: row.unit.as_deref(),
            container: row.container_id.as_deref(),
            ..Columns::default()
        });
        let sign = Sign::of(&MINER, Severity::High, row.time, &who, Some(row.ppid));
        raise.sign(sign, || Told {
            title: format!(
                "{} is busy and connected to {address}:{port}, a port of mining pools",
                row.comm
            ),
            factors: vec![
                (
                    "process.cpu_core_pct",
                    json!(row.cpu_core_pct),
                    json!(MINING_CORE_PCT),
                ),
                ("network.peer.port", json!(port), Value::Null),
            ],
            evidence: json!({"processes": row, "network_events": event}),
        });
    }
}

fn web_child(flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
    let own_work = Classes::WEB | Classes::MAIL;
    if !who.above.any(Classes::WEB) || who.own.any(own_work) || who.line().any(Classes::PACKAGE) {
        return;
    }
    let severity = match flow.far.reach {
        Reach::Public => Severity::High,
        _ => Severity::Medium,
    };
    tell(
        Seen {
            what: &WEB_CHILD,
            severity,
            subject: program(who),
            title: format!(
                "{}, started by a web server, connects to {}:{}",
                who.comm, flow.far.ip, flow.port
            ),
            factors: vec![(
                "network.peer.address",
                json!(flow.far.ip.to_string()),
                Value::Null,
            )],
            event: flow.event,
        },
        who,
        raise,
    );
}

pub(super) fn listen(event: &NetworkEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    // An empty address, or one for any, is reachable from everywhere.
    let local = Far::of(&event.local_address).is_some_and(|near| near.reach == Reach::Loopback);
    let name = who.exe.map_or(who.comm, base_name);
    // Before a version of its own program, the session of root is told by its login alone.
    let of_root = who.login_uid.is_some() && who.above.any(Classes::LOGIN);
    let session = name == "sshd-session" || (name == "sshd" && (who.uid != 0 || of_root));
    let port = event.local_port;
    let seen = |what, severity, title| Seen {
        what,
        severity,
        subject: program(who),
        title,
        factors: vec![
            ("server.port", json!(port), Value::Null),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        event,
    };
    if session {
        // X11 forwarding listens from 6010 on.
        if !(6_000..6_100).contains(&port) {
            let title = format!("a login over ssh forwards port {port} of this host to where it came from");
            let severity = if local { Severity::Low } else { Severity::Medium };
            tell(seen(&FORWARD, severity, title), who, raise);
        }
        return;
    }
    if local || who.container.is_some() || who.above.any(Classes::BUILD | Classes::PACKAGE) {
        return;
    }
    let severity = if who.is_risky() {
        Severity::High
    } else if who.own.any(Classes::NETWORK_TOOL | Classes::SHELL)
        || (who.above.any(Classes::WEB) && !who.own.any(Classes::WEB))
    {
        Severity::Medium
    } else if who.own.any(Classes::INTERPRETER) && !who.own.any(Classes::JIT) && who.is_person() {
        Severity::Low
    } else {
        return;
    };
    let title = format!("{name} listens on port {port}");
    tell(seen(&LISTENER, severity, title), who, raise);
}

pub(super) fn closed(flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
    let event = flow.event;
    if flow.port != 53 || !flow.outbound || flow.far.reach == Reach::Loopback {
        return;
    }
    let bytes = event
        .bytes_sent
        .unwrap_or(0)
        .saturating_add(event.bytes_received.unwrap_or(0));
    let lasted = event.duration_us.unwrap_or(0);
    // Name servers keep connections to each other, and transfer zones.
    let resolver = [
        "named",
        "unbound",
        "dnsmasq",
        "systemd-resolved",
        "pdns_server",
        "pdns_recursor",
        "knotd",
        "coredns",
        "bind9",
    ];
    let name = who.exe.map_or(who.comm, base_name);
    if (lasted < DNS_LONG_US && bytes < DNS_BYTES)
        || resolver.contains(&name)
        || name.starts_with("systemd-resolve")
    {
        return;
    }
    let severity = if who.is_risky() {
        Severity::High
    } else {
        Severity::Medium
    };
    tell(
        Seen {
            what: &DNS_TUNNEL,
            severity,
            subject: program(who),
            title: format!(
                "{name} held a connection to port 53 of {} for {} s",
                flow.far.ip,
                lasted / 1_000_000
            ),
            factors: vec![
                ("network.duration_us", json!(lasted), json!(DNS_LONG_US)),
                ("network.bytes", json!(bytes), json!(DNS_BYTES)),
            ],
            event,
        },
        who,
        raise,
    );
}
