//! Following the fleet's keys: the bundle that is trusted after the one of enrolment.

use std::sync::PoisonError;

use super::Healer;
use crate::anchors;
use crate::error::TrustError;
use crate::ledger::Kind;

impl Healer {
    /// Takes over a trust bundle that a root of the one in force signed; whoever brings it is not believed. The kept
    /// policy is judged by it at once: what a retired root signed is not in force any more.
    ///
    /// # Errors
    /// Why it was refused; what was trusted before stays so.
    pub fn advance_trust(&self, bundle: &[u8]) -> Result<(), TrustError> {
        let outcome = {
            // Held over the files too: of two bundles at once each is judged by what the other left.
            let mut state = self.state();
            let outcome = anchors::advance(&self.inner.options, bundle);
            match anchors::who_we_are(&self.inner.options) {
                Ok(us) if matches!(outcome, Ok(true)) => state.policy.judge_again(us),
                // It may have been enrolled anew since.
                Ok(us) => state.policy.know(us),
                Err(error) => tracing::error!(%error, "trust bundle of this host cannot be read"),
            }
            outcome
        };
        match &outcome {
            Ok(true) => self.tell_advanced(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "trust bundle refused");
                // As with policies: rubbish without end must not fill the ledger.
                let mut rate = self
                    .inner
                    .proposing
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if rate.refuses(self.now()).is_none() {
                    drop(rate);
                    self.note(Kind::Policy, error.to_string());
                }
            }
        }
        outcome.map(|_| ())
    }

    fn tell_advanced(&self) {
        let (version, fault) = {
            let state = self.state();
            let version = state.policy.bundle_version().unwrap_or(0);
            (version, state.policy.fault().map(str::to_owned))
        };
        tracing::info!(version, "took over the fleet's newer trust bundle");
        let mut note = format!("trust bundle {version} taken over");
        if let Some(fault) = fault {
            tracing::error!(fault, "installed policy is not in force any more");
            note = format!("{note}; the policy is not in force any more: {fault}");
        }
        self.note(Kind::Policy, note);
    }
}
