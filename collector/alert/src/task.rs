//! The tasks of the room.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fleetmend_control::{Control, ControlError, Engine, Leases, Tenure, Transaction};
use fleetmend_event::TimeMicros;
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::AlertConfig;
use crate::deliver::{Pause, Receiving};
use crate::error::AlertError;
use crate::flood::Gate;
use crate::group::{self, Past};
use crate::promql::{PromQuery, PromValues};
use crate::query::{QueryError, SqlQuery};
use crate::record::Status;
use crate::removed::{self, Removed, RemovedHosts};
use crate::rules::Rules;
use crate::webhook::Webhook;
use crate::{database, deliver, evaluate};

/// After a round that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Between two looks at which groups are due: the shortest interval is a second.
const GROUPS_POLL: Duration = Duration::from_millis(500);

/// Rounds may fail for this long, a restart of the store for instance, before alerting counts as broken.
const BROKEN_AFTER: Duration = Duration::from_secs(60);

/// Whoever of several collectors has this lease evaluates and delivers.
const LEASE: &str = "alert";
/// How long another waits for one that died without giving the lease up.
const LEASE_LIFE: Duration = Duration::from_secs(15);

/// Alerting, ready to run.
#[derive(Clone)]
pub struct Alerting {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: AlertConfig,
    pub(crate) rules: Rules,
    pub(crate) pool: Control,
    pub(crate) sql: Arc<dyn SqlQuery>,
    pub(crate) webhooks: Vec<Webhook>,
    pub(crate) gate: Gate,
    /// Whether a row that cannot be read was reported.
    pub(crate) unreadable_told: AtomicBool,
    /// When a round last succeeded; opening counts as one.
    pub(crate) round_at: watch::Sender<Instant>,
    /// Where several collectors may alert: whether it is this one's turn.
    pub(crate) tenure: OnceLock<Tenure>,
    /// Evaluates expressions; absent where nothing does.
    pub(crate) promql: OnceLock<Arc<dyn PromQuery>>,
    /// Hosts that are in the fleet no more.
    pub(crate) removed: Removed,
    /// How the last evaluation of each rule with an expression went.
    pub(crate) statuses: Mutex<BTreeMap<String, Status>>,
    /// Told when a round may have written messages.
    pub(crate) wake: watch::Sender<()>,
}

impl Shared {
    /// Waits until it is this collector's turn; false when it never comes, because of the end.
    async fn leads(&self, token: &CancellationToken) -> bool {
        let Some(tenure) = self.tenure.get() else {
            return true;
        };
        if tenure.held().is_some() {
            return true;
        }
        let mut tenure = tenure.clone();
        let leads = token.run_until_cancelled(tenure.wait()).await.flatten().is_some();
        if leads {
            self.round_at.send_replace(Instant::now());
        }
        leads
    }

    /// Makes sure, inside the transaction of a round, that the turn has not gone to another.
    pub(crate) async fn confirm(&self, transaction: &mut Transaction) -> Result<(), ControlError> {
        match self.tenure.get().map(Tenure::held) {
            None => Ok(()),
            Some(Some(held)) => held.confirm(transaction).await,
            Some(None) => Err(ControlError::LeaseLost(LEASE.to_owned())),
        }
    }

    /// Whoever evaluates expressions.
    pub(crate) fn promql(&self) -> Result<&dyn PromQuery, QueryError> {
        let missing = || QueryError::Unavailable("nothing evaluates PromQL here".to_owned());
        self.promql.get().map(AsRef::as_ref).ok_or_else(missing)
    }

    /// Notes that a rule's last evaluation came to nothing after all.
    pub(crate) fn fail(&self, rule: &str, reason: &str) {
        if let Some(status) = self.statuses.lock().get_mut(rule) {
            status.fault = Some(reason.to_owned());
        }
    }

    pub(crate) fn note(&self, rule: &str, status: Status) {
        self.statuses.lock().insert(rule.to_owned(), status);
    }

    /// The value of a rule's expression, noted as its last evaluation.
    pub(crate) async fn expression(
        &self,
        rule: &str,
        expression: &str,
        time: TimeMicros,
    ) -> Result<PromValues, AlertError> {
        let began = std::time::Instant::now();
        let found = self.promql()?.instant(expression, time).await;
        let status = Status {
            evaluated_at: time,
            took: began.elapsed(),
            fault: found.as_ref().err().map(ToString::to_string),
        };
        self.note(rule, status);
        Ok(found?)
    }

