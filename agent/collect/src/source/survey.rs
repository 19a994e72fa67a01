//! What each source can do on this host.

use std::io;

use fleetmend_event::table::{ProbeState, ProbeStatus};

use super::choice::{Can, Survey};
use super::connector::ConnectorSocket;
use super::{Kind, SourceName, SourcesConfig, audit, sockets};
use crate::process::proc_fs::ProcFs;

/// What would bring the kernel's own probes back.
const HINT_EBPF: &str = "let the agent load its probes: CAP_BPF and CAP_PERFMON, and a kernel with BTF";
/// What the connector needs.
const HINT_CONNECTOR: &str =
    "give the unit CAP_NET_ADMIN (the agent drops it after the start) and run it in the host's namespaces";
/// What auditd's log needs.
const HINT_AUDIT: &str = "where auditd runs, name its log in sources.audit_log and let the agent read it";

/// The kernel's probes, by what they said when they were loaded.
pub(crate) fn probes(survey: &mut Survey, statuses: &[ProbeStatus], traces_execs: bool) {
    for kind in Kind::ALL {
        let status = statuses.iter().find(|status| status.probe == kind.family_probe());
        let can = match status {
            None => Can::Not {
                reason: "this version has no such probes".to_owned(),
                hint: String::new(),
            },
            Some(status) => {
                let (reason, hint) = (status.reason.clone(), status.hint.clone());
                let silent = kind == Kind::Processes && !traces_execs;
                match status.state {
                    _ if silent => Can::Not { reason, hint },
                    ProbeState::Real => Can::Fully,
                    ProbeState::Degraded => Can::Partly { reason, hint },
                    ProbeState::Broken => Can::Not { reason, hint },
                }
            }
        };
        survey.note(kind, SourceName::Ebpf, can);
    }
}

/// Everything but the probes; the connector is believed to work until it is joined.
pub(crate) fn others(survey: &mut Survey, config: &SourcesConfig, proc: &ProcFs) {
    audit_log(survey, config);
    connector(survey, None);
    let tables = match sockets::works(proc) {
        Ok(refused) => {
            let missed = format!(
                "the socket tables are read every {} ms: connections that begin and end between two readings are missed, \
                 and what was sent is not known",
                config.socket_poll_ms
            );
            Can::Partly {
                reason: refused.map_or_else(|| missed.clone(), |refused| format!("{missed}; {refused}")),
                hint: HINT_EBPF.to_owned(),
            }
        }
        Err(reason) => Can::Not {
            reason,
            hint: "check that /proc is mounted and that the unit allows AF_NETLINK".to_owned(),
        },
    };
    survey.note(Kind::Network, SourceName::SocketTable, tables);
    let proc = Can::Partly {
        reason: "/proc is read each second: processes that live shorter are missed".to_owned(),
        hint: HINT_EBPF.to_owned(),
    };
    survey.note(Kind::Processes, SourceName::Proc, proc);
}

fn audit_log(survey: &mut Survey, config: &SourcesConfig) {
    let log = config.audit_log.display();
    let evidence = audit::evidence(&config.audit_log);
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| kind.sources().contains(&SourceName::Audit));
    for kind in kinds {
        let can = match &evidence {
            Err(error) => Can::Not {
                reason: format!("{log}: {error}"),
                hint: HINT_AUDIT.to_owned(),
            },
            Ok(kinds) if kinds.contains(&kind) => Can::Partly {
                reason: "what auditd's rules do not ask for is not told".to_owned(),
                hint: "docs/sources.md has the rules for it".to_owned(),
            },
            Ok(_) => Can::Perhaps {
                reason: format!("the end of {log} holds no call of this kind"),
                hint: "add the rules of docs/sources.md to auditd".to_owned(),
            },
        };
        survey.note(kind, SourceName::Audit, can);
    }
}

/// The connector, by what became of joining it.
pub(crate) fn connector(survey: &mut Survey, refused: Option<&str>) {
    for (kind, missed) in [
        (
            Kind::Processes,
            "arguments and paths of programs that end within about a millisecond are missed in part; rows say so",
        ),
        (
            Kind::Credentials,
            "changes of users and groups are told, of capabilities alone not, and not by which call",
        ),
        (
            Kind::Memory,
            "only ptrace that attaches, and executions without a file, are told",
        ),
    ] {
        let can = match refused {
            Some(reason) => Can::Not {
                reason: reason.to_owned(),
                hint: HINT_CONNECTOR.to_owned(),
            },
            None => Can::Partly {
                reason: missed.to_owned(),
                hint: HINT_EBPF.to_owned(),
            },
        };
        survey.note(kind, SourceName::Connector, can);
    }
}

/// Joins the connector; the error is the kernel's refusal in words.
pub(crate) fn join(config: &SourcesConfig) -> Result<ConnectorSocket, String> {
    ConnectorSocket::join(config.connector_buffer_bytes).map_err(|error| {
        let source = &error.source;
        let why = match source.raw_os_error() {
            Some(libc::EPERM) => ": CAP_NET_ADMIN is missing",
            Some(libc::EPROTONOSUPPORT) => ": this kernel has no connector (CONFIG_CONNECTOR)",
            _ if source.kind() == io::ErrorKind::TimedOut => {
                ": this kernel has no process events (CONFIG_PROC_EVENTS), or the agent is in a namespace of its own"
            }
            _ => "",
        };
        format!("{error}: {source}{why}")
    })
}
