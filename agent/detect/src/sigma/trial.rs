//! Rules tried on events that somebody wrote down: `rules test`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::SubjectKind;
use serde_json::Value;

use super::event::{Fields, RawEvent};
use super::set::RuleSet;
use super::sources::services_of;
use super::{LogSource, Matched, RuleListing, RuleOptions, Scene, Sigma};
use crate::tracker::Subject;

/// Rules, and what they make of events.
pub struct Trial {
    sigma: Sigma,
    next: i64,
}

/// What an event met.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Id of the rule.
    pub rule: String,
    /// Its title.
    pub title: String,
    /// What of the event it matched.
    pub matched: Vec<Matched>,
}

impl Trial {
    /// The rules of a file or folder.
    pub fn new(rules: PathBuf, placeholders: BTreeMap<String, Vec<String>>) -> Self {
        let options = RuleOptions {
            folders: vec![rules],
            placeholders,
            ..RuleOptions::default()
        };
        Self {
            sigma: Sigma::over(RuleSet::load(&options, None), options),
            next: 0,
        }
    }

    /// What became of the rules.
    pub fn listing(&self) -> &[RuleListing] {
        self.sigma.listing()
    }

    /// Tries one event: a JSON object of Sigma's field names. `_log_source` with `product`, `category` and `service`
    /// says what it is, otherwise every rule looks at it; `_time`, in seconds or RFC 3339, is for correlations, an
    /// event without one comes a second after the last.
    ///
    /// # Errors
    /// What is wrong with the event.
    pub fn event(&mut self, event: &Value) -> Result<Vec<Verdict>, String> {
        let Value::Object(members) = event else {
            return Err("an event is a JSON object of field names and values".to_owned());
        };
        let time = match members.get("_time") {
            None => self.next,
            Some(time) => time_of(time).ok_or_else(|| format!("_time {time} is no time"))?,
        };
        self.next = time.saturating_add(1_000_000);
        let mut record = RawEvent {
            time: TimeMicros(time),
            ..RawEvent::default()
        };
        let mut several = Vec::new();
        for (name, value) in members
            .iter()
            .filter(|(name, _)| !["_time", "_log_source", "_expect"].contains(&name.as_str()))
        {
            match value {
                Value::Null => {}
                Value::Array(values) => {
                    several.extend(values.iter().map(|value| (name.clone(), word(value))))
                }
                other => {
                    record.fields.insert(name.clone(), word(other));
                }
            }
        }
        let source = members.get("_log_source").map(log_source).transpose()?;
        Ok(self.look(&record, &several, source))
    }

    fn look(
        &mut self,
        record: &RawEvent,
        several: &[(String, String)],
        source: Option<LogSource>,
    ) -> Vec<Verdict> {
        let set = std::sync::Arc::clone(&self.sigma.set);
        let mut fields = Fields::of(record);
        for (name, value) in several {
            fields.add(name.as_str(), value.as_str());
        }
        let groups: Vec<usize> = match &source {
            None => (0..set.groups.len()).collect(),
            Some(source) => {
                // A line of sshd's is of auth and of syslog too; records that are no lines are of their own only.
                let services = match source.service.as_deref() {
                    None => Vec::new(),
                    Some(own @ ("auditd" | "sysmon" | "fleetmend")) => vec![own],
                    Some(own) => services_of(own),
                };
                set.route_of(&super::Origin {
                    // Whatever happens here happens on Linux.
                    product: source.product.as_deref().or(Some("linux")),
                    category: source.category.as_deref(),
                    services: &services,
                    again: false,
                })
            }
        };
        let scene = || Scene {
            subject: Subject::named(SubjectKind::Host, "trial"),
            evidence: Value::Null,
        };
        let notices = self.sigma.look(&set, &groups, &fields, record.time, None, &scene);
        notices
            .into_iter()
            .map(|notice| Verdict {
                rule: notice.rule,
                title: notice.title,
                matched: factors(&notice.factors),
            })
            .collect()
    }
}

fn factors(factors: &Value) -> Vec<Matched> {
    let text = |factor: &Value, key: &str| {
        factor
            .get(key)
            .filter(|value| !value.is_null())
            .map_or_else(String::new, word)
    };
    let factors = factors.as_array().map_or(&[][..], Vec::as_slice);
    factors
        .iter()
        .map(|factor| Matched {
            field: text(factor, "feature"),
            value: text(factor, "value"),
            wanted: text(factor, "expected"),
        })
        .collect()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn time_of(value: &Value) -> Option<i64> {
    if let Some(text) = value.as_str() {
        return text
            .parse::<jiff::Timestamp>()
            .ok()
            .map(|time| time.as_microsecond());
    }
    let micros = value.as_f64()? * 1e6;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "beyond 300,000 years it saturates"
    )]
    micros.is_finite().then_some(micros as i64)
}

fn log_source(value: &Value) -> Result<LogSource, String> {
    let Value::Object(members) = value else {
        return Err("_log_source is an object with product, category and service".to_owned());
    };
    let word = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_lowercase);
    Ok(LogSource {
        product: word("product"),
        category: word("category"),
        service: word("service"),
    })
}
