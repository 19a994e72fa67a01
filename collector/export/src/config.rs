//! What an operator may set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fleetmend_config::{Faults, HumanDuration, Validate};
use fleetmend_event::table::table_by_name;
use serde::Deserialize;
use url::Url;

/// Targets of one collector; each has tasks, memory and rows of its own.
const TARGETS_MAX: usize = 16;
/// Samples or rows of one request.
const PER_REQUEST_MAX: u32 = 50_000;
/// Samples are no records: they go to remote write, and to OTLP as metrics.
const NOT_RECORDS: [&str; 1] = ["metrics"];

/// Settings of export.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportConfig {
    /// Stores that take Prometheus' remote write.
    pub remote_write: Vec<RemoteWrite>,
    /// Receivers of the OpenTelemetry protocol over HTTP.
    pub otlp: Vec<Otlp>,
    /// HTTP receivers of newline-delimited JSON.
    pub webhook_stream: Vec<WebhookStream>,
}

/// Where a target is, and how it knows us; the keys that every target has beside its own.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Name for metrics, status and tests: letters, digits, `-` and `_`.
    pub name: String,
    /// Where to POST. `https`, or `http` on loopback.
    pub url: String,
    /// File with a bearer token; read for each request, so that it may be renewed.
    pub bearer_token_file: Option<PathBuf>,
    /// User of basic authentication.
    pub username: Option<String>,
    /// File with the password of `username`.
    pub password_file: Option<PathBuf>,
    /// PEM file of an authority to trust in addition to the public ones.
    pub ca: Option<PathBuf>,
    /// More headers, such as `X-Scope-OrgID`. No secrets: these are shown.
    pub headers: BTreeMap<String, String>,
    /// How long one request may take.
    pub timeout: HumanDuration,
    /// Samples or rows of one request at most.
    pub per_request_max: u32,
    /// How long rows are gathered before a request that is not full goes out.
    pub flush_every: HumanDuration,
    /// How far back a target that was away is caught up; what is older is skipped and said to be.
    pub catch_up_max: HumanDuration,
    /// How much of the past a new target is given.
    pub backfill: HumanDuration,
}

/// Declares a target: the keys of [`Endpoint`], then its own. Strict configuration cannot see through
/// `#[serde(flatten)]`, so that the keys are written out for each.
macro_rules! target {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// See [`Endpoint`].
            pub name: String,
            /// See [`Endpoint`].
            pub url: String,
            /// See [`Endpoint`].
            #[serde(default)]
            pub bearer_token_file: Option<PathBuf>,
            /// See [`Endpoint`].
            #[serde(default)]
            pub username: Option<String>,
            /// See [`Endpoint`].
            #[serde(default)]
            pub password_file: Option<PathBuf>,
            /// See [`Endpoint`].
            #[serde(default)]
            pub ca: Option<PathBuf>,
            /// See [`Endpoint`].
            #[serde(default)]
            pub headers: BTreeMap<String, String>,
            /// See [`Endpoint`].
            #[serde(default = "request_timeout")]
            pub timeout: HumanDuration,
            /// See [`Endpoint`].
            #[serde(default = "per_request")]
            pub per_request_max: u32,
            /// See [`Endpoint`].
            #[serde(default = "flush_every")]
            pub flush_every: HumanDuration,
            /// See [`Endpoint`].
            #[serde(default = "catch_up_max")]
            pub catch_up_max: HumanDuration,
            /// See [`Endpoint`].
            #[serde(default)]
            pub backfill: HumanDuration,
            $($(#[$fmeta])* pub $field: $type,)*
        }

        impl $name {
            /// Where it is, and how it knows us.
            pub fn endpoint(&self) -> Endpoint {
                Endpoint {
                    name: self.name.clone(),
                    url: self.url.clone(),
                    bearer_token_file: self.bearer_token_file.clone(),
                    username: self.username.clone(),
                    password_file: self.password_file.clone(),
                    ca: self.ca.clone(),
                    headers: self.headers.clone(),
                    timeout: self.timeout,
                    per_request_max: self.per_request_max,
                    flush_every: self.flush_every,
                    catch_up_max: self.catch_up_max,
                    backfill: self.backfill,
                }
            }
        }
    };
}

