//! `init`: the keys of a fleet and its first administrator.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use collector_api::{Accounts, Role};
use fleetmend_identity::authority::CollectorAuthority;
use fleetmend_identity::files;
use fleetmend_identity::name::{CollectorName, FleetId};
use fleetmend_identity::root::FleetRoot;

use crate::config::CollectorConfig;
use crate::control;

/// Letters of the first password: 6 bits each, 144 in all.
const PASSWORD_LETTERS: usize = 24;
/// File of the first password, for its owner to read and delete.
const PASSWORD_FILE: &str = "initial-password";

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArguments {
    #[command(flatten)]
    config: crate::ConfigArguments,
    /// Name of the fleet: lower-case letters, digits and hyphens
    #[arg(long, default_value = "fleet")]
    fleet: FleetId,
    /// Name of this collector
    #[arg(long, default_value = "collector-1")]
    name: CollectorName,
    /// Name of the first administrator
    #[arg(long, default_value = "admin")]
    user: String,
    /// Print one JSON object, the password included
    #[arg(long)]
    json: bool,
}

/// Makes the fleet. Run again it keeps what is there.
pub(crate) fn run(arguments: &InitArguments) -> Result<ExitCode> {
    let config = CollectorConfig::load(&arguments.config.config)?;
    let folder = &config.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("create {}", folder.display()))?;
    let root = make_root(&config.root_dir(), &arguments.fleet).context("make the fleet root")?;
    if root.fleet() != &arguments.fleet {
        bail!(
            "{} holds the root of fleet {}, not {}",
            config.root_dir().display(),
            root.fleet(),
            arguments.fleet
        );
    }
    CollectorAuthority::open_or_create(&config.authority_dir(), &root, arguments.name.clone())
        .context("make the collector's keys")?;
    let password = first_password()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let made = runtime.block_on(async {
        let pool = control::open(&config).await?;
        let accounts = Accounts::open(pool).await.context("open the accounts")?;
        if !accounts.is_empty().await.context("look for users")? {
            return Ok::<bool, anyhow::Error>(false);
        }
        // Before the user is there: of the other order a full disk would leave a user whose password nobody knows,
        // and this command would not make another one.
        files::write_private(&folder.join(PASSWORD_FILE), format!("{password}\n").as_bytes())
            .context("write the first password")?;
        accounts
            .create(&arguments.user, &password, Role::Admin)
            .await
            .context("make the first administrator")?;
        Ok(true)
    })?;
    report(arguments, &config, &root, made.then_some(password.as_str()))
}

/// Opens the root, or makes it whole: it is made beside its place and moved there, so that a crash leaves none or all
/// of it.
pub(crate) fn make_root(folder: &Path, fleet: &FleetId) -> Result<FleetRoot> {
    let there = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if there {
        return Ok(FleetRoot::open_or_create(folder, fleet.clone())?);
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("remove what a crash left in {}", partial.display()))?;
    }
    let root = FleetRoot::create(&partial, fleet.clone())?;
    std::fs::rename(&partial, folder).with_context(|| format!("move {} into place", partial.display()))?;
    if let Some(parent) = folder.parent() {
        std::fs::File::open(parent)
            .and_then(|opened| opened.sync_all())
            .with_context(|| format!("sync {}", parent.display()))?;
    }
    Ok(root)
}

fn report(
    arguments: &InitArguments,
    config: &CollectorConfig,
    root: &FleetRoot,
    password: Option<&str>,
) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let result = serde_json::json!({
            "fleet": root.fleet().to_string(),
            "root_fingerprint": root.fingerprint().to_string(),
            "root_dir": config.root_dir(),
            "user": arguments.user,
            "password": password,
        });
        writeln!(out, "{result}").context("print the result")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "fleet {} with root {}", root.fleet(), root.fingerprint()).context("print the result")?;
    match password {
        Some(_) => writeln!(
            out,
            "user {} with the password in {} (read it, then delete the file)",
            arguments.user,
            config.state_dir.join(PASSWORD_FILE).display()
        ),
        None => writeln!(out, "there are users already: none was made"),
    }
    .context("print the result")?;
    writeln!(
        out,
        "keep {} safe: it signs policies and may be moved offline",
        config.root_dir().display()
    )
    .context("print the result")?;
    Ok(ExitCode::SUCCESS)
}

fn first_password() -> Result<String> {
    let mut bytes = [0_u8; PASSWORD_LETTERS];
    let mut random = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    std::io::Read::read_exact(&mut random, &mut bytes).context("read /dev/urandom")?;
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |index: usize| LETTERS.get(index % 64).copied().map_or('A', char::from);
    Ok(bytes.iter().map(|byte| letter(usize::from(*byte))).collect())
}

#[cfg(test)]
mod tests {
    use fleetmend_testkit::PostgresServer;

    use super::*;

    fn arguments(folder: &Path) -> InitArguments {
        let config = folder.join("collector.toml");
        let state = folder.join("state");
        std::fs::write(&config, format!("state_dir = '{}'\n", state.display())).unwrap();
        InitArguments {
            config: crate::ConfigArguments { config },
            fleet: "lab".parse().unwrap(),
            name: "c1".parse().unwrap(),
            user: "admin".to_owned(),
            json: true,
        }
    }

    #[test]
    fn no_user_is_made_whose_password_cannot_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path());
        let in_the_way = folder.path().join("state").join(PASSWORD_FILE);
        std::fs::create_dir_all(in_the_way.join("not empty")).unwrap();
        run(&arguments).unwrap_err();
        std::fs::remove_dir_all(&in_the_way).unwrap();
        run(&arguments).unwrap();
        let password = std::fs::read_to_string(&in_the_way).unwrap();
        assert_eq!(password.trim_end().len(), PASSWORD_LETTERS);
        // Once more: nothing is made anew.
        run(&arguments).unwrap();
        assert_eq!(std::fs::read_to_string(&in_the_way).unwrap(), password);
    }

    #[test]
    fn what_a_crash_left_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path());
        for name in ["root.partial", "authority.partial"] {
            let left = folder.path().join("state").join(name);
            std::fs::create_dir_all(&left).unwrap();
            for key in ["root.key", "issuing.key"] {
                std::fs::write(left.join(key), "half a k").unwrap();
            }
        }
        run(&arguments).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path().join("state"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("partial"))
            .collect();
        left.sort();
        assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn a_fleet_is_made_on_postgresql_too() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path());
        let database = PostgresServer::shared().unwrap().database().unwrap();
        let config = format!(
            "state_dir = '{}'\n[control]\nurl = '{}'\npassword_file = '{}'\n",
            folder.path().join("state").display(),
            database.url(),
            database.server().password_file().display()
        );
        std::fs::write(&arguments.config.config, config).unwrap();
        run(&arguments).unwrap();
        let users = database.psql("SELECT name, role FROM api_users").unwrap();
        assert_eq!(users, "admin|admin");
        let password = folder.path().join("state").join(PASSWORD_FILE);
        std::fs::remove_file(&password).unwrap();
        // Once more, as on the second collector: there is a user.
        run(&arguments).unwrap();
        assert!(!password.exists());
        assert!(!folder.path().join("state/control.sqlite").exists());
    }
}
