//! The disk: how full it is, when it will be full, and the alarm well before that.
//!
//! Once a minute the file system of the store's folder is measured. From the growth between the oldest measurement
//! kept (six hours at most) and the newest follows when it will be full, once there are ten minutes to tell by. It is
//! told while it grows on: what was written in the first part of that time and is over fills nothing. Nobody is alarmed
//! for what lies further ahead than eight times as long as was watched, or once as long while that is less than an hour.
//! Below a share of free space, or close before the end, the store writes a finding about itself under
//! [`crate::OWN_HOST`], which alerting pages for like any other; when there is room again, it is resolved. Both limits are
//! configured ([`crate::config::DiskAlarmConfig`]). A full disk itself is no loss: the writer refuses before it is quite
//! full, and agents keep what they have.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fleetmend_event::table::{Finding, FindingKind, FindingState, Severity, SubjectKind};
use fleetmend_event::{Fact, FindingId, TimeMicros};
use metrics::gauge;
use serde_json::json;

use crate::config::DiskAlarmConfig;
use crate::error::{MaintenanceError, QueryError};
use crate::metrics as names;
use crate::own::OWN_HOST;
use crate::query::{QueryClass, QueryLimits, to_json_rows};
use crate::store::Store;

const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// Growth is told from measurements of so long at most.
const GROWTH_OVER: Duration = Duration::from_secs(6 * 3600);
/// And of so long at least: a compaction makes a disk look as if it filled in an hour.
const GROWTH_LEAST: Duration = Duration::from_secs(600);
/// Until so long was watched, growth tells no further ahead than once that time: a build or a copy may last so long.
const BURST: Duration = Duration::from_secs(3600);
/// The share of that time, the last, in which it has to have grown as fast for the growth to count as going on.
const LATELY: u32 = 4;
/// How far ahead an alarm may look, in times of what was watched: six hours tell of two days.
const AHEAD: u32 = 8;
/// The alarm ends when there is this much more room than would raise it.
const ROOM_TO_END: f64 = 1.2;
const RULE: &str = "store-disk";

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Space {
    at: Instant,
    free: u64,
    total: u64,
}

impl Space {
    /// Bytes a second by which less is free than at an earlier measurement.
    fn filled_since(&self, earlier: &Self) -> f64 {
        let grown = earlier.free.saturating_sub(self.free) as f64;
        grown / self.at.duration_since(earlier.at).as_secs_f64()
    }

    /// How long until nothing is free, at so many bytes a second.
    fn full_in(&self, pace: f64) -> Option<Duration> {
        // Beyond a century nobody asks.
        (pace > 0.0).then(|| Duration::from_secs_f64((self.free as f64 / pace).min(3.2e9)))
    }
}

/// How long until the disk is full.
#[derive(Debug, Clone, Copy, Default)]
struct FullIn {
    /// If it fills, and goes on to.
    going_on: Option<Duration>,
    /// By the growth of all that was watched, over or not.
    overall: Option<Duration>,
}

/// What the measurements say.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    held: VecDeque<Space>,
    raised: Option<Finding>,
    /// A row that is not stored yet.
    unsaid: Option<Finding>,
    /// Whether it is known what an earlier run of the collector left open.
    looked_back: bool,
}

impl Disk {
    /// Measures when it is time, and says what changed.
    pub(crate) async fn watch(&mut self, store: &Store) -> Result<(), MaintenanceError> {
        let inner = &store.inner;
        let now = Instant::now();
        if self
            .held
            .back()
            .is_none_or(|last| now.duration_since(last.at) >= MEASURE_EVERY)
        {
            let stat = rustix::fs::statvfs(&inner.config.folder).map_err(|error| MaintenanceError::Io {
                action: "measure the file system of",
                path: inner.config.folder.clone(),
                source: error.into(),
            })?;
            let space = Space {
                at: now,
                free: stat.f_bavail.saturating_mul(stat.f_frsize),
                // What is kept back for root is neither free nor taken, as `df` counts.
                total: stat
                    .f_blocks
                    .saturating_sub(stat.f_bfree.saturating_sub(stat.f_bavail))
                    .saturating_mul(stat.f_frsize),
            };
            let full_in = self.measured(space);
            gauge!(names::DISK_FREE_BYTES).set(space.free as f64);
            gauge!(names::DISK_FULL_IN_SECONDS)
                .set(full_in.going_on.map_or(f64::INFINITY, |left| left.as_secs_f64()));
            // One measurement may be of a moment: a start, or a copy that is being made.
            if self.held.len() > 1 {
                let folder = inner.config.folder.display().to_string();
                self.look_back(store).await;
                let said = self.judge(&inner.config.disk_alarm, space, full_in, &folder);
                self.unsaid = said.or(self.unsaid.take());
            }
        }
        if let Some(finding) = &self.unsaid {
            inner.append(OWN_HOST, vec![Fact::from(finding.clone())]).await?;
            self.unsaid = None;
        }
        Ok(())
    }

