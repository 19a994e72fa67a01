//! Rules and alerts.

use axum::extract::State;
use fleetmend_event::HostScope;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer::{Fault, number, ok};
use super::parameter::Form;
use super::{Answer, labels_of_list};
use crate::auth::Caller;
use crate::promql::{PromAlert, PromRule};
use crate::state::Shared;

/// A fault of the evaluator may quote series of any host.
const HIDDEN_FAULT: &str = "it failed; why is shown to users who see every host";

#[utoipa::path(get, path = "/rules", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("type" = Option<String>, Query), ("rule_name[]" = Option<Vec<String>>, Query),
        ("rule_group[]" = Option<Vec<String>>, Query), ("file[]" = Option<Vec<String>>, Query),
        ("exclude_alerts" = Option<bool>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn rules(State(state): State<Shared>, caller: Caller, form: Form) -> Answer {
    let (alerts, records) = match form.one("type") {
        "" => (true, true),
        "alert" => (true, false),
        "record" => (false, true),
        other => {
            return Err(Fault::bad_parameter(
                "type",
                format!("not supported value {other:?}"),
            ));
        }
    };
    let named = |key: &str, value: &str| {
        let wanted = form.all(key);
        wanted.is_empty() || wanted.iter().any(|name| name == value)
    };
    let with_alerts = form.one("exclude_alerts") != "true";
    let mut groups = Vec::new();
    for group in state.promql.rules(&caller.scope).await? {
        if !named("rule_group[]", &group.name) || !named("file[]", &group.file) {
            continue;
        }
        let wanted = |rule: &&PromRule| {
            let kind = if rule.alerting.is_some() { alerts } else { records };
            kind && named("rule_name[]", &rule.name)
        };
        let shown: Vec<Value> = group
            .rules
            .iter()
            .filter(wanted)
            .map(|rule| rule_json(rule, with_alerts, &caller.scope))
            .collect();
        if shown.is_empty() && !group.rules.is_empty() {
            continue;
        }
        groups.push(json!({
            "name": group.name,
            "file": group.file,
            "rules": shown,
            "interval": group.interval.as_secs_f64(),
            "limit": group.limit,
            "evaluationTime": group.took.as_secs_f64(),
            "lastEvaluation": stamp(group.evaluated_at_ms),
        }));
    }
    Ok(ok(json!({ "groups": groups })))
}

#[utoipa::path(get, path = "/alerts", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    responses((status = 200, body = Object)))]
pub(crate) async fn alerts(State(state): State<Shared>, caller: Caller) -> Answer {
    let groups = state.promql.rules(&caller.scope).await?;
    let rules = groups.iter().flat_map(|group| &group.rules);
    let alerts: Vec<Value> = rules
        .filter_map(|rule| rule.alerting.as_ref())
        .flat_map(|alerting| alerting.alerts.iter().map(alert_json))
        .collect();
    Ok(ok(json!({ "alerts": alerts })))
}

fn rule_json(rule: &PromRule, with_alerts: bool, scope: &HostScope) -> Value {
    let mut shown = Map::new();
    let Some(alerting) = &rule.alerting else {
        shown.insert("name".to_owned(), rule.name.clone().into());
        shown.insert("query".to_owned(), rule.query.clone().into());
        if !rule.labels.is_empty() {
            shown.insert("labels".to_owned(), labels_of_list(&rule.labels));
        }
        health(&mut shown, rule, scope);
        shown.insert("type".to_owned(), "recording".into());
        return Value::Object(shown);
    };
    let state = match &alerting.alerts {
        alerts if alerts.iter().any(|alert| alert.state == "firing") => "firing",
        alerts if !alerts.is_empty() => "pending",
        _ => "inactive",
    };
    shown.insert("state".to_owned(), state.into());
    shown.insert("name".to_owned(), rule.name.clone().into());
    shown.insert("query".to_owned(), rule.query.clone().into());
    shown.insert("duration".to_owned(), alerting.hold.as_secs_f64().into());
    shown.insert(
        "keepFiringFor".to_owned(),
        alerting.keep_firing.as_secs_f64().into(),
    );
    shown.insert("labels".to_owned(), labels_of_list(&rule.labels));
    shown.insert("annotations".to_owned(), labels_of_list(&alerting.annotations));
    if with_alerts {
        let alerts: Vec<Value> = alerting.alerts.iter().map(alert_json).collect();
        shown.insert("alerts".to_owned(), alerts.into());
    }
    health(&mut shown, rule, scope);
    shown.insert("type".to_owned(), "alerting".into());
    Value::Object(shown)
}

fn health(shown: &mut Map<String, Value>, rule: &PromRule, scope: &HostScope) {
    let health = match (&rule.fault, rule.evaluated_at_ms) {
        (Some(_), _) => "err",
        (None, Some(_)) => "ok",
        (None, None) => "unknown",
    };
    shown.insert("health".to_owned(), health.into());
    if let Some(fault) = &rule.fault {
        let told = if scope.is_all() { fault } else { HIDDEN_FAULT };
        shown.insert("lastError".to_owned(), told.into());
    }
    shown.insert("evaluationTime".to_owned(), rule.took.as_secs_f64().into());
    shown.insert("lastEvaluation".to_owned(), stamp(rule.evaluated_at_ms));
}

fn alert_json(alert: &PromAlert) -> Value {
    json!({
        "labels": labels_of_list(&alert.labels),
        "annotations": labels_of_list(&alert.annotations),
        "state": alert.state,
        "activeAt": stamp(Some(alert.active_at_ms)),
        "value": number(alert.value),
    })
}

/// Go's zero time stands for "never".
fn stamp(time_ms: Option<i64>) -> Value {
    let stamp = time_ms.and_then(|time_ms| Timestamp::from_millisecond(time_ms).ok());
    stamp.map_or_else(|| "0001-01-01T00:00:00Z".into(), |stamp| stamp.to_string().into())
}