    pub(crate) fn receiver_names(&self) -> Vec<String> {
        self.webhooks.iter().map(|webhook| webhook.name.clone()).collect()
    }
}

impl Alerting {
    /// Reads the rules, prepares the receivers and brings the tables up to date.
    ///
    /// # Errors
    /// When a rule or a receiver cannot be used, or the control database refuses.
    pub async fn open(
        config: AlertConfig,
        pool: Control,
        sql: Arc<dyn SqlQuery>,
    ) -> Result<Self, AlertError> {
        let rules = Rules::load(&config)?;
        let webhooks = config
            .receivers
            .iter()
            .map(Webhook::new)
            .collect::<Result<Vec<_>, _>>()?;
        let wrap = AlertError::database("bring the tables up to date");
        database::migrate(&pool).await.map_err(wrap)?;
        evaluate::retire(&pool, &rules.metrics).await?;
        crate::metrics::describe();
        Ok(Self {
            shared: Arc::new(Shared {
                gate: Gate::new(config.alerts_per_host_max),
                config,
                rules,
                pool,
                sql,
                webhooks,
                tenure: OnceLock::new(),
                unreadable_told: AtomicBool::new(false),
                round_at: watch::Sender::new(Instant::now()),
                promql: OnceLock::new(),
                removed: Removed::default(),
                statuses: Mutex::default(),
                wake: watch::Sender::new(()),
            }),
        })
    }

    /// Names who evaluates expressions, before anything runs; without one, rules with an expression fail.
    pub fn evaluate_with(&self, promql: Arc<dyn PromQuery>) {
        self.shared.promql.get_or_init(|| promql);
    }

    /// Names who knows which hosts left the fleet, before anything runs; without one, none ever did.
    pub fn end_for_removed(&self, hosts: Arc<dyn RemovedHosts>) {
        self.shared.removed.ask(hosts);
    }

    /// Why nobody would be alerted now: the facts could not be read, or the state not be written, for a while.
    pub fn fault(&self) -> Option<String> {
        if self
            .shared
            .tenure
            .get()
            .is_some_and(|tenure| tenure.held().is_none())
        {
            // Another collector alerts.
            return None;
        }
        let allowed = BROKEN_AFTER + self.shared.config.poll.get();
        let broken = self.shared.round_at.borrow().elapsed() > allowed;
        broken.then(|| {
            let seconds = allowed.as_secs();
            format!("no round of alerting succeeded for more than {seconds} s; the log says why")
        })
    }

    /// Starts evaluating, and delivering to each receiver; all end when `tasks` drains, between two transactions.
    pub fn spawn(&self, tasks: &Tasks) {
        if self.shared.pool.engine() == Engine::Postgres {
            let leases = Leases::new(self.shared.pool.clone(), LEASE, LEASE_LIFE);
            self.shared.tenure.get_or_init(|| leases.hold(LEASE, tasks));
        }
        let (shared, token) = (self.shared.clone(), tasks.token());
        tasks.spawn("alert-evaluate", TaskKind::Critical, async move {
            evaluating(&shared, &token).await;
            Ok::<(), AlertError>(())
        });
        if !self.shared.rules.groups.is_empty() {
            let (shared, token) = (self.shared.clone(), tasks.token());
            tasks.spawn("alert-groups", TaskKind::Critical, async move {
                evaluating_groups(&shared, &token).await;
                Ok::<(), AlertError>(())
            });
        }
        let webhooks = (0..self.shared.webhooks.len()).map(Receiving::Webhook);
        for receiving in webhooks.chain([Receiving::Others]) {
            let (shared, token) = (self.shared.clone(), tasks.token());
            tasks.spawn("alert-deliver", TaskKind::Critical, async move {
                delivering(&shared, receiving, &token).await;
                Ok::<(), AlertError>(())
            });
        }
    }
}

