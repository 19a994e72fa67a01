//! A control database for one test, on either engine.
//!
//! A suite runs on SQLite; a test that calls [`on_postgresql_too`] runs the whole suite of its program once more, as a
//! process of its own, where [`TestControl::new`] makes databases of a real PostgreSQL.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fleetmend_control::{Control, ControlConfig, ControlError, Engine};

use crate::postgres::{PostgresServer, TestDatabase};

/// Says which engine a process of tests is to use.
const ENGINE: &str = "FLEETMEND_TEST_CONTROL";
const POSTGRESQL: &str = "postgresql";

/// A control database, gone when dropped.
#[derive(Debug)]
pub struct TestControl {
    config: ControlConfig,
    path: PathBuf,
    database: Option<TestDatabase>,
    folder: tempfile::TempDir,
}

impl TestControl {
    /// An empty one, on the engine that this process is to use.
    pub fn new() -> Result<Self> {
        let engine = std::env::var(ENGINE).is_ok_and(|engine| engine == POSTGRESQL);
        Self::of(if engine { Engine::Postgres } else { Engine::Sqlite })
    }

    /// An empty one of this engine.
    pub fn of(engine: Engine) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("control.sqlite");
        let mut config = ControlConfig::of(format!("sqlite://{}", path.display()));
        let mut database = None;
        if engine == Engine::Postgres {
            let of_server = PostgresServer::shared()?.database()?;
            config = ControlConfig::of(of_server.url());
            config.password_file = Some(of_server.server().password_file());
            database = Some(of_server);
        }
        Ok(Self {
            config,
            path,
            database,
            folder,
        })
    }

    /// Opens it; again for another collector, or after a restart.
    pub async fn open(&self) -> Result<Control, ControlError> {
        Control::open(&self.config, &self.path).await
    }

    /// How it is opened.
    pub fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// Everything that is kept, as bytes to look for a secret in.
    pub fn dump(&self) -> Result<Vec<u8>> {
        if let Some(database) = &self.database {
            return database.server().dump(database.name());
        }
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(self.folder.path())? {
            bytes.extend(std::fs::read(entry?.path())?);
        }
        Ok(bytes)
    }

    /// The database, where it is one of PostgreSQL.
    pub fn database(&self) -> Option<&TestDatabase> {
        self.database.as_ref()
    }
}

/// Runs the tests of this program whose names begin with `prefix` once more, on PostgreSQL. `name` is the name of the
/// calling test, which does nothing in that process.
pub fn on_postgresql_too(prefix: &str, name: &str) -> Result<()> {
    if std::env::var_os(ENGINE).is_some() {
        return Ok(());
    }
    let done = Command::new(std::env::current_exe()?)
        .args([prefix, "--skip", name])
        .env(ENGINE, POSTGRESQL)
        .output()
        .context("run the suite once more")?;
    let said = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        bail!(
            "the suite failed on PostgreSQL:\n{said}\n{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    if said.contains("running 0 tests") || said.contains("; 0 passed") || said.contains(" 0 passed;") {
        bail!("no test has a name that begins with {prefix:?}");
    }
    Ok(())
}
