//! Why streams end, and what their hosts are told.

use std::time::Duration;

use fleetmend_event::HostId;
use fleetmend_proto::{WireError, v1};
use tonic::{Code, Status};

use crate::admission::Crowded;
use crate::bases::RestoreError;
use crate::config::{HELD_RETRY_MAX, REPLACED_RETRY_AFTER, RETRY_AFTER};
use crate::metered::Fault;
use crate::quota::Excess;
use crate::records::CheckError;
use crate::sink::SinkError;

/// Longest version and reason that a host may give of itself, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// Why a stream ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The host closed it, or its connection broke.
    Gone,
    /// The host does not take what is sent to it.
    Stuck,
    /// The host said nothing for too long.
    Silent,
    /// A newer stream of the host took over.
    Replaced,
    /// The host was revoked.
    Revoked,
    /// Its certificate has ended; it has another by now.
    CertificateEnded,
    /// The collector stops.
    Stopping,
    /// The store cannot take its records.
    Sink(SinkError),
    /// There is no room for its message.
    NoRoom { bytes: usize },
    /// Its message did not come in time.
    Slow { bytes: usize, missing: usize },
    /// It is over its quota for longer than it can be held.
    Held { excess: Excess, wait: Duration },
    /// There is no place for its stream.
    Crowded(Crowded),
    /// A relative frame could not be made whole.
    Relative(RestoreError),
    /// It broke the rules.
    Refused {
        /// A word for the audit and metrics.
        code: &'static str,
        /// What it did.
        detail: String,
    },
}

impl End {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            End::Gone => "gone",
            End::Stuck => "stuck",
            End::Silent => "silent",
            End::Replaced => "replaced",
            End::Revoked => "revoked",
            End::CertificateEnded => "certificate_ended",
            End::Stopping => "stopping",
            End::Sink(_) => "sink",
            End::NoRoom { .. } => "no_room",
            End::Slow { .. } => "too_slow",
            End::Held { excess, .. } => excess.as_str(),
            End::Crowded(Crowded::Host) => "too_many_streams_of_host",
            End::Crowded(Crowded::All) => "too_many_streams",
            End::Relative(_) => "relative_frame",
            End::Refused { code, .. } => code,
        }
    }

    /// What the host is told; nothing when there is nobody to tell.
    pub(crate) fn goodbye(&self, host: HostId) -> Option<v1::Goodbye> {
        let (reason, retry_after, retry) = match self {
            End::Gone | End::Stuck => return None,
            End::Silent => ("nothing was heard for too long".to_owned(), RETRY_AFTER, true),
            End::Replaced => (
                "a newer stream of this host took over".to_owned(),
                REPLACED_RETRY_AFTER,
                true,
            ),
            End::Revoked => ("this host was revoked".to_owned(), Duration::ZERO, false),
            End::CertificateEnded => (
                "the certificate of this stream has ended".to_owned(),
                Duration::ZERO,
                true,
            ),
            End::Stopping => ("the collector is stopping".to_owned(), RETRY_AFTER, true),
            End::Sink(error @ SinkError::Refused { .. }) => (error.to_string(), Duration::ZERO, false),
            End::Sink(error) => (error.to_string(), RETRY_AFTER, true),
            End::NoRoom { .. } => (
                "the collector has no room for more records now".to_owned(),
                spread(host),
                true,
            ),
            End::Slow { bytes, missing } => (
                format!("a message of {bytes} bytes did not come in time: {missing} are missing"),
                spread(host),
                true,
            ),
            End::Held { excess, wait } => (
                format!("{}: this host sent more than it may", excess.as_str()),
                (*wait).min(HELD_RETRY_MAX),
                true,
            ),
            End::Crowded(Crowded::Host) => (
                "this host has too many streams".to_owned(),
                REPLACED_RETRY_AFTER,
                true,
            ),
            End::Crowded(Crowded::All) => (
                "the collector has too many streams".to_owned(),
                spread(host),
                true,
            ),
            End::Relative(error) => (error.to_string(), Duration::ZERO, true),
            End::Refused { code, detail } => (format!("{code}: {detail}"), Duration::ZERO, false),
        };
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        Some(v1::Goodbye {
            reason,
            retry_after_ms,
            retry,
            self_contained: matches!(self, End::Relative(_)),
        })
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        refused("malformed", &error.to_string())
    }
}

impl From<RestoreError> for End {
    fn from(error: RestoreError) -> Self {
        crate::metrics::refused("relative_frame");
        End::Relative(error)
    }
}

impl From<CheckError> for End {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Malformed(error) => refused("malformed", &error.to_string()),
            // A fault of the collector: the host sends the message again.
            CheckError::Unfinished => End::Sink(SinkError::Unavailable {
                reason: error.to_string(),
            }),
        }
    }
}

pub(super) fn refused(code: &'static str, detail: &str) -> End {
    crate::metrics::refused(code);
    End::Refused {
        code,
        detail: text(detail),
    }
}

/// What broke the inbound stream: its limits, the network, or a message that is none.
pub(super) fn end_of(status: &Status, fault: Option<Fault>) -> End {
    match fault {
        Some(Fault::TooLong { .. }) => return refused("too_large", status.message()),
        Some(Fault::TooSlow { bytes, missing }) => return End::Slow { bytes, missing },
        Some(Fault::NoRoom { bytes }) => return End::NoRoom { bytes },
        None => {}
    }
    match status.code() {
        // tonic refuses a message by its length before it reads it, and one that does not decode after.
        Code::OutOfRange | Code::ResourceExhausted => refused("too_large", status.message()),
        Code::Internal | Code::InvalidArgument | Code::Unimplemented
            if status.message().contains("decode")
                || status.message().contains("compress")
                || status.message().contains("flag") =>
        {
            refused("malformed", status.message())
        }
        _ => End::Gone,
    }
}

/// When a host may come back that found no room: hosts that were sent away together do not come back together.
fn spread(host: HostId) -> Duration {
    let [first, ..] = host.as_bytes();
    RETRY_AFTER + RETRY_AFTER * u32::from(*first) / 64
}

pub(super) fn text(of_host: &str) -> String {
    of_host
        .chars()
        .filter(|character| !character.is_control())
        .take(TEXT_CHARS_MAX)
        .collect()
}
