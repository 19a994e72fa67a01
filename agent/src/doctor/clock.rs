//! Dates of the certificate, and whether the clocks can be right.

use agent_stream::enrol::EnrolError;
use fleetmend_event::TimeMicros;
use fleetmend_identity::{HostIdentity, TimeSource};

use super::report::{Check, chain};

/// How far two clocks may be apart before it is worth a word.
const APART_MAX_US: i64 = 120 * 1_000_000;
/// How long after its latest time a renewal counts as late.
const RENEWAL_LATE_US: i64 = 3_600 * 1_000_000;
/// No clock of a host that runs this program shows an earlier time: 2025-01-01.
const EARLIEST: TimeMicros = TimeMicros(1_735_689_600_000_000);
const SET_THE_CLOCK: &str =
    "set this host's clock: timedatectl set-ntp true, or date -s; see timedatectl timesync-status";

/// Whether the host's own certificate holds.
pub(super) fn certificate(identity: &HostIdentity, now: TimeMicros) -> Check {
    let name = "certificate";
    let (begin, end) = (identity.peer().not_before, identity.peer().not_after);
    if now < begin {
        return Check::failed(
            name,
            format!(
                "it begins at {}, and by the trusted time it is {}: this host's clock is {} or more behind",
                second(begin),
                second(now),
                span(begin.micros_since(now))
            ),
            SET_THE_CLOCK,
        );
    }
    if now >= end {
        return Check::failed(
            name,
            format!("it ended at {}, {} ago", second(end), span(now.micros_since(end))),
            format!(
                "a running agent recovers it by itself through the enrolment listener {}, for as long after the end as the collector allows (30 days by default): start it, and see below whether that is reached; else enrol again with a new token",
                identity.enrolment()
            ),
        );
    }
    let latest = identity.renew_at(1.0);
    let seen = format!(
        "valid until {}, another {}",
        second(end),
        span(end.micros_since(now))
    );
    if now.micros_since(latest) > RENEWAL_LATE_US {
        return Check::warning(
            name,
            format!("{seen}; it should have been renewed by {}", second(latest)),
            "see whether the agent runs and reaches a collector; its log says why renewals fail: journalctl -u fleetmend-agent | grep certificate",
        );
    }
    Check::ok(
        name,
        format!("{seen}; it is renewed from {} on", second(identity.renew_at(0.0))),
    )
}

/// Whether the system clock can be right, by what this host knows itself.
pub(super) fn system(wall: TimeMicros, trusted: TimeMicros, source: TimeSource, issued: TimeMicros) -> Check {
    let name = "clock";
    let ahead = wall.micros_since(trusted);
    if wall < EARLIEST {
        return Check::failed(
            name,
            format!("the system clock shows {}, which cannot be", second(wall)),
            SET_THE_CLOCK,
        );
    }
    if ahead.saturating_abs() > APART_MAX_US {
        let direction = if ahead > 0 { "ahead of" } else { "behind" };
        let by = match source {
            TimeSource::Collector => "the collector's time",
            TimeSource::SystemAfterBoot | TimeSource::System => {
                "a time that the collector signed before this boot"
            }
        };
        return Check::warning(
            name,
            format!(
                "the system clock shows {}, {} {direction} {by}; certificates are judged by {}",
                second(wall),
                span(ahead.saturating_abs()),
                second(trusted)
            ),
            SET_THE_CLOCK,
        );
    }
    if wall < issued {
        return Check::failed(
            name,
            format!(
                "the system clock shows {}, which is before this host's certificate was issued ({})",
                second(wall),
                second(issued)
            ),
            SET_THE_CLOCK,
        );
    }
    let known = match source {
        TimeSource::Collector => "in step with the collector's time",
        TimeSource::SystemAfterBoot => "later than the last time that the collector signed before this boot",
        TimeSource::System => "plausible; no collector has signed a time for this host yet",
    };
    Check::ok(name, format!("{}, {known}", second(wall)))
}

/// What the enrolment listener says of the time; the time, if it said one.
pub(super) fn collector(
    address: &str,
    asked: Result<TimeMicros, EnrolError>,
    wall: TimeMicros,
    (trusted, source): (TimeMicros, TimeSource),
) -> (Check, Option<TimeMicros>) {
    let name = "collector's time";
    let signed = match asked {
        Ok(signed) => signed,
        Err(error) => {
            let next = "renewals need no enrolment listener; recovery after a long sleep and a clock that is lost do: see that the address answers, and compare the fleet root's fingerprint";
            let seen = format!("{address} does not tell the time: {}", chain(&error));
            return (Check::warning(name, seen, next), None);
        }
    };
    let apart = |time: TimeMicros| time.micros_since(signed);
    let wrong = |time| apart(time).saturating_abs() > APART_MAX_US;
    let words = |time| {
        let direction = if apart(time) > 0 { "ahead" } else { "behind" };
        format!("{} {direction}", span(apart(time).saturating_abs()))
    };
    let seen = format!("{address} says, signed, that it is {}", second(signed));
    let check = if wrong(trusted) && source == TimeSource::Collector {
        Check::failed(
            name,
            format!("{seen}; the trusted time of this host is {}", words(trusted)),
            "collectors disagree, or one's clock was set: compare their clocks; the agent takes the right time over with its next connection",
        )
    } else if wrong(wall) {
        Check::failed(
            name,
            format!("{seen}; this host's system clock is {}", words(wall)),
            format!("{SET_THE_CLOCK}; when it is this host that is right, set the collector's"),
        )
    } else {
        Check::ok(name, format!("{seen}; this host agrees"))
    };
    (check, Some(signed))
}

/// A time to the second.
pub(super) fn second(time: TimeMicros) -> String {
    let whole = TimeMicros(time.0.div_euclid(1_000_000).saturating_mul(1_000_000));
    whole.to_string().replace(".000000Z", "Z")
}

/// A span in the largest unit that fits.
pub(super) fn span(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
