//! The fleet's trust bundles for the healer, from the collector that this host enrolled with.

use std::sync::Arc;

use agent_heal::trust::BundleSource;
use agent_stream::enrol::bundles_since;
use agent_stream::network::Dialer;
use async_trait::async_trait;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use fleetmend_shutdown::BoxError;

/// Asks the enrolment listener.
pub(crate) struct FleetBundles {
    /// How it is reached.
    pub(crate) dialer: Dialer,
    /// Who we are.
    pub(crate) identity: LiveIdentity,
    /// By which its certificate is judged.
    pub(crate) time: Arc<TrustedTime>,
}

#[async_trait]
impl BundleSource for FleetBundles {
    fn version(&self) -> u64 {
        self.identity.current().bundle().version
    }

    async fn since(&self, version: u64) -> Result<Vec<String>, BoxError> {
        Ok(bundles_since(&self.dialer, &self.identity, &self.time, version).await?)
    }
}