target! {
    /// A store that takes remote write.
    pub struct RemoteWrite {
        /// Which metrics, by the names that are sent.
        #[serde(default)]
        pub metrics: MetricFilter,
        /// Labels of every series, beside its own, which win.
        #[serde(default)]
        pub external_labels: BTreeMap<String, String>,
    }
}

target! {
    /// A receiver of OTLP; `/v1/metrics` and `/v1/logs` are added to its URL.
    pub struct Otlp {
        /// Whether metrics are sent.
        #[serde(default = "yes")]
        pub send_metrics: bool,
        /// Which metrics, by their OpenTelemetry names.
        #[serde(default)]
        pub metrics: MetricFilter,
        /// Tables whose rows are sent as log records.
        #[serde(default = "tables")]
        pub tables: Vec<String>,
        /// Attributes of every resource, beside those of its host, which win.
        #[serde(default)]
        pub resource_attributes: BTreeMap<String, String>,
    }
}

target! {
    /// A receiver of newline-delimited JSON.
    pub struct WebhookStream {
        /// `ecs` or `ocsf`.
        pub format: RecordFormat,
        /// Tables whose rows are sent.
        #[serde(default = "tables")]
        pub tables: Vec<String>,
    }
}

/// A vocabulary that records are told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordFormat {
    /// Elastic Common Schema.
    Ecs,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
}

/// Which metrics, by regular expressions that have to match the whole name. `deny` wins.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricFilter {
    /// Only these; all, when empty.
    pub allow: Vec<String>,
    /// Not these.
    pub deny: Vec<String>,
}

const fn request_timeout() -> HumanDuration {
    HumanDuration::from_secs(30)
}

const fn per_request() -> u32 {
    5_000
}

const fn flush_every() -> HumanDuration {
    HumanDuration::from_secs(1)
}

const fn catch_up_max() -> HumanDuration {
    HumanDuration::from_secs(24 * 3_600)
}

const fn yes() -> bool {
    true
}

fn tables() -> Vec<String> {
    ["findings", "actions", "gaps"].map(str::to_owned).to_vec()
}

impl ExportConfig {
    /// Every endpoint with the key that it stands under.
    fn endpoints(&self) -> Vec<(String, Endpoint)> {
        let mut all = Vec::new();
        for (index, target) in self.remote_write.iter().enumerate() {
            all.push((format!("remote_write[{index}]"), target.endpoint()));
        }
        for (index, target) in self.otlp.iter().enumerate() {
            all.push((format!("otlp[{index}]"), target.endpoint()));
        }
        for (index, target) in self.webhook_stream.iter().enumerate() {
            all.push((format!("webhook_stream[{index}]"), target.endpoint()));
        }
        all
    }
}

impl Validate for ExportConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        let mut names: Vec<String> = Vec::new();
        for (key, endpoint) in self.endpoints() {
            endpoint.check(&key, faults);
            faults.require(
                !names.contains(&endpoint.name),
                &format!("{key}.name"),
                "is the name of another target",
            );
            names.push(endpoint.name);
        }
        faults.require(
            names.len() <= TARGETS_MAX,
            "remote_write",
            "there are more than 16 targets",
        );
        for (index, target) in self.remote_write.iter().enumerate() {
            target
                .metrics
                .check(&format!("remote_write[{index}].metrics"), faults);
            for label in target.external_labels.keys() {
                let right = fleetmend_event::prometheus_names::label_name(label) == *label;
                faults.require(
                    right,
                    &format!("remote_write[{index}].external_labels"),
                    "holds a label that Prometheus does not allow",
                );
            }
        }
        for (index, target) in self.otlp.iter().enumerate() {
            target.metrics.check(&format!("otlp[{index}].metrics"), faults);
            check_tables(&target.tables, &format!("otlp[{index}].tables"), faults);
        }
        for (index, target) in self.webhook_stream.iter().enumerate() {
            let key = format!("webhook_stream[{index}].tables");
            faults.require(!target.tables.is_empty(), &key, "has to name a table");
            check_tables(&target.tables, &key, faults);
        }
    }
}

