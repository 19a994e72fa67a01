//! Where facts go: the consumer's side of the agent's hub.

use async_trait::async_trait;
use fleetmend_event::Fact;
use tokio::sync::mpsc;

use crate::SinkClosed;

/// Takes facts over. When it returns, they are as safe as the agent can make them: an implementation that
/// returns once they are on the disk loses none of the healer's entries when the agent dies.
#[async_trait]
pub trait FactSink: Send + Sync + 'static {
    /// Takes these facts, in order; waits while there is no room.
    ///
    /// # Errors
    /// When the agent is ending.
    async fn deliver(&self, facts: Vec<Fact>) -> Result<(), SinkClosed>;
}

/// Safe as long as the process lives.
#[async_trait]
impl FactSink for mpsc::Sender<Fact> {
    async fn deliver(&self, facts: Vec<Fact>) -> Result<(), SinkClosed> {
        for fact in facts {
            self.send(fact).await.map_err(|_| SinkClosed)?;
        }
        Ok(())
    }
}
