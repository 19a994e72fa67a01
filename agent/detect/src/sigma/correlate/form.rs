//! What a correlation may say.

use rsigma_parser::{CorrelationCondition, CorrelationRule, CorrelationType};

use super::over::{Looked, ORDERED_MAX, Over};

/// What the parser lets through and no event could meet. Gives the condition over names of rules, where there is one.
pub(super) fn well_formed(rule: &CorrelationRule, rules: &[Looked]) -> Result<Option<Over>, String> {
    for (number, looked) in rules.iter().enumerate() {
        if rules.iter().take(number).any(|other| other.is(&looked.written)) {
            return Err(format!("it looks at '{}' twice", looked.written));
        }
    }
    for alias in &rule.aliases {
        let is_known = |name: &str| rules.iter().any(|rule| rule.is(name));
        if let Some(other) = alias.mapping.keys().find(|name| !is_known(name)) {
            return Err(format!(
                "the alias '{}' is for '{other}', which is none of its rules",
                alias.alias
            ));
        }
    }
    match &rule.condition {
        CorrelationCondition::Extended(condition) => {
            let is_ordered = match rule.correlation_type {
                CorrelationType::Temporal => false,
                CorrelationType::TemporalOrdered => true,
                other => {
                    return Err(format!(
                        "a condition over names of rules is for temporal; {} needs a bound, such as gte: 10",
                        other.as_str()
                    ));
                }
            };
            if is_ordered && rules.len() > ORDERED_MAX {
                return Err(format!(
                    "a condition over names of rules whose order counts has at most {ORDERED_MAX} rules"
                ));
            }
            Over::new(condition, rules).map(Some)
        }
        CorrelationCondition::Threshold { percentile, .. } => {
            let is_percentile = rule.correlation_type == CorrelationType::ValuePercentile;
            if is_percentile && percentile.is_none_or(|percentile| percentile > 100) {
                return Err(
                    "value_percentile needs condition.percentile, a whole number from 0 to 100".to_owned(),
                );
            }
            Ok(None)
        }
    }
}
