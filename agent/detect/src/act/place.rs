//! What a file is to the host, by its path.

use crate::lineage::base_name;

/// What a written file gives to who controls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Jobs at their time.
    Cron,
    /// Units of systemd, or init scripts.
    Unit,
    /// What the loader puts into every program.
    Preload,
    /// What runs at boot or at login, outside of units.
    BootScript,
    /// Keys that log in.
    SshKey,
    /// What the ssh server allows.
    SshServer,
    /// How people are authenticated.
    Pam,
    /// What every shell of the host reads.
    Profile,
    /// What a user's own shell or session reads.
    OwnProfile,
    /// Who may act as whom.
    Sudoers,
    /// Accounts and passwords.
    Account,
    /// What udev runs, or which modules are loaded.
    Device,
    /// Programs and libraries of the system.
    Binary,
    /// What a web server may run as a script.
    WebScript,
}

/// A file that holds secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secret {
    /// Password hashes of the host.
    Passwords,
    /// Keys of the ssh server, or of the Kerberos service.
    HostKey,
    /// The kernel's or all memory.
    Memory,
    /// A user's private keys.
    UserKey,
    /// A user's access to a cloud or cluster.
    Token,
}

/// What a path is to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Hold(Hold),
    /// A log by which an intrusion would be traced.
    Log,
    /// What a shell remembers of its commands.
    History,
    /// A setting of the kernel.
    Setting(Setting),
    /// Files of this product.
    Own,
}

/// A setting of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// Names a program that the kernel starts: code as root, outside of any container.
    Runs,
    /// Protects the kernel or other processes.
    Protects,
}

/// What `path` is, when it is anything; a handful of comparisons for the paths that are nothing.
pub(super) fn place(path: &str) -> Option<Place> {
    let rest = path.strip_prefix('/')?;
    let (top, below) = rest.split_once('/')?;
    match top {
        "etc" => etc(below),
        "var" => var(below),
        "usr" => usr(below),
        "lib" | "lib64" | "lib32" => library(below),
        "bin" | "sbin" => Some(Place::Hold(Hold::Binary)),
        "home" => below.split_once('/').and_then(|(_, file)| home(file)),
        "root" => home(below),
        "proc" | "sys" => setting(path).map(Place::Setting),
        "run" => below
            .starts_with("systemd/system/")
            .then_some(Place::Hold(Hold::Unit)),
        "srv" => web_script(below),
        _ => None,
    }
}

/// A folder of holds is one itself: another folder may be put in its place.
fn etc(below: &str) -> Option<Place> {
    let name = base_name(below);
    if is_scratch(name) {
        return None;
    }
    let (first, deeper) = below
        .split_once('/')
        .map_or((below, None), |(first, rest)| (first, Some(rest)));
    let hold = match (first, deeper) {
        ("crontab" | "anacrontab", None) => Hold::Cron,
        ("cron.d" | "cron.hourly" | "cron.daily" | "cron.weekly" | "cron.monthly", _) => Hold::Cron,
        ("systemd", Some("system" | "user")) => Hold::Unit,
        ("systemd", Some(rest)) if rest.starts_with("system/") || rest.starts_with("user/") => Hold::Unit,
        ("init.d", _) => Hold::Unit,
        ("ld.so.preload", None) => Hold::Preload,
        ("ld.so.conf", None) | ("ld.so.conf.d", _) => Hold::Preload,
        ("rc.local" | "inittab", None) => Hold::BootScript,
        ("update-motd.d" | "NetworkManager" | "networkd-dispatcher", Some(rest))
            if first != "NetworkManager" || rest.starts_with("dispatcher.d/") =>
        {
            Hold::BootScript
        }
        ("ssh", Some("sshd_config" | "sshd_config.d")) => Hold::SshServer,
        ("ssh", Some(rest)) if rest.starts_with("sshd_config.d/") => Hold::SshServer,
        ("pam.d" | "pam.conf", _) => Hold::Pam,
        ("profile" | "bash.bashrc" | "bashrc" | "zshrc" | "environment", None) => Hold::Profile,
        ("profile.d", _) => Hold::Profile,
        ("sudoers", None) | ("sudoers.d", _) | ("doas.conf", None) => Hold::Sudoers,
        ("passwd" | "shadow" | "group" | "gshadow", None) => Hold::Account,
        ("udev", Some(rest)) if rest == "rules.d" || rest.starts_with("rules.d/") => Hold::Device,
        ("modules", None) | ("modules-load.d" | "modprobe.d", _) => Hold::Device,
        ("fleetmend", Some(_)) => return Some(Place::Own),
        _ => return None,
    };
    Some(Place::Hold(hold))
}

