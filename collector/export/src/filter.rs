//! Which metrics a target wants.

use regex::{Regex, RegexBuilder};

use crate::config::MetricFilter;

/// Bytes that a compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Expressions that are ready to match.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    allow: Vec<Regex>,
    deny: Vec<Regex>,
}

impl Filter {
    /// Those of the configuration.
    pub(crate) fn new(filter: &MetricFilter) -> Result<Self, String> {
        let all = |patterns: &[String]| {
            let patterns = patterns.iter();
            patterns
                .map(|pattern| whole(pattern))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            allow: all(&filter.allow)?,
            deny: all(&filter.deny)?,
        })
    }

    /// Whether a metric of this name is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let any = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(name));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

/// An expression that matches whole names, as Prometheus' relabelling does.
pub(crate) fn whole(pattern: &str) -> Result<Regex, String> {
    let wrong = |_| format!("holds {pattern:?}, which is no regular expression");
    // Alone first, so that what is unbalanced does not become balanced by the brackets around it.
    Regex::new(pattern).map_err(wrong)?;
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_are_matched_and_deny_wins() {
        let filter = |allow: &[&str], deny: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            Filter::new(&MetricFilter {
                allow: owned(allow),
                deny: owned(deny),
            })
        };
        assert!(filter(&[], &[]).unwrap().wants("anything"));
        let some = filter(&["system_.*|up"], &["system_disk.*"]).unwrap();
        assert!(some.wants("system_cpu_time") && some.wants("up"));
        assert!(!some.wants("system_disk_io") && !some.wants("my_system_x") && !some.wants("ups"));
        assert!(filter(&["a)(b"], &[]).is_err() && filter(&[], &["("]).is_err());
    }
}
