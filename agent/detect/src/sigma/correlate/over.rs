//! A condition written out over the rules of a temporal correlation.

use std::collections::{BTreeSet, VecDeque};

use rsigma_parser::{ConditionExpr, Quantifier, SelectorPattern, SigmaString};

use super::window::Entry;
use crate::sigma::text::{Pattern, Shape, pieces};

/// Rules of a condition whose order counts: every choice of those that matched is tried.
pub(super) const ORDERED_MAX: usize = 8;

/// A rule that a correlation looks at: as it is written there, and every name that it has.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    pub(super) written: String,
    pub(super) names: Vec<String>,
}

impl Looked {
    /// Whether the rule is called so.
    pub(super) fn is(&self, name: &str) -> bool {
        self.written == name || self.names.iter().any(|own| own == name)
    }
}

/// A condition over rules by their positions.
#[derive(Debug, Clone)]
pub(super) enum Over {
    All(Vec<Over>),
    Any(Vec<Over>),
    Not(Box<Over>),
    Seen(usize),
    /// At least so many of these.
    AtLeast(usize, Vec<usize>),
}

impl Over {
    /// Reads a condition.
    ///
    /// # Errors
    /// What of it names none of the rules.
    pub(super) fn new(condition: &ConditionExpr, rules: &[Looked]) -> Result<Self, String> {
        let each = |parts: &[ConditionExpr]| -> Result<Vec<Self>, String> {
            parts.iter().map(|part| Self::new(part, rules)).collect()
        };
        match condition {
            ConditionExpr::And(parts) => Ok(Self::All(each(parts)?)),
            ConditionExpr::Or(parts) => Ok(Self::Any(each(parts)?)),
            ConditionExpr::Not(part) => Ok(Self::Not(Box::new(Self::new(part, rules)?))),
            ConditionExpr::Identifier(name) => {
                let position = rules.iter().position(|rule| rule.is(name));
                position.map(Self::Seen).ok_or_else(|| {
                    format!(
                        "the condition names '{name}', which is none of its rules; write it as in 'rules'"
                    )
                })
            }
            ConditionExpr::Selector { quantifier, pattern } => {
                let chosen = chosen(pattern, rules);
                let count = match quantifier {
                    Quantifier::Any => 1,
                    Quantifier::All => chosen.len(),
                    Quantifier::Count(count) => usize::try_from(*count).unwrap_or(usize::MAX),
                };
                if chosen.is_empty() || count == 0 || count > chosen.len() {
                    return Err(format!(
                        "'{quantifier} of {pattern}' in the condition fits {} of its rules",
                        if chosen.is_empty() {
                            "none".to_owned()
                        } else {
                            chosen.len().to_string()
                        }
                    ));
                }
                Ok(Self::AtLeast(count, chosen))
            }
        }
    }

    /// Whether it holds of these matches.
    pub(super) fn holds(&self, entries: &VecDeque<Entry>) -> bool {
        let seen = seen_in(entries);
        self.judge(&seen, &seen)
    }

    /// Whether it holds of some of these matches, which came in the order of their rules. What must not match must
    /// not at any time.
    pub(super) fn holds_in_order(&self, entries: &VecDeque<Entry>) -> bool {
        let seen = seen_in(entries);
        let positions: Vec<usize> = seen.iter().copied().take(ORDERED_MAX).collect();
        (1_u32..1 << positions.len()).any(|mask| {
            let chosen: BTreeSet<usize> = positions
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask & (1 << bit) != 0)
                .map(|(_, position)| *position)
                .collect();
            self.judge(&chosen, &seen) && in_order(chosen.iter().copied(), entries)
        })
    }

    fn judge(&self, chosen: &BTreeSet<usize>, seen: &BTreeSet<usize>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.judge(chosen, seen)),
            Self::Any(parts) => parts.iter().any(|part| part.judge(chosen, seen)),
            Self::Not(part) => !part.judge(seen, seen),
            Self::Seen(position) => chosen.contains(position),
            Self::AtLeast(count, positions) => {
                let fit = positions.iter().filter(|position| chosen.contains(position));
                fit.count() >= *count
            }
        }
    }
}

fn seen_in(entries: &VecDeque<Entry>) -> BTreeSet<usize> {
    entries.iter().map(|entry| entry.rule).collect()
}

/// Whether these rules matched one after the other.
pub(super) fn in_order(rules: impl Iterator<Item = usize>, entries: &VecDeque<Entry>) -> bool {
    let mut wanted = rules.peekable();
    for entry in entries {
        if wanted.peek() == Some(&entry.rule) {
            wanted.next();
        }
    }
    wanted.peek().is_none()
}

/// Positions of the rules that a selector takes.
fn chosen(pattern: &SelectorPattern, rules: &[Looked]) -> Vec<usize> {
    let wanted = match pattern {
        SelectorPattern::Them => "*",
        SelectorPattern::Pattern(pattern) => pattern.as_str(),
    };
    let glob = Pattern::new(pieces(&SigmaString::new(wanted)), true);
    let fits = |name: &String| {
        let shown = wanted.starts_with('_') || !name.starts_with('_');
        shown && (glob.shape == Shape::Any || glob.matches(name, name))
    };
    let rules = rules.iter().enumerate();
    rules
        .filter(|(_, rule)| fits(&rule.written) || rule.names.iter().any(fits))
        .map(|(position, _)| position)
        .collect()
}
