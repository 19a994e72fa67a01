use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use crate::{ByteSize, ConfigFaults, Faults, HumanDuration, Location, Secret, Validate, load_from};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    spool: Spool,
    sites: Vec<Site>,
    limits: BTreeMap<String, u32>,
    mode: Mode,
    token: Option<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "host".to_owned(),
            spool: Spool::default(),
            sites: Vec::new(),
            limits: BTreeMap::new(),
            mode: Mode::Observe,
            token: None,
        }
    }
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default)]
struct Spool {
    bytes_max: ByteSize,
    flush_every: HumanDuration,
    compress: bool,
    level: i32,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            bytes_max: ByteSize::from_mib(512),
            flush_every: HumanDuration::from_secs(1),
            compress: true,
            level: 3,
        }
    }
}

#[derive(Debug, Deserialize, PartialEq)]
struct Site {
    url: String,
    timeout: HumanDuration,
    port: u16,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Observe,
    Act,
}

impl Validate for Config {
    fn validate(&self, faults: &mut Faults<'_>) {
        faults.require(!self.name.is_empty(), "name", "must not be empty");
        faults.section("spool", |faults| {
            faults.require(self.spool.level < 20, "level", "must be below 20");
            faults.require(
                !self.spool.flush_every.get().is_zero(),
                "flush_every",
                "must be longer than nothing",
            );
        });
        for (index, site) in self.sites.iter().enumerate() {
            faults.require(site.port != 0, &format!("sites[{index}].port"), "must not be 0");
        }
    }
}

struct Files {
    folder: TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("conf.d")).expect("drop-in folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("file");
        }
        Self { folder }
    }

    fn main(&self) -> Option<PathBuf> {
        let candidates = ["main.toml", "main.yaml"].map(|name| self.folder.path().join(name));
        candidates.into_iter().find(|path| path.exists())
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config, ConfigFaults> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let drop_in = self.folder.path().join("conf.d");
        load_from(
            self.main().as_deref(),
            Some(&drop_in),
            "FLEETMEND_TEST",
            variables,
        )
    }

    /// `file:line:column: key: message`, files without their folder.
    fn faults(&self, variables: &[(&str, &str)]) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let faults = self.load(variables).expect_err("faults").faults;
        faults
            .iter()
            .map(|fault| fault.to_string().replace(&folder, ""))
            .collect()
    }
}

#[test]
fn nothing_written_gives_the_defaults() {
    assert_eq!(Files::new(&[]).load(&[]).expect("valid"), Config::default());
}

#[test]
fn toml_and_yaml_say_the_same() {
    let toml = "name = 'a'\nmode = 'act'\n[spool]\nbytes_max = '64KiB'\nflush_every = '1m30s'\n\
                [[sites]]\nurl = 'http://x'\ntimeout = '5s'\nport = 80\n[limits]\ncpu = 7\n";
    let yaml = "name: a\nmode: act\nspool:\n  bytes_max: 64KiB\n  flush_every: 1m30s\n\
                sites:\n  - url: http://x\n    timeout: 5s\n    port: 80\nlimits: {cpu: 7}\n";
    let from_toml = Files::new(&[("main.toml", toml)]).load(&[]).expect("valid");
    let from_yaml = Files::new(&[("main.yaml", yaml)]).load(&[]).expect("valid");
    assert_eq!(from_toml, from_yaml);
    assert_eq!(from_toml.spool.flush_every.get(), Duration::from_secs(90));
    assert_eq!(from_toml.spool.bytes_max.get(), 65_536);
    assert_eq!(from_toml.mode, Mode::Act);
}

#[test]
fn later_wins_key_by_key() {
    let files = Files::new(&[
        (
            "main.toml",
            "name = 'main'\n[spool]\nlevel = 1\ncompress = false\n",
        ),
        ("conf.d/20-b.yaml", "spool:\n  level: 3\n"),
        ("conf.d/10-a.toml", "[spool]\nlevel = 2\nbytes_max = 100\n"),
        ("conf.d/30-c.toml.dpkg-old", "broken ["),
        ("conf.d/.hidden.toml", "broken ["),
    ]);
    let config = files
        .load(&[("FLEETMEND_TEST_SPOOL__FLUSH_EVERY", "250ms")])
        .expect("valid");
    assert_eq!(config.name, "main");
    let flush_every = HumanDuration::from_millis(250);
    assert_eq!(
        config.spool,
        Spool {
            bytes_max: ByteSize(100),
            flush_every,
            compress: false,
            level: 3
        }
    );
}

