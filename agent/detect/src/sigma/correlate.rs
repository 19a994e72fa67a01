//! Correlation rules: several matches that mean more together.
//!
//! Each correlation keeps, per group of values, the matches of its timespan, and judges them whenever one is added.
//! The window slides. Its clock is that of the group's events: one that comes late within the timespan counts as now;
//! one from before it says that the clock was put back, and the group begins anew. While its condition holds a
//! correlation fires once per timespan and group, and what it fires may feed another correlation.
//!
//! Bounded: [`GROUPS_MAX`] groups and [`KEPT_MAX`] matches per correlation, and [`ENTRIES_MAX`] matches per group; the
//! groups that were quiet longest, and the oldest match, make room, and each is counted.

mod form;

use std::collections::{HashMap, HashSet, VecDeque};

use rsigma_parser::{
    ConditionExpr, ConditionOperator, CorrelationCondition, CorrelationRule, CorrelationType, Quantifier,
    WindowMode,
};

use self::form::well_formed;
use super::compile::{severity, tactics, techniques};
use super::rule::Meta;
use super::text::fold;
use crate::metrics;

/// Groups of one correlation.
const GROUPS_MAX: usize = 4_096;
/// Matches that one group keeps.
const ENTRIES_MAX: usize = 4_096;
/// Matches that all groups of one correlation keep: with the longest values some 64 MiB.
const KEPT_MAX: usize = 65_536;
/// Longest value that is kept.
const VALUE_BYTES_MAX: usize = 1_024;
/// Longest timespan; state is in memory.
const TIMESPAN_S_MAX: u64 = 7 * 86_400;

/// A correlation rule, compiled.
#[derive(Debug, Clone)]
pub(crate) struct Correlation {
    pub(crate) meta: Meta,
    /// Ids or names of the rules it looks at, in their order.
    pub(crate) rules: Vec<String>,
    /// Whether the rules it looks at fire on their own as well.
    pub(crate) generate: bool,
    /// What of it decides, by which a reload knows whether it is still the same.
    pub(crate) digest: String,
    kind: CorrelationType,
    span_us: i64,
    condition: CorrelationCondition,
    /// For each rule the fields that its group is made of.
    group_by: Vec<Vec<String>>,
    /// The names of the group's fields.
    group_names: Vec<String>,
    /// For each rule the fields whose values are counted or added.
    values: Vec<Vec<String>>,
}

/// What is kept of the matches of one correlation.
#[derive(Debug, Default)]
pub(crate) struct Window {
    groups: HashMap<Vec<String>, Group>,
    /// Matches of all groups.
    kept: usize,
}

#[derive(Debug, Default)]
struct Group {
    entries: VecDeque<Entry>,
    last: i64,
    fired: Option<i64>,
}

#[derive(Debug)]
struct Entry {
    time: i64,
    rule: usize,
    value: Option<String>,
}

/// A correlation that holds.
#[derive(Debug, Clone)]
pub(crate) struct Fired {
    /// Fields of its group with their values.
    pub(crate) group: Vec<(String, String)>,
    /// How many matches it holds for.
    pub(crate) matches: usize,
    /// What was compared with the condition.
    pub(crate) figure: f64,
}

