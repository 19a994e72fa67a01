//! The commands, as they are given.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use collector_store::{OWN_HOST, QueryLimits, Store, StoreConfig, to_json_rows};
use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Fact, Lane, TimeMicros};
use fleetmend_shutdown::Tasks;
use tempfile::TempDir;

use crate::{Cli, Command};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let at = |name: &str| place.0.path().join(name).display().to_string();
        std::fs::create_dir(at("repository")).unwrap();
        let text = format!(
            "state_dir = '{}'\n[store]\nfolder = '{}'\nfree_bytes_min = 0\n[backup]\nfolder = '{}'\nkey_file = '{}'\n",
            at("state"),
            at("state/store"),
            at("repository"),
            at("backup.key")
        );
        std::fs::write(at("collector.toml"), text).unwrap();
        place.say(&["init"]).unwrap();
        place.say(&["backup", "make-key", &at("backup.key")]).unwrap();
        place
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Gives a command with this place's configuration.
    fn say(&self, words: &[&str]) -> anyhow::Result<ExitCode> {
        let config = self.at("collector.toml");
        let words = ["fleetmend-collector"].iter().chain(words).copied();
        let parsed = Cli::try_parse_from(words.chain(["--config", &config, "--json"]))?;
        match parsed.command {
            Command::Init(arguments) => crate::init::run(&arguments),
            Command::Backup(arguments) => super::run(&arguments),
            Command::Restore(arguments) => super::restore(&arguments),
            Command::Verify(arguments) => super::verify(&arguments),
            other => panic!("{other:?} is not asked for here"),
        }
    }

    /// As [`Self::say`], for the end of the process.
    fn ends_with(&self, words: &[&str]) -> String {
        format!("{:?}", self.say(words).unwrap())
    }

    fn fault(&self, words: &[&str]) -> String {
        format!("{:#}", self.say(words).unwrap_err())
    }
}

fn code(code: u8) -> String {
    format!("{:?}", ExitCode::from(code))
}

/// Opens the store in `folder`, adds a fact of the collector's own, and counts those that are there.
fn visit(folder: &Path) -> u64 {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = StoreConfig {
            folder: folder.to_owned(),
            free_bytes_min: 0,
            ..StoreConfig::default()
        };
        let store = Store::open(config).await.unwrap();
        let tasks = Tasks::new();
        store.run(&tasks).unwrap();
        let now = TimeMicros::now();
        let gap = Gap {
            time: now,
            table: "*".to_owned(),
            lane: Lane::Events,
            from_time: now,
            to_time: now,
            count: 1,
            exactness: Exactness::Exact,
            stage: GapStage::Store,
            reason: "a visit".to_owned(),
        };
        store.append_for(OWN_HOST, vec![Fact::from(gap)]).await.unwrap();
        let query = "SELECT count(*) AS rows FROM gaps WHERE reason = 'a visit'";
        let answer = store.sql(query, QueryLimits::default()).await.unwrap();
        let rows = to_json_rows(&answer.batches).unwrap();
        let report = tasks.drain(std::time::Duration::from_secs(20)).await;
        assert!(report.is_clean(), "{report:?}");
        rows[0]["rows"].as_u64().unwrap()
    })
}