#[test]
fn environment_becomes_what_the_key_wants() {
    let variables = [
        ("FLEETMEND_TEST__NAME", "123"),
        ("FLEETMEND_TEST_SPOOL__LEVEL", "7"),
        ("FLEETMEND_TEST_SPOOL__COMPRESS", "false"),
        ("FLEETMEND_TEST_SPOOL__BYTES_MAX", "4096"),
        ("FLEETMEND_TEST_LIMITS__CPU", "9"),
        (
            "FLEETMEND_TEST__SITES",
            "[{ url = 'http://x', timeout = '1s', port = 8080 }]",
        ),
        ("FLEETMEND_TEST_CONFIG", "/no/configuration/key"),
        ("FLEETMEND_TESTING__NAME", "somebody else's"),
    ];
    let config = Files::new(&[]).load(&variables).expect("valid");
    assert_eq!(config.name, "123");
    assert_eq!((config.spool.level, config.spool.compress), (7, false));
    assert_eq!(config.spool.bytes_max, ByteSize(4096));
    assert_eq!(config.limits.get("cpu"), Some(&9));
    assert_eq!(config.sites.first().map(|site| site.port), Some(8080));
}

#[test]
fn all_faults_of_toml_come_at_once_with_their_places() {
    let text = "nmae = 'a'\nmode = 'atc'\n\n[spool]\nbytes_max = '12 elephants'\nflush_every = 10\nlevel = 'x'\n\
                byte_max = 1\n\n[[sites]]\nurl = 'http://x'\nport = 70000\n\n[[sites]]\nport = 1\n";
    let wanted = [
        "main.toml:1:1: nmae: unknown key; did you mean `name`?",
        "main.toml:2:8: mode: unknown value `atc`; it is one of `observe`, `act`; did you mean `act`?",
        "main.toml:5:13: spool.bytes_max: `12 elephants` is no amount of bytes; write it like `4096`, `64KiB`, \
         `512MiB` or `2GB`",
        "main.toml:6:15: spool.flush_every: found an integer, wanted a duration with its unit like `10s`",
        "main.toml:7:9: spool.level: found text, wanted i32",
        "main.toml:8:1: spool.byte_max: unknown key; did you mean `bytes_max`?",
        "main.toml:10:1: sites[0].timeout: is missing",
        "main.toml:12:8: sites[0].port: invalid value: integer `70000`, expected u16",
        "main.toml:14:1: sites[1].timeout: is missing",
        "main.toml:14:1: sites[1].url: is missing",
    ];
    assert_eq!(Files::new(&[("main.toml", text)]).faults(&[]), wanted);
}

#[test]
fn all_faults_of_yaml_come_at_once_with_their_places() {
    let text = "nmae: a\nspool:\n  # a comment\n  level: x\n  byte_max: 1\nsites:\n  - url: http://x\n    port: 80\n\
                \x20   timeout: soon\n";
    let wanted = [
        "main.yaml:1:1: nmae: unknown key; did you mean `name`?",
        "main.yaml:4:10: spool.level: found text, wanted i32",
        "main.yaml:5:3: spool.byte_max: unknown key; did you mean `bytes_max`?",
        "main.yaml:9:14: sites[0].timeout: `soon` is no duration; write it like `250ms`, `10s`, `1m30s` or `7d`",
    ];
    assert_eq!(Files::new(&[("main.yaml", text)]).faults(&[]), wanted);
}

#[test]
fn faults_of_several_files_and_the_environment_come_together() {
    let files = Files::new(&[
        ("main.toml", "colour = 1\n"),
        ("conf.d/a.toml", "\n[spool]\nlevel = true\n"),
        ("conf.d/b.yaml", "limits:\n  cpu: -1\n"),
    ]);
    let faults = files.faults(&[
        ("FLEETMEND_TEST_SPOOL__COMPRESS", "hunter2"),
        ("FLEETMEND_TEST_SPOOL__X", "1"),
    ]);
    let wanted = [
        "conf.d/a.toml:3:9: spool.level: found a boolean, wanted i32",
        "conf.d/b.yaml:2:8: limits.cpu: invalid value: integer `-1`, expected u32",
        "main.toml:1:1: colour: unknown key",
        "environment variable FLEETMEND_TEST_SPOOL__COMPRESS: spool.compress: found text, wanted true or false",
        "environment variable FLEETMEND_TEST_SPOOL__X: spool.x: unknown key",
    ];
    assert_eq!(faults, wanted);
}

#[test]
fn validation_reports_the_place_of_each_key() {
    let files = Files::new(&[
        (
            "main.toml",
            "name = ''\n\n[[sites]]\nurl = 'u'\ntimeout = '1s'\nport = 0\n",
        ),
        ("conf.d/a.yaml", "spool:\n  level: 30\n  flush_every: 0s\n"),
    ]);
    let wanted = [
        "conf.d/a.yaml:2:10: spool.level: must be below 20",
        "conf.d/a.yaml:3:16: spool.flush_every: must be longer than nothing",
        "main.toml:1:8: name: must not be empty",
        "main.toml:6:8: sites[0].port: must not be 0",
    ];
    assert_eq!(files.faults(&[]), wanted);
}

