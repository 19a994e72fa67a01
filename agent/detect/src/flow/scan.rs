//! Many ports of one address, one port of many addresses, and many hosts logged in to.
//!
//! Each is judged over a short span and over a long one, so that who stays below the rate of the first is seen by the
//! second. Counted by address or by session, whichever processes connect.

use std::net::IpAddr;

use fleetmend_event::table::{Severity, SubjectKind};
use serde_json::{Value, json};

use super::pattern::{Count, Distinct};
use super::{ADDRESSES_MAX, Flow, Reach, Seen, is_service, tell};
use crate::act::session_of;
use crate::behaviour::{Raise, declare, program};
use crate::lineage::{Classes, Who};
use crate::recent::Recent;
use crate::tracker::Subject;

declare! {
    PORTS_OUT = "port-scan" ["T1046"] ["discovery"] false;
    PORTS_IN = "port-scanned" ["T1595.001", "T1046"] ["reconnaissance"] false;
    HOSTS = "host-sweep" ["T1018", "T1046"] ["discovery"] false;
    LATERAL = "lateral-movement" ["T1021.004", "T1021.002", "T1021.006"] ["lateral-movement"] false;
}

const MINUTE_NS: u64 = 60_000_000_000;
const HOUR_NS: u64 = 60 * MINUTE_NS;
/// Ports within an hour, for who goes slowly.
const SLOW_PORTS: usize = 30;
/// Addresses within a minute, and within an hour.
const SWEEP: (usize, usize) = (20, 40);
/// Hosts reached for a login within five minutes, and within an hour.
const LOGINS: (usize, usize) = (8, 16);
/// From here on, an operating system chooses ports by itself: one that answers there is no service that is looked for.
const AUTOMATIC_PORTS: u16 = 32_768;
/// Services by which one logs in to, or controls, another host: telnet, SMB, remote shell, Docker, RDP, VNC, WinRM,
/// kubelet.
const LOGIN_PORTS: &[u16] = &[
    22, 23, 139, 445, 513, 514, 2375, 2376, 3389, 5900, 5985, 5986, 10250,
];

/// See the module.
pub(super) struct Scans {
    ports: usize,
    out: Recent<IpAddr, Distinct<u16>>,
    inward: Recent<IpAddr, Distinct<u16>>,
    sweeps: Recent<(u64, u16), Distinct<IpAddr>>,
    logins: Recent<u64, Distinct<IpAddr>>,
}

impl Scans {
    pub(super) fn new(ports: usize) -> Self {
        Self {
            ports,
            out: Recent::new("scanned addresses", ADDRESSES_MAX),
            inward: Recent::new("scanning addresses", ADDRESSES_MAX),
            sweeps: Recent::new("sweeps", ADDRESSES_MAX / 4),
            logins: Recent::new("logins", ADDRESSES_MAX / 4),
        }
    }

    pub(super) fn connect(&mut self, flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
        let failed = flow.event.error.is_some_and(|error| error != 0);
        let now = flow.event.boot_ns;
        self.scan(flow, failed, now, who, raise);
        if flow.far.reach == Reach::Loopback {
            return;
        }
        let session = session_of(who);
        self.sweep(flow, failed, now, session, who, raise);
        if LOGIN_PORTS.contains(&flow.port) {
            self.login(flow, failed, now, session, who, raise);
        }
    }

    fn scan(&mut self, flow: &Flow<'_>, failed: bool, now: u64, who: &Who<'_>, raise: &mut Raise<'_>) {
        // On this host, tests and services connect to ports of their own all day: what answers there is no scan.
        let local = flow.far.reach == Reach::Loopback;
        if !failed && flow.port >= 1_024 && (local || flow.port >= AUTOMATIC_PORTS) {
            return;
        }
        let ports = self.out.touch(flow.far.ip, Distinct::default);
        ports.note(flow.port, now, failed);
        let (fast, slow) = (ports.within(now, MINUTE_NS), ports.within(now, HOUR_NS));
        let Some((count, span)) = over(fast, slow, (self.ports, SLOW_PORTS.max(self.ports)), MINUTE_NS)
        else {
            return;
        };
        // A scan knocks at doors that are shut; who talks to many open services is a client of them.
        let knocks = count.failed * 4 >= count.all;
        let behind_web = who.above.any(Classes::WEB) && !who.own.any(Classes::WEB);
        let severity = if local || !knocks || is_service(who) {
            Severity::Low
        } else if who.is_risky() || behind_web {
            Severity::High
        } else {
            Severity::Medium
        };
        let title = format!(
            "{} tried {} ports of {} within {span}",
            who.comm, count.all, flow.far.ip
        );
        tell(
            Seen {
                what: &PORTS_OUT,
                severity,
                subject: Subject::named(SubjectKind::Address, &flow.far.ip.to_string()),
                title,
                factors: vec![
                    ("network.ports", json!(count.all), json!(self.ports)),
                    ("network.ports_refused", json!(count.failed), Value::Null),
                ],
                event: flow.event,
            },
            who,
            raise,
        );
    }

