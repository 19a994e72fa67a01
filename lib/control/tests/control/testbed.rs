//! A control database of either engine, thrown away afterwards.

use std::path::PathBuf;

use fleetmend_control::{Control, ControlConfig, Engine};
use fleetmend_testkit::{PostgresServer, TestDatabase};

pub(crate) struct Testbed {
    pub(crate) config: ControlConfig,
    pub(crate) path: PathBuf,
    _database: Option<TestDatabase>,
    _folder: tempfile::TempDir,
}

pub(crate) const ENGINES: [Engine; 2] = [Engine::Sqlite, Engine::Postgres];

impl Testbed {
    pub(crate) fn new(engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ControlConfig::default();
        let mut database = None;
        if engine == Engine::Postgres {
            let of_server = PostgresServer::shared().unwrap().database().unwrap();
            config.url = Some(of_server.url());
            config.password_file = Some(of_server.server().password_file());
            database = Some(of_server);
        }
        Self {
            config,
            path: folder.path().join("control.sqlite"),
            _database: database,
            _folder: folder,
        }
    }

    pub(crate) async fn open(&self) -> Control {
        Control::open(&self.config, &self.path).await.unwrap()
    }
}
