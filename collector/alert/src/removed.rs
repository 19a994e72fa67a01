//! Hosts that are in the fleet no more: their alerts are over, and nothing of them begins one.
//!
//! Nothing is heard of such a host again, so that no row and no sample would ever end its alerts.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use fleetmend_control::{ControlError, Transaction};
use fleetmend_event::{HostId, TimeMicros};
use parking_lot::Mutex;

use crate::apply::close;
use crate::error::AlertError;
use crate::query::QueryError;
use crate::store::{self, State};
use crate::task::Shared;

const SUMMARY: &str = "its host was removed from the fleet; whether it still holds is not known";

/// Knows who left the fleet. The binary's wiring implements it over enrolment.
///
/// # Cancel safety
/// The future may be dropped.
#[async_trait]
pub trait RemovedHosts: Send + Sync + 'static {
    /// Every host that left the fleet or was taken out of it.
    async fn removed(&self) -> Result<BTreeSet<HostId>, QueryError>;
}

/// Who was removed, as far as was read.
#[derive(Default)]
pub(crate) struct Removed {
    source: OnceLock<Arc<dyn RemovedHosts>>,
    known: Mutex<Arc<BTreeSet<HostId>>>,
}

impl Removed {
    pub(crate) fn ask(&self, source: Arc<dyn RemovedHosts>) {
        self.source.get_or_init(|| source);
    }

    pub(crate) fn hosts(&self) -> Arc<BTreeSet<HostId>> {
        self.known.lock().clone()
    }
}

/// Reads who was removed, and ends their alerts.
pub(crate) async fn round(shared: &Shared) -> Result<(), AlertError> {
    let Some(source) = shared.removed.source.get() else {
        return Ok(());
    };
    let hosts = Arc::new(source.removed().await?);
    *shared.removed.known.lock() = hosts.clone();
    if hosts.is_empty() {
        return Ok(());
    }
    let write = async {
        let mut transaction = shared.pool.begin("alert").await?;
        shared.confirm(&mut transaction).await?;
        end(&mut transaction, &hosts, TimeMicros::now()).await?;
        transaction.commit().await
    };
    let wrap = AlertError::database("end alerts of hosts that were removed");
    write.await.map_err(wrap)
}

async fn end(
    transaction: &mut Transaction,
    hosts: &BTreeSet<HostId>,
    now: TimeMicros,
) -> Result<(), ControlError> {
    for state in [State::Pending, State::Waiting, State::Firing] {
        for mut alert in store::in_state(transaction, state, None).await? {
            if !alert.host_id.is_some_and(|host| hosts.contains(&host)) {
                continue;
            }
            if state == State::Pending {
                store::remove(transaction, &alert.alert_id).await?;
                continue;
            }
            SUMMARY.clone_into(&mut alert.summary);
            close(transaction, alert, State::Resolved, now).await?;
        }
    }
    Ok(())
}
