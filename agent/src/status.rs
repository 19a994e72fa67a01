//! What `fleetmend-agent status` shows: the last row of every probe and model, the spool and the connection.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use agent_spool::SpoolHandle;
use agent_stream::StreamState;
use fleetmend_event::Fact;
use fleetmend_event::table::{FindingState, ModelStatus, ProbeStatus};
use fleetmend_identity::LiveIdentity;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Most probes, models and findings that are remembered.
const ENTRIES_MAX: usize = 1_024;

#[derive(Default)]
struct Board {
    probes: BTreeMap<String, ProbeStatus>,
    models: BTreeMap<String, ModelStatus>,
    findings: BTreeMap<String, String>,
}

/// The last states; clones are the same board.
#[derive(Clone, Default)]
pub(crate) struct StatusBoard(Arc<RwLock<Board>>);

impl StatusBoard {
    /// Remembers `fact` when it is a state.
    pub(crate) fn note(&self, fact: &Fact) {
        let wanted = matches!(
            fact,
            Fact::ProbeStatus(_) | Fact::ModelStatus(_) | Fact::Finding(_)
        );
        if !wanted {
            return;
        }
        let mut board = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match fact {
            Fact::ProbeStatus(row) => keep(&mut board.probes, row.probe.clone(), row.as_ref().clone()),
            Fact::ModelStatus(row) => keep(&mut board.models, row.model.clone(), row.as_ref().clone()),
            Fact::Finding(row) if row.state == FindingState::Resolved => {
                board.findings.remove(&row.finding_id.to_string());
            }
            Fact::Finding(row) => keep(
                &mut board.findings,
                row.finding_id.to_string(),
                format!("{}: {}", row.severity, row.title),
            ),
            _ => {}
        }
    }

    fn json(&self) -> Value {
        let board = self.0.read().unwrap_or_else(PoisonError::into_inner);
        json!({
            "probes": board.probes.values().collect::<Vec<_>>(),
            "models": board.models.values().collect::<Vec<_>>(),
            "findings": board.findings.values().collect::<Vec<_>>(),
        })
    }
}

fn keep<T>(map: &mut BTreeMap<String, T>, key: String, value: T) {
    if map.len() < ENTRIES_MAX || map.contains_key(&key) {
        map.insert(key, value);
    }
}

/// Everything `status` shows, gathered when it is asked for.
#[derive(Clone)]
pub(crate) struct StatusSource {
    /// Probes, models, findings.
    pub(crate) board: StatusBoard,
    /// What waits.
    pub(crate) spool: SpoolHandle,
    /// The connection.
    pub(crate) stream: watch::Receiver<StreamState>,
    /// Who this host is.
    pub(crate) identity: LiveIdentity,
}

impl StatusSource {
    /// One JSON object.
    pub(crate) fn json(&self) -> Value {
        let identity = self.identity.current();
        let mut status = self.board.json();
        let more = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "host_id": identity.host().to_string(),
            "fleet": identity.fleet().to_string(),
            "certificate_not_after": identity.peer().not_after,
            "collectors": identity.collectors(),
            "stream": *self.stream.borrow(),
            "spool": self.spool.stat(),
        });
        if let (Value::Object(status), Value::Object(more)) = (&mut status, more) {
            status.extend(more);
        }
        status
    }
}
