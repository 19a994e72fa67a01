//! Metrics: which there are, and their samples gathered into as many points as a chart has room for.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use fleetmend_event::{HostId, TimeMicros};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use crate::auth::Caller;
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::query::{Conditions, Row, number_of, text, text_of, time};
use crate::state::Shared;

const NAMES_AGE_MAX_MS: i64 = 5 * 60_000;
const SERIES_SCANNED_MAX: usize = 20_000;
const NAMES_MAX: usize = 20;
const SERIES_MAX: usize = 200;
const POINTS_DEFAULT: usize = 600;
/// Fewer are no chart.
const POINTS_MIN: usize = 10;
const POINTS_MAX: usize = 5_000;
/// Points of one answer, all series together: about 2 MiB of JSON.
const ROWS_MAX: usize = 100_000;
/// A line breaks where samples are missing for more than this many usual distances.
const BREAK_AFTER: i64 = 3;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameParameters {
    host: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct NameList {
    items: Vec<MetricName>,
}

#[derive(Serialize, ToSchema)]
struct MetricName {
    name: String,
    unit: String,
    series: u64,
    label_names: BTreeSet<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeParameters {
    host: String,
    /// One name, or several with commas.
    name: String,
    /// JSON object; a series matches when it has all of these.
    labels: Option<String>,
    from: Option<String>,
    to: Option<String>,
    /// 10 to 5000, default 600.
    points_max: Option<usize>,
    /// `avg`, `max`, `min` or `last`.
    agg: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct RangeAnswer {
    from: String,
    to: String,
    step_ms: i64,
    series: Vec<Series>,
    truncated: bool,
    #[schema(value_type = Vec<Object>)]
    gaps: Vec<Value>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Series {
    name: String,
    unit: String,
    #[schema(value_type = Object)]
    labels: Value,
    /// `[milliseconds since 1970, value or null]`.
    #[schema(value_type = Vec<Vec<f64>>)]
    points: Vec<(i64, Option<f64>)>,
}

#[utoipa::path(get, path = "/metrics/names", tag = "metrics", security(("bearer" = [])), params(NameParameters),
    responses((status = 200, body = NameList), (status = 400, body = ProblemBody)))]
pub(crate) async fn names(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<NameParameters>,
) -> Result<Json<NameList>, Problem> {
    let host: HostId = parameter::parse("host", &parameters.host)?;
    let since = time(TimeMicros::now().plus_millis(-NAMES_AGE_MAX_MS));
    let conditions = Conditions::default()
        .host(Some(host))
        .and(format!("time >= {since}"));
    let query = format!(
        "SELECT name, unit, labels FROM metrics WHERE {conditions} GROUP BY name, unit, labels ORDER BY name \
         LIMIT {SERIES_SCANNED_MAX}"
    );
    let mut names: BTreeMap<(String, String), (u64, BTreeSet<String>)> = BTreeMap::new();
    for row in state.rows(&caller, &query, SERIES_SCANNED_MAX).await? {
        let key = (text_of(&row, "name").to_owned(), text_of(&row, "unit").to_owned());
        let (series, labels) = names.entry(key).or_default();
        *series += 1;
        if let Some(object) = row.get("labels").and_then(Value::as_object) {
            labels.extend(object.keys().cloned());
        }
    }
    let item = |((name, unit), (series, label_names))| MetricName {
        name,
        unit,
        series,
        label_names,
    };
    Ok(Json(NameList {
        items: names.into_iter().map(item).collect(),
    }))
}

#[utoipa::path(get, path = "/metrics/range", tag = "metrics", security(("bearer" = [])), params(RangeParameters),
    responses((status = 200, body = RangeAnswer), (status = 400, body = ProblemBody)))]
pub(crate) async fn range(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<RangeParameters>,
) -> Result<Json<RangeAnswer>, Problem> {
    let wanted = Wanted::of(&parameters, TimeMicros::now())?;
    let query = wanted.query();
    let (rows, gaps) = tokio::try_join!(
        state.rows(&caller, &query, ROWS_MAX),
        state.gaps(&caller, &["metrics"], Some(wanted.host), wanted.from, wanted.to)
    )?;
    let cut = rows.len() >= ROWS_MAX;
    let (series, more) = wanted.series(rows);
    Ok(Json(RangeAnswer {
        from: wanted.from.to_string(),
        to: wanted.to.to_string(),
        step_ms: wanted.step_us / 1_000,
        series,
        truncated: cut || more,
        gaps,
    }))
}

struct Wanted {
    host: HostId,
    names: Vec<String>,
    labels: Map<String, Value>,
    from: TimeMicros,
    to: TimeMicros,
    step_us: i64,
    aggregate: &'static str,
}

