//! What somebody asks of the room.

use std::path::PathBuf;
use std::time::Instant;

use fleetmend_event::TimeMicros;
use serde_json::{Value, json};

use super::{Keeper, Phase};
use crate::books::Flags;
use crate::error::RequestError;
use crate::eye::Request;

/// Files of an answer.
const FILES_MAX: usize = 1_000;

impl Keeper {
    /// Answers; one who does not wait any more is not told.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::List(reply) => drop(reply.send(self.list())),
            Request::Accept(path, reply) => {
                let done = self.accept_requested(path);
                drop(reply.send(done));
            }
            Request::Rebuild(reply) => {
                self.rebuild();
                if reply.send(()).is_err() {}
            }
        }
    }

    fn list(&self) -> Value {
        let changed: Vec<Value> = self
            .changed
            .iter()
            .map(|(path, changed)| {
                let finding = &changed.finding;
                json!({
                    "path": path.to_string_lossy(), "rule": finding.rule, "severity": finding.severity,
                    "title": finding.title, "first_time": finding.first_time, "time": finding.time,
                    "count": finding.count, "finding_id": finding.finding_id,
                })
            })
            .collect();
        let disagreeing = self
            .books
            .iter()
            .filter(|record| record.flags & Flags::DISAGREES != 0);
        let disagreeing: Vec<Value> = disagreeing
            .take(FILES_MAX)
            .map(|record| {
                let package = self
                    .packages
                    .delivered(&record.path)
                    .map(|delivered| delivered.package);
                json!({ "path": record.path.to_string_lossy(), "package": package })
            })
            .collect();
        json!({ "files": self.books.len(), "status": self.reason(), "changed": changed, "not_as_packaged": disagreeing })
    }

    fn accept_requested(&mut self, path: Option<PathBuf>) -> Result<usize, RequestError> {
        let paths = match path {
            Some(path) if self.changed.get(&path).is_none() => return Err(RequestError::NotChanged(path)),
            Some(path) => vec![path],
            None => self.changed.paths(),
        };
        for path in &paths {
            self.accept(path).map_err(|source| RequestError::Unreadable {
                path: path.clone(),
                source,
            })?;
            tracing::info!(path = %path.display(), "change of a watched file was accepted");
        }
        Ok(paths.len())
    }

    /// Forgets everything, and takes what is there as it should be.
    fn rebuild(&mut self) {
        tracing::info!("integrity baseline is made anew, as asked for");
        let time = TimeMicros::now();
        for path in self.changed.paths() {
            self.resolve(&path, time);
        }
        self.books.clear();
        self.held.clear();
        self.notify = None;
        self.troubles.anew = None;
        self.troubles.beyond = 0;
        let now = Instant::now();
        let scanning = &mut self.scanning;
        scanning.stale = scanning.ordered;
        (scanning.phase, scanning.first, scanning.suid_first) = (Phase::Walking, true, true);
        (scanning.next_walk, scanning.next_sweep) = (now, now);
    }
}