impl Correlation {
    /// Compiles a correlation rule.
    ///
    /// # Errors
    /// What it asks for that is not kept here, with whether the rule itself is at fault.
    pub(crate) fn new(rule: &CorrelationRule) -> Result<Self, super::compile::Refusal> {
        use super::compile::Refusal::{Broken, Unsupported};
        if rule.rules.is_empty() {
            return Err(Broken("it names no rules".to_owned()));
        }
        if rule.window != WindowMode::Sliding {
            return Err(Unsupported("only sliding windows are kept".to_owned()));
        }
        if rule.timespan.seconds == 0 || rule.timespan.seconds > TIMESPAN_S_MAX {
            return Err(Unsupported(format!(
                "its timespan of {} is not within 1 s and 7 d; matches are kept in memory",
                rule.timespan
            )));
        }
        let mut values = Vec::new();
        if let CorrelationCondition::Threshold {
            predicates, field, ..
        } = &rule.condition
        {
            values = field.clone().unwrap_or_default();
            let most = predicates.iter().map(|(_, number)| *number).max().unwrap_or(0);
            let counts = matches!(
                rule.correlation_type,
                CorrelationType::EventCount | CorrelationType::ValueCount
            );
            // The parser reads numbers below 0 as such.
            if i64::try_from(most).is_err() {
                return Err(Unsupported(
                    "its condition has a number below 0; figures are compared with whole numbers from 0"
                        .to_owned(),
                ));
            }
            if counts && most >= ENTRIES_MAX as u64 {
                return Err(Unsupported(format!(
                    "it counts to {most}; a group keeps {ENTRIES_MAX} matches"
                )));
            }
        }
        well_formed(rule).map_err(Broken)?;
        let needs_value = !matches!(
            rule.correlation_type,
            CorrelationType::EventCount | CorrelationType::Temporal | CorrelationType::TemporalOrdered
        );
        if needs_value && values.is_empty() {
            return Err(Broken(format!(
                "{} needs the field whose values are meant: condition.field",
                rule.correlation_type.as_str()
            )));
        }
        let of_rules = |names: &[String]| -> Vec<Vec<String>> {
            let of_rule = |reference: &String| {
                let field = |name: &String| {
                    let alias = rule.aliases.iter().find(|alias| alias.alias == *name);
                    alias
                        .and_then(|alias| alias.mapping.get(reference))
                        .unwrap_or(name)
                        .clone()
                };
                names.iter().map(field).collect()
            };
            rule.rules.iter().map(of_rule).collect()
        };
        let (group_by, values) = (of_rules(&rule.group_by), of_rules(&values));
        // Nothing of a map is in it: the order of those differs from one reading to the next.
        let digest = format!(
            "{:?}",
            (
                (&rule.id, &rule.name, &rule.title, &rule.rules, rule.generate),
                (rule.correlation_type, rule.timespan.seconds, &rule.condition),
                (&rule.group_by, &group_by, &values),
            )
        );
        Ok(Self {
            meta: Meta {
                key: rule.id.clone().unwrap_or_else(|| rule.title.clone()),
                name: rule.name.clone(),
                title: rule.title.clone(),
                severity: severity(rule.level),
                techniques: techniques(&rule.tags),
                tactics: tactics(&rule.tags),
            },
            generate: rule.generate,
            digest,
            kind: rule.correlation_type,
            span_us: i64::try_from(rule.timespan.seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
            condition: rule.condition.clone(),
            group_by,
            group_names: rule.group_by.clone(),
            values,
            rules: rule.rules.clone(),
        })
    }

    /// Adds a match of the rule at `position`, whose event has the fields that `field` finds.
    pub(crate) fn add(
        &self,
        window: &mut Window,
        position: usize,
        time: i64,
        field: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Fired> {
        let names = self.group_by.get(position)?;
        let values: Option<Vec<String>> = names.iter().map(|name| field(name)).collect();
        // An event without a field of the group is of no group.
        let values = values?;
        let value = match self.values.get(position).map(Vec::as_slice) {
            None | Some([]) => None,
            // Without the value there is nothing to count or add.
            Some(names) => Some(
                names
                    .iter()
                    .map(|name| field(name).map(|value| short(&value)))
                    .collect::<Option<Vec<_>>>()?
                    .join("\u{1f}"),
            ),
        };
        window.make_room(time, self.span_us);
        let key: Vec<String> = values
            .iter()
            .map(|value| fold(&short(value)).into_owned())
            .collect();
        let Window { groups, kept } = window;
        let group = groups.entry(key).or_default();
        let before = group.entries.len();
        if time < group.last.saturating_sub(self.span_us) {
            *group = Group::default();
        }
        let now = if group.entries.is_empty() {
            time
        } else {
            group.last.max(time)
        };
        group.last = now;
        let from = now.saturating_sub(self.span_us);
        while group.entries.front().is_some_and(|entry| entry.time < from) {
            group.entries.pop_front();
        }
        if group.entries.len() >= ENTRIES_MAX {
            group.entries.pop_front();
            metrics::correlation_evicted("match", 1);
        }
        group.entries.push_back(Entry {
            time: now,
            rule: position,
            value,
        });
        *kept = kept.saturating_sub(before).saturating_add(group.entries.len());
        let figure = self.holds(&group.entries)?;
        let Some(figure) = figure else {
            group.fired = None;
            return None;
        };
        if group
            .fired
            .is_some_and(|fired| now.saturating_sub(fired) < self.span_us)
        {
            return None;
        }
        group.fired = Some(now);
        Some(Fired {
            group: self.group_names.iter().cloned().zip(values).collect(),
            matches: group.entries.len(),
            figure,
        })
    }

    /// When it fires, in words.
    pub(crate) fn in_words(&self) -> String {
        let condition = match &self.condition {
            CorrelationCondition::Extended(condition) => condition.to_string(),
            CorrelationCondition::Threshold {
                predicates, field, ..
            } => {
                let of = field
                    .as_ref()
                    .map_or_else(String::new, |field| format!(" of {}", field.join(", ")));
                let words: Vec<String> = predicates
                    .iter()
                    .map(|(operator, number)| format!("{operator:?} {number}").to_lowercase())
                    .collect();
                format!("{}{of}", words.join(" and "))
            }
        };
        let group = if self.group_names.is_empty() {
            String::new()
        } else {
            format!(" per {}", self.group_names.join(", "))
        };
        format!(
            "{} {condition}{group} within {} s",
            self.kind.as_str(),
            self.span_us / 1_000_000
        )
    }

    /// `Some(Some(figure))` when the condition holds; `None` when it cannot be judged.
    #[expect(clippy::option_option, reason = "unknown, false and true with its figure")]
    fn holds(&self, entries: &VecDeque<Entry>) -> Option<Option<f64>> {
        if let CorrelationCondition::Extended(condition) = &self.condition {
            let holds = self.extended(condition, entries)
                && (self.kind != CorrelationType::TemporalOrdered || self.in_order(entries));
            return Some(holds.then_some(entries.len() as f64));
        }
        let CorrelationCondition::Threshold {
            predicates,
            percentile,
            ..
        } = &self.condition
        else {
            return None;
        };
        let figure = match self.kind {
            CorrelationType::EventCount => entries.len() as f64,
            CorrelationType::ValueCount => {
                let distinct: HashSet<_> = entries
                    .iter()
                    .filter_map(|entry| entry.value.as_deref())
                    .map(fold)
                    .collect();
                distinct.len() as f64
            }
            CorrelationType::Temporal | CorrelationType::TemporalOrdered => {
                let seen: HashSet<usize> = entries.iter().map(|entry| entry.rule).collect();
                let ordered = self.kind == CorrelationType::Temporal || self.in_order(entries);
                // The parser's default, at least one, stands for all of them.
                let all = matches!(predicates.as_slice(), [(ConditionOperator::Gte, 1)]);
                if all {
                    let every = seen.len() == self.rules.len() && ordered;
                    return Some(every.then_some(seen.len() as f64));
                }
                if !ordered {
                    return Some(None);
                }
                seen.len() as f64
            }
            CorrelationType::ValueSum
            | CorrelationType::ValueAvg
            | CorrelationType::ValueMedian
            | CorrelationType::ValuePercentile => number_of(self.kind, *percentile, entries)?,
        };
        let holds = predicates
            .iter()
            .all(|(operator, number)| compares(*operator, figure, *number as f64));
        Some(holds.then_some(figure))
    }

    /// Whether the rules matched one after the other, in their order.
    fn in_order(&self, entries: &VecDeque<Entry>) -> bool {
        let mut next = 0_usize;
        for entry in entries {
            if entry.rule == next {
                next = next.saturating_add(1);
            }
        }
        next >= self.rules.len()
    }

    fn extended(&self, condition: &ConditionExpr, entries: &VecDeque<Entry>) -> bool {
        let seen = |name: &str| {
            let position = self.rules.iter().position(|rule| rule == name);
            entries.iter().any(|entry| Some(entry.rule) == position)
        };
        match condition {
            ConditionExpr::And(parts) => parts.iter().all(|part| self.extended(part, entries)),
            ConditionExpr::Or(parts) => parts.iter().any(|part| self.extended(part, entries)),
            ConditionExpr::Not(part) => !self.extended(part, entries),
            ConditionExpr::Identifier(name) => seen(name),
            ConditionExpr::Selector { quantifier, pattern } => {
                let mut chosen = self
                    .rules
                    .iter()
                    .filter(|rule| pattern.matches_detection_name(rule));
                match quantifier {
                    Quantifier::All => chosen.all(|rule| seen(rule)),
                    Quantifier::Any => chosen.any(|rule| seen(rule)),
                    Quantifier::Count(count) => chosen.filter(|rule| seen(rule)).count() as u64 >= *count,
                }
            }
        }
    }
}

impl Window {
    /// Forgets groups whose timespan is over, and when they or their matches are too many, those that were quiet
    /// longest.
    fn make_room(&mut self, now: i64, span_us: i64) {
        if self.has_room() {
            return;
        }
        // A group of the time to come is of a clock that was put back since.
        let (from, until) = (now.saturating_sub(span_us), now.saturating_add(span_us));
        self.groups
            .retain(|_, group| group.last >= from && group.last <= until);
        self.count();
        if self.has_room() {
            return;
        }
        let mut times: Vec<i64> = self.groups.values().map(|group| group.last).collect();
        times.sort_unstable();
        // An eighth at once, so that this is not done for every event.
        let wanted = (times.len() / 8).max(1);
        let until = times.get(wanted).copied().unwrap_or(i64::MAX);
        let mut left = wanted;
        let before = self.groups.len();
        self.groups.retain(|_, group| {
            let goes = left > 0 && group.last <= until;
            left = left.saturating_sub(usize::from(goes));
            !goes
        });
        metrics::correlation_evicted("group", before.saturating_sub(self.groups.len()));
        self.count();
    }

    fn has_room(&self) -> bool {
        self.groups.len() < GROUPS_MAX && self.kept < KEPT_MAX
    }

    fn count(&mut self) {
        self.kept = self.groups.values().map(|group| group.entries.len()).sum();
    }

    /// Matches that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        let counted: usize = self.groups.values().map(|group| group.entries.len()).sum();
        assert_eq!(counted, self.kept);
        counted
    }

    /// Groups that are kept.
    #[cfg(test)]
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }
}