impl Wanted {
    fn of(parameters: &RangeParameters, now: TimeMicros) -> Result<Self, Problem> {
        let host = parameter::parse("host", &parameters.host)?;
        let names: Vec<String> = parameters
            .name
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if !(1..=NAMES_MAX).contains(&names.len()) {
            return Err(Problem::field(
                "name",
                format!("has to be 1 to {NAMES_MAX} names, with commas between"),
            ));
        }
        let labels = match parameters.labels.as_deref().filter(|labels| !labels.is_empty()) {
            Some(labels) => serde_json::from_str(labels)
                .map_err(|error| Problem::field("labels", format!("is not a JSON object: {error}")))?,
            None => Map::new(),
        };
        let from = parameter::time("from", parameters.from.as_deref(), "-15m", now)?;
        let to = parameter::time("to", parameters.to.as_deref(), "now", now)?;
        if from >= to {
            return Err(Problem::field("from", "has to be before `to`"));
        }
        let points = parameter::within(
            "points_max",
            parameters.points_max,
            POINTS_DEFAULT,
            POINTS_MIN..=POINTS_MAX,
        )?;
        let aggregate = match parameters.agg.as_deref().unwrap_or("avg") {
            "avg" | "" => "avg(value)",
            "max" => "max(value)",
            "min" => "min(value)",
            "last" => "last_value(value ORDER BY time)",
            _ => return Err(Problem::field("agg", "has to be avg, max, min or last")),
        };
        // Whole milliseconds, so that points lie where `step_ms` says.
        let points = i64::try_from(points).unwrap_or(1);
        let step_us = to.micros_since(from).saturating_add(points * 1_000 - 1) / (points * 1_000) * 1_000;
        Ok(Self {
            host,
            names,
            labels,
            from,
            to,
            step_us: step_us.max(1_000),
            aggregate,
        })
    }

    fn query(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| text(name)).collect();
        let mut conditions = Conditions::default()
            .host(Some(self.host))
            .and(format!("name IN ({})", names.join(", ")))
            .and(format!("time >= {}", time(self.from)))
            .and(format!("time < {}", time(self.to)))
            // A sample that could not be taken is NaN, which would make its whole bucket NaN.
            .and("value BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308");
        for (name, value) in &self.labels {
            // Labels are canonical JSON, where a key stands only before a colon.
            let pair = format!("{}:{}", Value::from(name.as_str()), value);
            conditions = conditions.and(format!("strpos(labels, {}) > 0", text(&pair)));
        }
        format!(
            "SELECT name, unit, labels, bucket, {} AS value FROM (SELECT name, unit, labels, time, value, \
             (arrow_cast(time, 'Int64') - {}) / {} AS bucket FROM metrics WHERE {conditions}) \
             GROUP BY name, unit, labels, bucket ORDER BY name, labels, bucket LIMIT {ROWS_MAX}",
            self.aggregate, self.from.0, self.step_us
        )
    }

    /// The rows, ordered by series, as series; and whether there were too many.
    fn series(&self, rows: Vec<Row>) -> (Vec<Series>, bool) {
        let mut all: Vec<Series> = Vec::new();
        for row in rows {
            let (name, labels) = (
                text_of(&row, "name"),
                row.get("labels").cloned().unwrap_or_else(|| json!({})),
            );
            if all
                .last()
                .is_none_or(|last| last.name != name || last.labels != labels)
            {
                if all.len() >= SERIES_MAX {
                    all.iter_mut().for_each(|series| break_line(&mut series.points));
                    return (all, true);
                }
                let unit = text_of(&row, "unit").to_owned();
                all.push(Series {
                    name: name.to_owned(),
                    unit,
                    labels,
                    points: Vec::new(),
                });
            }
            let bucket = row.get("bucket").and_then(Value::as_i64).unwrap_or_default();
            let millis = self.from.plus_micros(bucket.saturating_mul(self.step_us)).0 / 1_000;
            if let Some(series) = all.last_mut() {
                series.points.push((millis, number_of(&row, "value")));
            }
        }
        all.iter_mut().for_each(|series| break_line(&mut series.points));
        (all, false)
    }
}

/// Puts a null where points are farther apart than usual, so that no line is drawn over what is not known.
fn break_line(points: &mut Vec<(i64, Option<f64>)>) {
    let mut distances: Vec<i64> = points
        .windows(2)
        .filter_map(|pair| Some(pair.get(1)?.0 - pair.first()?.0))
        .collect();
    distances.sort_unstable();
    let Some(usual) = distances.get(distances.len() / 2).copied() else {
        return;
    };
    let mut broken = Vec::with_capacity(points.len());
    let mut before: Option<i64> = None;
    for point in points.drain(..) {
        if let Some(before) = before.filter(|before| point.0 - before > usual * BREAK_AFTER) {
            broken.push((before + usual, None));
        }
        before = Some(point.0);
        broken.push(point);
    }
    *points = broken;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_breaks_where_samples_are_missing() {
        let mut points: Vec<(i64, Option<f64>)> = [0, 10, 20, 100, 110].map(|at| (at, Some(1.0))).to_vec();
        break_line(&mut points);
        let times: Vec<(i64, bool)> = points.iter().map(|point| (point.0, point.1.is_some())).collect();
        assert_eq!(
            times,
            [
                (0, true),
                (10, true),
                (20, true),
                (30, false),
                (100, true),
                (110, true)
            ]
        );
    }
}
