//! One round: read what is new, change what it changes, note how far it was read, in one transaction.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fleetmend_control::{Control, ControlError, Transaction};
use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ActionEvent, Finding, Table};

use crate::apply::{self, Policy};
use crate::error::AlertError;
use crate::query::{QueryError, QueryLimits, Reading, Stored, stored, time};
use crate::rules::MetricRule;
use crate::task::Shared;
use crate::{flood, metric_rule, store};

/// Rows become visible a little later than they are stamped, and not in that order.
const OVERLAP_US: i64 = 10_000_000;
/// Rows read at once. A round that gets as many goes on from the last of them in the next.
const ROWS_MAX: usize = 20_000;
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long what is over is kept.
const KEEP_US: i64 = 90 * 24 * 3_600 * 1_000_000;

/// Reads new findings and actions and applies them. `true` when there is more to read at once.
pub(crate) async fn findings(shared: &Shared) -> Result<bool, AlertError> {
    let wrap = || AlertError::database("read how far the facts were read");
    // Where nothing was ever read, what is older would be late anyway.
    let oldest = TimeMicros::now()
        .plus_micros(-i64::try_from(shared.config.late_after.get().as_micros()).unwrap_or(0));
    let actions_from = store::cursor(&shared.pool, ActionEvent::NAME)
        .await
        .map_err(wrap())?
        .unwrap_or(oldest);
    let findings_from = store::cursor(&shared.pool, Finding::NAME)
        .await
        .map_err(wrap())?
        .unwrap_or(oldest);

    // Findings first: an action that is read without its finding waits for it, which is harmless; the other way
    // round a finding could be decided without the steps that were there.
    let (mut findings, findings_to, findings_full) = read::<Finding>(shared, findings_from).await?;
    let (actions, actions_to, actions_full) = read::<ActionEvent>(shared, actions_from).await?;
    let more = findings_full || actions_full;
    findings.sort_by_key(Stored::arrival);
    let removed = shared.removed.hosts();
    let read_rows = findings.len();
    findings.retain(|finding| !removed.contains(&finding.host_id));
    let of_removed = read_rows - findings.len();
    metrics::counter!(crate::metrics::IGNORED, "reason" => "removed").increment(of_removed as u64);

    let receivers = shared.receiver_names();
    let policy = Policy {
        rules: &shared.rules.findings,
        receivers: &receivers,
        settle: shared.config.settle.get(),
        heal_deadline: shared.config.heal_deadline.get(),
        late_after: shared.config.late_after.get(),
        gate: &shared.gate,
        read_until: findings_from,
    };
    let now = TimeMicros::now();
    let write = async {
        let mut transaction = shared.pool.begin("alert").await?;
        shared.confirm(&mut transaction).await?;
        apply::actions(&mut transaction, &actions, now).await?;
        apply::findings(&mut transaction, &policy, &findings, now).await?;
        if !more {
            apply::decide_waiting(&mut transaction, &policy, now).await?;
        }
        flood::tell(&mut transaction, &shared.gate, &receivers, now).await?;
        advance(&mut transaction, Finding::NAME, findings_from, findings_to).await?;
        advance(&mut transaction, ActionEvent::NAME, actions_from, actions_to).await?;
        transaction.commit().await
    };
    write
        .await
        .map_err(AlertError::database("apply findings and actions"))?;
    Ok(more)
}

/// What is new of a table, up to where that is, and whether there is more.
async fn read<T: Table>(
    shared: &Shared,
    from: TimeMicros,
) -> Result<(Vec<Stored<T>>, TimeMicros, bool), AlertError> {
    let since = time(from.plus_micros(-OVERLAP_US));
    let table = T::NAME;
    let query = format!(
        "SELECT * FROM {table} WHERE ingested_at >= {since} ORDER BY ingested_at, time LIMIT {ROWS_MAX}"
    );
    let limits = QueryLimits {
        rows_max: ROWS_MAX,
        timeout: QUERY_TIMEOUT,
    };
    let Reading { rows, unreadable } = stored::<T>(&shared.sql.sql(&query, limits).await?)?;
    let new = rows.iter().filter(|row| row.ingested_at > from).count();
    metrics::counter!(crate::metrics::ROWS, "table" => table).increment(new as u64);
    let new = unreadable.iter().filter(|(ingested_at, _)| *ingested_at > from);
    if let Some((_, reason)) = new.clone().next()
        && !shared.unreadable_told.swap(true, Ordering::Relaxed)
    {
        // Once: a host that sends such rows may send many.
        tracing::warn!(
            table,
            reason,
            "a row cannot be read and is passed over; further ones are only counted"
        );
    }
    metrics::counter!(crate::metrics::UNREADABLE, "table" => table).increment(new.count() as u64);
    // What cannot be read is behind us too, or nothing would ever be read again.
    let of_rows = rows.iter().map(|row| row.ingested_at);
    let last = of_rows
        .chain(unreadable.iter().map(|(ingested_at, _)| *ingested_at))
        .max();
    let full = rows.len() + unreadable.len() >= ROWS_MAX;
    Ok((rows, place(last.unwrap_or(from), from, full), full))
}

