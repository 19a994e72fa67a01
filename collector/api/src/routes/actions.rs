//! Healing transactions: the steps of each gathered into one.

use axum::Json;
use axum::extract::{Path, State};
use fleetmend_event::remedy::Ending;
use fleetmend_event::{ActionId, FindingId, HostId, TimeMicros};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Parameters, host_of};
use crate::auth::Caller;
use crate::backend::QueryError;
use crate::page::{Cursor, LIMIT_DEFAULT, LIMIT_MAX, cut};
use crate::parameter;
use crate::problem::{Code, Problem, ProblemBody};
use crate::query::{Conditions, Row, cursor_of, text, text_of, time};
use crate::state::{ApiState, Shared};

/// Steps of one transaction are fewer than this.
const STEPS_MAX: usize = 64;
const ACTIONS_OF_FINDING_MAX: usize = 100;

/// A transaction as the contract has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Action {
    host_id: String,
    action_id: String,
    finding_id: String,
    remedy: String,
    target: String,
    started_at: Value,
    ended_at: Value,
    stage: String,
    ending: Value,
    outcome: String,
    reason: String,
    #[schema(value_type = Object)]
    before: Value,
    #[schema(value_type = Object)]
    after: Value,
    asserted_by_agent: bool,
    #[schema(value_type = Vec<Object>)]
    steps: Vec<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ActionPage {
    items: Vec<Action>,
    next_cursor: Option<String>,
    #[schema(value_type = Vec<Object>)]
    gaps: Vec<Value>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActionParameters {
    host: Option<String>,
    finding: Option<String>,
    /// One of the five endings.
    ending: Option<String>,
    /// Least time of the start, default `-30d`.
    from: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[utoipa::path(get, path = "/actions", tag = "actions", security(("bearer" = [])), params(ActionParameters),
    responses((status = 200, body = ActionPage), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<ActionParameters>,
) -> Result<Json<ActionPage>, Problem> {
    let now = TimeMicros::now();
    let host: Option<HostId> = parameter::parse_optional("host", parameters.host.as_deref())?;
    let finding: Option<FindingId> = parameter::parse_optional("finding", parameters.finding.as_deref())?;
    let ending: Option<Ending> = parameter::parse_optional("ending", parameters.ending.as_deref())?;
    let from = parameter::time("from", parameters.from.as_deref(), "-30d", now)?;
    let limit = parameter::limit("limit", parameters.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let cursor = Cursor::decode(parameters.cursor.as_deref())?;
    let of_rows = Conditions::default()
        .host(host)
        .maybe(finding.map(|id| format!("finding_id = {}", text(&id.to_string()))))
        .and(format!("time >= {}", time(from)));
    let of_groups = Conditions::default()
        .maybe(ending.map(|word| format!("ending = {}", text(word.as_str()))))
        .after(cursor.as_ref(), "started_at", "action_id");
    let groups = format!(
        "SELECT * FROM (SELECT host_id, action_id, min(time) AS started_at, max(ending) AS ending FROM actions \
         WHERE {of_rows} GROUP BY host_id, action_id) WHERE {of_groups} \
         ORDER BY started_at DESC, action_id DESC LIMIT {}",
        limit + 1
    );
    let (groups, gaps) = tokio::try_join!(
        state.rows(&caller, &groups, limit + 1),
        state.gaps(&caller, &["actions"], host, from, now)
    )?;
    let (groups, next_cursor) = cut(groups, limit, |row| cursor_of(row, "started_at", "action_id"));
    let mut items = Vec::with_capacity(groups.len());
    if !groups.is_empty() {
        let ids: Vec<String> = groups.iter().map(|row| text(text_of(row, "action_id"))).collect();
        let chosen = of_rows.and(format!("action_id IN ({})", ids.join(", ")));
        let steps = state.steps(&caller, &chosen, ids.len()).await?;
        items.extend(groups.iter().filter_map(|row| {
            let same = |step: &&Row| {
                text_of(step, "action_id") == text_of(row, "action_id")
                    && text_of(step, "host_id") == text_of(row, "host_id")
            };
            Action::of(&steps.iter().filter(same).collect::<Vec<_>>())
        }));
    }
    Ok(Json(ActionPage {
        items,
        next_cursor,
        gaps,
    }))
}

#[utoipa::path(get, path = "/actions/{host}/{action}", tag = "actions", security(("bearer" = [])),
    params(("host" = String, Path), ("action" = String, Path)),
    responses((status = 200, body = Action), (status = 404, body = ProblemBody)))]
pub(crate) async fn one(
    State(state): State<Shared>,
    caller: Caller,
    Path((host, action)): Path<(String, String)>,
) -> Result<Json<Action>, Problem> {
    let host = host_of(&host)?;
    let none = || Problem::new(Code::NotFound, format!("the host has no action {action}"));
    let id: ActionId = action.parse().map_err(|_| none())?;
    let of_action = Conditions::default()
        .host(Some(host))
        .and(format!("action_id = {}", text(&id.to_string())));
    let steps = state.steps(&caller, &of_action, 1).await?;
    Action::of(&steps.iter().collect::<Vec<_>>())
        .map(Json)
        .ok_or_else(none)
}

impl ApiState {
    async fn steps(
        &self,
        caller: &Caller,
        conditions: &Conditions,
        actions: usize,
    ) -> Result<Vec<Row>, QueryError> {
        let rows_max = actions.saturating_mul(STEPS_MAX);
        // Steps may share a microsecond; the ledger's index orders them.
        let query = format!(
            "SELECT * FROM actions WHERE {conditions} ORDER BY ledger_index, time, ingested_at LIMIT {rows_max}"
        );
        self.rows(caller, &query, rows_max).await
    }

    /// Every transaction that a finding led to, oldest first.
    pub(crate) async fn actions_of(
        &self,
        caller: &Caller,
        host: HostId,
        finding: FindingId,
    ) -> Result<Vec<Action>, QueryError> {
        let of_finding = Conditions::default()
            .host(Some(host))
            .and(format!("finding_id = {}", text(&finding.to_string())));
        let steps = self.steps(caller, &of_finding, ACTIONS_OF_FINDING_MAX).await?;
        let mut order: Vec<&str> = Vec::new();
        for step in &steps {
            if !order.contains(&text_of(step, "action_id")) {
                order.push(text_of(step, "action_id"));
            }
        }
        let gather = |id: &str| {
            Action::of(
                &steps
                    .iter()
                    .filter(|step| text_of(step, "action_id") == id)
                    .collect::<Vec<_>>(),
            )
        };
        Ok(order.into_iter().filter_map(gather).collect())
    }
}

impl Action {
    /// Gathers the steps of one transaction, in their order.
    fn of(steps: &[&Row]) -> Option<Self> {
        let (first, last) = (steps.first()?, steps.last()?);
        let column = |row: &Row, name: &str| row.get(name).cloned().unwrap_or(Value::Null);
        let ended = steps
            .iter()
            .rev()
            .find(|step| step.get("ending").is_some_and(Value::is_string));
        let stage = text_of(last, "stage").to_owned();
        let seen = |stage: &str| steps.iter().any(|step| text_of(step, "stage") == stage);
        let outcome = match ended {
            Some(step) => text_of(step, "ending"),
            None if seen("would_act") => "would_act",
            None if seen("refused") => "refused",
            None => "under_way",
        };
        let done = ended.or_else(|| (outcome != "under_way").then_some(last));
        let reasoned = steps
            .iter()
            .rev()
            .find(|step| !text_of(step, "reason").is_empty());
        Some(Self {
            host_id: text_of(first, "host_id").to_owned(),
            action_id: text_of(first, "action_id").to_owned(),
            finding_id: text_of(first, "finding_id").to_owned(),
            remedy: text_of(first, "remedy").to_owned(),
            target: text_of(first, "target").to_owned(),
            started_at: column(first, "time"),
            ended_at: done.map_or(Value::Null, |step| column(step, "time")),
            stage,
            ending: ended.map_or(Value::Null, |step| column(step, "ending")),
            outcome: outcome.to_owned(),
            reason: reasoned.map_or(String::new(), |step| text_of(step, "reason").to_owned()),
            before: last_measured(steps, "before"),
            after: last_measured(steps, "after"),
            asserted_by_agent: steps
                .iter()
                .any(|step| step.get("asserted_by_agent") == Some(&Value::Bool(true))),
            steps: steps.iter().map(|step| Value::Object(short(step))).collect(),
        })
    }
}

fn last_measured(steps: &[&Row], name: &str) -> Value {
    let filled = |value: &&Value| value.as_object().is_some_and(|object| !object.is_empty());
    let measured = steps.iter().rev().filter_map(|step| step.get(name)).find(filled);
    measured.cloned().unwrap_or_else(|| Value::Object(Map::new()))
}

fn short(step: &Row) -> Map<String, Value> {
    let columns = [
        "time",
        "stage",
        "ending",
        "reason",
        "before",
        "after",
        "ledger_index",
    ];
    columns
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), step.get(*name)?.clone())))
        .collect()
}
