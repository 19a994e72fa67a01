//! The protected set: what is never a target, whatever policy says.

use std::collections::BTreeSet;
use std::path::Path;

use crate::glob;
use crate::procfs::ProcessSight;

/// Programs without which the host, or the way to it, is lost. Matched by the executable's name in a folder of
/// the system: a program cannot hide behind the name it gives itself.
const PROGRAMS: [&str; 13] = [
    "sshd",
    "sshd-session",
    "systemd",
    "systemd-*",
    // What systemd-udevd is on Debian.
    "udevadm",
    "dbus-daemon",
    "dbus-broker*",
    "init",
    "login",
    "agetty",
    "dockerd",
    "containerd*",
    "dhclient",
];
const PROGRAM_FOLDERS: [&str; 5] = ["/usr/", "/bin/", "/sbin/", "/lib/", "/opt/"];
/// Our own programs, wherever they lie: a build folder counts.
const OURS: &str = "fleetmend-*";

const UNITS: [&str; 15] = [
    "ssh.*",
    "sshd.*",
    "ssh@*",
    "sshd@*",
    "dbus.*",
    "dbus-broker.*",
    "systemd-*",
    "fleetmend-*",
    "init.scope",
    "-.*",
    "user@*",
    "getty@*",
    "NetworkManager.*",
    "networking.*",
    "*.slice",
];

/// Folders in which nothing is deleted, at any depth.
const TREES: [&str; 20] = [
    "/usr",
    "/etc",
    "/boot",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sys",
    "/dev",
    "/root/.ssh",
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/lib/systemd",
    "/var/lib/rpm",
    "/var/lib/fleetmend-agent",
    "/var/lib/fleetmend-collector",
    "/var/lib/fleetmend-healer",
    "/run/systemd",
];
/// Folders that are no place by themselves, though a folder below them may be.
const ROOTS: [&str; 9] = [
    "/", "/var", "/var/lib", "/home", "/root", "/opt", "/srv", "/run", "/mnt",
];

/// The set, with what is known only at run time.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// Pids of ours: the healer and what it descends from.
    pub pids: BTreeSet<u32>,
    /// Pids of whoever is connected, once for each connection.
    pub peers: Vec<u32>,
    /// Folders of ours.
    pub folders: Vec<std::path::PathBuf>,
}

impl Protection {
    /// Why this process is never a target, if it is not.
    pub fn of_process(&self, process: &ProcessSight) -> Option<String> {
        if process.pid <= 1 {
            return Some("it is the first process of the host".to_owned());
        }
        let Some(executable) = process.executable.as_deref().filter(|_| !process.kernel_thread) else {
            return Some("it is a thread of the kernel".to_owned());
        };
        if self.pids.contains(&process.pid) || self.peers.contains(&process.pid) {
            return Some("it is a process of ours, or one that we run under".to_owned());
        }
        let name = executable.rsplit('/').next().unwrap_or(executable);
        let of_the_system = PROGRAM_FOLDERS
            .iter()
            .any(|folder| executable.starts_with(folder));
        let vital = of_the_system && PROGRAMS.iter().any(|pattern| glob::matches(pattern, name));
        (vital || glob::matches(OURS, name)).then(|| format!("{executable} is in the protected set"))
    }

    /// Why nothing is deleted in this folder, if nothing is.
    pub fn of_folder(&self, folder: &Path) -> Option<String> {
        let is = |text: &&str| folder == Path::new(text);
        let ours = self.folders.iter().map(std::path::PathBuf::as_path);
        let mut trees = TREES.iter().map(Path::new).chain(ours);
        let tree = trees.find(|tree| folder.starts_with(tree) || tree.starts_with(folder));
        (ROOTS.iter().any(is) || tree.is_some())
            .then(|| format!("{} is in the protected set", folder.display()))
    }

    /// Why this unit is never restarted, if it is not.
    pub fn of_unit(&self, unit: &str) -> Option<String> {
        let known = UNITS.iter().any(|pattern| glob::matches(pattern, unit));
        known.then(|| format!("{unit} is in the protected set"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn process(executable: Option<&str>) -> ProcessSight {
        ProcessSight {
            pid: 4711,
            parent_pid: 2,
            comm: "sshd".to_owned(),
            executable: executable.map(str::to_owned),
            state: 'R',
            start_ticks: 1,
            cpu_ticks: 1,
            cgroups: Vec::new(),
            kernel_thread: false,
        }
    }

    #[test]
    fn vital_programs_are_protected_and_names_alone_protect_nobody() {
        let protection = Protection::default();
        for vital in [
            "/usr/sbin/sshd",
            "/usr/lib/systemd/systemd-logind",
            "/usr/bin/udevadm",
            "/home/x/target/debug/fleetmend-agent",
        ] {
            assert!(protection.of_process(&process(Some(vital))).is_some(), "{vital}");
        }
        assert!(protection.of_process(&process(None)).is_some());
        assert!(protection.of_process(&process(Some("/tmp/sshd"))).is_none());
        assert!(protection.of_process(&process(Some("/usr/bin/stress"))).is_none());
    }

    #[test]
    fn vital_units_and_folders_are_protected() {
        let protection = Protection::default();
        for unit in [
            "ssh.service",
            "dbus.socket",
            "systemd-journald.service",
            "fleetmend-agent.service",
        ] {
            assert!(protection.of_unit(unit).is_some(), "{unit}");
        }
        assert!(protection.of_unit("nginx.service").is_none());
        for folder in [
            "/",
            "/etc/cron.d",
            "/usr/share",
            "/var",
            "/var/lib",
            "/var/lib/dpkg/info",
            "/var/lib/fleetmend-agent/spool",
            "/var/lib/fleetmend-collector",
            "/boot",
        ] {
            assert!(protection.of_folder(Path::new(folder)).is_some(), "{folder}");
        }
        for folder in [
            "/var/tmp/cache",
            "/var/cache/app",
            "/tmp/demo",
            "/var/lib/dpkg-old",
        ] {
            assert!(protection.of_folder(Path::new(folder)).is_none(), "{folder}");
        }
    }

    proptest! {
        #[test]
        fn whatever_lies_below_a_protected_tree_is_protected(tree in 0..TREES.len(), rest in "[a-z]{1,8}(/[a-z]{1,8}){0,3}") {
            let folder = Path::new(TREES[tree]).join(rest);
            prop_assert!(Protection::default().of_folder(&folder).is_some());
        }
    }
}