/// How far was read. When a round is full, the overlap is left behind, so that it goes on.
fn place(last: TimeMicros, from: TimeMicros, full: bool) -> TimeMicros {
    if full {
        last.plus_micros(OVERLAP_US).max(from.plus_micros(1))
    } else {
        last.max(from)
    }
}

async fn advance(
    connection: &mut Transaction,
    name: &str,
    from: TimeMicros,
    to: TimeMicros,
) -> Result<(), ControlError> {
    if to > from || from == to && store::cursor(&mut *connection, name).await?.is_none() {
        store::put_cursor(connection, name, to).await?;
    }
    Ok(())
}

/// Judges every metric rule that is of no group; one that fails does not keep the others from it.
pub(crate) async fn metrics(shared: &Shared) -> Result<(), AlertError> {
    let mut failed = Ok(());
    for rule in shared.rules.metrics.iter().filter(|rule| rule.group.is_none()) {
        let now = TimeMicros::now();
        failed = failed.and(metric(shared, rule, now, Within::default()).await);
    }
    failed
}

/// What its group says about the evaluation of a rule.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Within {
    /// How far before the time of the evaluation the expression is asked.
    pub(crate) offset_us: i64,
    /// Alerts that the rule may give; 0 for as many as it gives.
    pub(crate) alerts_max: usize,
}

/// Judges one metric rule at one time.
pub(crate) async fn metric(
    shared: &Shared,
    rule: &MetricRule,
    now: TimeMicros,
    within: Within,
) -> Result<(), AlertError> {
    let limits = QueryLimits {
        rows_max: metric_rule::SERIES_MAX,
        timeout: QUERY_TIMEOUT,
    };
    let (mut values, gaps) = match &rule.promql {
        Some(expression) => {
            let at = now.plus_micros(-within.offset_us);
            let found = shared.expression(&rule.name, expression, at).await?;
            (metric_rule::values_of(rule, &found), found.unknown)
        }
        None => (
            metric_rule::values(&shared.sql.sql(&metric_rule::query(rule, now), limits).await?)?,
            metric_rule::hosts(&shared.sql.sql(&metric_rule::gap_query(rule, now), limits).await?),
        ),
    };
    let removed = shared.removed.hosts();
    values.retain(|(host, _), _| !removed.contains(host));
    if within.alerts_max > 0 && values.len() > within.alerts_max {
        let (most, count) = (within.alerts_max, values.len());
        let reason = format!("exceeded limit of {most} with {count} alerts");
        shared.fail(&rule.name, &reason);
        return Err(QueryError::Invalid(reason).into());
    }
    let receivers = shared.receiver_names();
    let write = async {
        let mut transaction = shared.pool.begin("alert").await?;
        shared.confirm(&mut transaction).await?;
        metric_rule::apply(
            &mut transaction,
            rule,
            &shared.gate,
            &receivers,
            &values,
            &gaps,
            now,
        )
        .await?;
        transaction.commit().await
    };
    write.await.map_err(AlertError::database("apply a metric rule"))
}

/// Closes alerts of metric rules that are not there any more.
pub(crate) async fn retire(pool: &Control, rules: &[MetricRule]) -> Result<(), AlertError> {
    let write = async {
        let mut transaction = pool.begin("alert").await?;
        metric_rule::retire(&mut transaction, rules, TimeMicros::now()).await?;
        transaction.commit().await
    };
    write
        .await
        .map_err(AlertError::database("close alerts of removed rules"))
}

/// Forgets what is long over.
pub(crate) async fn sweep(shared: &Shared) -> Result<(), AlertError> {
    let before = TimeMicros::now().plus_micros(-KEEP_US);
    let sweep = async {
        let mut transaction = shared.pool.begin("alert").await?;
        shared.confirm(&mut transaction).await?;
        store::sweep(&mut transaction, before).await?;
        transaction.commit().await
    };
    sweep.await.map_err(AlertError::database("forget what is over"))
}
