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

/// What a unit is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitNames {
    /// The name of its own.
    pub id: String,
    /// Other names of the same unit.
    pub aliases: Vec<String>,
}

impl UnitNames {
    /// Every name.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        [&self.id].into_iter().chain(&self.aliases).map(String::as_str)
    }
}

/// What remedies want of the service manager.
pub trait Units: Send + Sync {
    /// Whether there is one.
    ///
    /// # Errors
    /// Why not.
    fn applicable(&self) -> Result<(), String>;
    /// All names of a unit. Changes nothing.
    ///
    /// # Errors
    /// Why they cannot be told.
    fn names(&self, unit: &str) -> Result<UnitNames, String>;
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

    fn names(&self, unit: &str) -> Result<UnitNames, String> {
        self.applicable()?;
        block_on(async {
            let id = String::try_from(property(unit, "Id").await?)?;
            let mut aliases = Vec::<String>::try_from(property(unit, "Names").await?)?;
            // What was asked for is a name of it, whether or not it is listed.
            aliases.push(unit.to_owned());
            aliases.retain(|name| *name != id);
            Ok(UnitNames { id, aliases })
        })
    }

    fn active_state(&self, unit: &str) -> Result<String, String> {
        self.applicable()?;
        block_on(async { Ok(String::try_from(property(unit, "ActiveState").await?)?) })
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

/// A property of a unit, which systemd loads for it when it has not yet.
async fn property(unit: &str, name: &str) -> Result<OwnedValue, zbus::Error> {
    let bus = zbus::Connection::system().await?;
    let reply = bus
        .call_method(Some(DESTINATION), ROOT, Some(MANAGER), "LoadUnit", &(unit,))
        .await?;
    let path: OwnedObjectPath = reply.body().deserialize()?;
    let properties = Some("org.freedesktop.DBus.Properties");
    let wanted = ("org.freedesktop.systemd1.Unit", name);
    let reply = bus
        .call_method(Some(DESTINATION), path.as_str(), properties, "Get", &wanted)
        .await?;
    reply.body().deserialize()
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