fn short(text: &str) -> String {
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// Sum, mean or percentile of the values that are numbers; `None` when none is.
fn number_of(kind: CorrelationType, percentile: Option<u64>, entries: &VecDeque<Entry>) -> Option<f64> {
    let number = |entry: &Entry| {
        entry
            .value
            .as_deref()?
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
    };
    let mut numbers: Vec<f64> = entries.iter().filter_map(number).collect();
    if numbers.is_empty() {
        return None;
    }
    let count = numbers.len() as f64;
    let sum: f64 = numbers.iter().sum();
    let rank = match kind {
        CorrelationType::ValueSum => return Some(sum),
        CorrelationType::ValueAvg => return Some(sum / count),
        CorrelationType::ValueMedian => 50.0,
        _ => percentile.unwrap_or(50) as f64,
    };
    numbers.sort_by(f64::total_cmp);
    // Between the two nearest, as the position falls.
    let position = rank / 100.0 * (count - 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of entries, which is small"
    )]
    let below = position.floor() as usize;
    let low = numbers.get(below).copied()?;
    let high = numbers.get(below.saturating_add(1)).copied().unwrap_or(low);
    Some(low + (high - low) * (position - position.floor()))
}

fn compares(operator: ConditionOperator, left: f64, right: f64) -> bool {
    match operator {
        ConditionOperator::Lt => left < right,
        ConditionOperator::Lte => left <= right,
        ConditionOperator::Gt => left > right,
        ConditionOperator::Gte => left >= right,
        ConditionOperator::Eq => (left - right).abs() < f64::EPSILON,
        ConditionOperator::Neq => (left - right).abs() >= f64::EPSILON,
    }
}