fn var(below: &str) -> Option<Place> {
    if below == "log" {
        return Some(Place::Log);
    }
    if let Some(log) = below.strip_prefix("log/") {
        return is_trace(log).then_some(Place::Log);
    }
    if let Some(rest) = below.strip_prefix("spool/") {
        let cron = rest == "cron" || rest.starts_with("cron/") || rest.starts_with("at/");
        // crontab(1) writes beside and renames; below atspool is what jobs print.
        let scratch = base_name(rest).starts_with("tmp.")
            || rest.starts_with("cron/atspool/")
            || is_scratch(base_name(rest));
        return (cron && !scratch).then_some(Place::Hold(Hold::Cron));
    }
    if below.starts_with("lib/fleetmend") {
        return Some(Place::Own);
    }
    below.strip_prefix("www/").and_then(web_script)
}

fn usr(below: &str) -> Option<Place> {
    let (first, rest) = below.split_once('/')?;
    match first {
        "lib" | "share" if rest.starts_with("fleetmend/") => Some(Place::Own),
        "bin" | "sbin" => (!is_scratch(rest)).then_some(Place::Hold(Hold::Binary)),
        "lib" | "lib64" | "lib32" | "libexec" => library(rest),
        "share" => rest.strip_prefix("nginx/html/").and_then(web_script),
        _ => None,
    }
}

fn library(below: &str) -> Option<Place> {
    let name = base_name(below);
    if is_scratch(name) {
        return None;
    }
    if below.starts_with("systemd/system/") || below.starts_with("systemd/user/") {
        return Some(Place::Hold(Hold::Unit));
    }
    if below.starts_with("udev/rules.d/") {
        return Some(Place::Hold(Hold::Device));
    }
    if !name.ends_with(".so") && !name.contains(".so.") {
        return None;
    }
    if name.starts_with("pam_") {
        return Some(Place::Hold(Hold::Pam));
    }
    Some(Place::Hold(Hold::Binary))
}

/// Below a home folder.
fn home(below: &str) -> Option<Place> {
    // Nearly everything in homes that matters begins with a dot.
    if !below.starts_with('.') {
        return web_root(below);
    }
    let name = base_name(below);
    let hold = match below {
        ".ssh" | ".ssh/authorized_keys" | ".ssh/authorized_keys2" | ".ssh/rc" => Hold::SshKey,
        ".bashrc"
        | ".bash_profile"
        | ".bash_login"
        | ".bash_logout"
        | ".profile"
        | ".zshrc"
        | ".zprofile"
        | ".zshenv"
        | ".zlogin"
        | ".kshrc"
        | ".cshrc"
        | ".tcshrc"
        | ".config/fish/config.fish"
        | ".pam_environment" => Hold::OwnProfile,
        _ if below.starts_with(".config/systemd/user/") || below.starts_with(".config/autostart/") => {
            Hold::OwnProfile
        }
        _ if name.ends_with("_history") => return Some(Place::History),
        _ => return None,
    };
    Some(Place::Hold(hold))
}

fn web_root(below: &str) -> Option<Place> {
    below
        .contains("public_html/")
        .then(|| web_script(below))
        .flatten()
}

fn web_script(below: &str) -> Option<Place> {
    let (_, kind) = base_name(below).rsplit_once('.')?;
    let script = matches!(
        kind,
        "php" | "php5" | "php7" | "phtml" | "phar" | "jsp" | "jspx" | "asp" | "aspx" | "cgi"
    );
    script.then_some(Place::Hold(Hold::WebScript))
}

/// Whether a log, by its path below /var/log, is one by which an intrusion would be traced. Its rotated ones are too.
fn is_trace(log: &str) -> bool {
    if log == "audit" || log == "journal" || log.starts_with("audit/") || log.starts_with("journal/") {
        return true;
    }
    let Some(stem) = log.split('.').next().filter(|_| !log.contains('/')) else {
        return false;
    };
    matches!(
        stem,
        "auth"
            | "secure"
            | "syslog"
            | "messages"
            | "wtmp"
            | "btmp"
            | "lastlog"
            | "faillog"
            | "kern"
            | "daemon"
            | "cron"
            | "user"
            | "sudo"
            | "utmp"
    )
}

