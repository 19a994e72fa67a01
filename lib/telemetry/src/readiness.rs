use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// Whether one condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum State {
    /// It does.
    Ready,
    /// It does not, and why.
    NotReady(String),
}

/// The named conditions of this process; it is ready when all of them are. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<watch::Sender<BTreeMap<&'static str, State>>>,
}

impl Readiness {
    /// Conditions that must be met, none of them met yet.
    pub fn new(conditions: &[&'static str]) -> Self {
        let starting = |name: &&'static str| (*name, State::NotReady("starting".to_owned()));
        Self {
            conditions: Arc::new(watch::Sender::new(conditions.iter().map(starting).collect())),
        }
    }

    /// Sets a condition, also one that was not named at first.
    pub fn set(&self, condition: &'static str, state: State) {
        let changed = self.conditions.send_if_modified(|all| {
            let changed = all.get(condition) != Some(&state);
            if changed {
                all.insert(condition, state.clone());
            }
            changed
        });
        if changed {
            match &state {
                State::Ready => tracing::info!(condition, "ready"),
                State::NotReady(reason) => tracing::warn!(condition, reason, "not ready"),
            }
        }
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        all_ready(&self.conditions.borrow())
    }

    /// Every condition as it is now.
    pub fn conditions(&self) -> BTreeMap<&'static str, State> {
        self.conditions.borrow().clone()
    }

    /// Waits until all conditions hold; the caller sets the deadline.
    ///
    /// # Cancel safety
    /// Holds no state; may be dropped at any time.
    pub async fn wait_until_ready(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        if self.conditions.subscribe().wait_for(all_ready).await.is_err() {
            tracing::debug!("readiness is gone");
        }
    }
}

fn all_ready(conditions: &BTreeMap<&'static str, State>) -> bool {
    conditions.values().all(|state| *state == State::Ready)
}