#[test]
fn value_that_cannot_be_read_hides_no_fault_of_the_others() {
    let text =
        "name = ''\n[spool]\nlevel = 30\nflush_every = 10\n[[sites]]\nurl = 1\ntimeout = '1s'\nport = 0\n";
    let files = Files::new(&[("main.toml", text)]);
    let wanted = [
        "main.toml:1:8: name: must not be empty",
        "main.toml:3:9: spool.level: must be below 20",
        "main.toml:4:15: spool.flush_every: found an integer, wanted a duration with its unit like `10s`",
        "main.toml:6:7: sites[0].url: found an integer, wanted a string",
        "main.toml:8:8: sites[0].port: must not be 0",
    ];
    assert_eq!(files.faults(&[]), wanted);
    let said = files.load(&[]).expect_err("faults").to_string();
    assert!(said.ends_with("check again when this is mended"), "{said}");
}

#[test]
fn syntax_errors_name_their_lines() {
    let files = [
        ("main.toml", "name = \nmode = 'x'\n[spool]\nlevel = 1 2\n"),
        ("conf.d/a.toml", "colour = 1\n"),
    ];
    let toml = Files::new(&files).faults(&[]);
    let places: Vec<&str> = toml.iter().filter_map(|fault| fault.split(": ").next()).collect();
    assert_eq!(
        places,
        ["conf.d/a.toml:1:1", "main.toml:1:8", "main.toml:4:9"],
        "{toml:?}"
    );
    let yaml = Files::new(&[("main.yaml", "name: a\nspool: [1, 2\nmode: act\n")]).faults(&[]);
    assert!(
        yaml.iter().any(|fault| fault.starts_with("main.yaml:")),
        "{yaml:?}"
    );
}

#[test]
fn missing_main_file_is_a_fault_and_a_missing_folder_is_none() {
    let gone = PathBuf::from("/nonexistent/agent.toml");
    let none = PathBuf::from("/nonexistent/conf.d");
    let error = load_from::<Config>(Some(&gone), Some(&none), "X", []).expect_err("no file");
    assert!(
        error
            .to_string()
            .contains("/nonexistent/agent.toml: cannot be read"),
        "{error}"
    );
    assert_eq!(error.faults.len(), 1);
    assert!(load_from::<Config>(None, Some(&none), "X", []).is_ok());
}

#[test]
fn file_that_is_no_configuration_is_refused() {
    let binary = Files::new(&[("main.toml", "\u{0}\u{1}\u{2}")]).faults(&[]);
    assert!(!binary.is_empty());
    let scalar = Files::new(&[("main.yaml", "just a sentence\n")]).faults(&[]);
    assert_eq!(scalar, ["main.yaml:1:1: found a single value, wanted keys"]);
    let files = Files::new(&[("main.toml", "")]);
    std::fs::write(files.folder.path().join("main.toml"), vec![b'#'; 2 << 20]).expect("file");
    let huge = files.faults(&[]);
    assert!(
        huge.iter().any(|fault| fault.contains("1048576 are allowed")),
        "{huge:?}"
    );
}

#[test]
fn empty_sections_and_comments_change_nothing() {
    let files = Files::new(&[("main.yaml", "# nothing\n"), ("conf.d/a.yaml", "spool:\n")]);
    assert_eq!(files.load(&[]).expect("valid"), Config::default());
}

#[test]
fn secret_is_not_shown() {
    let files = Files::new(&[("main.toml", "token = 'hunter2'\n[spool]\nlevel = 'hunter2'\n")]);
    let faults = files.load(&[]).expect_err("a fault");
    assert!(!faults.to_string().contains("hunter2"), "{faults}");
    let valid = Files::new(&[("main.toml", "token = 'hunter2'\n")])
        .load(&[])
        .expect("valid");
    assert!(!format!("{valid:?}").contains("hunter2"));
    assert_eq!(
        valid.token.map(|token| token.expose().to_owned()),
        Some("hunter2".to_owned())
    );
}

#[test]
fn faults_read_like_sentences() {
    let one = Files::new(&[("main.toml", "x = 1\n")])
        .load(&[])
        .expect_err("a fault");
    assert!(
        one.to_string().starts_with("the configuration has a fault: "),
        "{one}"
    );
    let two = Files::new(&[("main.toml", "x = 1\ny = 2\n")])
        .load(&[])
        .expect_err("faults");
    assert!(
        two.to_string().starts_with("the configuration has 2 faults:\n  "),
        "{two}"
    );
    assert!(matches!(
        two.faults.first().map(|fault| &fault.location),
        Some(Location::File { line: 1, .. })
    ));
}

#[test]
fn units_are_written_as_they_are_read() {
    for text in ["250ms", "10s", "1m30s", "7d", "1d2h3m4s5ms", "0s"] {
        assert_eq!(text.parse::<HumanDuration>().expect(text).to_string(), text);
    }
    for text in ["64KiB", "512MiB", "3GiB", "1TiB", "1000B", "0B"] {
        assert_eq!(text.parse::<ByteSize>().expect(text).to_string(), text);
    }
    assert_eq!("2GB".parse(), Ok(ByteSize(2_000_000_000)));
    for text in [
        "",
        "10",
        "s",
        "10 parsecs",
        "-1s",
        "99999999999999999999s",
        "99999999999999d",
    ] {
        assert!(text.parse::<HumanDuration>().is_err(), "{text}");
    }
    for text in ["", "MiB", "1.5GiB", "-1", "99999999999TiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}