impl Endpoint {
    fn check(&self, key: &str, faults: &mut Faults<'_>) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        faults.require(
            !self.name.is_empty() && self.name.len() <= 64 && self.name.chars().all(allowed),
            &format!("{key}.name"),
            "has to be 1 to 64 letters, digits, - and _",
        );
        if let Err(reason) = check_url(&self.url) {
            faults.add(&format!("{key}.url"), reason);
        }
        faults.require(
            self.bearer_token_file.is_none() || self.username.is_none(),
            &format!("{key}.username"),
            "stands beside bearer_token_file; only one of them can be used",
        );
        faults.require(
            self.username.is_some() == self.password_file.is_some(),
            &format!("{key}.password_file"),
            "and username have to be given together",
        );
        faults.require(
            (1..=PER_REQUEST_MAX).contains(&self.per_request_max),
            &format!("{key}.per_request_max"),
            "has to be from 1 to 50000",
        );
        for (name, duration) in [("timeout", self.timeout), ("flush_every", self.flush_every)] {
            let millis = duration.get().as_millis();
            faults.require(
                (50..=300_000).contains(&millis),
                &format!("{key}.{name}"),
                "has to be from 50ms to 5m",
            );
        }
        for (name, value) in &self.headers {
            let right = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && reqwest::header::HeaderValue::from_str(value).is_ok();
            let secret = name.eq_ignore_ascii_case("authorization");
            faults.require(
                right && !secret,
                &format!("{key}.headers"),
                "holds what is no header, or a secret, which belongs into a file",
            );
        }
    }
}

impl MetricFilter {
    fn check(&self, key: &str, faults: &mut Faults<'_>) {
        for (list, patterns) in [("allow", &self.allow), ("deny", &self.deny)] {
            for pattern in patterns {
                if let Err(error) = crate::filter::whole(pattern) {
                    faults.add(&format!("{key}.{list}"), error);
                }
            }
        }
    }
}

fn check_tables(tables: &[String], key: &str, faults: &mut Faults<'_>) {
    for table in tables {
        let right = table_by_name(table).is_some() && !NOT_RECORDS.contains(&table.as_str());
        if !right {
            faults.add(key, format!("names {table:?}, which is no table of records"));
        }
    }
}

/// The URL of a target, when facts may go there.
pub(crate) fn check_url(text: &str) -> Result<Url, String> {
    fleetmend_outward::check_url(text, "use username and password_file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<ExportConfig, String> {
        #[derive(Deserialize, Default)]
        #[serde(default, deny_unknown_fields)]
        struct File {
            export: ExportConfig,
        }
        impl Validate for File {
            fn validate(&self, faults: &mut Faults<'_>) {
                faults.section("export", |faults| self.export.validate(faults));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collector.toml");
        std::fs::write(&path, text).unwrap();
        fleetmend_config::load::<File>(Some(&path), None, "EXPORT_TEST_OF_NOBODY")
            .map(|file| file.export)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn target_needs_a_name_and_a_place_only() {
        let config = load(
            "[[export.remote_write]]\nname = \"mimir\"\nurl = \"https://mimir.example/api/v1/push\"\n\
             metrics.deny = [\"system_disk_.*\"]\nheaders = { X-Scope-OrgID = \"ops\" }\n\
             [[export.otlp]]\nname = \"otel\"\nurl = \"http://127.0.0.1:4318\"\n\
             [[export.webhook_stream]]\nname = \"siem\"\nurl = \"https://siem.example/in\"\nformat = \"ocsf\"\n",
        )
        .unwrap();
        assert_eq!(config.remote_write[0].endpoint().per_request_max, 5_000);
        assert_eq!(config.otlp[0].tables, ["findings", "actions", "gaps"]);
        assert_eq!(config.webhook_stream[0].format, RecordFormat::Ocsf);
    }

    #[test]
    fn what_cannot_work_is_a_fault_at_its_place() {
        let with =
            |more: &str| format!("[[export.otlp]]\nname = \"a\"\nurl = \"https://a.example\"\n{more}\n");
        for (text, wanted) in [
            (with("tables = [\"metrics\"]"), "no table of records"),
            (with("tables = [\"x\"]"), "no table of records"),
            (with("username = \"u\""), "given together"),
            (with("per_request_max = 0"), "1 to 50000"),
            (with("metrics.allow = [\"(\"]"), "regular expression"),
            (with("headers = { Authorization = \"x\" }"), "a secret"),
            (with("timeout = \"1h\""), "50ms to 5m"),
            (with("secret = \"x\""), "secret"),
            (
                format!("{}{}", with(""), with("")),
                "is the name of another target",
            ),
        ] {
            let faults = load(&text).unwrap_err();
            assert!(faults.contains(wanted), "{text}: {faults}");
        }
    }
}