#[test]
fn lost_collector_comes_back_with_store_control_database_and_keys() {
    let place = Place::new();
    let state = place.0.path().join("state");
    assert_eq!(visit(&state.join("store")), 1);
    assert_eq!(place.ends_with(&["backup"]), code(0));
    assert_eq!(visit(&state.join("store")), 2);
    assert_eq!(place.ends_with(&["backup"]), code(0));
    assert_eq!(place.ends_with(&["backup", "list"]), code(0));
    assert_eq!(place.ends_with(&["verify"]), code(0));
    assert_eq!(
        place.ends_with(&["verify", "--sample", "0.5", "--rehearse", &place.at("drill")]),
        code(0)
    );
    assert_eq!(place.ends_with(&["restore", "--dry-run"]), code(0));
    let keys = std::fs::read_dir(state.join("authority")).unwrap().count();
    std::fs::remove_dir_all(&state).unwrap();
    assert_eq!(place.ends_with(&["restore"]), code(0));
    assert_eq!(std::fs::read_dir(state.join("authority")).unwrap().count(), keys);
    assert!(state.join("control.sqlite").exists());
    assert!(state.join("restored-files/configuration/collector.toml").exists());
    assert_eq!(visit(&state.join("store")), 3);
    // It goes on in the same repository.
    assert_eq!(place.ends_with(&["backup"]), code(0));
    assert_eq!(
        place.ends_with(&["backup", "prune", "--keep-all-hours", "0"]),
        code(0)
    );
    assert_eq!(place.ends_with(&["verify"]), code(0));
}

#[test]
fn what_is_in_the_way_is_refused_until_it_may_be_renamed() {
    let place = Place::new();
    let state = place.0.path().join("state");
    visit(&state.join("store"));
    assert_eq!(place.ends_with(&["backup"]), code(0));
    assert!(place.fault(&["restore"]).contains("--force"));
    assert_eq!(
        place.ends_with(&["restore", "--into", &place.at("beside")]),
        code(0)
    );
    assert_eq!(visit(&place.0.path().join("beside/store")), 2);
    assert_eq!(place.ends_with(&["restore", "--force"]), code(0));
    assert_eq!(visit(&state.join("store")), 2);
}

#[test]
fn damage_ends_with_another_code_than_failure() {
    let place = Place::new();
    visit(&place.0.path().join("state/store"));
    assert_eq!(place.ends_with(&["backup"]), code(0));
    let mut waiting = vec![place.0.path().join("repository/objects")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            std::fs::write(&path, "damaged").unwrap();
        }
    }
    assert_eq!(place.ends_with(&["verify"]), code(3));
    place
        .say(&["restore", "--into", &place.at("beside")])
        .unwrap_err();
    assert_eq!(
        place.ends_with(&["verify", "--sample", "0", "--expect", "00"]),
        code(3)
    );
}

#[test]
fn moment_and_place_are_checked_before_anything_is_done() {
    let place = Place::new();
    assert!(
        place
            .fault(&["restore", "--to", "yesterday"])
            .contains("2026-01-31T12:00:00Z")
    );
    assert!(place.fault(&["verify", "--sample", "2"]).contains("0 to 1"));
    assert!(
        place
            .fault(&["restore", "--folder", &place.at("nowhere")])
            .contains("no repository")
    );
    assert!(place.fault(&["restore"]).contains("no repository"));
}

/// Files of root's in a store or a repository of the collector's user would end that user's backups.
#[test]
fn root_is_refused_where_the_collector_is_another_user() {
    let place = Place::new();
    visit(Path::new(&place.at("state/store")));
    let chown = |to| std::os::unix::fs::chown(place.at("state/store"), Some(to), None);
    if chown(65_534).is_err() {
        println!("NOT RUN: root_is_refused_where_the_collector_is_another_user needs to be root");
        return;
    }
    for words in [["backup", "--keys-in-plain"].as_slice(), &["backup", "prune"]] {
        let fault = place.fault(words);
        assert!(fault.contains("runuser") && fault.contains("65534"), "{fault}");
    }
    assert_eq!(std::fs::read_dir(place.at("repository")).unwrap().count(), 0);
    chown(0).unwrap();
    assert_eq!(place.ends_with(&["backup"]), code(0));
}

#[test]
fn repository_within_the_store_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("collector.toml");
    let text = "[store]\nfolder = '/srv/store'\n[backup]\nfolder = '/srv/store/backups'\n";
    std::fs::write(&file, text).unwrap();
    let faults = crate::config::CollectorConfig::load(&file)
        .unwrap_err()
        .to_string();
    assert!(faults.contains("must not be below store.folder"), "{faults}");
}
