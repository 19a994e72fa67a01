//! Turns: of several collectors over one store one at a time feeds a target, with all its signals.
//!
//! It is whoever has the lease `export/<target>`. Where the target stands is read when a turn begins, and is kept only
//! under the lease: every transaction that keeps it makes sure of that. So a target is handed over with what it has, and
//! who lost it overwrites nothing of who came after. A turn that is lost ends before another can begin, except for a
//! request that is under way. A store that is one collector's alone needs no lease: nobody else could feed from it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use fleetmend_control::{Control, ControlError, Held, Leases, Tenure, Transaction};
use fleetmend_shutdown::{CancellationToken, Tasks};

use crate::error::{ExportError, SourceError};
use crate::status::Gauge;

/// How long a target waits when the collector that fed it died without giving it up.
const LEASE_LIFE: Duration = Duration::from_secs(15);

/// The turns of this process.
pub(crate) struct Turns {
    /// None where it is always this one's turn.
    leases: Option<Leases>,
    tasks: Tasks,
    tenures: HashMap<String, Tenure>,
}

impl Turns {
    /// Those over a store of one's own, which have no end.
    pub(crate) fn alone(tasks: Tasks) -> Self {
        Self {
            leases: None,
            tasks,
            tenures: HashMap::new(),
        }
    }

    /// Those over a store that others may share. Leases are held by `tasks`, and given up when these end; whoever feeds
    /// has to end before them.
    pub(crate) fn shared(control: &Control, tasks: Tasks) -> Self {
        Self {
            leases: Some(Leases::new(control.clone(), "export", LEASE_LIFE)),
            ..Self::alone(tasks)
        }
    }

    /// Those at one target, from now on.
    pub(crate) fn at(&mut self, target: &str) -> Option<Tenure> {
        let leases = self.leases.as_ref()?;
        let hold = || leases.hold(&format!("export/{target}"), &self.tasks);
        Some(self.tenures.entry(target.to_owned()).or_insert_with(hold).clone())
    }
}

/// A turn of this collector at one target.
pub(crate) struct Turn {
    /// Cancelled when it is over.
    pub(crate) token: CancellationToken,
    lease: Option<(Held, Tenure)>,
}

impl Turn {
    /// Whether no other can have begun.
    pub(crate) fn lasts(&self) -> bool {
        self.lease.as_ref().is_none_or(|(lease, tenure)| {
            let held = tenure.held();
            held.is_some_and(|held| held.token == lease.token)
        })
    }

    /// Makes sure inside a transaction that no other has begun.
    pub(crate) async fn confirm(&self, transaction: &mut Transaction) -> Result<(), ControlError> {
        match &self.lease {
            Some((lease, _)) => lease.confirm(transaction).await,
            None => Ok(()),
        }
    }
}

/// One signal of one target.
pub(crate) trait Feeding: Send {
    /// How it stands.
    fn gauge(&self) -> &Gauge;

    /// Feeds the target from where it stands until the turn is over.
    fn feed(&mut self, turn: &Turn) -> impl Future<Output = ()> + Send;
}

/// Feeds in every turn until `token` is cancelled.
pub(crate) async fn take_turns(mut feeding: impl Feeding, tenure: Option<Tenure>, token: CancellationToken) {
    let Some(mut tenure) = tenure else {
        let turn = Turn { token, lease: None };
        return feeding.feed(&turn).await;
    };
    feeding.gauge().stands_by();
    while let Some(held) = token.run_until_cancelled(tenure.wait()).await.flatten() {
        let turn = Turn {
            token: token.child_token(),
            lease: Some((held.clone(), tenure.clone())),
        };
        {
            let mut fed = pin!(feeding.feed(&turn));
            tokio::select! {
                biased;
                () = &mut fed => {}
                () = tenure.lost(&held) => {
                    turn.token.cancel();
                    fed.await;
                }
            }
        }
        feeding.gauge().stands_by();
    }
}

/// Why a signal stops being fed.
pub(crate) enum End {
    Stopped,
    Failed(ExportError),
}

impl From<ExportError> for End {
    fn from(error: ExportError) -> Self {
        End::Failed(error)
    }
}

impl From<SourceError> for End {
    fn from(error: SourceError) -> Self {
        End::Failed(error.into())
    }
}

/// Says that a round failed, and counts it.
pub(crate) fn failed(gauge: &Gauge, (target_name, signal): (&str, &str), error: &ExportError) {
    gauge.failed("round");
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(target_name, signal, %error, cause, "a round of export failed; it is done again");
}

#[cfg(test)]
impl Turn {
    /// One of a lease that is held elsewhere.
    pub(crate) fn of(lease: Held, tenure: Tenure) -> Self {
        Self {
            token: CancellationToken::new(),
            lease: Some((lease, tenure)),
        }
    }
}
