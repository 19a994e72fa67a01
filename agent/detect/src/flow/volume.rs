//! Bytes that leave.

use std::net::IpAddr;

use fleetmend_event::table::{Severity, SubjectKind};
use serde_json::{Value, json};

use super::beacon::program_key;
use super::{ADDRESSES_MAX, Flow, Reach, Seen, tell};
use crate::behaviour::{Raise, declare, program};
use crate::lineage::{Classes, Who};
use crate::recent::Recent;
use crate::tracker::Subject;

declare! {
    EXFILTRATION = "exfiltration" ["T1048", "T1041", "T1567"] ["exfiltration"] false;
}

/// Nanoseconds of a slot.
const SLOT_NS: u64 = 600_000_000_000;
/// Slots of the short window, an hour, and of the long one, a day.
const HOUR_SLOTS: u64 = 6;
const DAY_SLOTS: u64 = 144;
/// An address that a program has sent a share of the limit to in so many slots, a day or more ago at first, is usual.
const USUAL_SLOTS: u32 = 12;
/// One part in so many is that share: who only beats there has no business to send it much.
const USUAL_SHARE: u64 = 1_000;

/// Bytes by slot; only slots with any.
#[derive(Default)]
struct Sent {
    slots: Vec<(u64, u64)>,
    first: Option<u64>,
    busy: u32,
}

impl Sent {
    fn add(&mut self, slot: u64, bytes: u64, share: u64) {
        let first = *self.first.get_or_insert(slot);
        self.slots.retain(|(at, _)| at.saturating_add(DAY_SLOTS) > slot);
        let before = self
            .slots
            .iter()
            .find(|(at, _)| *at == slot)
            .map_or(0, |(_, sum)| *sum);
        let after = before.saturating_add(bytes);
        self.slots.retain(|(at, _)| *at != slot);
        self.slots.push((slot, after));
        if before < share && after >= share {
            self.busy = self.busy.saturating_add(1);
        }
        self.first = Some(first.min(slot));
    }

    fn within(&self, slot: u64, slots: u64) -> u64 {
        let recent = self
            .slots
            .iter()
            .filter(|(at, _)| at.saturating_add(slots) > slot);
        recent.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    fn is_usual(&self, slot: u64) -> bool {
        self.busy >= USUAL_SLOTS
            && self
                .first
                .is_some_and(|first| slot.saturating_sub(first) >= DAY_SLOTS)
    }
}

/// See the module.
pub(super) struct Volumes {
    limit: u64,
    /// By program and address.
    pairs: Recent<(u64, IpAddr), Sent>,
    /// By program, to addresses that are not usual: for who spreads over many.
    programs: Recent<u64, Sent>,
}

impl Volumes {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            pairs: Recent::new("volumes", ADDRESSES_MAX),
            programs: Recent::new("programs that send", ADDRESSES_MAX / 4),
        }
    }

    pub(super) fn closed(&mut self, flow: &Flow<'_>, who: &Who<'_>, raise: &mut Raise<'_>) {
        let sent = flow.event.bytes_sent.unwrap_or(0);
        if !flow.outbound || sent == 0 || flow.far.reach == Reach::Loopback || who.pid == std::process::id() {
            return;
        }
        let slot = flow.event.boot_ns / SLOT_NS;
        let key = program_key(who);
        let pair = self.pairs.touch((key, flow.far.ip), Sent::default);
        let share = (self.limit / USUAL_SHARE).max(1);
        pair.add(slot, sent, share);
        let usual = pair.is_usual(slot);
        let to_address = (pair.within(slot, HOUR_SLOTS), pair.within(slot, DAY_SLOTS));
        let all = self.programs.touch(key, Sent::default);
        // Answers to what was asked for are small; a client that fetches does not send.
        if !usual && flow.far.reach == Reach::Public {
            all.add(slot, sent, share);
        }
        let by_program = (all.within(slot, HOUR_SLOTS), all.within(slot, DAY_SLOTS));
        let limit = self.limit;
        let over = |(hour, day): (u64, u64)| {
            if hour >= limit {
                Some((hour, "an hour"))
            } else {
                (day >= limit).then_some((day, "a day"))
            }
        };
        let (bytes, span, subject, where_to) = match (over(to_address), over(by_program)) {
            (Some((bytes, span)), _) => {
                let ip = flow.far.ip.to_string();
                (bytes, span, Subject::named(SubjectKind::Address, &ip), ip)
            }
            (None, Some((bytes, span))) => (bytes, span, program(who), "several addresses".to_owned()),
            (None, None) => return,
        };
        tell(
            Seen {
                what: &EXFILTRATION,
                severity: severity(flow, who, usual),
                subject,
                title: format!(
                    "{} sent {} MB to {where_to} within {span}",
                    who.comm,
                    bytes / 1_000_000
                ),
                factors: vec![
                    ("network.bytes_sent", json!(bytes), json!(limit)),
                    ("network.address_usual", json!(usual), json!(true)),
                    ("process.executable.path", json!(who.exe), Value::Null),
                ],
                event: flow.event,
            },
            who,
            raise,
        );
    }
}

fn severity(flow: &Flow<'_>, who: &Who<'_>, usual: bool) -> Severity {
    // Backups, and what carries logs, mail and images to others as its purpose.
    let carries = Classes::LOGGER | Classes::MAIL | Classes::CONTAINER_RUNTIME;
    let copies = who.line().any(Classes::BACKUP) || who.own.any(carries) || who.is_upkeep();
    if usual {
        Severity::Info
    } else if who.is_risky() || (who.above.any(Classes::WEB) && !who.own.any(Classes::WEB)) {
        Severity::High
    } else if flow.far.reach == Reach::Private || copies {
        Severity::Low
    } else {
        Severity::Medium
    }
}
