//! Hosts, and what the last rows of each say.

use axum::Json;
use axum::extract::{Path, State};
use fleetmend_event::{HostId, TimeMicros};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::extract::{Parameters, host_of};
use super::host_list::Host;
use crate::auth::Caller;
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::query::{Conditions, latest, time, time_of};
use crate::state::{ApiState, Shared};

const ROWS_MAX: usize = 5_000;
const PROCESSES_DEFAULT: usize = 200;
const PROCESSES_MAX: usize = 2_000;
/// The inventory is renewed more often than this; a process that is older than it is gone.
const PROCESS_AGE_MAX_MS: i64 = 600_000;
/// Units and models report every minute; a day is enough to find the last of each.
const STATE_AGE_MAX_MS: i64 = 24 * 3_600_000;

#[derive(Serialize, ToSchema)]
pub(crate) struct HostList {
    items: Vec<Host>,
}

/// Rows of one table.
#[derive(Serialize, ToSchema)]
pub(crate) struct RowList {
    #[schema(value_type = Vec<Object>)]
    pub(crate) items: Vec<Value>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessParameters {
    /// 1 to 2000, default 200.
    limit: Option<usize>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostParameters {
    /// Whether hosts that left the fleet or were taken out of it are listed too, default false.
    removed: Option<bool>,
}

#[utoipa::path(get, path = "/hosts", tag = "hosts", security(("bearer" = [])), params(HostParameters),
    responses((status = 200, body = HostList), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<HostParameters>,
) -> Result<Json<HostList>, Problem> {
    let mut items = state.host_list(&caller, None).await?;
    if !parameters.removed.unwrap_or(false) {
        items.retain(|host| !host.is_removed());
    }
    Ok(Json(HostList { items }))
}

#[utoipa::path(get, path = "/hosts/{host}", tag = "hosts", security(("bearer" = [])), params(("host" = String, Path)),
    responses((status = 200, body = Host), (status = 404, body = ProblemBody)))]
pub(crate) async fn one(
    State(state): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<Host>, Problem> {
    let id = host_of(&host)?;
    let found = state.host_list(&caller, Some(id)).await?.pop();
    found.map(Json).ok_or_else(|| Problem::no_host(id))
}

#[utoipa::path(get, path = "/hosts/{host}/probes", tag = "hosts", security(("bearer" = [])),
    params(("host" = String, Path)), responses((status = 200, body = RowList), (status = 404, body = ProblemBody)))]
pub(crate) async fn probes(
    State(state): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<RowList>, Problem> {
    state
        .last_rows(&caller, &host, "probe_status", "probe", "probe")
        .await
}

#[utoipa::path(get, path = "/hosts/{host}/sensor", tag = "hosts", security(("bearer" = [])),
    params(("host" = String, Path)), responses((status = 200, body = RowList), (status = 404, body = ProblemBody)))]
pub(crate) async fn sensor(
    State(state): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<RowList>, Problem> {
    state
        .last_rows(&caller, &host, "sensor_accounts", "family", "family")
        .await
}

#[utoipa::path(get, path = "/hosts/{host}/units", tag = "hosts", security(("bearer" = [])),
    params(("host" = String, Path)), responses((status = 200, body = RowList), (status = 404, body = ProblemBody)))]
pub(crate) async fn units(
    State(state): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<RowList>, Problem> {
    state.last_rows(&caller, &host, "units", "unit", "unit").await
}

#[utoipa::path(get, path = "/hosts/{host}/models", tag = "hosts", security(("bearer" = [])),
    params(("host" = String, Path)), responses((status = 200, body = RowList), (status = 404, body = ProblemBody)))]
pub(crate) async fn models(
    State(state): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<RowList>, Problem> {
    state
        .last_rows(&caller, &host, "model_status", "model", "model")
        .await
}

#[utoipa::path(get, path = "/hosts/{host}/processes", tag = "hosts", security(("bearer" = [])),
    params(("host" = String, Path), ProcessParameters),
    responses((status = 200, body = RowList), (status = 404, body = ProblemBody)))]
pub(crate) async fn processes(
    State(state): State<Shared>,
    caller: Caller,
    Path(host): Path<String>,
    Parameters(parameters): Parameters<ProcessParameters>,
) -> Result<Json<RowList>, Problem> {
    let id = state.known(&caller, &host).await?;
    let limit = parameter::limit("limit", parameters.limit, PROCESSES_DEFAULT, PROCESSES_MAX)?;
    let now = TimeMicros::now();
    let oldest = now.plus_millis(-PROCESS_AGE_MAX_MS);
    // What ended while no agent ran has no row that says so; an agent that starts writes every process that runs.
    let since = state
        .agent_start(&caller, id, oldest, now)
        .await?
        .unwrap_or(oldest);
    let recent = Conditions::default()
        .host(Some(id))
        .and(format!("time >= {}", time(since)));
    let last = latest("processes", "pid, start_boot_ns", &recent);
    let query = format!(
        "SELECT * FROM ({last}) WHERE state <> 'X' ORDER BY cpu_core_pct DESC, rss_bytes DESC, pid LIMIT {limit}"
    );
    Ok(Json(RowList {
        items: objects(state.rows(&caller, &query, limit).await?),
    }))
}

impl ApiState {
    /// The host of a path, when anybody knows it.
    async fn known(&self, caller: &Caller, host: &str) -> Result<HostId, Problem> {
        let id = host_of(host)?;
        if self.knows_host(caller, id).await? {
            Ok(id)
        } else {
            Err(Problem::no_host(id))
        }
    }

    /// When the host's agent last started, if that was after `oldest`. Its first row says that no healer is there,
    /// which the row of a healer's change says only when one goes away.
    async fn agent_start(
        &self,
        caller: &Caller,
        id: HostId,
        oldest: TimeMicros,
        now: TimeMicros,
    ) -> Result<Option<TimeMicros>, Problem> {
        let starts = Conditions::default()
            .host(Some(id))
            .and("healing = 'absent'")
            .and(format!("time >= {}", time(oldest)))
            // A clock that ran ahead must not hide what runs now.
            .and(format!("time <= {}", time(now)));
        let query = format!("SELECT time FROM host_info WHERE {starts} ORDER BY time DESC LIMIT 1");
        Ok(self
            .rows(caller, &query, 1)
            .await?
            .first()
            .and_then(|row| time_of(row, "time")))
    }

    async fn last_rows(
        &self,
        caller: &Caller,
        host: &str,
        table: &str,
        group: &str,
        order: &str,
    ) -> Result<Json<RowList>, Problem> {
        let id = self.known(caller, host).await?;
        let since = time(TimeMicros::now().plus_millis(-STATE_AGE_MAX_MS));
        let recent = Conditions::default()
            .host(Some(id))
            .and(format!("time >= {since}"));
        let query = format!(
            "{} ORDER BY {order} LIMIT {ROWS_MAX}",
            latest(table, group, &recent)
        );
        Ok(Json(RowList {
            items: objects(self.rows(caller, &query, ROWS_MAX).await?),
        }))
    }
}

pub(crate) fn objects(rows: Vec<crate::query::Row>) -> Vec<Value> {
    rows.into_iter().map(Value::Object).collect()
}
