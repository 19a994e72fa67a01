//! Views: questions that analysts ask again and again, under a name.
//!
//! A view is SQL over the tables, planned in the session of the query that names it, so that it sees what the query
//! may see and no more. `docs/specs/sql.md` lists the columns of each; a test holds it to them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use parking_lot::Mutex;

/// A view.
pub(crate) struct View {
    pub(crate) name: &'static str,
    /// What its rows are, for the documentation.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the documentation, which a test writes")
    )]
    pub(crate) about: &'static str,
    sql: &'static str,
}

/// The views that a query names, planned.
pub(crate) type Planned = Arc<Mutex<HashMap<&'static str, Arc<dyn TableProvider>>>>;

/// Every view. None stands on another.
pub(crate) const VIEWS: [View; 14] = [
    View {
        name: "execs",
        about: "Programs that were started.",
        sql: "SELECT time, host_id, pid, ppid, comm, exe, args, parent_comm, parent_exe, uid, gid, unit, container_id, \
              ingested_at FROM process_events WHERE kind = 'exec'",
    },
    View {
        name: "exits",
        about: "Processes that ended, and how.",
        sql: "SELECT time, host_id, pid, ppid, comm, exe, exit_code, exit_signal, duration_us, user_us, system_us, \
              rss_bytes_max, unit, container_id, ingested_at FROM process_events WHERE kind = 'exit'",
    },
    View {
        name: "connections",
        about: "Connections that were made, taken or ended.",
        sql: "SELECT time, host_id, kind, pid, comm, uid, protocol, local_address, local_port, remote_address, \
              remote_port, bytes_sent, bytes_received, duration_us, error, ingested_at FROM network_events \
              WHERE kind IN ('connect', 'accept', 'close')",
    },
    View {
        name: "listeners",
        about: "Ports that processes began to listen on.",
        sql: "SELECT time, host_id, pid, comm, uid, protocol, local_address, local_port, ingested_at \
              FROM network_events WHERE kind = 'listen'",
    },
    View {
        name: "file_changes",
        about: "What was done to files, and by whom; reads of secrets left out.",
        sql: "SELECT time, host_id, kind, path, target, mode, owner_uid, error, repeats, pid, comm, exe, parent_comm, \
              uid, login_uid, unit, container_id, ingested_at FROM file_events WHERE kind <> 'open_read'",
    },
    View {
        name: "integrity_changes",
        about: "Watched files that changed and that no package manager explains.",
        sql: "SELECT time, host_id, path, class, change, verdict, old_sha256, new_sha256, package, pid, comm, exe, \
              chain, uid, login_uid, source, ingested_at FROM integrity_events WHERE verdict <> 'package'",
    },
    View {
        name: "failed_logins",
        about: "Logins that were refused, by address and account.",
        sql: "SELECT host_id, remote_address, \"user\", service, sum(repeats) AS failures, min(time) AS first_time, \
              max(time) AS last_time FROM auth_events WHERE kind = 'login' AND outcome = 'failure' \
              GROUP BY host_id, remote_address, \"user\", service",
    },
    View {
        name: "latest_findings",
        about: "The present state of each finding.",
        sql: "SELECT host_id, finding_id, time, kind, rule, title, severity, state, first_time, count, score, \
              subject_kind, subject, techniques, tactics FROM (SELECT *, row_number() OVER \
              (PARTITION BY host_id, finding_id ORDER BY time DESC, ingested_at DESC) AS recency FROM findings) \
              WHERE recency = 1",
    },
    View {
        name: "action_outcomes",
        about: "One row per healing transaction: `ending` is null while it has none.",
        sql: "SELECT host_id, action_id, max(finding_id) AS finding_id, max(remedy) AS remedy, max(target) AS target, \
              min(time) AS started_at, max(time) AS last_time, max(ending) AS ending, count(*) AS steps \
              FROM actions GROUP BY host_id, action_id",
    },
    View {
        name: "host_latest",
        about: "What each host last said of itself.",
        sql: "SELECT host_id, hostname, time, os, kernel, arch, cpu_count, memory_bytes, boot_time, agent_version, \
              healing FROM (SELECT *, row_number() OVER (PARTITION BY host_id ORDER BY time DESC, ingested_at DESC) \
              AS recency FROM host_info) WHERE recency = 1",
    },
    View {
        name: "unit_latest",
        about: "The last state of each systemd unit.",
        sql: "SELECT host_id, unit, time, active_state, sub_state, load_state, result, main_pid, restart_count FROM \
              (SELECT *, row_number() OVER (PARTITION BY host_id, unit ORDER BY time DESC, ingested_at DESC) \
              AS recency FROM units) WHERE recency = 1",
    },
    View {
        name: "site_latest",
        about: "The last verdict of each host on each site.",
        sql: "SELECT host_id, site, url, time, verdict, reason, http_status, total_ms, certificate_not_after FROM \
              (SELECT *, row_number() OVER (PARTITION BY host_id, site ORDER BY time DESC, ingested_at DESC) \
              AS recency FROM site_probes) WHERE recency = 1",
    },
    View {
        name: "probe_latest",
        about: "What each probe of each host last said that it delivers.",
        sql: "SELECT host_id, probe, time, state, reason, hint, seen, delivered, lost FROM (SELECT *, row_number() OVER \
              (PARTITION BY host_id, probe ORDER BY time DESC, ingested_at DESC) AS recency FROM probe_status) \
              WHERE recency = 1",
    },
    View {
        name: "losses",
        about: "Known losses, summed up: `at_least` says that the count may be larger.",
        sql: "SELECT host_id, \"table\", stage, reason, count(*) AS gaps, sum(count) AS count, \
              bool_or(exactness <> 'exact') AS at_least, min(from_time) AS from_time, max(to_time) AS to_time \
              FROM gaps GROUP BY host_id, \"table\", stage, reason",
    },
];

/// Whether a view has this name.
pub(crate) fn is_view(name: &str) -> bool {
    VIEWS.iter().any(|view| view.name == name)
}

/// Plans the views that `query` may name: those whose name stands anywhere in its text, and all of them where it asks
/// what there is.
pub(crate) async fn plan_named(context: &SessionContext, query: &str, planned: &Planned) -> Result<()> {
    let text = query.to_ascii_lowercase();
    let asks_for_all = ["information_schema", "show", "describe"]
        .iter()
        .any(|word| text.contains(word));
    for view in &VIEWS {
        if asks_for_all || text.contains(view.name) {
            let provider = context.sql(view.sql).await?.into_view();
            planned.lock().insert(view.name, provider);
        }
    }
    Ok(())
}
