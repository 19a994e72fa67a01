//! systemd, over D-Bus.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use zbus::zvariant::{OwnedObjectPath, OwnedValue};

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const DESTINATION: &str = "org.freedesktop.systemd1";
const ROOT: &str = "/org/freedesktop/systemd1";
/// A call of the bus that takes longer has failed.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// What remedies want of the service manager.
pub trait Units: Send + Sync {
    /// Whether there is one.
    ///
    /// # Errors
    /// Why not.
    fn applicable(&self) -> Result<(), String>;
    /// State of a unit: `active`, `failed`, `inactive` and so on.
    ///
    /// # Errors
    /// Why it cannot be told.
    fn active_state(&self, unit: &str) -> Result<String, String>;
    /// Asks for a restart.
    ///
    /// # Errors
    /// Why it was not taken.
    fn restart(&self, unit: &str) -> Result<(), String>;
}

/// The real one. Its calls block: they are made from threads of transactions.
#[derive(Debug, Clone, Copy)]
pub struct Systemd;

impl Units for Systemd {
    fn applicable(&self) -> Result<(), String> {
        if Path::new("/run/systemd/system").is_dir() {
            Ok(())
        } else {
            Err("systemd is not running (there is no /run/systemd/system)".to_owned())
        }
    }

    fn active_state(&self, unit: &str) -> Result<String, String> {
        self.applicable()?;
        block_on(async {
            let bus = zbus::Connection::system().await?;
            let reply = bus
                .call_method(Some(DESTINATION), ROOT, Some(MANAGER), "LoadUnit", &(unit,))
                .await?;
            let path: OwnedObjectPath = reply.body().deserialize()?;
            let properties = Some("org.freedesktop.DBus.Properties");
            let wanted = ("org.freedesktop.systemd1.Unit", "ActiveState");
            let reply = bus
                .call_method(Some(DESTINATION), path.as_str(), properties, "Get", &wanted)
                .await?;
            let value: OwnedValue = reply.body().deserialize()?;
            Ok(String::try_from(value)?)
        })
    }

    fn restart(&self, unit: &str) -> Result<(), String> {
        self.applicable()?;
        block_on(async {
            let bus = zbus::Connection::system().await?;
            bus.call_method(
                Some(DESTINATION),
                ROOT,
                Some(MANAGER),
                "RestartUnit",
                &(unit, "replace"),
            )
            .await?;
            Ok(())
        })
    }
}

fn block_on<T>(call: impl Future<Output = Result<T, zbus::Error>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime for D-Bus: {error}"))?;
    runtime.block_on(async {
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(answer) => answer.map_err(|error| format!("systemd: {error}")),
            Err(_) => Err(format!(
                "systemd did not answer within {} s",
                CALL_DEADLINE.as_secs()
            )),
        }
    })
}
