//! Opens the healer, brings to rest what was cut short, and serves.

use std::sync::Arc;

use fleetmend_shutdown::Tasks;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::engine::Healer;
use crate::error::OpenError;
use crate::interrupt::Never;
use crate::metrics;
use crate::remedy::Host;
use crate::server::{self, Access};

/// Starts the healer's tasks. Blocks while it recovers, so that nothing new is taken up before.
///
/// # Errors
/// [`OpenError`] when its files, users or socket are not as they must be.
pub fn start(config: &Config, tasks: &Tasks) -> Result<Healer, OpenError> {
    metrics::describe();
    let access = Access::of(config)?;
    let healer = Healer::open(
        config.options(),
        Host::here(),
        Arc::new(SystemClock),
        Arc::new(Never),
    )?;
    if let Some(path) = &config.policy_file {
        match std::fs::read(path) {
            // A refusal is logged and in the ledger; the policy before stays in force.
            Ok(envelope) => drop(healer.install_policy(&envelope)),
            Err(error) => tracing::error!(path = %path.display(), %error, "policy file cannot be read"),
        }
    }
    healer.recover();
    let listener = server::bind(&config.socket, &config.socket_group)?;
    server::serve(listener, healer.clone(), access, tasks);
    Ok(healer)
}
