//! Samples as OTLP metrics.

use std::collections::{BTreeMap, HashMap};

use fleetmend_event::metric::is_cumulative;
use fleetmend_event::{HostId, TimeMicros};

use super::message::{
    CUMULATIVE, ExportMetrics, Gauge, KeyValue, Metric, NO_RECORDED_VALUE, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric,
};
use super::{attribute, nanos, rejected, request, resource, scope, text};
use crate::config::Otlp;
use crate::deliver::Encode;
use crate::error::ExportError;
use crate::feed::MetricTarget;
use crate::filter::Filter;
use crate::http::Request;
use crate::sample::Samples;
use crate::source::Series;

/// How samples become requests.
pub(crate) struct OtlpMetrics {
    filter: Filter,
    attributes: BTreeMap<String, String>,
}

impl OtlpMetrics {
    pub(crate) fn new(target: &Otlp) -> Result<Self, ExportError> {
        let filter = Filter::new(&target.metrics).map_err(|reason| ExportError::Target {
            name: target.name.clone(),
            reason,
        })?;
        Ok(Self {
            filter,
            attributes: target.resource_attributes.clone(),
        })
    }
}

impl MetricTarget for OtlpMetrics {
    fn wants(&self, name: &str) -> bool {
        self.filter.wants(name)
    }

    fn rounded(&self, time: TimeMicros) -> TimeMicros {
        time
    }
}

fn points(series: &Series) -> Vec<NumberDataPoint> {
    let attributes: BTreeMap<String, String> = serde_json::from_str(&series.labels).unwrap_or_default();
    let attributes: Vec<KeyValue> = attributes
        .into_iter()
        .map(|(key, value)| attribute(key, text(value)))
        .collect();
    let point = |(time, value): &(TimeMicros, f64)| NumberDataPoint {
        time_unix_nano: nanos(*time),
        as_double: (!value.is_nan()).then_some(*value),
        attributes: attributes.clone(),
        flags: if value.is_nan() { NO_RECORDED_VALUE } else { 0 },
    };
    series.samples.iter().map(point).collect()
}

fn metric((name, unit): (&str, &str), data_points: Vec<NumberDataPoint>) -> Metric {
    let data = if is_cumulative(name) {
        metric::Data::Sum(Sum {
            data_points,
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        })
    } else {
        metric::Data::Gauge(Gauge { data_points })
    };
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
    }
}

impl Encode<Samples> for OtlpMetrics {
    fn encode(&self, samples: &Samples) -> Result<Request, String> {
        let mut hosts: HashMap<HostId, BTreeMap<(&str, &str), Vec<NumberDataPoint>>> = HashMap::new();
        for (_, series) in &samples.series {
            hosts
                .entry(series.host)
                .or_default()
                .entry((&*series.name, &*series.unit))
                .or_default()
                .extend(points(series));
        }
        let of_host = |(host, metrics): (HostId, BTreeMap<(&str, &str), Vec<NumberDataPoint>>)| {
            let metrics = metrics.into_iter();
            ResourceMetrics {
                resource: Some(resource(host, samples.names.get(&host), &self.attributes)),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics: metrics.map(|(key, points)| metric(key, points)).collect(),
                }],
            }
        };
        let message = ExportMetrics {
            resource_metrics: hosts.into_iter().map(of_host).collect(),
        };
        request("/v1/metrics", &message)
    }

    fn rejected(&self, answer: &[u8]) -> Option<(u64, String)> {
        rejected(answer)
    }
}
