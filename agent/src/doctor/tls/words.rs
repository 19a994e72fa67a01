//! What a failed handshake means here, and what to do.

use std::io;
use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{HostIdentity, PeerKind, TimeSource};

use super::shown::Certificate;
use crate::doctor::clock::{second, span};
use crate::doctor::network::STEP_TIMEOUT;

/// All that is known of a failure.
pub(super) struct Case {
    pub(super) fault: Option<TlsFault>,
    pub(super) error: io::Error,
    /// What the peer said first.
    pub(super) heard: Vec<u8>,
    /// What it showed.
    pub(super) certificate: Option<Certificate>,
    pub(super) identity: Arc<HostIdentity>,
    /// The time by which it was judged.
    pub(super) now: (TimeMicros, TimeSource),
    /// The time that the enrolment listener just signed.
    pub(super) signed: Option<TimeMicros>,
}

/// What was seen, and what to do.
pub(super) struct Words {
    pub(super) seen: String,
    pub(super) next: String,
}

/// Whether a look at the peer's certificate says more.
pub(super) fn is_about_theirs(fault: TlsFault) -> bool {
    matches!(
        fault,
        TlsFault::TheirsUnknown | TlsFault::TheirsExpired | TlsFault::TheirsUnfit | TlsFault::Incompatible
    )
}

pub(super) fn explain(case: &Case) -> Words {
    let words = |seen: &str, next: &str| Words {
        seen: seen.to_owned(),
        next: next.to_owned(),
    };
    match case.fault {
        // HTTP in answer to a handshake counts as garbage in it.
        None | Some(TlsFault::NotTls | TlsFault::Other) => not_tls(case),
        Some(TlsFault::TheirsExpired) => theirs_out_of_time(case),
        Some(TlsFault::TheirsUnknown | TlsFault::TheirsUnfit | TlsFault::Incompatible) => {
            theirs_unknown(case)
        }
        Some(TlsFault::TheirsRevoked) => words(
            "its certificate was revoked",
            "do not connect to it; ask who revoked it",
        ),
        Some(TlsFault::TheirsMissing) => words(
            "it shows no certificate",
            "this is no collector: correct the address or the port",
        ),
        Some(TlsFault::OursExpired) => Words {
            seen: format!(
                "the collector refuses this host's certificate because it has ended (at {}, by the certificate)",
                second(case.identity.peer().not_after)
            ),
            next: format!(
                "a running agent recovers it by itself through the enrolment listener {}: see that it runs and reaches it; if the date lies ahead, the collector's clock is wrong",
                case.identity.enrolment()
            ),
        },
        Some(TlsFault::OursRevoked) => words(
            "the collector refuses this host's certificate because it was revoked",
            "see who revoked it and why: fleetmend audit. If that was a mistake, remove the folder identity in the state folder and enrol again with a new token; the host gets a new id",
        ),
        Some(TlsFault::OursUnknown) => Words {
            seen: format!(
                "the collector does not know who issued this host's certificate: this host belongs to another fleet than it (its own is called {}, root {})",
                case.identity.fleet(),
                case.identity.root().short()
            ),
            next: "enrol this host with a token of the collector's fleet, or correct the address".to_owned(),
        },
        Some(TlsFault::OursMissing) => words(
            "the collector got no certificate from this host: something in between ends TLS and begins it anew",
            "let the proxy or load balancer pass TCP through instead (mode tcp, stream, TLS passthrough)",
        ),
        Some(TlsFault::OursUnfit) => words(
            "the collector does not accept the name or purpose of this host's certificate",
            "enrol this host again; the collector's audit says more: fleetmend audit",
        ),
    }
}

fn theirs_out_of_time(case: &Case) -> Words {
    let (now, source) = case.now;
    let Some(certificate) = &case.certificate else {
        return Words {
            seen: format!("its certificate does not hold at {}", second(now)),
            next: "compare the clocks of this host and of the collector".to_owned(),
        };
    };
    let (begin, end) = (certificate.not_before, certificate.not_after);
    let off = if now < begin {
        format!("begins in {}", span(begin.micros_since(now)))
    } else {
        format!("ended {} ago", span(now.micros_since(end)))
    };
    let seen = format!(
        "its certificate holds from {} to {}; by this host's time, {} ({}), it {off}",
        second(begin),
        second(end),
        second(now),
        source.as_str()
    );
    let next = match case.signed {
        Some(signed) if begin <= signed && signed < end => format!(
            "it is this host's clock that is wrong: the collector says, signed, that it is {}. Set it: timedatectl set-ntp true. A running agent goes by the collector's time meanwhile",
            second(signed)
        ),
        Some(_) => "it is the collector's certificate that was not renewed: restart the collector, and look at its clock and log".to_owned(),
        None if now < begin => {
            "this host's clock is most likely behind: timedatectl set-ntp true; else the collector's is ahead".to_owned()
        }
        None => "compare the clocks: this host's may be ahead; else the collector's certificate was not renewed: look at its log, and restart it".to_owned(),
    };
    Words { seen, next }
}

