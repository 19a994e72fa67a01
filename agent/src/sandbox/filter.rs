//! The seccomp filter: [`denied`](super::denied) as two programs, one that answers EPERM and one ENOSYS.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{SandboxError, denied};

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Installs the filter on this and all later threads; says how many calls it denies.
pub(super) fn install() -> Result<usize, SandboxError> {
    let architecture = std::env::consts::ARCH;
    let target = TargetArch::try_from(architecture).map_err(|_| SandboxError::Architecture(architecture))?;
    let rules = refused()?;
    let count = rules.len();
    let absent: Rules = denied::numbers(libc::SYS_clone3)
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect();
    for (rules, errno) in [(absent, libc::ENOSYS), (rules, libc::EPERM)] {
        let answer = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, target)?;
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(count)
}

/// An empty list of rules matches any arguments; several rules match when one of them does.
fn refused() -> Result<Rules, BackendError> {
    let mut rules: Rules = denied::calls()
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect();
    let namespaces = || {
        denied::CLONE_FLAGS
            .iter()
            .map(|flag| {
                let flag = u64::from(flag.unsigned_abs());
                first_argument(SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
            })
            .collect::<Result<Vec<SeccompRule>, BackendError>>()
    };
    let programs = || {
        denied::BPF_COMMANDS
            .iter()
            // The kernel looks at an int: the upper half may hold anything.
            .map(|command| first_argument(SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *command))
            .collect::<Result<Vec<SeccompRule>, BackendError>>()
    };
    for call in denied::numbers(libc::SYS_clone) {
        rules.insert(call, namespaces()?);
    }
    for call in denied::numbers(libc::SYS_bpf) {
        rules.insert(call, programs()?);
    }
    Ok(rules)
}

fn first_argument(
    length: SeccompCmpArgLen,
    comparison: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(0, length, comparison, value)?])
}
