//! Which log sources of Sigma are fed here, and by what.

use super::rule::LogSource;

/// What the views of facts and records are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ProcessCreation,
    NetworkConnection,
    FileEvent,
    FileDelete,
    FileRename,
    FileAccess,
    FileChange,
    /// Facts under the names that auditd would give them.
    Audit,
    CredentialChange,
    MemoryAccess,
    KernelChange,
    Signal,
    Integrity,
    Authentication,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::ProcessCreation,
        Self::NetworkConnection,
        Self::FileEvent,
        Self::FileDelete,
        Self::FileRename,
        Self::FileAccess,
        Self::FileChange,
        Self::Audit,
        Self::CredentialChange,
        Self::MemoryAccess,
        Self::KernelChange,
        Self::Signal,
        Self::Integrity,
        Self::Authentication,
    ];

    /// Where it stands in [`Self::ALL`].
    pub(crate) fn number(self) -> usize {
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or(0)
    }

    /// Its category and service.
    pub(crate) fn origin(self) -> Origin<'static> {
        let (category, services): (Option<&str>, &[&str]) = match self {
            Self::ProcessCreation => (Some("process_creation"), &["sysmon"]),
            Self::NetworkConnection => (Some("network_connection"), &["sysmon"]),
            Self::FileEvent => (Some("file_event"), &["sysmon"]),
            Self::FileDelete => (Some("file_delete"), &["sysmon"]),
            Self::FileRename => (Some("file_rename"), &[]),
            Self::FileAccess => (Some("file_access"), &[]),
            Self::FileChange => (Some("file_change"), &[]),
            Self::Audit => (None, &["auditd"]),
            Self::CredentialChange => (Some("credential_change"), &["fleetmend"]),
            Self::MemoryAccess => (Some("memory_access"), &["fleetmend"]),
            Self::KernelChange => (Some("kernel_change"), &["fleetmend"]),
            Self::Signal => (Some("signal"), &["fleetmend"]),
            Self::Integrity => (Some("integrity"), &["fleetmend"]),
            Self::Authentication => (Some("authentication"), &["fleetmend"]),
        };
        Origin {
            product: Some("linux"),
            category,
            services,
            again: self == Self::Audit,
        }
    }

    /// What feeds it, in words.
    pub(crate) fn fed_by(self) -> &'static str {
        match self {
            Self::ProcessCreation => "execs (process_events)",
            Self::NetworkConnection => "connections opened and accepted (network_events)",
            Self::FileEvent => "files made, opened for writing and moved in (file_events)",
            Self::FileDelete => "names removed (file_events)",
            Self::FileRename => "names changed (file_events)",
            Self::FileAccess => "reads of files that hold secrets (file_events)",
            Self::FileChange => "mode, owner and attributes changed (file_events)",
            Self::Audit => "execs and acts on files, memory and credentials under auditd's names",
            Self::CredentialChange => "changes of user, group and capabilities (credential_events)",
            Self::MemoryAccess => "acts on memory (memory_events)",
            Self::KernelChange => "changes of the kernel (kernel_events)",
            Self::Signal => "signals (signal_events)",
            Self::Integrity => "watched files that changed (integrity_events)",
            Self::Authentication => "logins and elevations (auth_events)",
        }
    }
}

/// What an event is, to be compared with what a rule asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) product: Option<&'a str>,
    pub(crate) category: Option<&'a str>,
    /// A line of sshd's is of `sshd`, of `auth` and of `syslog`.
    pub(crate) services: &'a [&'a str],
    /// The event was shown under another log source already: only rules that name this one look again.
    pub(crate) again: bool,
}

impl Origin<'_> {
    /// Whether rules of `wanted` look at it.
    pub(crate) fn is(&self, wanted: &LogSource) -> bool {
        let product = wanted.product.as_deref();
        let category = wanted.category.as_deref();
        let service = wanted.service.as_deref();
        product.is_none_or(|product| self.product == Some(product))
            && category.is_none_or(|category| self.category == Some(category))
            && service.is_none_or(|service| self.services.contains(&service))
            && (service.is_some() || !self.again)
    }
}

/// Categories of raw records, with what feeds them.
const RECORDS: &[(&str, &str)] = &[("webserver", "requests of web servers' access logs")];
/// What rules take for products, and is a service here.
const SERVICES: &[&str] = &["apache", "nginx", "fleetmend"];

/// What feeds a log source.
///
/// # Errors
/// Why nothing here does.
pub(crate) fn feeds(source: &LogSource) -> Result<Vec<&'static str>, String> {
    if *source == LogSource::default() {
        return Err("it names no log source".to_owned());
    }
    if let Some(product) = source.product.as_deref().filter(|product| *product != "linux") {
        if SERVICES.contains(&product) {
            return Err(format!(
                "no source here feeds the product '{product}'; write service: {product}"
            ));
        }
        return Err(format!(
            "no source here feeds the product '{product}'; there is Linux only"
        ));
    }
    let mut fed: Vec<&'static str> = Kind::ALL
        .iter()
        .filter(|kind| kind.origin().is(source))
        .map(|kind| kind.fed_by())
        .collect();
    let category = source.category.as_deref();
    let records = RECORDS.iter().filter(|(name, _)| category == Some(*name));
    fed.extend(records.map(|(_, fed_by)| *fed_by));
    match (category, source.service.as_deref()) {
        (None, Some("auditd")) => fed.push("auditd's own records, where its log is read"),
        (None, Some("fleetmend")) => {}
        (None, _) => fed.push("lines of logs (log_records)"),
        (Some(_), _) => {}
    }
    if fed.is_empty() {
        return Err(format!("no source here feeds the log source '{source}'"));
    }
    Ok(fed)
}

/// The services that a program's lines are of, by the names that rules use.
pub(crate) fn services_of(identifier: &str) -> Vec<&str> {
    let own = match identifier {
        "sshd-session" | "sshd-auth" | "sshd" => "sshd",
        "CRON" | "crond" | "cron" | "crontab" | "anacron" | "fcron" => "cron",
        "clamd" | "clamscan" | "clamdscan" | "freshclam" | "clamonacc" | "clamav" | "clamav-daemon"
        | "clamav-milter" => "clamav",
        "guacd" | "guacamole" => "guacamole",
        "apache2" | "httpd" | "apache" => "apache",
        other => other,
    };
    let mut services = vec![own];
    let authenticates = [
        "sshd",
        "sudo",
        "su",
        "login",
        "systemd-logind",
        "polkitd",
        "pkexec",
        "doas",
        "passwd",
        "chpasswd",
        "useradd",
        "usermod",
        "userdel",
        "groupadd",
        "groupmod",
        "groupdel",
        "gpasswd",
        "chage",
        "chfn",
        "chsh",
        "adduser",
        "gdm-password]",
        "vsftpd",
        "cron",
    ];
    if authenticates.contains(&own) {
        services.push("auth");
    }
    services.push("syslog");
    services
}
