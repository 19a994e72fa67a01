//! The evaluator's answers and faults, as the API has them.

use std::sync::Arc;
use std::time::Duration;

use collector_alert::{RuleAlert, RuleGroupView, RuleView};
use collector_api::{
    PromAlert, PromAlerting, PromAnswer, PromData, PromError, PromLabels, PromRule, PromRuleGroup,
};
use collector_promql::{Answer, Data, Labels, QueryError};
use fleetmend_event::TimeMicros;

pub(super) fn told(answer: Answer) -> PromAnswer {
    let data = match answer.data {
        Data::Scalar { time_ms, value } => PromData::Scalar((time_ms, value)),
        Data::Text { time_ms, value } => PromData::Text(time_ms, value),
        Data::Vector(samples) => PromData::Vector(
            samples
                .iter()
                .map(|sample| (labels_of(&sample.labels), (sample.time_ms, sample.value)))
                .collect(),
        ),
        Data::Matrix(all) => PromData::Matrix(
            all.into_iter()
                .map(|series| {
                    let points = series.times_ms.into_iter().zip(series.values).collect();
                    (labels_of(&series.labels), points)
                })
                .collect(),
        ),
    };
    PromAnswer {
        data,
        warnings: answer.annotations.warnings.into_iter().collect(),
        infos: answer.annotations.infos.into_iter().collect(),
    }
}

/// A group of rules with their alerts.
pub(super) fn group(group: RuleGroupView) -> PromRuleGroup {
    let evaluated = group.rules.iter().filter_map(|rule| rule.evaluated);
    PromRuleGroup {
        name: group.name,
        file: group.file,
        interval: group.interval,
        limit: group.limit,
        evaluated_at_ms: evaluated.clone().map(|(at, _)| millis(at)).max(),
        took: evaluated.map(|(_, took)| took).sum(),
        rules: group.rules.into_iter().map(rule).collect(),
    }
}

fn rule(rule: RuleView) -> PromRule {
    PromRule {
        name: rule.name,
        query: rule.query,
        labels: rule.labels.into_iter().collect(),
        fault: rule.fault,
        evaluated_at_ms: rule.evaluated.map(|(at, _)| millis(at)),
        took: rule.evaluated.map_or(Duration::ZERO, |(_, took)| took),
        alerting: rule.alerting.map(|alerting| PromAlerting {
            hold: alerting.hold,
            keep_firing: alerting.keep_firing,
            annotations: alerting.annotations.into_iter().collect(),
            alerts: alerting.alerts.into_iter().map(alert).collect(),
        }),
    }
}

fn alert(alert: RuleAlert) -> PromAlert {
    PromAlert {
        labels: alert.labels.into_iter().collect(),
        annotations: alert.annotations.into_iter().collect(),
        state: if alert.firing { "firing" } else { "pending" },
        active_at_ms: millis(alert.active_at),
        value: alert.value.unwrap_or(f64::NAN),
    }
}

fn millis(time: TimeMicros) -> i64 {
    time.0.div_euclid(1_000)
}

pub(super) fn labels_of(labels: &Labels) -> PromLabels {
    labels
        .iter()
        .map(|(name, value)| (Arc::from(name), Arc::from(value)))
        .collect()
}

pub(super) fn fault_of(error: QueryError) -> PromError {
    let text = error.to_string();
    match error {
        QueryError::BadData(_) => PromError::BadData(text),
        QueryError::Execution(_) => PromError::Execution(text),
        QueryError::Timeout(_) => PromError::Timeout(text),
        QueryError::Canceled(_) => PromError::Canceled(text),
    }
}
