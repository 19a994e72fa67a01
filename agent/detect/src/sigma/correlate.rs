//! Correlation rules: several matches that mean more together.
//!
//! Each correlation keeps, per group of values, the matches of its timespan, and judges them whenever one is added.
//! The window slides over the times of the events, in whichever order they come: one that comes late is put where it
//! belongs, and those from before the timespan are judged among themselves. While its condition holds a correlation
//! fires once per timespan and group. What it fires may feed another correlation, and each match for which it holds
//! feeds temporal ones: they ask whether and when, not how often.
//!
//! Bounded: 4,096 groups and 65,536 matches per correlation, and 4,096 matches per group; the groups that were quiet
//! longest, and the oldest match, make room, and each is counted.

mod form;
mod over;
mod window;

use std::collections::{HashMap, HashSet, VecDeque};

use rsigma_parser::{
    ConditionOperator, CorrelationCondition, CorrelationRule, CorrelationType, Status, WindowMode,
};

use self::form::well_formed;
use self::over::{Looked, Over, in_order};
pub(crate) use self::window::Window;
use self::window::{ENTRIES_MAX, Entry};
use super::meta::Meta;
use super::text::fold;

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
    /// The condition where it is one over names of rules.
    over: Option<Over>,
    /// For each rule the fields that its group is made of.
    group_by: Vec<Vec<String>>,
    /// The names of the group's fields.
    group_names: Vec<String>,
    /// For each rule the fields whose values are counted or added.
    values: Vec<Vec<String>>,
}

/// The names of every rule, by each of them: its id, its name, its title.
pub(crate) type NamesOfRules = HashMap<String, Vec<String>>;

/// A correlation that holds.
#[derive(Debug, Clone)]
pub(crate) struct Fired {
    /// Fields of its group with their values.
    pub(crate) group: Vec<(String, String)>,
    /// How many matches it holds for.
    pub(crate) matches: usize,
    /// What was compared with the condition.
    pub(crate) figure: f64,
    /// Whether it fired within the timespan already: nobody is told again.
    pub(crate) again: bool,
}

impl Correlation {
    /// Compiles a correlation rule.
    ///
    /// # Errors
    /// What it asks for that is not kept here, with whether the rule itself is at fault.
    pub(crate) fn new(rule: &CorrelationRule, names: &NamesOfRules) -> Result<Self, super::compile::Refusal> {
        use super::compile::Refusal::{Broken, Unsupported};
        super::compile::usable(rule.status == Some(Status::Unsupported), rule.taxonomy.as_deref())?;
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
        let looked = |written: &String| Looked {
            written: written.clone(),
            names: names.get(written).cloned().unwrap_or_default(),
        };
        let rules: Vec<Looked> = rule.rules.iter().map(looked).collect();
        let over = well_formed(rule, &rules).map_err(Broken)?;
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
            let of_rule = |looked: &Looked| {
                let field = |name: &String| {
                    let alias = rule.aliases.iter().find(|alias| alias.alias == *name);
                    let own = alias.and_then(|alias| {
                        let mut mapping = alias.mapping.iter();
                        mapping.find(|(rule, _)| looked.is(rule)).map(|(_, field)| field)
                    });
                    own.unwrap_or(name).clone()
                };
                names.iter().map(field).collect()
            };
            rules.iter().map(of_rule).collect()
        };
        let (group_by, values) = (of_rules(&rule.group_by), of_rules(&values));
        // Nothing of a map is in it: the order of those differs from one reading to the next.
        let digest = format!(
            "{:?}",
            (
                (&rule.id, &rule.name, &rule.title, &rule.rules, rule.generate),
                (rule.correlation_type, rule.timespan.seconds, &rule.condition),
                (&rule.group_by, &group_by, &values, &over),
            )
        );
        Ok(Self {
            meta: Meta::of_correlation(rule),
            generate: rule.generate,
            digest,
            kind: rule.correlation_type,
            span_us: i64::try_from(rule.timespan.seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
            condition: rule.condition.clone(),
            over,
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
        let key: Vec<String> = values
            .iter()
            .map(|value| fold(&short(value)).into_owned())
            .collect();
        let entry = Entry {
            time,
            rule: position,
            value,
        };
        let run = window.add(key, entry, self.span_us);
        let Some(figure) = self.holds(&run.entries)? else {
            run.fired = None;
            return None;
        };
        let again = run
            .fired
            .is_some_and(|fired| run.last.saturating_sub(fired) < self.span_us);
        if !again {
            run.fired = Some(run.last);
        }
        Some(Fired {
            group: self.group_names.iter().cloned().zip(values).collect(),
            matches: run.entries.len(),
            figure,
            again,
        })
    }

    /// Whether it asks only whether and when its rules matched.
    pub(crate) fn is_temporal(&self) -> bool {
        matches!(
            self.kind,
            CorrelationType::Temporal | CorrelationType::TemporalOrdered
        )
    }

    /// A field that it wants of the rule at `position`, and that `other` does not group by.
    pub(crate) fn wants_more_than<'a>(&'a self, position: usize, other: &Self) -> Option<&'a str> {
        let of = |fields: &'a [Vec<String>]| fields.get(position).map_or(&[][..], Vec::as_slice);
        let mut wanted = of(&self.group_by).iter().chain(of(&self.values));
        let missing = wanted.find(|field| !other.group_names.contains(field));
        missing.map(String::as_str)
    }

    /// When it fires, in words.
    pub(crate) fn in_words(&self) -> String {
        let condition = match &self.condition {
            CorrelationCondition::Extended(condition) => condition.to_string(),
            CorrelationCondition::Threshold { predicates, .. }
                if self.is_temporal() && is_default(predicates) =>
            {
                "of all its rules".to_owned()
            }
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
        if let Some(over) = &self.over {
            let holds = if self.kind == CorrelationType::TemporalOrdered {
                over.holds_in_order(entries)
            } else {
                over.holds(entries)
            };
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
                let ordered =
                    self.kind == CorrelationType::Temporal || in_order(0..self.rules.len(), entries);
                if is_default(predicates) {
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
}

/// Whether this is the parser's default of temporal correlations, at least one: it stands for all of their rules.
fn is_default(predicates: &[(ConditionOperator, u64)]) -> bool {
    matches!(predicates, [(ConditionOperator::Gte, 1)])
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