/// Rounds until it is cancelled. A round that fails changed nothing and is done again.
async fn evaluating(shared: &Shared, token: &CancellationToken) {
    let mut metrics_at = Instant::now();
    let mut sweep_at = Instant::now() + SWEEP_EVERY;
    while shared.leads(token).await {
        // Each part for itself: what stops one does not stop the others.
        let pause = match evaluate::findings(shared).await {
            Ok(more) => {
                shared.round_at.send_replace(Instant::now());
                if more {
                    Duration::ZERO
                } else {
                    shared.config.poll.get()
                }
            }
            Err(error) => {
                failed("evaluating", &error);
                AFTER_FAILURE
            }
        };
        if Instant::now() >= metrics_at {
            metrics_at = Instant::now() + shared.config.metrics_every.get();
            if let Err(error) = removed::round(shared).await {
                failed("ending alerts of removed hosts", &error);
            }
            if let Err(error) = evaluate::metrics(shared).await {
                failed("judging metrics", &error);
            }
        }
        if Instant::now() >= sweep_at {
            sweep_at = Instant::now() + SWEEP_EVERY;
            if let Err(error) = evaluate::sweep(shared).await {
                failed("sweeping", &error);
            }
        }
        shared.wake.send_replace(());
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Evaluates groups of rules until it is cancelled. A time whose series could not be recorded is evaluated again.
async fn evaluating_groups(shared: &Shared, token: &CancellationToken) {
    let mut past = Past::default();
    while shared.leads(token).await {
        let pause = match group::round(shared, &mut past).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => GROUPS_POLL,
            Err(error) => {
                failed("evaluating groups", &error);
                AFTER_FAILURE
            }
        };
        shared.wake.send_replace(());
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn delivering(shared: &Shared, receiving: Receiving, token: &CancellationToken) {
    let mut wake = shared.wake.subscribe();
    while shared.leads(token).await {
        wake.mark_unchanged();
        let pause = match deliver::round(shared, receiving, token).await {
            Ok(pause) => pause,
            Err(error) => {
                failed("delivering", &error);
                Pause::Whole(AFTER_FAILURE)
            }
        };
        let (Pause::Until(time) | Pause::Whole(time)) = pause;
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            Ok(()) = wake.changed(), if matches!(pause, Pause::Until(_)) => {}
            () = sleep(time) => {}
        }
    }
}

fn failed(what: &'static str, error: &AlertError) {
    metrics::counter!(crate::metrics::FAILURES, "what" => what).increment(1);
    let cause = match error {
        AlertError::Database { source, .. } => Some(source.chain()),
        error => std::error::Error::source(error).map(ToString::to_string),
    };
    tracing::warn!(what, %error, cause, "a round of alerting failed; it is done again");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use arrow::array::RecordBatch;
    use async_trait::async_trait;

    use super::*;
    use crate::query::QueryLimits;

    /// A store whose every turn is taken, until one is not.
    #[derive(Default)]
    struct Busy(AtomicBool);

    #[async_trait]
    impl SqlQuery for Busy {
        async fn sql(&self, _: &str, _: QueryLimits) -> Result<Vec<RecordBatch>, QueryError> {
            if self.0.load(Ordering::SeqCst) {
                return Ok(Vec::new());
            }
            Err(QueryError::Unavailable("every turn is taken".to_owned()))
        }
    }

    #[tokio::test]
    async fn rounds_that_fail_for_long_are_a_fault_until_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Control::sqlite(&folder.path().join("control.sqlite"))
            .await
            .unwrap();
        let store = Arc::new(Busy::default());
        let config = AlertConfig {
            default_rules: false,
            ..AlertConfig::default()
        };
        let alerting = Alerting::open(config, pool, store.clone()).await.unwrap();
        assert_eq!(alerting.fault(), None, "it has only begun");
        let long_ago = Instant::now().checked_sub(BROKEN_AFTER * 2).unwrap();
        alerting.shared.round_at.send_replace(long_ago);
        let failed = evaluate::findings(&alerting.shared).await;
        assert!(failed.is_err(), "{failed:?}");
        assert!(alerting.fault().unwrap().contains("no round"));

        store.0.store(true, Ordering::SeqCst);
        let mut round = alerting.shared.round_at.subscribe();
        let tasks = Tasks::new();
        alerting.spawn(&tasks);
        let succeeded = round.wait_for(|at| *at > long_ago);
        tokio::time::timeout(Duration::from_secs(20), succeeded)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(alerting.fault(), None);
        tasks.drain(Duration::from_secs(20)).await;
    }
}
