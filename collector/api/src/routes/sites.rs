//! Sites as each host sees them.

use axum::Json;
use axum::extract::State;
use fleetmend_event::{HostId, TimeMicros};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use crate::auth::Caller;
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::query::{Conditions, text_of, time};
use crate::state::Shared;

const VERDICTS: usize = 60;
const ROWS_MAX: usize = 60_000;
const AGE_MAX_MS: i64 = 24 * 3_600_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteParameters {
    host: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SiteList {
    items: Vec<Site>,
}

#[derive(Serialize, ToSchema)]
struct Site {
    host_id: String,
    site: String,
    url: String,
    #[schema(value_type = Object)]
    last: Value,
    #[schema(value_type = Vec<Object>)]
    verdicts: Vec<Value>,
}

#[utoipa::path(get, path = "/sites", tag = "sites", security(("bearer" = [])), params(SiteParameters),
    responses((status = 200, body = SiteList), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<SiteParameters>,
) -> Result<Json<SiteList>, Problem> {
    let host: Option<HostId> = parameter::parse_optional("host", parameters.host.as_deref())?;
    let since = time(TimeMicros::now().plus_millis(-AGE_MAX_MS));
    let conditions = Conditions::default().host(host).and(format!("time >= {since}"));
    let query = format!(
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY host_id, site ORDER BY time DESC, ingested_at DESC) \
         AS recency FROM site_probes WHERE {conditions}) WHERE recency <= {VERDICTS} \
         ORDER BY site, host_id, time, ingested_at LIMIT {ROWS_MAX}"
    );
    let mut items: Vec<Site> = Vec::new();
    for row in state.rows(&caller, &query, ROWS_MAX).await? {
        let (host_id, site) = (text_of(&row, "host_id"), text_of(&row, "site"));
        if items
            .last()
            .is_none_or(|last| last.host_id != host_id || last.site != site)
        {
            items.push(Site {
                host_id: host_id.to_owned(),
                site: site.to_owned(),
                url: String::new(),
                last: Value::Null,
                verdicts: Vec::new(),
            });
        }
        if let Some(item) = items.last_mut() {
            let columns = ["time", "verdict", "total_ms", "http_status"];
            let verdict: Map<String, Value> = columns
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), row.get(*name)?.clone())))
                .collect();
            item.verdicts.push(Value::Object(verdict));
            text_of(&row, "url").clone_into(&mut item.url);
            item.last = Value::Object(row);
        }
    }
    Ok(Json(SiteList { items }))
}
