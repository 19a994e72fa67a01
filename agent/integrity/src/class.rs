//! Classes of watched files: what a change of one means, and how grave one is that nobody expected.

use std::path::Path;

use fleetmend_event::table::{IntegrityChange, Severity};
use serde::{Deserialize, Serialize};

/// What a watched file is for. In the order in which the baseline is made: what matters most comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// `/etc/ld.so.preload`: libraries loaded into every program.
    Preload,
    /// Who may become whom.
    Sudoers,
    /// Keys that open the host.
    SshKey,
    /// How sshd and ssh work.
    SshConfig,
    /// How logins are checked.
    Pam,
    /// Users, groups and their passwords.
    Account,
    /// What runs by the clock.
    Cron,
    /// What systemd runs.
    Unit,
    /// Where libraries are looked for.
    LinkerConfig,
    /// What shells run at their start.
    Profile,
    /// A program that runs with the rights of its owner.
    Suid,
    /// Programs.
    Binary,
    /// What packages say of their files.
    PackageDatabase,
    /// What web servers run and show.
    WebRoot,
    /// Paths of the configuration.
    Custom,
    /// Libraries.
    Library,
    /// Modules of the kernel, and which of them are loaded.
    KernelModule,
}

impl Class {
    /// Every class, in order.
    pub const ALL: &'static [Self] = &[
        Self::Preload,
        Self::Sudoers,
        Self::SshKey,
        Self::SshConfig,
        Self::Pam,
        Self::Account,
        Self::Cron,
        Self::Unit,
        Self::LinkerConfig,
        Self::Profile,
        Self::Suid,
        Self::Binary,
        Self::PackageDatabase,
        Self::WebRoot,
        Self::Custom,
        Self::Library,
        Self::KernelModule,
    ];

    /// The word that is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preload => "preload",
            Self::Sudoers => "sudoers",
            Self::SshKey => "ssh_key",
            Self::SshConfig => "ssh_config",
            Self::Pam => "pam",
            Self::Account => "account",
            Self::Cron => "cron",
            Self::Unit => "unit",
            Self::LinkerConfig => "linker_config",
            Self::Profile => "profile",
            Self::Suid => "suid",
            Self::Binary => "binary",
            Self::PackageDatabase => "package_database",
            Self::WebRoot => "web_root",
            Self::Custom => "custom",
            Self::Library => "library",
            Self::KernelModule => "kernel_module",
        }
    }

    /// Number in files.
    pub(crate) fn code(self) -> u8 {
        let position = Self::ALL.iter().position(|class| *class == self);
        u8::try_from(position.unwrap_or_default()).unwrap_or_default()
    }

    /// The class of a number.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// ATT&CK techniques that such a change may be.
    pub(crate) fn techniques(self) -> &'static [&'static str] {
        match self {
            Self::Preload | Self::LinkerConfig => &["T1574.006"],
            Self::Sudoers => &["T1548.003"],
            Self::SshKey | Self::SshConfig => &["T1098.004"],
            Self::Pam => &["T1556.003"],
            Self::Account => &["T1136.001", "T1098"],
            Self::Cron => &["T1053.003"],
            Self::Unit => &["T1543.002"],
            Self::Profile => &["T1546.004"],
            Self::Suid => &["T1548.001"],
            Self::Binary => &["T1554"],
            Self::Library => &["T1554", "T1574.006"],
            Self::PackageDatabase => &["T1565.001"],
            Self::WebRoot => &["T1505.003"],
            Self::KernelModule => &["T1547.006"],
            Self::Custom => &[],
        }
    }

    /// ATT&CK tactics that these serve.
    pub(crate) fn tactics(self) -> &'static [&'static str] {
        match self {
            Self::Sudoers | Self::Suid => &["privilege-escalation"],
            Self::Pam => &["credential-access", "persistence"],
            Self::PackageDatabase => &["defense-evasion"],
            Self::Preload | Self::LinkerConfig | Self::KernelModule => {
                &["persistence", "privilege-escalation"]
            }
            Self::Custom => &[],
            _ => &["persistence"],
        }
    }

    /// Whether an editor's temporary files beside such a file mean nothing.
    pub(crate) fn tolerates_editors(self) -> bool {
        !matches!(self, Self::Binary | Self::Library | Self::WebRoot | Self::Custom)
    }

    /// How grave a change is that nobody expected.
    pub(crate) fn severity(self, path: &Path, change: IntegrityChange) -> Severity {
        let grave = match self {
            Self::Preload => Severity::Critical,
            Self::SshKey if path.ends_with("root/.ssh/authorized_keys") => Severity::Critical,
            Self::Sudoers
            | Self::SshKey
            | Self::Pam
            | Self::Account
            | Self::LinkerConfig
            | Self::Suid
            | Self::Binary
            | Self::Library
            | Self::KernelModule => Severity::High,
            _ => Severity::Medium,
        };
        // What is gone no longer does anything; that it is gone may still break something.
        match (change, grave) {
            (IntegrityChange::Removed, Severity::Critical) => Severity::High,
            (IntegrityChange::Removed, Severity::High) => Severity::Medium,
            (IntegrityChange::Removed, _) => Severity::Low,
            _ => grave,
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Whether the mode makes a program run with the rights of its owner or group.
pub(crate) fn is_suid(mode: u32) -> bool {
    let regular = mode & libc::S_IFMT == libc::S_IFREG;
    regular
        && (mode & libc::S_ISUID != 0
            || mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_number_of_its_own_and_comes_back_from_it() {
        for class in Class::ALL {
            assert_eq!(Class::from_code(class.code()), Some(*class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
        assert_eq!(Class::from_code(200), None);
    }

    #[test]
    fn gravity_follows_what_a_file_can_do() {
        let of = |class: Class, path: &str, change| class.severity(Path::new(path), change);
        assert_eq!(
            of(Class::Preload, "/etc/ld.so.preload", IntegrityChange::Added),
            Severity::Critical
        );
        let keys = "/root/.ssh/authorized_keys";
        assert_eq!(
            of(Class::SshKey, keys, IntegrityChange::Content),
            Severity::Critical
        );
        assert_eq!(
            of(Class::WebRoot, "/var/www/a.php", IntegrityChange::Content),
            Severity::Medium
        );
        assert_eq!(
            of(Class::Binary, "/usr/bin/ls", IntegrityChange::Removed),
            Severity::Medium
        );
    }

    #[test]
    fn setgid_without_execute_is_no_program_of_anothers_rights() {
        let file = libc::S_IFREG;
        assert!(is_suid(file | 0o4755) && is_suid(file | 0o2755));
        assert!(!is_suid(file | 0o2644) && !is_suid(file | 0o755) && !is_suid(libc::S_IFDIR | 0o2775));
    }
}