    fn sweep(
        &mut self,
        flow: &Flow<'_>,
        failed: bool,
        now: u64,
        session: u64,
        who: &Who<'_>,
        raise: &mut Raise<'_>,
    ) {
        let addresses = self.sweeps.touch((session, flow.port), Distinct::default);
        addresses.note(flow.far.ip, now, failed);
        let (fast, slow) = (addresses.within(now, MINUTE_NS), addresses.within(now, HOUR_NS));
        let Some((count, span)) = over(fast, slow, SWEEP, MINUTE_NS) else {
            return;
        };
        // Who reaches nearly all of them knows them.
        if count.failed * 4 < count.all {
            return;
        }
        let severity = if who.is_upkeep() || is_service(who) {
            Severity::Low
        } else {
            Severity::Medium
        };
        let title = format!(
            "{} tried port {} of {} hosts within {span}",
            who.comm, flow.port, count.all
        );
        tell(
            Seen {
                what: &HOSTS,
                severity,
                subject: program(who),
                title,
                factors: vec![
                    ("network.hosts", json!(count.all), json!(SWEEP.0)),
                    ("network.hosts_unreached", json!(count.failed), Value::Null),
                    ("server.port", json!(flow.port), Value::Null),
                ],
                event: flow.event,
            },
            who,
            raise,
        );
    }

    fn login(
        &mut self,
        flow: &Flow<'_>,
        failed: bool,
        now: u64,
        session: u64,
        who: &Who<'_>,
        raise: &mut Raise<'_>,
    ) {
        let hosts = self.logins.touch(session, Distinct::default);
        hosts.note(flow.far.ip, now, failed);
        let (fast, slow) = (hosts.within(now, 5 * MINUTE_NS), hosts.within(now, HOUR_NS));
        let Some((count, span)) = over(fast, slow, LOGINS, 5 * MINUTE_NS) else {
            return;
        };
        // Backups fetch by ssh, which is their child.
        let severity = if who.is_upkeep() || who.line().any(Classes::BACKUP) || is_service(who) {
            Severity::Low
        } else {
            Severity::Medium
        };
        let title = format!(
            "{} went for a login on {} hosts within {span}",
            who.comm, count.all
        );
        tell(
            Seen {
                what: &LATERAL,
                severity,
                subject: program(who),
                title,
                factors: vec![
                    ("network.hosts", json!(count.all), json!(LOGINS.0)),
                    ("server.port", json!(flow.port), Value::Null),
                ],
                event: flow.event,
            },
            who,
            raise,
        );
    }

    pub(super) fn accept(&mut self, flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
        if flow.far.reach == Reach::Loopback {
            return;
        }
        let now = flow.event.boot_ns;
        let ports = self.inward.touch(flow.far.ip, Distinct::default);
        ports.note(flow.local_port, now, false);
        let (fast, slow) = (ports.within(now, MINUTE_NS), ports.within(now, HOUR_NS));
        let Some((count, span)) = over(fast, slow, (self.ports, SLOW_PORTS.max(self.ports)), MINUTE_NS)
        else {
            return;
        };
        let severity = if fast.all >= self.ports {
            Severity::Medium
        } else {
            Severity::Low
        };
        tell(
            Seen {
                what: &PORTS_IN,
                severity,
                subject: Subject::named(SubjectKind::Address, &flow.far.ip.to_string()),
                title: format!(
                    "{} reached {} ports of this host within {span}",
                    flow.far.ip, count.all
                ),
                factors: vec![("network.ports", json!(count.all), json!(self.ports))],
                event: flow.event,
            },
            who,
            raise,
        );
    }
}

/// The count that is over its limit, with its span in words.
fn over(fast: Count, slow: Count, limits: (usize, usize), short: u64) -> Option<(Count, &'static str)> {
    if fast.all >= limits.0 {
        return Some((
            fast,
            if short == MINUTE_NS {
                "a minute"
            } else {
                "five minutes"
            },
        ));
    }
    (slow.all >= limits.1).then_some((slow, "an hour"))
}
