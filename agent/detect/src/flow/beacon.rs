//! Connections that come back at a steady beat.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use fleetmend_event::table::{Severity, SubjectKind};
use serde_json::json;

use super::{ADDRESSES_MAX, Flow, Reach, Seen, tell};
use crate::behaviour::{Raise, declare};
use crate::lineage::{Classes, Who, is_trusted_path};
use crate::recent::Recent;
use crate::tracker::Subject;

declare! {
    BEACON = "beacon" ["T1071.001", "T1029"] ["command-and-control"] false;
}

/// Beats that make a beacon, and the most that are remembered.
const BEATS_MIN: usize = 8;
const BEATS_MAX: usize = 16;
/// Shortest and longest beat, in seconds; the jitter of a beat at the limit goes beyond it.
const BEAT_S: (f64, f64) = (25.0, 700.0);
/// Mean distance from the median beat, as a share of it: a beat drawn evenly from 60 to 140 % has 0.2.
const JITTER_MAX: f64 = 0.28;
/// Connections that begin within this of each other are one beat.
const BURST_NS: u64 = 5_000_000_000;

/// See the module.
pub(super) struct Beacons {
    pairs: Recent<(u64, IpAddr, u16), VecDeque<u64>>,
}

impl Default for Beacons {
    fn default() -> Self {
        Self {
            pairs: Recent::new("beacons", ADDRESSES_MAX),
        }
    }
}

/// The program, whichever of its processes.
pub(super) fn program_key(who: &Who<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    who.exe.unwrap_or(who.comm).hash(&mut hasher);
    hasher.finish()
}

impl Beacons {
    pub(super) fn connect(&mut self, flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
        if flow.far.reach == Reach::Loopback || who.pid == std::process::id() {
            return;
        }
        let now = flow.event.boot_ns;
        let beats = self
            .pairs
            .touch((program_key(who), flow.far.ip, flow.port), VecDeque::new);
        if beats
            .back()
            .is_some_and(|last| now.saturating_sub(*last) < BURST_NS)
        {
            return;
        }
        beats.push_back(now);
        if beats.len() > BEATS_MAX {
            beats.pop_front();
        }
        let Some((period_s, jitter)) = rhythm(beats) else {
            return;
        };
        let title = format!(
            "{} connects to {}:{} every {period_s:.0} s",
            who.comm, flow.far.ip, flow.port
        );
        tell(
            Seen {
                what: &BEACON,
                severity: severity(flow, who),
                subject: Subject::named(SubjectKind::Address, &flow.far.ip.to_string()),
                title,
                factors: vec![
                    ("network.period_s", json!(period_s), json!([30, 600])),
                    ("network.jitter", json!(jitter), json!(JITTER_MAX)),
                ],
                event: flow.event,
            },
            who,
            raise,
        );
    }
}

/// A service or a job of the system that asks at its time is what most beats are.
fn severity(flow: &Flow<'_>, who: &Who<'_>) -> Severity {
    let service = who.unit.is_some_and(|unit| unit.ends_with(".service"))
        || who.above.any(Classes::CRON)
        || who.is_upkeep();
    let delivered = who.exe.is_some_and(is_trusted_path);
    // A program that does one thing, such as one for mail, asks at its beat; these do whatever they are told.
    let told =
        Classes::SHELL | Classes::INTERPRETER | Classes::DOWNLOAD | Classes::NETWORK_TOOL | Classes::SSH;
    let own_work = service || !who.own.any(told);
    if who.is_risky() {
        Severity::High
    } else if flow.far.reach == Reach::Private || (own_work && delivered) {
        Severity::Low
    } else {
        Severity::Medium
    }
}

/// The beat in seconds and its jitter, when there is one.
fn rhythm(beats: &VecDeque<u64>) -> Option<(f64, f64)> {
    if beats.len() < BEATS_MIN {
        return None;
    }
    let mut spans: Vec<f64> = beats
        .iter()
        .zip(beats.iter().skip(1))
        .map(|(first, second)| second.saturating_sub(*first) as f64 / 1e9)
        .collect();
    spans.sort_by(f64::total_cmp);
    let median = *spans.get(spans.len() / 2)?;
    if !(BEAT_S.0..=BEAT_S.1).contains(&median) {
        return None;
    }
    let distance = spans.iter().map(|span| (span - median).abs()).sum::<f64>() / spans.len() as f64;
    let jitter = distance / median;
    (jitter <= JITTER_MAX).then_some((median, jitter))
}
