//! Opens the healer, brings to rest what was cut short, and serves.

use std::sync::Arc;

use fleetmend_identity::files::private_folder;
use fleetmend_shutdown::Tasks;

use crate::anchors;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::engine::Healer;
use crate::error::OpenError;
use crate::interrupt::Never;
use crate::metrics;
use crate::remedy::Host;
use crate::server::{self, Access};

/// What would keep [`start`] from starting, as far as it can be told without making or changing anything. What
/// has to belong to root is looked at by root only.
pub fn obstacles(config: &Config) -> Vec<OpenError> {
    let mut found = Access::obstacles(config);
    found.extend(server::group_id(&config.socket_group).err());
    if rustix::process::geteuid().is_root() {
        found.extend(anchors::who_we_are(&config.options()).err());
        if config.state_dir.exists() {
            found.extend(private_folder(&config.state_dir).err().map(OpenError::from));
        }
    }
    found
}

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