    /// Takes over the finding that an earlier run left open: when there is room by now, nobody else would resolve it.
    async fn look_back(&mut self, store: &Store) {
        if self.looked_back {
            return;
        }
        match left_open(store).await {
            Ok(left) => {
                self.looked_back = true;
                self.raised = self.raised.take().or(left);
            }
            Err(error) => tracing::warn!(%error, "an alarm of before cannot be looked for yet"),
        }
    }

    /// Keeps a measurement; how long until the disk is full by it and those before.
    fn measured(&mut self, space: Space) -> FullIn {
        while self
            .held
            .front()
            .is_some_and(|first| space.at.duration_since(first.at) > GROWTH_OVER)
        {
            self.held.pop_front();
        }
        self.held.push_back(space);
        let Some(first) = self.held.front() else {
            return FullIn::default();
        };
        let over = space.at.duration_since(first.at);
        if over < GROWTH_LEAST {
            return FullIn::default();
        }
        let is_late = |held: &&Space| space.at.duration_since(held.at) >= over / LATELY;
        let lately = self.held.iter().rev().find(is_late).unwrap_or(first);
        let overall = space.filled_since(first);
        FullIn {
            going_on: space.full_in(overall.min(space.filled_since(lately))),
            overall: space.full_in(overall),
        }
    }

    /// The row to write, when the alarm begins or ends.
    fn judge(
        &mut self,
        config: &DiskAlarmConfig,
        space: Space,
        full_in: FullIn,
        folder: &str,
    ) -> Option<Finding> {
        let percent = space.free as f64 * 100.0 / (space.total.max(1) as f64);
        let watched = self
            .held
            .front()
            .map_or(Duration::ZERO, |first| space.at.duration_since(first.at));
        let wanted = Duration::from_secs(u64::from(config.full_within_hours) * 3600);
        let ahead = if watched < BURST { 1 } else { AHEAD };
        let within = wanted.min(watched * ahead);
        let is_low = |room: f64| percent < config.free_percent_min * room;
        // What was not watched long enough to be told ends nothing.
        let is_known = wanted.is_zero() || watched >= GROWTH_LEAST;
        // A pause ends no alarm: that takes the growth of all of the time that was watched.
        let may_be_soon = full_in
            .overall
            .is_some_and(|left| left < wanted.mul_f64(ROOM_TO_END));
        match &self.raised {
            None if is_low(1.0) || full_in.going_on.is_some_and(|left| left < within) => {
                let finding = finding(space, percent, full_in.going_on, folder);
                tracing::warn!(
                    folder,
                    percent,
                    title = finding.title,
                    "the store's disk fills up"
                );
                self.raised = Some(finding.clone());
                Some(finding)
            }
            Some(raised) if !is_low(ROOM_TO_END) && is_known && !may_be_soon => {
                let resolved = Finding {
                    time: TimeMicros::now(),
                    state: FindingState::Resolved,
                    ..raised.clone()
                };
                tracing::info!(folder, percent, "the store's disk has room again");
                self.raised = None;
                Some(resolved)
            }
            _ => None,
        }
    }
}

