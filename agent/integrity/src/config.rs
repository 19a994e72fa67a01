//! Configuration: the section `integrity` of the agent's file.

use std::path::{Path, PathBuf};

use fleetmend_config::{ByteSize, HumanDuration};
use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::pattern::Pattern;

/// Fewest files that a limit may allow.
const FILES_MIN: usize = 100;
/// Most files that a limit may allow: at about 200 bytes each this is 200 MB.
const FILES_MAX: usize = 1_000_000;

/// What is watched, and how carefully.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether files are watched at all.
    pub enabled: bool,
    /// Where the watched tree begins; every pattern is below it.
    pub root: PathBuf,
    /// Classes that are not watched.
    pub classes_off: Vec<Class>,
    /// Patterns of further files; their class is `custom`.
    pub paths: Vec<String>,
    /// Patterns of files that are left out whatever else covers them.
    pub exclude: Vec<String>,
    /// Folders of web sites.
    pub web_roots: Vec<String>,
    /// Endings of the names that are watched below them, without the dot.
    pub web_extensions: Vec<String>,
    /// Folders in which no SUID and SGID programs are looked for.
    pub suid_exclude: Vec<String>,
    /// Who may change what without an alarm.
    pub expected: Vec<ExpectedWriter>,
    /// Most files that are watched; what does not fit is told.
    pub files_max: usize,
    /// Largest file of which every byte is hashed.
    pub hash_max: ByteSize,
    /// Bytes a second that the baseline reads.
    pub read_bytes_per_s: ByteSize,
    /// Files and folders a second that a scan looks at.
    pub scan_files_per_s: u32,
    /// Percent of a core that hashing and the search for SUID programs take in the long run, 0 for no bound.
    pub scan_cpu_pct: f64,
    /// Time between two scans of everything watched.
    pub rescan_interval: HumanDuration,
    /// Time between two searches of all file systems for SUID and SGID programs.
    pub suid_interval: HumanDuration,
    /// How long a file has to be left alone before a change of it is looked at: a burst is one change.
    pub settle: HumanDuration,
    /// Programs that install packages, and are believed when the package database agrees.
    pub package_managers: Vec<PathBuf>,
    /// Folder of dpkg's database, below `root`.
    pub dpkg_dir: PathBuf,
}

/// Who may change what without an alarm.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedWriter {
    /// Path of the program, the writer's own or that of a process above it.
    #[serde(default)]
    pub exe: Option<PathBuf>,
    /// systemd unit of the writer.
    #[serde(default)]
    pub unit: Option<String>,
    /// Patterns of the files it may change; none means all.
    #[serde(default)]
    pub paths: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let extensions = [
            "php", "phtml", "phar", "jsp", "jspx", "asp", "aspx", "cgi", "pl", "py", "rb", "sh", "so",
            "html", "js", "htaccess",
        ];
        let managers = [
            "/usr/bin/dpkg",
            "/usr/bin/apt",
            "/usr/bin/apt-get",
            "/usr/bin/aptitude",
            "/usr/libexec/packagekitd",
        ];
        Self {
            enabled: true,
            root: PathBuf::from("/"),
            classes_off: Vec::new(),
            paths: Vec::new(),
            exclude: Vec::new(),
            web_roots: texts(&["/var/www"]),
            web_extensions: texts(&extensions),
            suid_exclude: texts(&["/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"]),
            expected: Vec::new(),
            files_max: 65_536,
            hash_max: ByteSize::from_mib(64),
            read_bytes_per_s: ByteSize::from_mib(8),
            scan_files_per_s: 1_000,
            // Half a gigabyte of programs and libraries takes 1.6 s, a million files 25 s.
            scan_cpu_pct: 0.1,
            rescan_interval: HumanDuration::from_secs(3_600),
            suid_interval: HumanDuration::from_secs(24 * 3_600),
            settle: HumanDuration::from_secs(1),
            package_managers: managers.iter().map(PathBuf::from).collect(),
            dpkg_dir: PathBuf::from("/var/lib/dpkg"),
        }
    }
}