/// What an editor or package manager leaves while it works, and nobody reads.
fn is_scratch(name: &str) -> bool {
    name.starts_with('.')
        || name.starts_with('#')
        || [
            ".swp",
            "~",
            ".dpkg-new",
            ".dpkg-tmp",
            ".dpkg-old",
            ".tmp",
            ".lock",
        ]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The setting of the kernel at `path`, when it matters to security.
pub(super) fn setting(path: &str) -> Option<Setting> {
    if let Some(below) = path.strip_prefix("/proc/sys/") {
        return match below {
            "kernel/core_pattern"
            | "kernel/modprobe"
            | "kernel/hotplug"
            | "fs/binfmt_misc/register"
            | "kernel/usermodehelper/bset" => Some(Setting::Runs),
            "kernel/kptr_restrict"
            | "kernel/dmesg_restrict"
            | "kernel/randomize_va_space"
            | "kernel/yama/ptrace_scope"
            | "kernel/perf_event_paranoid"
            | "kernel/unprivileged_bpf_disabled"
            | "kernel/modules_disabled"
            | "kernel/kexec_load_disabled"
            | "kernel/sysrq"
            | "kernel/ftrace_enabled"
            | "vm/mmap_min_addr"
            | "fs/suid_dumpable"
            | "fs/protected_symlinks"
            | "fs/protected_hardlinks"
            | "fs/protected_regular"
            | "fs/protected_fifos"
            | "net/core/bpf_jit_harden"
            | "user/max_user_namespaces"
            | "kernel/unprivileged_userns_clone" => Some(Setting::Protects),
            _ => None,
        };
    }
    match path {
        "/sys/kernel/uevent_helper" => Some(Setting::Runs),
        "/proc/sysrq-trigger" | "/sys/kernel/security/lockdown" | "/sys/fs/selinux/enforce" => {
            Some(Setting::Protects)
        }
        _ if path.starts_with("/sys/fs/cgroup/") && path.ends_with("/release_agent") => Some(Setting::Runs),
        _ => None,
    }
}

/// The secret that a file holds, when it is known to hold one.
pub(super) fn secret(path: &str) -> Option<Secret> {
    let name = base_name(path);
    match path {
        "/etc/shadow"
        | "/etc/gshadow"
        | "/etc/shadow-"
        | "/etc/gshadow-"
        | "/etc/security/opasswd"
        | "/var/backups/shadow.bak"
        | "/var/backups/gshadow.bak" => return Some(Secret::Passwords),
        "/etc/krb5.keytab" => return Some(Secret::HostKey),
        "/proc/kcore" | "/dev/mem" | "/dev/kmem" | "/dev/port" => return Some(Secret::Memory),
        _ => {}
    }
    if let Some(key) = path.strip_prefix("/etc/ssh/ssh_host_") {
        return key.ends_with("_key").then_some(Secret::HostKey);
    }
    if path.starts_with("/var/lib/sss/") && name.ends_with(".ldb") {
        return Some(Secret::Passwords);
    }
    let file = match path.strip_prefix("/home/") {
        Some(below) => below.split_once('/')?.1,
        None => path.strip_prefix("/root/")?,
    };
    if file.starts_with(".ssh/") {
        let key = name.starts_with("id_") && !name.ends_with(".pub");
        return key.then_some(Secret::UserKey);
    }
    if file.starts_with(".gnupg/private-keys") {
        return Some(Secret::UserKey);
    }
    matches!(
        file,
        ".aws/credentials"
            | ".kube/config"
            | ".docker/config.json"
            | ".netrc"
            | ".pgpass"
            | ".git-credentials"
            | ".config/gcloud/credentials.db"
            | ".azure/accessTokens.json"
            | ".my.cnf"
    )
    .then_some(Secret::Token)
}

/// Whether any part of the path begins with a dot.
pub(super) fn is_hidden(path: &str) -> bool {
    path.contains("/.")
}

/// Folders whose files and modes are the system's.
pub(super) fn is_system(path: &str) -> bool {
    let Some((top, below)) = path
        .strip_prefix('/')
        .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
    else {
        return false;
    };
    match top {
        "etc" | "bin" | "sbin" | "lib" | "lib64" | "lib32" | "boot" => true,
        // Of root's home only what gives a hold: people work there too.
        "root" => below.is_empty() || below.starts_with(".ssh/") || home(below).is_some(),
        "usr" => !below.starts_with("local/") && !below.starts_with("src/"),
        "var" => ["spool/cron", "log/audit", "lib/dpkg", "lib/fleetmend"]
            .iter()
            .any(|folder| below.starts_with(folder)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_they_are_to_the_host() {
        let hold = |hold| Some(Place::Hold(hold));
        let cases = [
            ("/etc/cron.d/job", hold(Hold::Cron)),
            ("/etc/cron.d/.job.swp", None),
            ("/etc/cron.d", hold(Hold::Cron)),
            ("/etc/systemd/system", hold(Hold::Unit)),
            ("/etc/systemd/journald.conf", None),
            ("/var/spool/cron/atspool/a1", None),
            ("/var/spool/cron/crontabs/root", hold(Hold::Cron)),
            ("/var/spool/cron/crontabs/tmp.x8Yk", None),
            ("/etc/systemd/system/a.service", hold(Hold::Unit)),
            ("/usr/lib/systemd/system/a.service", hold(Hold::Unit)),
            ("/lib/systemd/system/a.service", hold(Hold::Unit)),
            ("/etc/ld.so.preload", hold(Hold::Preload)),
            ("/etc/ld.so.cache", None),
            ("/etc/passwd", hold(Hold::Account)),
            ("/etc/passwd.lock", None),
            ("/root/.ssh/authorized_keys", hold(Hold::SshKey)),
            ("/root/.ssh", hold(Hold::SshKey)),
            ("/home/eve/.ssh/known_hosts", None),
            ("/home/eve/.ssh/authorized_keys", hold(Hold::SshKey)),
            ("/home/eve/.bashrc", hold(Hold::OwnProfile)),
            ("/home/eve/.bash_history", Some(Place::History)),
            ("/home/eve/src/main.c", None),
            ("/usr/lib/x86_64-linux-gnu/security/pam_unix.so", hold(Hold::Pam)),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", hold(Hold::Binary)),
            ("/usr/lib/python3/dist-packages/x.pyc", None),
            ("/usr/bin/ls", hold(Hold::Binary)),
            ("/usr/local/bin/tool", None),
            ("/var/log/auth.log", Some(Place::Log)),
            ("/var/log/syslog.2.gz", Some(Place::Log)),
            ("/var/log/journal/x/system.journal", Some(Place::Log)),
            ("/var/log", Some(Place::Log)),
            ("/var/log/journal", Some(Place::Log)),
            ("/var/log/nginx/access.log", None),
            ("/usr/share/fleetmend/rules/linux/x.yml", Some(Place::Own)),
            ("/var/www/html/a.php", hold(Hold::WebScript)),
            ("/var/www/html/a.css", None),
            (
                "/proc/sys/kernel/core_pattern",
                Some(Place::Setting(Setting::Runs)),
            ),
            (
                "/sys/fs/cgroup/memory/x/release_agent",
                Some(Place::Setting(Setting::Runs)),
            ),
            ("/proc/sys/net/ipv4/ip_forward", None),
            ("/tmp/x", None),
            ("relative", None),
        ];
        for (path, wanted) in cases {
            assert_eq!(place(path), wanted, "{path}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_paths() {
        assert_eq!(secret("/etc/shadow"), Some(Secret::Passwords));
        assert_eq!(secret("/etc/ssh/ssh_host_ed25519_key"), Some(Secret::HostKey));
        assert_eq!(secret("/etc/ssh/ssh_host_ed25519_key.pub"), None);
        assert_eq!(secret("/home/eve/.ssh/id_ed25519"), Some(Secret::UserKey));
        assert_eq!(secret("/home/eve/.ssh/id_ed25519.pub"), None);
        assert_eq!(secret("/root/.aws/credentials"), Some(Secret::Token));
        assert_eq!(secret("/etc/passwd"), None);
    }
}
