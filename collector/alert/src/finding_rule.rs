//! Which rule, if any, wants a finding.

use fleetmend_event::table::{Finding, SubjectKind};

use crate::promql::NO_HOST;
use crate::query::Stored;
use crate::rules::FindingRule;

/// Whether a finding is about alerting itself: it must not feed on its own work. What else the collector finds of
/// itself, such as a disk that fills up or a backup that is late, pages like any other.
pub(crate) fn is_own(finding: &Stored<Finding>) -> bool {
    let of_collector = finding.host_id == NO_HOST || finding.row.subject_kind == SubjectKind::Agent;
    of_collector && finding.row.rule.starts_with("alert")
}

/// The first rule that wants it.
pub(crate) fn wanted_by<'a>(rules: &'a [FindingRule], finding: &Stored<Finding>) -> Option<&'a FindingRule> {
    rules.iter().find(|rule| {
        let row = &finding.row;
        row.severity >= rule.severity
            && (rule.kinds.is_empty() || rule.kinds.contains(&row.kind))
            && (rule.rules.is_empty() || rule.rules.contains(&row.rule))
            && (rule.hosts.is_empty() || rule.hosts.contains(&finding.host_id))
    })
}
