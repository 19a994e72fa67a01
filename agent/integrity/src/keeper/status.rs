//! How the room stands, in a row of `probe_status`.

use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus};

use super::{Keeper, Phase};
use crate::books::Flags;
use crate::metrics;

/// Name in `probe_status`.
const PROBE: &str = "integrity";
/// Time between two rows when nothing changed.
const STATUS_EVERY: Duration = Duration::from_secs(60);

impl Keeper {
    /// Sends the row on change and every minute.
    pub(super) fn tell_status(&mut self, now: Instant) {
        metrics::files(self.books.len(), self.changed.len(), self.troubles.left_out);
        let (state, hint) = self.state();
        let reason = self.reason();
        let key = format!("{state} {}", self.troubles_in_words().join("; "));
        let due = self
            .told_status
            .as_ref()
            .is_none_or(|(told, at)| *told != key || now.duration_since(*at) >= STATUS_EVERY);
        if !due {
            return;
        }
        self.told_status = Some((key, now));
        let row = ProbeStatus {
            time: TimeMicros::now(),
            probe: PROBE.to_owned(),
            state,
            reason,
            hint: hint.to_owned(),
            seen: self.counts.seen,
            delivered: self.counts.told,
            lost: self.counts.lost,
        };
        self.send(row.into());
    }

    fn state(&self) -> (ProbeState, &'static str) {
        let troubles = &self.troubles;
        if troubles.unwritten.is_some() {
            return (
                ProbeState::Degraded,
                "make room for the agent's state folder, or let its user write there",
            );
        }
        if troubles.left_out > 0 {
            return (
                ProbeState::Degraded,
                "raise integrity.files_max, or narrow what is watched by integrity.exclude",
            );
        }
        if self.delivered != Some(true) {
            let hint =
                "see why the probe bpf.file does not deliver; until then who changed a file is not known";
            return (ProbeState::Degraded, hint);
        }
        if troubles.beyond > 0 {
            return (
                ProbeState::Degraded,
                "look at `fleetmend-agent integrity list`, and accept what is as it should be",
            );
        }
        if troubles.unreadable > 0 {
            return (
                ProbeState::Degraded,
                "the agent needs CAP_DAC_READ_SEARCH to read what is watched",
            );
        }
        if self.scanning.phase != Phase::Watching {
            return (
                ProbeState::Degraded,
                "nothing to do: the baseline is made at a slow pace",
            );
        }
        (ProbeState::Real, "")
    }

    fn troubles_in_words(&self) -> Vec<String> {
        let troubles = &self.troubles;
        let mut words = Vec::new();
        match self.scanning.phase {
            Phase::Walking => words.push("the watched files are being looked at".to_owned()),
            Phase::Hashing => words.push("the baseline is being made".to_owned()),
            Phase::Watching => {}
        }
        match (self.delivered, &self.notify) {
            (Some(true), _) => {}
            (_, Some(notify)) => {
                let mut text = "by inotify, without who did it: events of files are not delivered".to_owned();
                if notify.unwatched > 0 {
                    text.push_str(&format!("; {} folders could not be watched", notify.unwatched));
                }
                words.push(text);
            }
            (_, None) => words.push("by scans only: events of files are not delivered".to_owned()),
        }
        if let Some(why) = &troubles.no_notify {
            words.push(format!("inotify is not to be had: {why}"));
        }
        words.extend(troubles.anew.clone());
        if let Some(why) = &troubles.unwritten {
            words.push(format!("the baseline is not kept over a restart: {why}"));
        }
        let counts = [
            (
                troubles.left_out,
                "files are left out: integrity.files_max is reached",
            ),
            (troubles.unreadable, "files or folders cannot be read"),
            (
                troubles.beyond,
                "changed files are not followed one by one: there are too many",
            ),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        words.extend(counts.map(|(count, what)| format!("{count} {what}")));
        words
    }

    /// Everything in words.
    pub(super) fn reason(&self) -> String {
        let mut words = vec![format!(
            "{} files watched, {} differ",
            self.books.len(),
            self.changed.len()
        )];
        let disagree = self
            .books
            .iter()
            .filter(|record| record.flags & Flags::DISAGREES != 0)
            .count();
        if disagree > 0 {
            words.push(format!("{disagree} are not as their package delivered them"));
        }
        if !self.packages.exists() {
            words.push("no dpkg database: no second opinion".to_owned());
        }
        words.extend(self.troubles_in_words());
        words.join("; ")
    }
}
