//! `control copy`: control state from one database into another, while no collector runs.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use fleetmend_control::{Control, ControlConfig, ControlUrl, Copied, Migrations};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::json;

use crate::ConfigArguments;
use crate::config::CollectorConfig;

/// The file in the state folder.
const FILE: &str = "sqlite";
/// What `control.url` says.
const CONFIGURED: &str = "configured";

/// Everything that has tables in the control database.
const ROOMS: [Migrations; 5] = [
    collector_ingest::enrol::TABLES,
    collector_alert::TABLES,
    collector_export::TABLES,
    collector_store::LEDGER_TABLES,
    collector_api::TABLES,
];

/// Arguments of `control`.
#[derive(Debug, Args)]
pub(crate) struct ControlArguments {
    #[command(subcommand)]
    command: ControlCommand,
}

#[derive(Debug, Subcommand)]
enum ControlCommand {
    /// Copy all control state into an empty database, and compare both; no collector may run meanwhile
    Copy(CopyArguments),
}

#[derive(Debug, Args)]
struct CopyArguments {
    /// Source: `sqlite` (the file in the state folder), `configured` (control.url), or an address
    #[arg(long, default_value = FILE)]
    from: String,
    /// Target, in the same words
    #[arg(long, default_value = CONFIGURED)]
    to: String,
    /// File with the password of PostgreSQL [default: control.password_file]
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Certificates of who may sign PostgreSQL's certificate [default: control.ca_file]
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

/// Runs it.
pub(crate) fn run(arguments: &ControlArguments) -> Result<ExitCode> {
    let ControlCommand::Copy(arguments) = &arguments.command;
    let config = CollectorConfig::load(&arguments.config.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let copied = runtime.block_on(copy(&config, arguments))?;
    tell(arguments, &copied)
}

async fn copy(config: &CollectorConfig, arguments: &CopyArguments) -> Result<Copied> {
    let from = side(config, arguments, &arguments.from).context("--from")?;
    let to = side(config, arguments, &arguments.to).context("--to")?;
    let default = config.control_database();
    if let ControlUrl::Sqlite(file) = from.address(&default).context("--from")? {
        ensure!(
            file.exists(),
            "there is no control database in {}",
            file.display()
        );
    }
    // A collector that starts meanwhile finds it held, and ends.
    let _lock = keep_collectors_out(config)?;
    let open = async |which: &ControlConfig| {
        let opened = Control::open(which, &default).await;
        opened.context("open a control database")
    };
    let (source, target) = (open(&from).await?, open(&to).await?);
    let copied = fleetmend_control::copy(&source, &target, &ROOMS).await;
    source.close().await;
    target.close().await;
    copied.context("copy the control state")
}

/// How one side is opened.
fn side(config: &CollectorConfig, arguments: &CopyArguments, word: &str) -> Result<ControlConfig> {
    let mut settings = config.control.clone();
    if let Some(file) = &arguments.password_file {
        settings.password_file = Some(file.clone());
    }
    if let Some(file) = &arguments.ca_file {
        settings.ca_file = Some(file.clone());
    }
    let url = match (word, &config.control.url) {
        (FILE, _) | (CONFIGURED, None) => {
            // Of no address: it is the file in the state folder.
            return Ok(ControlConfig {
                url: None,
                password_file: None,
                ca_file: None,
                ..settings
            });
        }
        (CONFIGURED, Some(url)) => url,
        (url, _) => url,
    };
    settings.at(url).map_err(anyhow::Error::msg)
}

/// Holds the lock of this host's store, which a collector that runs has.
fn keep_collectors_out(config: &CollectorConfig) -> Result<Option<File>> {
    let path = config.store.folder.join("LOCK");
    if !path.exists() {
        return Ok(None);
    }
    let lock = File::options()
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => bail!(
            "a collector runs on {}: stop it first, and every other that shares the control database",
            config.store.folder.display()
        ),
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn tell(arguments: &CopyArguments, copied: &Copied) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let rows = copied
        .tables
        .iter()
        .map(|table| table.rows)
        .fold(0, u64::saturating_add);
    if arguments.json {
        let tables = copied.tables.iter();
        let tables: Vec<_> = tables
            .map(|table| json!({ "table": table.name, "rows": table.rows, "digest": table.digest }))
            .collect();
        let told = json!({
            "rows": rows, "was_there": copied.was_there, "texts_replaced": copied.texts_replaced, "tables": tables,
        });
        writeln!(out, "{told}").context("print the result")?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in copied.tables.iter().filter(|table| table.rows > 0) {
        writeln!(out, "{:>9}  {}", table.rows, table.name).context("print the result")?;
    }
    let done = if copied.was_there {
        "were there already, and are the same on both sides"
    } else {
        "copied, read back, and the same on both sides"
    };
    writeln!(out, "{rows} rows of {} tables {done}", copied.tables.len()).context("print the result")?;
    if copied.texts_replaced > 0 {
        writeln!(
            out,
            "{} texts held U+0000, which PostgreSQL cannot hold, and hold U+FFFD instead",
            copied.texts_replaced
        )
        .context("print the result")?;
    }
    writeln!(
        out,
        "Set control.url to the new database on every collector, then start them. The old one is as it was."
    )
    .context("print the result")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use collector_api::{Accounts, Role};
    use fleetmend_testkit::PostgresServer;

    use super::*;

    const PASSWORD: &str = "a long enough password";

    fn arguments(from: &str, to: &str) -> CopyArguments {
        CopyArguments {
            from: from.to_owned(),
            to: to.to_owned(),
            password_file: None,
            ca_file: None,
            json: false,
            config: ConfigArguments {
                config: "/nowhere".into(),
            },
        }
    }

    #[tokio::test]
    async fn users_of_the_file_are_those_of_postgresql_and_of_another_file_again() {
        let server = PostgresServer::shared().unwrap();
        let database = server.database().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = CollectorConfig {
            state_dir: folder.path().to_owned(),
            ..CollectorConfig::default()
        };
        config.store.folder = folder.path().join("store");
        let to = database.url();
        let missing = copy(&config, &arguments(FILE, &to)).await.unwrap_err();
        assert!(format!("{missing:#}").contains("there is no control database"));

        for room in &ROOMS {
            let control = super::super::open(&config).await.unwrap();
            control.migrate(room).await.unwrap();
            control.close().await;
        }
        let accounts = Accounts::open(super::super::open(&config).await.unwrap())
            .await
            .unwrap();
        accounts.create("somebody", PASSWORD, Role::Viewer).await.unwrap();

        config.control = ControlConfig::of(database.url());
        config.control.password_file = Some(server.password_file());
        let copied = copy(&config, &arguments(FILE, CONFIGURED)).await.unwrap();
        assert!(!copied.was_there);
        let users = copied
            .tables
            .iter()
            .find(|table| table.name == "api_users")
            .unwrap();
        assert_eq!(users.rows, 1);
        assert!(
            copy(&config, &arguments(FILE, CONFIGURED))
                .await
                .unwrap()
                .was_there
        );
        let there = Accounts::open(super::super::open(&config).await.unwrap())
            .await
            .unwrap();
        assert_eq!(there.list().await.unwrap(), accounts.list().await.unwrap());

        // What holds something else is left alone.
        there.create("another", PASSWORD, Role::Admin).await.unwrap();
        let differs = copy(&config, &arguments(FILE, CONFIGURED)).await.unwrap_err();
        assert!(format!("{differs:#}").contains("api_users"), "{differs:#}");
        assert_eq!(there.list().await.unwrap().len(), 2);

        let back = format!("sqlite://{}", folder.path().join("back.sqlite").display());
        assert!(
            !copy(&config, &arguments(CONFIGURED, &back))
                .await
                .unwrap()
                .was_there
        );
        config.control = ControlConfig::of(back);
        let again = Accounts::open(super::super::open(&config).await.unwrap())
            .await
            .unwrap();
        assert_eq!(again.list().await.unwrap(), there.list().await.unwrap());
    }

    #[tokio::test]
    async fn nothing_is_copied_while_a_collector_holds_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = CollectorConfig {
            state_dir: folder.path().to_owned(),
            ..CollectorConfig::default()
        };
        config.store.folder = folder.path().to_owned();
        super::super::open(&config).await.unwrap().close().await;
        let held = File::create(folder.path().join("LOCK")).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let to = format!("sqlite://{}", folder.path().join("other.sqlite").display());
        let refused = copy(&config, &arguments(FILE, &to)).await.unwrap_err();
        assert!(format!("{refused:#}").contains("stop it first"), "{refused:#}");
        drop(held);
        copy(&config, &arguments(FILE, &to)).await.unwrap();
    }
}