/// The newest finding about the disk, if it is open.
async fn left_open(store: &Store) -> Result<Option<Finding>, QueryError> {
    let query = format!(
        "SELECT finding_id, state, title, subject, arrow_cast(first_time, 'Int64') AS first_us FROM findings
         WHERE rule = '{RULE}' AND host_id = '{OWN_HOST}' ORDER BY time DESC LIMIT 1"
    );
    let limits = QueryLimits {
        class: QueryClass::System,
        ..QueryLimits::default()
    };
    let rows = to_json_rows(&store.sql(&query, limits).await?.batches)?;
    let text = |name: &str| rows.first()?.get(name)?.as_str().map(str::to_owned);
    let open = text("state").is_some_and(|state| state == FindingState::Open.as_str());
    let Some(finding_id) = text("finding_id").filter(|_| open).and_then(|id| id.parse().ok()) else {
        return Ok(None);
    };
    let first = rows.first().and_then(|row| row.get("first_us")?.as_i64());
    let now = TimeMicros::now();
    Ok(Some(Finding {
        finding_id,
        first_time: first.map_or(now, TimeMicros),
        title: text("title").unwrap_or_default(),
        subject: text("subject").unwrap_or_default(),
        ..blank(now)
    }))
}

fn finding(space: Space, percent: f64, full_in: Option<Duration>, folder: &str) -> Finding {
    let now = TimeMicros::now();
    let when = full_in.map_or_else(String::new, |left| {
        format!(" and it will be full in {:.1} h", left.as_secs_f64() / 3600.0)
    });
    Finding {
        title: format!(
            "the collector's store has {percent:.1} % of its disk left{when}: add space, or keep less (store.retention)"
        ),
        subject: folder.to_owned(),
        evidence: json!({
            "free_bytes": space.free,
            "total_bytes": space.total,
            "full_in_s": full_in.map(|left| left.as_secs()),
        })
        .to_string(),
        ..blank(now)
    }
}