impl Config {
    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut check = |wrong: bool, key: &str, message: &str| {
            if wrong {
                faults.push((key.to_owned(), message.to_owned()));
            }
        };
        check(!self.root.is_absolute(), "root", "must be an absolute path");
        check(
            !self.dpkg_dir.is_absolute(),
            "dpkg_dir",
            "must be an absolute path",
        );
        check(
            !(FILES_MIN..=FILES_MAX).contains(&self.files_max),
            "files_max",
            "must be from 100 to 1000000",
        );
        check(self.hash_max.get() < 1 << 20, "hash_max", "must be at least 1MiB");
        check(
            self.read_bytes_per_s.get() < 64 << 10,
            "read_bytes_per_s",
            "must be at least 64KiB",
        );
        check(
            self.scan_files_per_s < 10,
            "scan_files_per_s",
            "must be at least 10",
        );
        check(
            self.scan_cpu_pct != 0.0 && !(0.01..=100.0).contains(&self.scan_cpu_pct),
            "scan_cpu_pct",
            "must be from 0.01 to 100, or 0 for no bound",
        );
        let seconds = |duration: HumanDuration| duration.get().as_secs();
        check(
            seconds(self.rescan_interval) < 60,
            "rescan_interval",
            "must be at least 1m",
        );
        check(
            seconds(self.suid_interval) < 60,
            "suid_interval",
            "must be at least 1m",
        );
        let settle = self.settle.get().as_millis();
        check(
            !(50..=3_000).contains(&settle),
            "settle",
            "must be from 50ms to 3s",
        );
        self.pattern_faults(&mut faults);
        faults
    }

    fn pattern_faults(&self, faults: &mut Vec<(String, String)>) {
        let lists = [
            ("paths", &self.paths),
            ("exclude", &self.exclude),
            ("web_roots", &self.web_roots),
            ("suid_exclude", &self.suid_exclude),
        ];
        for (key, texts) in lists {
            add_bad(faults, key, texts);
        }
        for (index, extension) in self.web_extensions.iter().enumerate() {
            if extension.is_empty() || extension.contains(['/', '*', '?']) {
                let message = "must be an ending of a name, without dot, slash and wildcard".to_owned();
                faults.push((format!("web_extensions[{index}]"), message));
            }
        }
        for (index, expected) in self.expected.iter().enumerate() {
            if expected.exe.is_none() && expected.unit.is_none() {
                let message = "must name a program (`exe`), a systemd unit (`unit`) or both".to_owned();
                faults.push((format!("expected[{index}]"), message));
            }
            if expected.exe.as_ref().is_some_and(|exe| !exe.is_absolute()) {
                faults.push((
                    format!("expected[{index}].exe"),
                    "must be an absolute path".to_owned(),
                ));
            }
            add_bad(faults, &format!("expected[{index}].paths"), &expected.paths);
        }
    }

    /// Folder of dpkg's database.
    pub(crate) fn dpkg_folder(&self) -> PathBuf {
        let below = self.dpkg_dir.strip_prefix("/").unwrap_or(&self.dpkg_dir);
        self.root.join(below)
    }
}

fn add_bad(faults: &mut Vec<(String, String)>, key: &str, texts: &[String]) {
    for (index, text) in texts.iter().enumerate() {
        if let Err(message) = Pattern::parse(Path::new("/"), text) {
            faults.push((format!("{key}[{index}]"), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_with_its_key() {
        assert!(Config::default().faults().is_empty());
        let config = Config {
            root: PathBuf::from("here"),
            paths: vec!["etc/x".to_owned()],
            files_max: 0,
            settle: HumanDuration::from_secs(60),
            web_extensions: vec!["*.php".to_owned()],
            expected: vec![ExpectedWriter {
                exe: None,
                unit: None,
                paths: vec!["/a/../b".to_owned()],
            }],
            ..Config::default()
        };
        let keys: Vec<String> = config.faults().into_iter().map(|(key, _)| key).collect();
        let wanted = [
            "root",
            "files_max",
            "settle",
            "paths[0]",
            "web_extensions[0]",
            "expected[0]",
            "expected[0].paths[0]",
        ];
        assert_eq!(keys, wanted);
    }
}
