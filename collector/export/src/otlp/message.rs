//! The messages of OTLP that are spoken: the needed subset, field for field, of opentelemetry-proto 1.x
//! (`collector/metrics/v1/metrics_service.proto`, `collector/logs/v1/logs_service.proto`, `metrics/v1/metrics.proto`,
//! `logs/v1/logs.proto`, `common/v1/common.proto`, `resource/v1/resource.proto`), which is under the Apache licence 2.0.
//! Fields that are left out are never set; receivers skip what they do not know, and so do we.

use prost::{Message, Oneof};

/// `ExportMetricsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ExportMetrics {
    /// One for each host.
    #[prost(message, repeated, tag = "1")]
    pub resource_metrics: Vec<ResourceMetrics>,
}

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ExportLogs {
    /// One for each host.
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

/// `ExportMetricsServiceResponse` and `ExportLogsServiceResponse`, which have one form.
#[derive(Clone, PartialEq, Message)]
pub struct ExportResponse {
    /// There when not all was taken.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// `ExportMetricsPartialSuccess` and `ExportLogsPartialSuccess`.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    /// Data points or log records that were not taken.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    /// Why.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// `ResourceMetrics`.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceMetrics {
    /// The host.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// One.
    #[prost(message, repeated, tag = "2")]
    pub scope_metrics: Vec<ScopeMetrics>,
}

/// `ResourceLogs`.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceLogs {
    /// The host.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// One.
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

/// `Resource`.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// What it is.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// `ScopeMetrics`.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeMetrics {
    /// Who measured.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Each name and unit once.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
}

/// `ScopeLogs`.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeLogs {
    /// Who noticed.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// The rows.
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

/// `InstrumentationScope`.
#[derive(Clone, PartialEq, Message)]
pub struct InstrumentationScope {
    /// `fleetmend`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Ours.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// `Metric`.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// OpenTelemetry name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Unit in UCUM.
    #[prost(string, tag = "3")]
    pub unit: String,
    /// Its data points.
    #[prost(oneof = "metric::Data", tags = "5, 7")]
    pub data: Option<metric::Data>,
}

/// The kinds of a metric.
pub mod metric {
    use super::{Gauge, Oneof, Sum};

    /// What a metric is.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Data {
        /// A value of the moment.
        #[prost(message, tag = "5")]
        Gauge(Gauge),
        /// A sum.
        #[prost(message, tag = "7")]
        Sum(Sum),
    }
}

/// `Gauge`.
#[derive(Clone, PartialEq, Message)]
pub struct Gauge {
    /// Its samples.
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<NumberDataPoint>,
}

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
pub const CUMULATIVE: i32 = 2;

/// `Sum`.
#[derive(Clone, PartialEq, Message)]
pub struct Sum {
    /// Its samples.
    #[prost(message, repeated, tag = "1")]
    pub data_points: Vec<NumberDataPoint>,
    /// [`CUMULATIVE`].
    #[prost(int32, tag = "2")]
    pub aggregation_temporality: i32,
    /// Whether it only grows.
    #[prost(bool, tag = "3")]
    pub is_monotonic: bool,
}

/// `NumberDataPoint`.
#[derive(Clone, PartialEq, Message)]
pub struct NumberDataPoint {
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    /// The value; in the protocol one of two, of which only this is used.
    #[prost(double, optional, tag = "4")]
    pub as_double: Option<f64>,
    /// Which series.
    #[prost(message, repeated, tag = "7")]
    pub attributes: Vec<KeyValue>,
    /// [`NO_RECORDED_VALUE`], or 0.
    #[prost(uint32, tag = "8")]
    pub flags: u32,
}

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`: a sample that could not be taken.
pub const NO_RECORDED_VALUE: u32 = 1;

/// `LogRecord`.
#[derive(Clone, PartialEq, Message)]
pub struct LogRecord {
    /// When it was true, by the host's clock.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// `SeverityNumber`.
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// In words.
    #[prost(string, tag = "3")]
    pub severity_text: String,
    /// One line for a person.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// The row's columns.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    /// When the collector took it.
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
    /// `fleetmend.` and the table.
    #[prost(string, tag = "12")]
    pub event_name: String,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// `AnyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    /// One of them.
    #[prost(oneof = "any_value::Value", tags = "1, 2, 3, 4, 5")]
    pub value: Option<any_value::Value>,
}

/// The kinds of a value.
pub mod any_value {
    use super::{ArrayValue, Oneof};

    /// A value.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Value {
        /// Text.
        #[prost(string, tag = "1")]
        StringValue(String),
        /// Yes or no.
        #[prost(bool, tag = "2")]
        BoolValue(bool),
        /// A whole number.
        #[prost(int64, tag = "3")]
        IntValue(i64),
        /// A number.
        #[prost(double, tag = "4")]
        DoubleValue(f64),
        /// Several.
        #[prost(message, tag = "5")]
        ArrayValue(ArrayValue),
    }
}

/// `ArrayValue`.
#[derive(Clone, PartialEq, Message)]
pub struct ArrayValue {
    /// Them.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}
