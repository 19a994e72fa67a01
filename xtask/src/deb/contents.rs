//! Which file goes into which package.

use std::path::{Path, PathBuf};

use crate::layout::{self, Profile};

/// One package.
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    /// Lines of the long description.
    pub(super) description: &'static [&'static str],
    /// Beyond the shared libraries, which are found out.
    pub(super) depends: &'static [&'static str],
    pub(super) recommends: &'static [&'static str],
    pub(super) files: Vec<File>,
}

/// One file or folder of a package.
pub(super) struct File {
    pub(super) source: PathBuf,
    /// Absolute, where it is installed.
    pub(super) target: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ours: stripped, executable.
    Program,
    /// Somebody else's: as it is.
    Library,
    Data,
    /// Kept when the administrator changed it.
    Configuration,
    Manual,
    /// All files below, as data.
    Folder,
}

pub(super) fn all(profile: Profile, onnxruntime: &Path) -> Vec<Package> {
    vec![agent(profile, onnxruntime), collector(profile), cli(profile)]
}

fn agent(profile: Profile, onnxruntime: &Path) -> Package {
    let mut files = vec![
        program(profile, "fleetmend-agent", "/usr/bin/fleetmend-agent"),
        program(profile, "fleetmend-healer", "/usr/sbin/fleetmend-healer"),
        File {
            source: onnxruntime.to_owned(),
            target: "/usr/lib/fleetmend/libonnxruntime.so",
            kind: Kind::Library,
        },
        file(
            "models/host-anomaly",
            "/usr/share/fleetmend/models/host-anomaly",
            Kind::Folder,
        ),
        file("agent/detect/rules", "/usr/share/fleetmend/rules", Kind::Folder),
        file(
            "packaging/config/agent.toml",
            "/etc/fleetmend/agent.toml",
            Kind::Configuration,
        ),
        file(
            "packaging/config/healer.toml",
            "/etc/fleetmend/healer.toml",
            Kind::Configuration,
        ),
    ];
    files.extend(system("fleetmend-agent"));
    files.push(file(
        "packaging/systemd/fleetmend-agent.service",
        "/usr/lib/systemd/system/fleetmend-agent.service",
        Kind::Data,
    ));
    files.push(file(
        "packaging/systemd/fleetmend-healer.service",
        "/usr/lib/systemd/system/fleetmend-healer.service",
        Kind::Data,
    ));
    files.push(file(
        "packaging/man/fleetmend-agent.8",
        "/usr/share/man/man8/fleetmend-agent.8.gz",
        Kind::Manual,
    ));
    files.push(file(
        "packaging/man/fleetmend-healer.8",
        "/usr/share/man/man8/fleetmend-healer.8.gz",
        Kind::Manual,
    ));
    Package {
        name: "fleetmend-agent",
        summary: "watches a host, finds what is abnormal, and repairs it in bounds",
        description: &[
            "The agent reads metrics, kernel events, processes, flows and web sites of",
            "its host, scores them with signed models and Sigma rules on the host itself,",
            "and sends everything to a Fleetmend collector. The healer, a process of its",
            "own, carries out remedies inside a signed policy; without one it observes.",
        ],
        depends: &["passwd", "init-system-helpers (>= 1.52)"],
        recommends: &["ca-certificates"],
        files,
    }
}

fn collector(profile: Profile) -> Package {
    let mut files = vec![
        program(profile, "fleetmend-collector", "/usr/bin/fleetmend-collector"),
        file(
            "packaging/config/collector.toml",
            "/etc/fleetmend/collector.toml",
            Kind::Configuration,
        ),
        file(
            "packaging/systemd/fleetmend-collector.service",
            "/usr/lib/systemd/system/fleetmend-collector.service",
            Kind::Data,
        ),
        file(
            "packaging/man/fleetmend-collector.8",
            "/usr/share/man/man8/fleetmend-collector.8.gz",
            Kind::Manual,
        ),
    ];
    files.extend(system("fleetmend-collector"));
    Package {
        name: "fleetmend-collector",
        summary: "keeps the record of a fleet of Fleetmend agents, with its dashboard",
        description: &[
            "The collector takes what the agents send, acknowledges only what is durable,",
            "stores it in open files, alerts, and serves the API and the dashboard.",
        ],
        depends: &["passwd", "init-system-helpers (>= 1.52)"],
        recommends: &["fleetmend"],
        files,
    }
}

fn cli(profile: Profile) -> Package {
    Package {
        name: "fleetmend",
        summary: "command line of a Fleetmend collector",
        description: &[
            "Shows hosts, findings, actions and alerts, asks the store in SQL, and",
            "follows facts live.",
        ],
        depends: &[],
        recommends: &[],
        files: vec![
            program(profile, "fleetmend", "/usr/bin/fleetmend"),
            file(
                "packaging/man/fleetmend.1",
                "/usr/share/man/man1/fleetmend.1.gz",
                Kind::Manual,
            ),
        ],
    }
}

/// Users and folders of a service.
fn system(name: &'static str) -> Vec<File> {
    let (sysusers, tmpfiles) = match name {
        "fleetmend-collector" => (
            "/usr/lib/sysusers.d/fleetmend-collector.conf",
            "/usr/lib/tmpfiles.d/fleetmend-collector.conf",
        ),
        _ => (
            "/usr/lib/sysusers.d/fleetmend-agent.conf",
            "/usr/lib/tmpfiles.d/fleetmend-agent.conf",
        ),
    };
    vec![
        file(&format!("packaging/sysusers/{name}.conf"), sysusers, Kind::Data),
        file(&format!("packaging/tmpfiles/{name}.conf"), tmpfiles, Kind::Data),
    ]
}

fn program(profile: Profile, name: &str, target: &'static str) -> File {
    File {
        source: layout::binary(profile, name),
        target,
        kind: Kind::Program,
    }
}

fn file(source: &str, target: &'static str, kind: Kind) -> File {
    File {
        source: layout::root().join(source),
        target,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_tree_that_is_packaged_exists() {
        let packages = all(Profile::Release, Path::new("/onnxruntime"));
        let ours = packages.iter().flat_map(|package| &package.files);
        let ours = ours.filter(|file| !matches!(file.kind, Kind::Program | Kind::Library));
        let missing: Vec<&PathBuf> = ours
            .map(|file| &file.source)
            .filter(|source| !source.exists())
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn no_two_files_are_installed_at_one_place() {
        let packages = all(Profile::Release, Path::new("/onnxruntime"));
        let mut targets: Vec<&str> = packages
            .iter()
            .flat_map(|package| &package.files)
            .map(|file| file.target)
            .collect();
        let count = targets.len();
        targets.sort_unstable();
        targets.dedup();
        assert_eq!(targets.len(), count);
    }
}
