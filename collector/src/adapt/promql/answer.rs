//! The evaluator's answers and faults, as the API has them.

use std::sync::Arc;

use collector_api::{PromAnswer, PromData, PromError, PromLabels};
use collector_promql::{Answer, Data, Labels, QueryError};

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
