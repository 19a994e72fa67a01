//! Findings of the collector itself, as the store keeps them.

use std::sync::Arc;

use async_trait::async_trait;
use collector_ingest::enrol::FindingSink;
use collector_store::FactStore;
use fleetmend_event::table::Finding;
use fleetmend_event::{Fact, HostId};
use fleetmend_shutdown::BoxError;

/// Stores them under the host that they are about.
pub(crate) struct FindingAdapter(pub(crate) Arc<dyn FactStore>);

#[async_trait]
impl FindingSink for FindingAdapter {
    async fn tell(&self, host: HostId, finding: Finding) -> Result<(), BoxError> {
        Ok(self.0.append_for(host, vec![Fact::from(finding)]).await?)
    }
}

#[cfg(test)]
mod tests;
