//! From what happened to a verdict.

use std::io::ErrorKind;

use fleetmend_event::table::SiteVerdict;

/// How a connection attempt ended without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectFault {
    /// The operating system said so.
    Refused(ErrorKind),
    /// No answer in time.
    Timeout,
}

/// What the witness says about our own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// It answered: our network works.
    Answers,
    /// It did not: our network is at fault.
    Silent,
    /// None is configured.
    Absent,
}

/// Whose fault a failed connection is.
pub(super) fn connect_verdict(fault: ConnectFault, witness: Witness) -> (SiteVerdict, &'static str) {
    match (fault, witness) {
        (_, Witness::Silent) => (
            SiteVerdict::Unknown,
            "the witness does not answer either: our network is at fault",
        ),
        (ConnectFault::Refused(ErrorKind::ConnectionRefused), _) => (SiteVerdict::Down, "connection refused"),
        (ConnectFault::Refused(ErrorKind::ConnectionReset), _) => (SiteVerdict::Down, "connection reset"),
        (
            ConnectFault::Refused(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable),
            Witness::Answers,
        ) => (SiteVerdict::Down, "unreachable, while the witness answers"),
        (
            ConnectFault::Refused(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable),
            Witness::Absent,
        ) => (SiteVerdict::Unknown, "no route from this host"),
        (ConnectFault::Refused(ErrorKind::TimedOut) | ConnectFault::Timeout, _) => {
            (SiteVerdict::Down, "no answer to connect")
        }
        // No descriptor, no local port, not permitted: this host cannot probe.
        (ConnectFault::Refused(_), _) => (SiteVerdict::Unknown, "this host could not try to connect"),
    }
}

/// Whether an HTTP status is what the site should answer.
pub(super) fn status_is_expected(status: u16, expected: &[u16]) -> bool {
    if expected.is_empty() {
        (200..400).contains(&status)
    } else {
        expected.contains(&status)
    }
}
