//! Tickets for `EventSource`, which cannot send an `Authorization` header: short-lived, used once.

use std::collections::HashMap;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use parking_lot::Mutex;

use crate::sessions::{after, hash_of, random_token};

const LIFETIME: Duration = Duration::from_secs(30);
/// Tickets that wait to be used; past that none is given.
const TICKETS_MAX: usize = 4_096;

#[derive(Default)]
pub(crate) struct Tickets {
    waiting: Mutex<HashMap<Vec<u8>, (String, TimeMicros)>>,
}

impl Tickets {
    /// A ticket for a session, and when it ends; `None` when too many wait.
    pub(crate) fn give(&self, session: &str, now: TimeMicros) -> Option<(String, TimeMicros)> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (_, until)| *until > now);
        if waiting.len() >= TICKETS_MAX {
            return None;
        }
        let (ticket, until) = (random_token("fmt_"), after(now, LIFETIME));
        waiting.insert(hash_of(&ticket), (session.to_owned(), until));
        Some((ticket, until))
    }

    /// The session of a ticket, which is spent with it.
    pub(crate) fn take(&self, ticket: &str, now: TimeMicros) -> Option<String> {
        let (session, until) = self.waiting.lock().remove(&hash_of(ticket))?;
        (until > now).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_holds_once_and_not_for_long() {
        let (tickets, now) = (Tickets::default(), TimeMicros::now());
        let (first, _) = tickets.give("s", now).unwrap();
        assert_eq!(tickets.take(&first, now).as_deref(), Some("s"));
        assert_eq!(tickets.take(&first, now), None);
        let (late, until) = tickets.give("s", now).unwrap();
        assert_eq!(tickets.take(&late, until), None);
    }
}
