//! How facts are called where Prometheus' names are spoken: the one mapping of PromQL and of remote write.
//!
//! | here | there |
//! |---|---|
//! | name `system.cpu.time` | `system_cpu_time`: what is no ASCII letter, digit, `_` or `:` becomes `_`, a leading digit gets `_` before it |
//! | attribute `cpu.mode` | label `cpu_mode`: what is no ASCII letter, digit or `_` becomes `_`; a leading digit gets `key_`, a leading `__` gets `key` before it |
//! | the host | labels `host_id` (its id) and `instance` (its name, or its id as long as that is unknown) |
//! | all of it | label `job` = `fleetmend` |
//!
//! Units are no part of a name, as OpenTelemetry names hold none; metadata tells them. An attribute whose label would
//! be one of the three is called `exported_…`, as Prometheus calls what clashes in a scrape. Attributes that come to
//! one label have their values joined by `;` in the order of their own names, as the OpenTelemetry specification
//! ("Prometheus and OpenMetrics Compatibility", metric attributes) has it. A label without a value is no label.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::HostId;

/// Value of the label `job`.
pub const JOB: &str = "fleetmend";
/// Label with the id of the host.
pub const HOST_ID: &str = "host_id";
/// Label with the name of the host.
pub const INSTANCE: &str = "instance";
/// Label that says who made the series.
pub const JOB_LABEL: &str = "job";
/// Label that holds the name of a metric.
pub const METRIC_NAME: &str = "__name__";

/// Unit of what a recording rule of the collector gave: its name and labels are Prometheus' already, and stay.
pub const RECORDED_UNIT: &str = "{recorded}";

/// Labels by name, [`METRIC_NAME`] not among them.
pub type Labels = BTreeMap<String, String>;

/// The name of a metric; `_` for an empty one.
pub fn metric_name(name: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let begins_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() {
        return Cow::Borrowed("_");
    }
    if name.chars().all(allowed) && !begins_with_digit {
        return Cow::Borrowed(name);
    }
    let prefix = if begins_with_digit { "_" } else { "" };
    Cow::Owned(format!("{prefix}{}", name.replace(|c| !allowed(c), "_")))
}

/// The name of a label; `_` for an empty one.
pub fn label_name(name: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() {
        return Cow::Borrowed("_");
    }
    let plain = if name.chars().all(allowed) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.replace(|c| !allowed(c), "_"))
    };
    if plain.starts_with("__") {
        Cow::Owned(format!("key{plain}"))
    } else if plain.starts_with(|c: char| c.is_ascii_digit()) {
        Cow::Owned(format!("key_{plain}"))
    } else {
        plain
    }
}

/// The label that an attribute becomes, beside those of the host.
pub fn attribute_label(name: &str) -> Cow<'_, str> {
    let label = label_name(name);
    if [HOST_ID, INSTANCE, JOB_LABEL].contains(&label.as_ref()) {
        Cow::Owned(format!("exported_{label}"))
    } else {
        label
    }
}

/// Whether a recording rule gave a series: its unit says so, and it is of the collector itself, host zero.
pub fn is_recorded(unit: &str, host: HostId) -> bool {
    unit == RECORDED_UNIT && host.as_bytes() == &[0; 16]
}

/// The labels of a series of `host`, whose name is `instance`.
pub fn labels<'a>(
    attributes: impl IntoIterator<Item = (&'a str, &'a str)>,
    host: HostId,
    instance: Option<&str>,
) -> Labels {
    let mut labels = Labels::new();
    let attributes: BTreeMap<&str, &str> = attributes.into_iter().collect();
    for (name, value) in attributes.into_iter().filter(|(_, value)| !value.is_empty()) {
        labels
            .entry(attribute_label(name).into_owned())
            .and_modify(|joined| {
                joined.push(';');
                joined.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    let host = host.to_string();
    let instance = instance
        .filter(|name| !name.is_empty())
        .unwrap_or(&host)
        .to_owned();
    labels.insert(INSTANCE.to_owned(), instance);
    labels.insert(HOST_ID.to_owned(), host);
    labels.insert(JOB_LABEL.to_owned(), JOB.to_owned());
    labels
}

/// As [`labels`], of attributes as the column `labels` holds them: a JSON object of texts. What is not such an object
/// has none.
pub fn labels_of_json(attributes: &str, host: HostId, instance: Option<&str>) -> Labels {
    let attributes: BTreeMap<String, String> = serde_json::from_str(attributes).unwrap_or_default();
    let pairs = attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    labels(pairs, host, instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(attributes: &str) -> Labels {
        let mut labels = labels_of_json(attributes, HostId::from_bytes([7; 16]), Some("web-1"));
        for label in [HOST_ID, INSTANCE, JOB_LABEL] {
            assert!(labels.remove(label).is_some(), "{label}");
        }
        labels
    }

    fn only(name: &str, value: &str) -> Labels {
        Labels::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn names_hold_what_prometheus_allows() {
        for (name, there) in [
            ("system.cpu.time", "system_cpu_time"),
            ("up", "up"),
            ("a:b", "a:b"),
            ("9lives", "_9lives"),
            ("é.x", "__x"),
            ("", "_"),
        ] {
            assert_eq!(metric_name(name), there);
        }
        for (name, there) in [
            ("cpu.mode", "cpu_mode"),
            ("a:b", "a_b"),
            ("1st", "key_1st"),
            ("__name__", "key__name__"),
            ("..x", "key__x"),
            ("", "_"),
        ] {
            assert_eq!(label_name(name), there);
        }
    }

    #[test]
    fn host_is_told_by_id_and_name() {
        let host = HostId::from_bytes([7; 16]);
        let named = labels_of_json("{}", host, Some("web-1"));
        assert_eq!(named["instance"], "web-1");
        assert_eq!(named["host_id"], host.to_string());
        assert_eq!(named["job"], "fleetmend");
        for unknown in [None, Some("")] {
            assert_eq!(labels_of_json("{}", host, unknown)["instance"], host.to_string());
        }
    }

    #[test]
    fn only_the_collector_records() {
        assert!(is_recorded(RECORDED_UNIT, HostId::from_bytes([0; 16])));
        assert!(!is_recorded(RECORDED_UNIT, HostId::from_bytes([7; 16])));
        assert!(!is_recorded("1", HostId::from_bytes([0; 16])));
    }

    #[test]
    fn attributes_that_clash_lose_nothing() {
        assert_eq!(of(r#"{"cpu.mode":"user"}"#), only("cpu_mode", "user"));
        assert_eq!(of(r#"{"a.b":"1","a_b":"2"}"#), only("a_b", "1;2"));
        assert_eq!(of(r#"{"job":"nightly"}"#), only("exported_job", "nightly"));
        assert_eq!(of(r#"{"host.id":"x"}"#), only("exported_host_id", "x"));
        assert_eq!(of(r#"{"__name__":"x"}"#), only("key__name__", "x"));
    }

    #[test]
    fn label_without_a_value_is_none() {
        assert_eq!(of(r#"{"a":""}"#), Labels::new());
        for broken in ["", "[]", "{", r#"{"a":1}"#, "null"] {
            assert_eq!(of(broken), Labels::new(), "{broken}");
        }
    }
}