fn theirs_unknown(case: &Case) -> Words {
    let ours = format!(
        "{} (root {})",
        case.identity.fleet(),
        case.identity.root().short()
    );
    let Some(certificate) = &case.certificate else {
        return Words {
            seen: "it does not offer TLS 1.3 as a collector does, or a certificate of another authority".to_owned(),
            next: "correct the address or the port; the carrier listener of a collector has port 7444 unless it is configured otherwise".to_owned(),
        };
    };
    let Some(peer) = &certificate.peer else {
        return Words {
            seen: format!(
                "this is no collector of a Fleetmend fleet: it shows a certificate for {:?}, issued by {:?}",
                certificate.subject, certificate.issuer
            ),
            next: "either the address or port is that of another service, or a proxy in between ends TLS: let it pass TCP through to the collector (TLS inspection has to leave this address out)".to_owned(),
        };
    };
    match &peer.kind {
        PeerKind::Host(host) => Words {
            seen: format!("it shows the certificate of host {host}, not of a collector"),
            next: "correct the address; if it is the collector's, somebody in between pretends to be it: look at who owns that address".to_owned(),
        },
        PeerKind::Collector(name) if peer.fleet != *case.identity.fleet() => Words {
            seen: format!(
                "it is collector {name} of another fleet, {}; this host belongs to {ours}",
                peer.fleet
            ),
            next: "correct the address, or enrol this host with a token of that fleet".to_owned(),
        },
        PeerKind::Collector(name) => Words {
            seen: format!(
                "it calls itself collector {name} of fleet {}, and was not issued under the root that this host trusts, {ours}",
                peer.fleet
            ),
            next: "the fleet was made anew, its root was changed while this host was away, or somebody pretends to be the collector: compare the root's fingerprint with the one the collector prints (fleetmend-collector init prints it again), then enrol this host with a new token".to_owned(),
        },
    }
}

fn not_tls(case: &Case) -> Words {
    let port =
        "correct the port: the carrier listener of a collector has 7444 unless it is configured otherwise";
    let text = String::from_utf8_lossy(&case.heard).into_owned();
    let line = text.lines().next().unwrap_or_default();
    if line.starts_with("HTTP/") {
        return Words {
            seen: format!("it answers in plain HTTP, without TLS: {line:?}"),
            next: format!(
                "this is a web server, the collector's API, or a proxy that does not pass TLS through; {port}"
            ),
        };
    }
    if line.starts_with("SSH-") {
        return Words {
            seen: format!("an SSH server listens there: {line:?}"),
            next: port.to_owned(),
        };
    }
    let is_tls = matches!(case.heard.first(), Some(0x14..=0x17));
    if case.error.kind() == io::ErrorKind::TimedOut {
        let what = if is_tls {
            "TLS was begun and"
        } else {
            "a connection was made and then"
        };
        return Words {
            seen: format!("{what} nothing came back within {} s", STEP_TIMEOUT.as_secs()),
            next: "the collector is overloaded or hangs, or a proxy in between waits for its backend: look at the collector's log and load".to_owned(),
        };
    }
    if case.heard.is_empty() {
        return Words {
            seen: "it closed the connection without a word".to_owned(),
            next: "a load balancer without a working backend does that, and a collector that turns this address away after many refusals; look at the collector's log, and at what is in between".to_owned(),
        };
    }
    if is_tls {
        return Words {
            seen: format!("the connection ended after TLS was begun: {}", case.error),
            next: "look at the collector's log; if nothing is there, something in between ends connections: load balancers, firewalls with TLS inspection".to_owned(),
        };
    }
    let shown: String = text.chars().take(40).collect();
    Words {
        seen: format!("it does not speak TLS; it said {shown:?}"),
        next: port.to_owned(),
    }
}
