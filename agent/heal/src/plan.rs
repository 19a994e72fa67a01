//! Diagnosis: which remedies could help against a finding, the mildest first.
//!
//! To add a rule that leads to a remedy: an arm here, and a grant in the healer's policy.

use fleetmend_event::remedy::{ProcessRef, Remedy};
use fleetmend_event::table::{Finding, SubjectKind};

use crate::Config;

/// What could be done, or why nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Diagnosis {
    /// One after the other, until one helps. At least one.
    Candidates(Vec<Remedy>),
    /// No remedy is known for this.
    None(String),
}

/// The diagnosis of a finding.
pub fn diagnose(finding: &Finding, config: &Config) -> Diagnosis {
    match (finding.rule.as_str(), finding.subject_kind) {
        ("runaway-process", SubjectKind::Process) => match process_of(finding) {
            Some(process) => {
                let cpu_core_pct = config.throttle_cpu_core_pct;
                Diagnosis::Candidates(vec![
                    Remedy::ThrottleProcess {
                        process: process.clone(),
                        cpu_core_pct,
                    },
                    Remedy::KillProcess { process },
                ])
            }
            None => Diagnosis::None("the finding does not say which process, with its start time".to_owned()),
        },
        ("filesystem-full", SubjectKind::Filesystem) => Diagnosis::Candidates(vec![Remedy::FreeDisk {
            path: finding.subject.clone(),
            used_pct_target: config.free_disk_used_pct,
        }]),
        ("unit-failed", SubjectKind::Unit) => Diagnosis::Candidates(vec![Remedy::RestartUnit {
            unit: finding.subject.clone(),
        }]),
        (rule, _) => Diagnosis::None(format!("no remedy is known for {rule}")),
    }
}

fn process_of(finding: &Finding) -> Option<ProcessRef> {
    let (pid, start_boot_ns) = (finding.pid?, finding.start_boot_ns?);
    Some(ProcessRef {
        pid,
        start_boot_ns,
        comm: finding.subject.clone(),
    })
}
