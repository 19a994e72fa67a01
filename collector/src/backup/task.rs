//! Backups as the collector makes them by itself.
//!
//! One task makes a backup every interval, and once an hour deletes what is not kept any more. What goes wrong is
//! tried again at the next interval. When the newest backup is older than it may be, an ERROR line says so and a
//! finding of the collector is opened, which alerts like any other; the next backup resolves it. The age is looked at
//! beside the work too, for a share that is gone may hold a backup up for ever. The collector stays
//! ready: it takes and answers as before.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use collector_store::backup::{Made, Progress, Repository, Watch, back_up, prune};
use collector_store::{FactStore, OWN_HOST, QueryClass, QueryLimits, to_json_rows};
use fleetmend_event::table::{Finding, FindingKind, FindingState, Severity, SubjectKind};
use fleetmend_event::{Fact, FindingId, TimeMicros};
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use metrics::{counter, gauge, histogram};
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::config::BackupConfig;
use super::metrics as names;
use super::source::{CONTROL_ELSEWHERE, control_file, key, source};
use crate::config::CollectorConfig;

/// Time between two prunings.
const PRUNE_EVERY: Duration = Duration::from_hours(1);
/// How long the store may take for a finding.
const TELL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the age is looked at while a backup is made, at least.
const WATCH_EVERY: Duration = Duration::from_secs(60);
const RULE: &str = "backup-overdue";

/// Makes backups until `tasks` end; does nothing where no folder is configured.
pub(crate) fn spawn(config: &CollectorConfig, config_file: &Path, store: Arc<dyn FactStore>, tasks: &Tasks) {
    let Some(folder) = config.backup.folder.clone() else {
        return;
    };
    if store.embedded().is_none() {
        error!(
            "backup.folder is set, and facts are kept by another engine: use the backups of that engine (docs/backup.md)"
        );
        return;
    }
    names::describe();
    let token = tasks.token();
    let task = Task {
        work: Arc::new(Work {
            folder,
            config: config.clone(),
            config_file: config_file.to_owned(),
            token: token.clone(),
        }),
        store,
        newest: None,
        began: TimeMicros::now(),
        open: None,
        pruned: None,
    };
    tasks.spawn("backup", TaskKind::BestEffort, async move {
        task.run(token).await;
        Ok::<(), Infallible>(())
    });
}

/// What runs on a blocking thread.
struct Work {
    folder: PathBuf,
    config: CollectorConfig,
    config_file: PathBuf,
    token: CancellationToken,
}

impl Watch for Work {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}

impl Work {
    fn settings(&self) -> &BackupConfig {
        &self.config.backup
    }

    fn repository(&self) -> Result<Repository> {
        let key = key(self.settings().key_file.as_ref())?;
        Repository::open_or_create(&self.folder, key).context("open the repository of the backups")
    }

    fn make(&self, runtime: &Handle) -> Result<Made> {
        let repository = self.repository()?;
        let with_secrets = repository.is_encrypted() || self.settings().keys_in_plain;
        let source = source(&self.config, &self.config_file, with_secrets)?;
        back_up(&repository, &source, false, runtime, self).context("make a backup")
    }

    fn newest(&self) -> Result<Option<TimeMicros>> {
        let repository = self.repository()?;
        let newest = repository.newest_time().context("look for the newest backup")?;
        Ok(newest)
    }

    fn prune(&self) -> Result<()> {
        let keep = self.settings().keep.keep();
        let pruned = prune(&self.repository()?, keep, TimeMicros::now()).context("delete old backups")?;
        counter!(names::PRUNED).increment(pruned.backups);
        if pruned.backups > 0 {
            info!(
                backups = pruned.backups,
                objects = pruned.objects,
                bytes = pruned.bytes,
                "old backups deleted"
            );
        }
        Ok(())
    }
}

struct Task {
    work: Arc<Work>,
    store: Arc<dyn FactStore>,
    /// Moment of the newest backup.
    newest: Option<TimeMicros>,
    began: TimeMicros,
    /// When the finding was opened that still holds.
    open: Option<TimeMicros>,
    pruned: Option<Instant>,
}

