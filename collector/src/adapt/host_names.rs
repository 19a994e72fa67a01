//! What hosts call themselves: their names stand in another table than what is told of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use collector_store::{FactStore, QueryClass, QueryError, QueryLimits, to_json_rows};
use fleetmend_event::HostId;
use serde_json::{Map, Value};

/// Hosts whose names are told.
const HOSTS_MAX: usize = 100_000;
const QUERY: &str = "SELECT host_id, hostname FROM (SELECT host_id, hostname, row_number() OVER \
                     (PARTITION BY host_id ORDER BY time DESC, ingested_at DESC) AS recency FROM host_info) \
                     WHERE recency = 1";

/// What every host last called itself; hosts that did not are left out.
pub(super) async fn host_names(
    store: &dyn FactStore,
    timeout: Duration,
) -> Result<BTreeMap<HostId, Arc<str>>, QueryError> {
    let limits = QueryLimits {
        rows_max: HOSTS_MAX,
        timeout,
        class: QueryClass::System,
        ..QueryLimits::default()
    };
    let answer = store.sql(QUERY, limits).await?;
    let rows = to_json_rows(&answer.batches).map_err(|error| QueryError::Failed {
        reason: error.to_string(),
    })?;
    let text = |row: &Map<String, Value>, column: &str| Some(row.get(column)?.as_str()?.to_owned());
    let host = |row: &Map<String, Value>| {
        let id = text(row, "host_id")?.parse().ok()?;
        let name = text(row, "hostname").filter(|name| !name.is_empty())?;
        Some((id, Arc::from(name)))
    };
    Ok(rows.iter().filter_map(host).collect())
}
