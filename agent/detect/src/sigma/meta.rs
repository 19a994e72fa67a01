//! What a rule says of itself: its names, how grave it is, and the ATT&CK tactics and techniques among its tags.

use fleetmend_event::table::Severity;
use rsigma_parser::{CorrelationRule, Level, SigmaRule};

/// What a finding of a rule says of it.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    /// Its id, or its title where it has none.
    pub(crate) key: String,
    pub(crate) name: Option<String>,
    pub(crate) title: String,
    pub(crate) severity: Severity,
    pub(crate) techniques: Vec<String>,
    pub(crate) tactics: Vec<String>,
}

impl Meta {
    pub(super) fn of_rule(rule: &SigmaRule) -> Self {
        Self::new((&rule.id, &rule.name, &rule.title), rule.level, &rule.tags)
    }

    pub(super) fn of_correlation(rule: &CorrelationRule) -> Self {
        Self::new((&rule.id, &rule.name, &rule.title), rule.level, &rule.tags)
    }

    fn new(
        (id, name, title): (&Option<String>, &Option<String>, &str),
        level: Option<Level>,
        tags: &[String],
    ) -> Self {
        Self {
            key: id.clone().unwrap_or_else(|| title.to_owned()),
            name: name.clone(),
            title: title.to_owned(),
            severity: severity(level),
            techniques: techniques(tags),
            tactics: tactics(tags),
        }
    }
}

fn severity(level: Option<Level>) -> Severity {
    match level {
        Some(Level::Informational) => Severity::Info,
        Some(Level::Low) => Severity::Low,
        Some(Level::Medium) | None => Severity::Medium,
        Some(Level::High) => Severity::High,
        Some(Level::Critical) => Severity::Critical,
    }
}

/// ATT&CK techniques among a rule's tags: `attack.t1059.004` is `T1059.004`.
fn techniques(tags: &[String]) -> Vec<String> {
    let technique = |tag: &String| {
        let name = tag.strip_prefix("attack.")?;
        let number = name.strip_prefix(['t', 'T'])?;
        number
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| name.to_ascii_uppercase())
    };
    tags.iter().filter_map(technique).collect()
}

/// ATT&CK tactics among a rule's tags: `attack.command-and-control`.
pub(super) fn tactics(tags: &[String]) -> Vec<String> {
    let is_tactic = |name: &&str| !name.is_empty() && !name.chars().any(|letter| letter.is_ascii_digit());
    tags.iter()
        .filter_map(|tag| tag.strip_prefix("attack."))
        .filter(is_tactic)
        .map(str::to_owned)
        .collect()
}
