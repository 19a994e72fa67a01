//! What a correlation may say.

use rsigma_parser::{ConditionExpr, CorrelationCondition, CorrelationRule, CorrelationType};

/// What the parser lets through and no event could meet.
pub(super) fn well_formed(rule: &CorrelationRule) -> Result<(), String> {
    for alias in &rule.aliases {
        if let Some(other) = alias.mapping.keys().find(|name| !rule.rules.contains(name)) {
            return Err(format!(
                "the alias '{}' is for '{other}', which is none of its rules; write it as in 'rules'",
                alias.alias
            ));
        }
    }
    match &rule.condition {
        CorrelationCondition::Extended(condition) => {
            if !matches!(
                rule.correlation_type,
                CorrelationType::Temporal | CorrelationType::TemporalOrdered
            ) {
                return Err(format!(
                    "a condition over names of rules is for temporal; {} needs a bound, such as gte: 10",
                    rule.correlation_type.as_str()
                ));
            }
            named(condition, &rule.rules)
        }
        CorrelationCondition::Threshold { percentile, .. } => {
            let is_percentile = rule.correlation_type == CorrelationType::ValuePercentile;
            if is_percentile && percentile.is_none_or(|percentile| percentile > 100) {
                return Err(
                    "value_percentile needs condition.percentile, a whole number from 0 to 100".to_owned(),
                );
            }
            Ok(())
        }
    }
}

/// Whether a condition over names of rules names only these.
fn named(condition: &ConditionExpr, rules: &[String]) -> Result<(), String> {
    match condition {
        ConditionExpr::And(parts) | ConditionExpr::Or(parts) => {
            parts.iter().try_for_each(|part| named(part, rules))
        }
        ConditionExpr::Not(part) => named(part, rules),
        ConditionExpr::Identifier(name) if rules.contains(name) => Ok(()),
        ConditionExpr::Identifier(name) => Err(format!(
            "the condition names '{name}', which is none of its rules; write it as in 'rules'"
        )),
        ConditionExpr::Selector { quantifier, pattern } => {
            if rules.iter().any(|rule| pattern.matches_detection_name(rule)) {
                return Ok(());
            }
            Err(format!(
                "'{quantifier} of {pattern}' in the condition fits none of its rules"
            ))
        }
    }
}
