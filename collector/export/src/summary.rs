//! One line for a person about a row.

use fleetmend_event::Fact;

/// What a row says.
pub(crate) fn summary(fact: &Fact) -> String {
    match fact {
        Fact::Metrics(_) => "metrics".to_owned(),
        Fact::ProcessEvent(row) => format!("{} pid {} ({})", row.kind, row.pid, row.comm),
        Fact::NetworkEvent(row) => format!(
            "{} {} [{}]:{} [{}]:{} by pid {} ({})",
            row.kind,
            row.protocol,
            row.local_address,
            row.local_port,
            row.remote_address,
            row.remote_port,
            row.pid,
            row.comm
        ),
        Fact::ProcessSnapshot(row) => format!("process {} ({}) is {}", row.pid, row.comm, row.state),
        Fact::UnitState(row) => format!("unit {} is {} ({})", row.unit, row.active_state, row.sub_state),
        Fact::SiteProbe(row) => format!("site {} is {}: {}", row.site, row.verdict, row.reason),
        Fact::ProbeStatus(row) => format!("probe {} is {}: {}", row.probe, row.state, row.reason),
        Fact::Finding(row) => format!("{} finding {}: {}", row.severity, row.state, row.title),
        Fact::Action(row) => format!(
            "remedy {} on {} {}: {}",
            row.remedy, row.target, row.stage, row.reason
        ),
        Fact::Ledger(row) => format!("ledger entry {}", row.index),
        Fact::Gap(row) => format!(
            "{} rows of {} lost in {}: {}",
            row.count, row.table, row.stage, row.reason
        ),
        Fact::HostInfo(row) => format!("host {} runs {} on {}", row.hostname, row.os, row.kernel),
        Fact::ModelStatus(row) => format!("model {} {} is {}", row.model, row.version, row.state),
        Fact::FileEvent(row) => {
            let target = row.target.as_ref().map(|target| format!(" -> {target}"));
            let target = target.unwrap_or_default();
            format!(
                "{} {}{target} by pid {} ({})",
                row.kind, row.path, row.pid, row.comm
            )
        }
        Fact::CredentialEvent(row) => format!(
            "{} of pid {} ({}) changed by {}",
            row.kind,
            row.pid,
            row.comm,
            row.call.as_deref().unwrap_or("an unknown call")
        ),
        Fact::MemoryEvent(row) => format!("{} by pid {} ({})", row.kind, row.pid, row.comm),
        Fact::KernelEvent(row) => format!(
            "{} {} by pid {} ({})",
            row.kind,
            row.name.as_deref().or(row.path.as_deref()).unwrap_or_default(),
            row.pid,
            row.comm
        ),
        Fact::SignalEvent(row) => format!(
            "{} {} to pid {} by pid {} ({})",
            row.kind, row.signal, row.target_pid, row.pid, row.comm
        ),
        Fact::SensorAccount(row) => format!(
            "sensor family {}: {} seen, {} delivered",
            row.family, row.seen, row.delivered
        ),
        Fact::IntegrityEvent(row) => format!("{} {}: {}, {}", row.class, row.path, row.change, row.verdict),
        Fact::SyscallProfile(row) => format!("system calls of pid {} ({})", row.pid, row.comm),
        Fact::LogRecord(row) => format!("{}: {}", row.identifier, row.message),
        Fact::AuthEvent(row) => format!("{} {} of {} at {}", row.outcome, row.kind, row.user, row.service),
    }
}