/// An open finding of the disk that says nothing yet.
fn blank(now: TimeMicros) -> Finding {
    Finding {
        time: now,
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: RULE.to_owned(),
        title: String::new(),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: now,
        count: 1,
        score: None,
        subject_kind: SubjectKind::Filesystem,
        subject: String::new(),
        pid: None,
        start_boot_ns: None,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// The states of the findings that measurements make: after so many hours, so many bytes of 1,000 are free.
    fn said(config: &DiskAlarmConfig, measured: &[(u32, u64)]) -> Vec<FindingState> {
        let (mut disk, start) = (Disk::default(), Instant::now());
        let judged = measured.iter().filter_map(|(hours, free)| {
            let space = Space {
                at: start + HOUR * *hours,
                free: *free,
                total: 1_000,
            };
            let full_in = disk.measured(space);
            disk.judge(config, space, full_in, "/store")
                .map(|finding| finding.state)
        });
        judged.collect()
    }

    #[test]
    fn alarm_comes_by_share_and_ends_when_there_is_room_again() {
        let config = DiskAlarmConfig {
            free_percent_min: 10.0,
            full_within_hours: 0,
        };
        let measured = [(0, 500), (1, 101), (2, 99), (3, 101), (4, 119), (5, 130), (6, 90)];
        let (open, resolved) = (FindingState::Open, FindingState::Resolved);
        assert_eq!(said(&config, &measured), [open, resolved, open]);
    }

    #[test]
    fn alarm_comes_a_day_before_the_disk_is_full_at_the_pace_of_the_last_hours() {
        let config = DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 24,
        };
        // Twenty an hour: 481 last 24 hours and a little, 461 last 23.
        assert_eq!(said(&config, &[(0, 541), (1, 521), (2, 501), (3, 481)]), []);
        assert_eq!(
            said(&config, &[(0, 541), (1, 521), (2, 501), (3, 481), (4, 461)]),
            [FindingState::Open]
        );
        // What stands still is never full, whatever came before the last hours.
        assert_eq!(
            said(&config, &[(0, 900), (1, 300), (9, 300), (10, 300)]),
            [FindingState::Open, FindingState::Resolved]
        );
    }

    #[test]
    fn alarm_of_before_does_not_end_while_nothing_is_known() {
        let config = DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 48,
        };
        let (mut disk, start) = (Disk::default(), Instant::now());
        let mut judged = |minutes: u32, free| {
            let space = Space {
                at: start + HOUR / 60 * minutes,
                free,
                total: 1_000,
            };
            let full_in = disk.measured(space);
            disk.raised
                .get_or_insert_with(|| finding(space, 50.0, None, "/store"));
            disk.judge(&config, space, full_in, "/store")
                .map(|finding| finding.state)
        };
        assert_eq!((judged(0, 500), judged(1, 500)), (None, None));
        assert_eq!(judged(20, 490), None, "it fills, in seventeen hours");
        assert_eq!(judged(21, 600), Some(FindingState::Resolved));
    }

    #[test]
    fn a_burst_alarms_nobody_for_what_is_far_ahead() {
        let config = DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 48,
        };
        // Fifty an hour would fill the disk in ten hours; two hours of it tell of sixteen, one of eight.
        assert_eq!(said(&config, &[(0, 600), (1, 550)]), []);
        assert_eq!(
            said(&config, &[(0, 600), (1, 550), (2, 500)]),
            [FindingState::Open]
        );
        assert_eq!(
            said(&config, &[(0, 600), (1, 550), (2, 550), (3, 550), (4, 550)]),
            []
        );
    }

    #[test]
    fn copy_of_some_minutes_alarms_only_when_the_disk_is_full_as_soon_again() {
        let config = DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 48,
        };
        for (left, alarms) in [(300, false), (150, true)] {
            let (mut disk, start) = (Disk::default(), Instant::now());
            // Ten a minute, for twenty minutes.
            let judged = (0..=20).filter_map(|minutes: u32| {
                let space = Space {
                    at: start + HOUR / 60 * minutes,
                    free: left + u64::from(20 - minutes) * 10,
                    total: 1_000,
                };
                let full_in = disk.measured(space);
                disk.judge(&config, space, full_in, "/store")
            });
            assert_eq!(judged.count() == 1, alarms, "{left} left");
        }
    }

    #[test]
    fn what_was_written_and_is_over_fills_nothing() {
        let config = DiskAlarmConfig {
            free_percent_min: 0.0,
            full_within_hours: 48,
        };
        let over = [(0, 900), (1, 800), (2, 790), (3, 789)];
        assert_eq!(
            said(&config, &over),
            [],
            "eight hours ahead, of one; then it is over"
        );
        let pause = [(0, 800), (1, 500), (2, 500), (3, 450)];
        assert_eq!(
            said(&config, &pause),
            [FindingState::Open],
            "a pause ends nothing"
        );
        let late = [(0, 600), (1, 600), (2, 600), (3, 600), (4, 500)];
        assert_eq!(said(&config, &late), [FindingState::Open], "it goes on");
    }

    #[tokio::test]
    async fn alarm_that_a_run_before_left_open_is_resolved_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(crate::StoreConfig {
            folder: folder.path().to_owned(),
            free_bytes_min: 0,
            ..crate::StoreConfig::default()
        });
        let (store, tasks) = (store.await.unwrap(), fleetmend_shutdown::Tasks::new());
        store.run(&tasks).unwrap();
        let at = |free| Space {
            at: Instant::now(),
            free,
            total: 1_000,
        };
        let left = finding(at(10), 1.0, None, "/store");
        let stored = store.append_for(OWN_HOST, vec![Fact::from(left.clone())]);
        stored.await.unwrap();
        let config = DiskAlarmConfig {
            free_percent_min: 10.0,
            full_within_hours: 0,
        };
        let mut disk = Disk::default();
        disk.look_back(&store).await;
        assert_eq!(
            disk.judge(&config, at(20), FullIn::default(), "/store"),
            None,
            "it goes on"
        );
        let ended = disk.judge(&config, at(900), FullIn::default(), "/store").unwrap();
        assert_eq!(
            (ended.finding_id, ended.state, ended.first_time, &ended.title),
            (
                left.finding_id,
                FindingState::Resolved,
                left.first_time,
                &left.title
            )
        );
        let stored = store.append_for(OWN_HOST, vec![Fact::from(ended)]);
        stored.await.unwrap();
        let mut next = Disk::default();
        next.look_back(&store).await;
        assert_eq!(
            next.judge(&config, at(900), FullIn::default(), "/store"),
            None,
            "it is over"
        );
        assert!(tasks.drain(Duration::from_secs(20)).await.is_clean());
    }

    #[test]
    fn nothing_is_told_from_less_than_ten_minutes() {
        let (mut disk, start) = (Disk::default(), Instant::now());
        let space = |seconds, free| Space {
            at: start + Duration::from_secs(seconds),
            free,
            total: 1_000,
        };
        assert_eq!(disk.measured(space(0, 900)).going_on, None);
        assert_eq!(disk.measured(space(500, 100)).going_on, None);
        assert!(disk.measured(space(700, 90)).going_on.is_some());
    }
}
