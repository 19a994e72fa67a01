//! Prometheus' remote write, version 1.0: snappy-compressed protobuf, `prometheus.WriteRequest`.
//!
//! The messages are the subset of `prompb/remote.proto` and `prompb/types.proto` that the specification of remote write
//! 1.0 names. Names and labels are those of [`fleetmend_event::prometheus_names`]. Times are milliseconds, so that of
//! two samples of one series within a millisecond the first is sent. A sample that could not be taken is Prometheus'
//! staleness marker; a NaN that a recording rule computed stays one; -0 is told as 0. Version 2.0 is not spoken; who
//! speaks it takes 1.0.

use std::collections::BTreeMap;

use bytes::Bytes;
use fleetmend_event::TimeMicros;
use fleetmend_event::prometheus_names::{METRIC_NAME, is_recorded, labels_of_json, metric_name};
use prost::Message;

use crate::config::RemoteWrite;
use crate::deliver::Encode;
use crate::error::ExportError;
use crate::feed::MetricTarget;
use crate::filter::Filter;
use crate::http::Request;
use crate::sample::Samples;
use crate::source::Series;

/// What is posted.
#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    /// The series, in any order.
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

/// One series with its samples in rising time.
#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    /// Sorted by name.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    /// In rising time.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

/// A label.
#[derive(Clone, PartialEq, Message)]
pub struct Label {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A sample.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Its value.
    #[prost(double, tag = "1")]
    pub value: f64,
    /// Milliseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

/// `value.StaleNaN` of Prometheus.
const STALE: u64 = 0x7ff0_0000_0000_0002;
/// `value.NormalNaN` of Prometheus: what a recording rule computed.
const COMPUTED_NAN: u64 = 0x7ff8_0000_0000_0001;
const HEADERS: &[(&str, &str)] = &[("x-prometheus-remote-write-version", "0.1.0")];

/// How samples become requests.
pub(crate) struct RemoteWriter {
    filter: Filter,
    external_labels: BTreeMap<String, String>,
}

impl RemoteWriter {
    pub(crate) fn new(target: &RemoteWrite) -> Result<Self, ExportError> {
        let filter = Filter::new(&target.metrics).map_err(|reason| ExportError::Target {
            name: target.name.clone(),
            reason,
        })?;
        Ok(Self {
            filter,
            external_labels: target.external_labels.clone(),
        })
    }

    fn series(&self, series: &Series, samples: &Samples) -> TimeSeries {
        let instance = samples.names.get(&series.host).map(String::as_str);
        let mut labels = if is_recorded(&series.unit, series.host) {
            // Its labels are Prometheus' already.
            serde_json::from_str(&series.labels).unwrap_or_default()
        } else {
            labels_of_json(&series.labels, series.host, instance)
        };
        labels.insert(METRIC_NAME.to_owned(), metric_name(&series.name).into_owned());
        for (name, value) in &self.external_labels {
            labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        // A label without a value is no label, and is refused by some.
        labels.retain(|_, value| !value.is_empty());
        let label = |(name, value)| Label { name, value };
        let sample = |(time, value): &(TimeMicros, f64)| Sample {
            value: told(*value),
            timestamp: time.0.div_euclid(1_000),
        };
        TimeSeries {
            labels: labels.into_iter().map(label).collect(),
            samples: series.samples.iter().map(sample).collect(),
        }
    }
}

/// The value as Prometheus tells it.
fn told(value: f64) -> f64 {
    if value.is_nan() && value.to_bits() != COMPUTED_NAN {
        f64::from_bits(STALE)
    } else {
        value
    }
}

impl MetricTarget for RemoteWriter {
    fn wants(&self, name: &str) -> bool {
        self.filter.wants(&metric_name(name))
    }

    fn rounded(&self, time: TimeMicros) -> TimeMicros {
        TimeMicros(time.0.div_euclid(1_000).saturating_mul(1_000))
    }
}

impl Encode<Samples> for RemoteWriter {
    fn encode(&self, samples: &Samples) -> Result<Request, String> {
        let series = samples.series.iter();
        let message = WriteRequest {
            timeseries: series.map(|(_, series)| self.series(series, samples)).collect(),
        };
        let body = snap::raw::Encoder::new()
            .compress_vec(&message.encode_to_vec())
            .map_err(|error| error.to_string())?;
        Ok(Request {
            path: "",
            content_type: "application/x-protobuf",
            content_encoding: Some("snappy"),
            headers: HEADERS,
            body: Bytes::from(body),
        })
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::HostId;

    use super::*;

    fn writer(more: &str) -> RemoteWriter {
        let text = serde_json::json!({"name": "t", "url": "https://t.example"});
        let mut target: RemoteWrite = serde_json::from_value(text).unwrap();
        target.external_labels = serde_json::from_str(more).unwrap();
        RemoteWriter::new(&target).unwrap()
    }

    #[test]
    fn request_holds_what_the_specification_says() {
        let host = HostId::from_bytes([3; 16]);
        let series = Series {
            host,
            name: "system.cpu.time".into(),
            unit: "s".into(),
            labels: r#"{"cpu.mode":"user"}"#.into(),
            samples: vec![
                (TimeMicros(1_999), 1.5),
                (TimeMicros(2_000), 0.25),
                (TimeMicros(3_000), f64::NAN),
            ],
        };
        let samples = Samples {
            series: vec![(1, series)],
            names: std::sync::Arc::new([(host, "web-1".to_owned())].into()),
        };
        let request = writer(r#"{"dc":"a","job":"mine","none":""}"#)
            .encode(&samples)
            .unwrap();
        assert_eq!(request.content_encoding, Some("snappy"));
        let plain = snap::raw::Decoder::new().decompress_vec(&request.body).unwrap();
        let decoded = WriteRequest::decode(plain.as_slice()).unwrap();
        let labels: Vec<(&str, &str)> = decoded.timeseries[0]
            .labels
            .iter()
            .map(|label| (label.name.as_str(), label.value.as_str()))
            .collect();
        let id = host.to_string();
        assert_eq!(
            labels,
            [
                ("__name__", "system_cpu_time"),
                ("cpu_mode", "user"),
                ("dc", "a"),
                ("host_id", id.as_str()),
                ("instance", "web-1"),
                ("job", "fleetmend"),
            ],
            "sorted, and a series' own labels win"
        );
        let times: Vec<i64> = decoded.timeseries[0]
            .samples
            .iter()
            .map(|sample| sample.timestamp)
            .collect();
        assert_eq!(times, [1, 2, 3]);
        let bits = |at: usize| decoded.timeseries[0].samples[at].value.to_bits();
        assert_eq!(bits(1), 0.25_f64.to_bits());
        assert_eq!(bits(2), STALE, "what could not be taken is stale");
        assert_eq!(told(f64::from_bits(COMPUTED_NAN)).to_bits(), COMPUTED_NAN);
    }
}