impl Task {
    async fn run(mut self, token: CancellationToken) {
        self.open = self.remembered().await;
        match self.watched(Work::newest).await {
            Ok(newest) => self.newest = newest,
            Err(error) => warn!(error = format!("{error:#}"), "cannot look at the backups"),
        }
        if matches!(control_file(&self.work.config), Ok(None)) {
            warn!(folder = %self.work.folder.display(), "{CONTROL_ELSEWHERE}");
        }
        let interval = Duration::from_secs(self.work.settings().interval_s);
        while !token.is_cancelled() {
            let begin = tokio::time::Instant::now();
            self.turn().await;
            let next = tokio::time::sleep_until(begin + interval);
            if token.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    async fn turn(&mut self) {
        let runtime = Handle::current();
        match self.watched(move |work| work.make(&runtime)).await {
            Ok(made) => self.note(&made),
            Err(_) if self.work.is_cancelled() => return,
            Err(error) => {
                counter!(names::FAILED).increment(1);
                error!(
                    error = format!("{error:#}"),
                    "no backup was made; it is tried again"
                );
            }
        }
        self.watch_age().await;
        if self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) && self.newest.is_some() {
            self.pruned = Some(Instant::now());
            if let Err(error) = self.watched(Work::prune).await {
                warn!(
                    error = format!("{error:#}"),
                    "old backups are not deleted; it is tried again"
                );
            }
        }
    }

    fn note(&mut self, made: &Made) {
        self.newest = Some(made.manifest.time);
        counter!(names::MADE).increment(1);
        counter!(names::BYTES).increment(made.manifest.bytes_added);
        histogram!(names::SECONDS).record(made.elapsed.as_secs_f64());
        gauge!(names::MISSING).set(made.manifest.missing.len() as f64);
        tracing::debug!(
            sequence = made.manifest.sequence,
            bytes = made.manifest.bytes_added,
            digest = made.digest,
            "backup made"
        );
    }

    /// Opens the finding when the newest backup is too old, and resolves it when it is not.
    async fn watch_age(&mut self) {
        let now = TimeMicros::now();
        let since = self.newest.unwrap_or(self.began);
        let age_s = u64::try_from(now.micros_since(since)).unwrap_or(0) / 1_000_000;
        gauge!(names::AGE).set(age_s as f64);
        let is_late = age_s > self.work.settings().age_max_s;
        if is_late {
            error!(age_s, folder = %self.work.folder.display(), "the newest backup is too old");
        }
        if is_late == self.open.is_some() {
            return;
        }
        let first = self.open.unwrap_or(now);
        let finding = finding(
            &self.work.folder,
            self.store.epoch(),
            (first, now),
            is_late,
            age_s,
        );
        let told = self.store.append_for(OWN_HOST, vec![Fact::from(finding)]);
        match tokio::time::timeout(TELL_TIMEOUT, told).await {
            Ok(Ok(())) => self.open = is_late.then_some(first),
            Ok(Err(error)) => warn!(%error, "finding about the backups could not be stored yet"),
            Err(_) => warn!("finding about the backups was not stored in time"),
        }
    }

    /// When the finding was opened, if an earlier run of the collector left it open.
    async fn remembered(&self) -> Option<TimeMicros> {
        let id = finding_id(self.store.epoch());
        let query = format!(
            "SELECT state, first_time FROM findings WHERE finding_id = '{id}' ORDER BY time DESC LIMIT 1"
        );
        let limits = QueryLimits {
            class: QueryClass::System,
            ..QueryLimits::default()
        };
        let answer = self.store.sql(&query, limits).await.ok()?;
        let rows = to_json_rows(&answer.batches).ok()?;
        let row = rows.first()?;
        (row.get("state")?.as_str()? == FindingState::Open.as_str()).then_some(self.began)
    }

    /// Does work that blocks, and looks at the age of the newest backup until it has ended.
    async fn watched<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.work.clone();
        let every = Duration::from_secs(self.work.settings().interval_s).min(WATCH_EVERY);
        let mut done = tokio::task::spawn_blocking(move || work(&shared));
        loop {
            match tokio::time::timeout(every, &mut done).await {
                Ok(done) => return done.context("wait for the backup")?,
                Err(_) => self.watch_age().await,
            }
        }
    }
}

/// One finding for the life of a store, so that a restart finds it again.
fn finding_id(epoch: [u8; 16]) -> FindingId {
    let mut bytes = *b"backup-overdue\0\0";
    for (byte, of_epoch) in bytes.iter_mut().zip(epoch) {
        *byte ^= of_epoch;
    }
    FindingId::from_bytes(bytes)
}

fn finding(
    folder: &Path,
    epoch: [u8; 16],
    (first_time, time): (TimeMicros, TimeMicros),
    is_late: bool,
    age_s: u64,
) -> Finding {
    Finding {
        time,
        finding_id: finding_id(epoch),
        kind: FindingKind::Threshold,
        rule: RULE.to_owned(),
        title: "the newest backup of the collector is too old".to_owned(),
        severity: Severity::High,
        state: if is_late { FindingState::Open } else { FindingState::Resolved },
        first_time,
        count: 1,
        score: None,
        subject_kind: SubjectKind::Filesystem,
        subject: folder.display().to_string(),
        pid: None,
        start_boot_ns: None,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: serde_json::json!({
            "noticed_by": "collector",
            "age_s": age_s,
            "what_to_do": "read the collector's log for the reason; see that the folder is mounted, has room and can be written",
        })
        .to_string(),
    }
}

#[cfg(test)]
mod tests;
