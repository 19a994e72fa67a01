//! Which rule, if any, wants a finding.

use fleetmend_event::HostId;
use fleetmend_event::table::{Finding, SubjectKind};

use crate::query::Stored;
use crate::rules::FindingRule;

/// The collector itself, as the source of a fact.
const HOST_ZERO: HostId = HostId::from_bytes([0; 16]);

/// Whether a finding is about alerting itself: it must not feed on its own work.
pub(crate) fn is_own(finding: &Stored<Finding>) -> bool {
    let about_us = finding.row.subject_kind == SubjectKind::Agent && finding.row.rule.starts_with("alert");
    finding.host_id == HOST_ZERO || about_us
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
