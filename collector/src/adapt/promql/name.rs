//! How a stored series is called in PromQL: as [`fleetmend_event::prometheus_names`] has it, in both directions.
//! `docs/specs/promql.md` is the contract.

use std::collections::BTreeMap;

use collector_promql::{LabelMatcher, Labels, METRIC_NAME, MatchOp};
use collector_store::{OWN_HOST, SeriesKey};
pub(crate) use fleetmend_event::prometheus_names::RECORDED_UNIT;
use fleetmend_event::prometheus_names::{attribute_label, labels_of_json, metric_name};

/// Label that tells apart what would be the same series.
pub(crate) const ORIGINAL: &str = "original_name";

/// The labels of a series; `host_name` is what its host last called itself.
pub(crate) fn labels_of(key: &SeriesKey, host_name: Option<&str>) -> Labels {
    if is_recorded(key) {
        let own: BTreeMap<String, String> = serde_json::from_str(&key.labels).unwrap_or_default();
        let name = std::iter::once((METRIC_NAME.to_owned(), key.name.clone()));
        return Labels::new(own.into_iter().chain(name));
    }
    let mut labels = labels_of_json(&key.labels, key.host, host_name);
    labels.insert(METRIC_NAME.to_owned(), metric_name(&key.name).into_owned());
    Labels::new(labels)
}

/// Whether a recording rule gave it.
pub(crate) fn is_recorded(key: &SeriesKey) -> bool {
    key.host == OWN_HOST && key.unit == RECORDED_UNIT
}

/// Matchers as they apply to what [`labels_of`] gives: a label may be named as it was before.
pub(crate) fn matchers_of(given: &[LabelMatcher]) -> Vec<LabelMatcher> {
    let mut matchers = given.to_vec();
    for matcher in &mut matchers {
        matcher.name = label_of(&matcher.name);
    }
    matchers
}

/// The label that is asked for: as it is, or by its stored name.
pub(crate) fn label_of(asked: &str) -> String {
    let plain = asked
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if plain && !asked.starts_with(|first: char| first.is_ascii_digit()) {
        asked.to_owned()
    } else {
        attribute_label(asked).into_owned()
    }
}

/// Whether a metric's name meets a condition, in either of its spellings.
pub(crate) fn name_matches(matcher: &LabelMatcher, original: &str, mapped: &str) -> bool {
    match matcher.op {
        MatchOp::Equal | MatchOp::Regex(_) => matcher.matches(mapped) || matcher.matches(original),
        MatchOp::NotEqual | MatchOp::NotRegex(_) => matcher.matches(mapped) && matcher.matches(original),
    }
}

/// Whether a series is selected; the name is looked at first, because it needs no labels.
pub(crate) fn selects(matchers: &[LabelMatcher], key: &SeriesKey, host_name: Option<&str>) -> Option<Labels> {
    let mapped = metric_name(&key.name);
    let named = matchers
        .iter()
        .filter(|matcher| matcher.name == METRIC_NAME)
        .all(|matcher| name_matches(matcher, &key.name, &mapped));
    if !named {
        return None;
    }
    let labels = labels_of(key, host_name);
    matchers
        .iter()
        .filter(|matcher| matcher.name != METRIC_NAME)
        .all(|matcher| matcher.matches(labels.get(&matcher.name)))
        .then_some(labels)
}

#[cfg(test)]
mod tests {
    use collector_promql::parse_selector;
    use fleetmend_event::HostId;

    use super::*;

    fn key(name: &str, labels: &str) -> SeriesKey {
        SeriesKey {
            name: name.to_owned(),
            labels: labels.to_owned(),
            host: HostId::from_bytes([7; 16]),
            unit: "1".to_owned(),
        }
    }

    #[test]
    fn names_and_labels_become_prometheus_own() {
        let series = key(
            "system.cpu.utilization",
            r#"{"cpu.mode":"user","job":"x","9":"nine"}"#,
        );
        let labels = labels_of(&series, Some("web-1"));
        for (name, value) in [
            ("__name__", "system_cpu_utilization"),
            ("cpu_mode", "user"),
            ("exported_job", "x"),
            ("key_9", "nine"),
            ("instance", "web-1"),
            ("job", "fleetmend"),
            ("host_id", &series.host.to_string()),
        ] {
            assert_eq!(labels.get(name), value, "{name} of {labels}");
        }
        assert_eq!(labels_of(&series, None).get("instance"), series.host.to_string());
    }

    #[test]
    fn a_recorded_series_keeps_its_labels() {
        let series = SeriesKey {
            host: OWN_HOST,
            unit: RECORDED_UNIT.to_owned(),
            ..key("instance:cpu:avg", r#"{"instance":"web-1"}"#)
        };
        assert_eq!(
            labels_of(&series, None),
            Labels::new([("__name__", "instance:cpu:avg"), ("instance", "web-1")])
        );
    }

    #[test]
    fn both_spellings_select() {
        let series = key("system.cpu.utilization", r#"{"cpu.mode":"user"}"#);
        for selector in [
            "system_cpu_utilization",
            r#"{"system.cpu.utilization"}"#,
            r#"{"system.cpu.utilization", "cpu.mode"="user"}"#,
            r#"{__name__=~"system.+", cpu_mode=~"us.*", instance!="x"}"#,
            r#"{__name__="system.cpu.utilization"}"#,
        ] {
            let matchers = matchers_of(&parse_selector(selector).unwrap());
            assert!(selects(&matchers, &series, None).is_some(), "{selector}");
        }
        for selector in [
            "system_cpu",
            r#"{__name__!="system.cpu.utilization", job="fleetmend"}"#,
            r#"{__name__!~"system_.*", job="fleetmend"}"#,
            r#"system_cpu_utilization{"cpu.mode"="system"}"#,
        ] {
            let matchers = matchers_of(&parse_selector(selector).unwrap());
            assert!(selects(&matchers, &series, None).is_none(), "{selector}");
        }
    }
}
