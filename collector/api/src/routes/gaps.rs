//! Losses that are known.

use axum::Json;
use axum::extract::State;
use fleetmend_event::{HostId, TimeMicros};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::Parameters;
use super::hosts::{RowList, objects};
use crate::auth::Caller;
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::query::{Conditions, text, time};
use crate::state::Shared;

const LIMIT_DEFAULT: usize = 200;
const LIMIT_MAX: usize = 2_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct GapParameters {
    host: Option<String>,
    table: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
}

#[utoipa::path(get, path = "/gaps", tag = "gaps", security(("bearer" = [])), params(GapParameters),
    responses((status = 200, body = RowList), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<GapParameters>,
) -> Result<Json<RowList>, Problem> {
    let now = TimeMicros::now();
    let host: Option<HostId> = parameter::parse_optional("host", parameters.host.as_deref())?;
    let from = parameter::time("from", parameters.from.as_deref(), "-24h", now)?;
    let to = parameter::time("to", parameters.to.as_deref(), "now", now)?;
    let limit = parameter::limit("limit", parameters.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    // An empty list says that nothing is missing, which nobody can say of a table that is not there.
    let table = parameters.table.filter(|table| !table.is_empty());
    let table = table.map(|table| parameter::table("table", &table)).transpose()?;
    let conditions = Conditions::default()
        .host(host)
        .maybe(table.map(|table| format!("\"table\" IN ('*', {})", text(table))))
        .and(format!("from_time <= {}", time(to)))
        .and(format!("to_time >= {}", time(from)));
    let query = format!("SELECT * FROM gaps WHERE {conditions} ORDER BY time DESC LIMIT {limit}");
    Ok(Json(RowList {
        items: objects(state.rows(&caller, &query, limit).await?),
    }))
}
