//! What a program is known to be, from its path and, for an interpreter, from the script it was given.
//!
//! Classes that excuse an act are given to programs in folders that only root may write to; a program that merely
//! has the name of one is nothing. Classes that make an act suspicious (a shell, a network tool) go by name alone.

use std::ops::{BitOr, BitOrAssign};

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Classes(u64);

macro_rules! classes {
    ($($(#[$meta:meta])* $name:ident = $bit:literal,)+) => {
        impl Classes {
            $($(#[$meta])* pub(crate) const $name: Classes = Classes(1 << $bit);)+
        }
    };
}

classes! {
    /// Installs, upgrades or configures packages, or builds what they trigger.
    PACKAGE = 0,
    /// Runs a command as another user.
    ELEVATE = 1,
    /// Lets people log in.
    LOGIN = 2,
    /// Reads commands.
    SHELL = 3,
    /// Runs scripts.
    INTERPRETER = 4,
    /// Serves the web, or runs its scripts.
    WEB = 5,
    /// Runs jobs at their time.
    CRON = 6,
    /// systemd and its own parts, or another first process.
    INIT = 7,
    /// Builds software.
    BUILD = 8,
    /// Copies whole trees.
    BACKUP = 9,
    /// Rotates logs.
    LOG_ROTATION = 10,
    /// Sets the clock by the network or the hardware.
    TIME = 11,
    /// Looks into processes.
    DEBUGGER = 12,
    /// Brings hosts to a described state.
    CONFIGURATION = 13,
    /// Starts containers.
    CONTAINER_RUNTIME = 14,
    /// Speaks ssh to others.
    SSH = 15,
    /// Reads and writes accounts and passwords.
    ACCOUNT = 16,
    /// Loads modules on behalf of others.
    MODULES = 17,
    /// Loads BPF programs as its purpose.
    BPF = 18,
    /// Writes logs.
    LOGGER = 19,
    /// Joins anything to the network.
    NETWORK_TOOL = 20,
    /// Fetches files.
    DOWNLOAD = 21,
    /// A thread of the kernel.
    KERNEL = 22,
    /// Reads every file to compare it.
    INTEGRITY = 23,
    /// Sends mail.
    MAIL = 24,
    /// Compiles at run time, and so maps memory executable.
    JIT = 25,
    /// Collects the remains of crashed processes.
    CRASH = 26,
    /// Lies in a folder that everyone may write to.
    WRITABLE = 27,
    /// Has no name in any file system.
    FILELESS = 28,
    /// Writes crontabs for users.
    CRONTAB = 29,
    /// systemctl and its kin.
    SERVICE_TOOL = 30,
    /// Was run in a container, by other than the runtime that sets it up.
    CONTAINED = 31,
}

impl Classes {
    /// None.
    pub(crate) const NONE: Classes = Classes(0);
    /// What stands behind the upkeep of a system.
    pub(crate) const UPKEEP: Classes = Classes(Self::PACKAGE.0 | Self::CONFIGURATION.0);

    /// Whether it has any of `others`.
    pub(crate) const fn any(self, others: Classes) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for Classes {
    type Output = Classes;

    fn bitor(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }
}

impl BitOrAssign for Classes {
    fn bitor_assign(&mut self, other: Classes) {
        self.0 |= other.0;
    }
}

/// Folders that everyone, or their user, may write to.
const WRITABLE: &[&str] = &[
    "/tmp/",
    "/var/tmp/",
    "/dev/shm/",
    "/run/shm/",
    "/run/user/",
    "/dev/mqueue/",
];
/// Folders whose programs were put there by root.
const TRUSTED: &[&str] = &[
    "/usr/",
    "/bin/",
    "/sbin/",
    "/lib/",
    "/lib64/",
    "/opt/",
    "/snap/",
    "/nix/store/",
    "/etc/",
    "/var/lib/dpkg/",
];

/// Whether a file of this path lies where everyone may write.
pub(crate) fn is_writable_path(path: &str) -> bool {
    WRITABLE.iter().any(|folder| path.starts_with(folder))
}

/// Whether a program of this path has no name in any file system: a memfd, or one deleted since.
pub(crate) fn is_fileless(exe: &str) -> bool {
    exe.starts_with("/memfd:") || exe.starts_with("memfd:") || exe.ends_with(" (deleted)")
}

/// Whether only root puts programs where `path` lies. One that climbs out of its folders may lie anywhere.
pub(crate) fn is_trusted_path(path: &str) -> bool {
    TRUSTED.iter().any(|folder| path.starts_with(folder)) && !path.contains("/../")
}

/// Whether a program of this name is a debugger, wherever it lies.
pub(crate) fn is_debugger(name: &str) -> bool {
    observation(name).any(Classes::DEBUGGER)
}

/// Last part of a path.
pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What the program at `exe` is, which was given `args`; `comm` is its name where no path is known.
pub(crate) fn classify<'a>(exe: Option<&str>, comm: &str, args: impl Iterator<Item = &'a str>) -> Classes {
    let Some(exe) = exe else {
        return suspicious(stem(comm));
    };
    let mut classes = suspicious(stem(base_name(exe)));
    if is_fileless(exe) {
        classes |= Classes::FILELESS;
    } else if is_writable_path(exe) {
        classes |= Classes::WRITABLE;
    } else {
        classes |= builds(base_name(exe));
        if is_trusted_path(exe) {
            classes |= excused(base_name(exe), exe);
        }
    }
    if classes.any(Classes::SHELL | Classes::INTERPRETER)
        && !classes.any(Classes::FILELESS | Classes::WRITABLE)
        && let Some(script) = script(classes, stem(base_name(exe)), args)
    {
        // The script is the program.
        if is_trusted_path(script) {
            classes |= excused(base_name(script), script);
        }
        if base_name(script) == "gunicorn" {
            classes |= Classes::WEB;
        }
    }
    classes
}

/// The script that an interpreter was given. Options before it may only be flags that take no value and name no other
/// source of commands: the word after `sh -c`, `perl -e` or `python -W` is no script, whatever it looks like.
fn script<'a>(
    classes: Classes,
    interpreter: &str,
    mut args: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let called = args.next()?;
    let flags = match interpreter {
        // The first word is the program itself.
        "awk" | "gawk" | "mawk" => return None,
        "busybox" if !matches!(base_name(called), "sh" | "ash") => return None,
        _ if classes.any(Classes::SHELL) => "abefhklnpuvxBEHPT",
        "python" | "platform-python" => "bBdEIOPqsStuv",
        "perl" | "ruby" => "twTWX",
        _ => "",
    };
    for arg in args {
        match arg.strip_prefix('-') {
            None => return Some(arg),
            Some(letters) if !letters.is_empty() && letters.chars().all(|letter| flags.contains(letter)) => {}
            Some(_) => return None,
        }
    }
    None
}

/// `python3.11` is `python`, `php-fpm8.2` is `php-fpm`.
fn stem(name: &str) -> &str {
    name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.')
}

fn suspicious(stem: &str) -> Classes {
    match stem {
        "sh" | "bash" | "dash" | "zsh" | "ksh" | "fish" | "ash" | "tcsh" | "csh" | "mksh" | "rbash"
        | "busybox" => Classes::SHELL,
        "python" | "platform-python" | "perl" | "ruby" | "lua" | "tclsh" | "awk" | "gawk" | "mawk" => {
            Classes::INTERPRETER
        }
        "node" | "nodejs" | "luajit" => Classes::INTERPRETER | Classes::JIT,
        "php" => Classes::INTERPRETER | Classes::JIT,
        "nginx" | "apache" | "httpd" | "lighttpd" | "caddy" | "php-fpm" | "php-cgi" | "uwsgi"
        | "gunicorn" | "h2o" | "litespeed" | "lsphp" | "openresty" => Classes::WEB,
        "nc" | "ncat" | "netcat" | "nc.traditional" | "nc.openbsd" | "socat" | "telnet" | "cryptcat" => {
            Classes::NETWORK_TOOL
        }
        "curl" | "wget" | "aria2c" | "aria" | "axel" | "ftp" | "lftp" | "tftp" => Classes::DOWNLOAD,
        _ => Classes::NONE,
    }
}

fn builds(name: &str) -> Classes {
    match name {
        "make" | "gmake" | "ninja" | "cmake" | "ctest" | "meson" | "cargo" | "rustc" | "rustdoc"
        | "rustup" | "gcc" | "cc" | "c++" | "g++" | "clang" | "cc1" | "cc1plus" | "collect2" | "ld"
        | "go" | "mvn" | "gradle" | "bazel" | "scons" | "cargo-nextest" | "nextest" | "dpkg-buildpackage"
        | "debuild" | "rpmbuild" | "ccache" | "sccache" | "autoconf" | "automake" | "libtool" | "javac"
        | "tsc" | "npm" | "yarn" | "pnpm" => Classes::BUILD,
        _ => Classes::NONE,
    }
}

/// The classes that excuse.
fn excused(name: &str, path: &str) -> Classes {
    if path.starts_with("/var/lib/dpkg/") || path.starts_with("/usr/lib/apt/") {
        return Classes::PACKAGE;
    }
    if path.starts_with("/usr/lib/systemd/") || path.starts_with("/lib/systemd/") {
        return systemd(name);
    }
    let found = upkeep(name) | access(name) | machinery(name) | observation(name);
    if found != Classes::NONE {
        return found;
    }
    match stem(name) {
        "java" | "mono" | "dotnet" | "chrome" | "chromium" | "firefox" | "beam.smp" | "qemu-system-x"
        | "qemu-x" | "qemu-system-aarch" | "julia" | "R" | "erl" | "gjs" | "gnome-shell" | "wine" => {
            Classes::JIT
        }
        _ => Classes::NONE,
    }
}

fn systemd(name: &str) -> Classes {
    Classes::INIT
        | match name {
            "systemd-journald" => Classes::LOGGER,
            "systemd-timesyncd" | "systemd-timedated" => Classes::TIME,
            "systemd-udevd" | "systemd-modules-load" => Classes::MODULES,
            "systemd-logind" | "systemd-sysusers" | "systemd-homed" | "systemd-userdbd" => Classes::ACCOUNT,
            "systemd-coredump" => Classes::CRASH,
            _ => Classes::NONE,
        }
}

fn upkeep(name: &str) -> Classes {
    match name {
        "apt"
        | "apt-get"
        | "aptitude"
        | "dpkg"
        | "dpkg-deb"
        | "dpkg-divert"
        | "dpkg-statoverride"
        | "dpkg-reconfigure"
        | "dpkg-preconfigure"
        | "unattended-upgrade"
        | "unattended-upgrades"
        | "apt.systemd.daily"
        | "debootstrap"
        | "mmdebstrap"
        | "rpm"
        | "dnf"
        | "dnf-3"
        | "dnf5"
        | "yum"
        | "microdnf"
        | "zypper"
        | "pacman"
        | "apk"
        | "snapd"
        | "packagekitd"
        | "update-alternatives"
        | "update-initramfs"
        | "dkms"
        | "ldconfig"
        | "depmod"
        | "needrestart"
        | "fwupd"
        | "mandb"
        | "update-rc.d"
        | "deb-systemd-helper"
        | "deb-systemd-invoke"
        | "debconf"
        | "frontend"
        | "tasksel"
        | "etckeeper"
        | "rpm-ostree"
        | "emerge"
        | "xbps-install"
        | "update-binfmts" => Classes::PACKAGE,
        "ansible" | "ansible-playbook" | "ansible-pull" | "puppet" | "puppet-agent" | "chef-client"
        | "cinc-client" | "salt-minion" | "salt-call" | "salt-ssh" | "cf-agent" | "cloud-init"
        | "cloud-init-per" | "waagent" | "google_guest_agent" => Classes::CONFIGURATION,
        "tar"
        | "bsdtar"
        | "rsync"
        | "borg"
        | "borgbackup"
        | "restic"
        | "duplicity"
        | "rdiff-backup"
        | "rsnapshot"
        | "bacula-fd"
        | "bareos-fd"
        | "burp"
        | "dump"
        | "cpio"
        | "dar"
        | "amanda"
        | "kopia"
        | "duplicati"
        | "bup"
        | "urbackupclientbackend"
        | "veeamagent" => Classes::BACKUP,
        "logrotate" | "savelog" => Classes::LOG_ROTATION,
        "aide" | "tripwire" | "debsums" | "samhain" | "rkhunter" | "chkrootkit" | "lynis" | "clamscan"
        | "clamd" | "fleetmend-agent" => Classes::INTEGRITY,
        _ => Classes::NONE,
    }
}

fn access(name: &str) -> Classes {
    match name {
        "sudo" | "su" | "doas" | "pkexec" | "runuser" | "setpriv" | "sudoedit" | "sg" | "newgrp" | "gosu"
        | "su-exec" | "start-stop-daemon" | "chpst" | "setuidgid" | "machinectl" | "systemd-run" | "run0" => {
            Classes::ELEVATE
        }
        "sshd" | "sshd-session" | "sshd-auth" | "login" | "dropbear" | "in.telnetd" | "telnetd"
        | "agetty" | "getty" | "gdm" | "gdm3" | "gdm-session-worker" | "lightdm" | "sddm" | "sddm-helper"
        | "mosh-server" | "teleport" | "tailscaled" | "ssm-session-worker" | "cockpit-session"
        | "cockpit-bridge" | "xrdp-sesman" | "vsftpd" | "proftpd" | "smbd" | "rlogind" | "rshd" => {
            Classes::LOGIN
        }
        "passwd"
        | "chage"
        | "chsh"
        | "chfn"
        | "gpasswd"
        | "useradd"
        | "userdel"
        | "usermod"
        | "groupadd"
        | "groupdel"
        | "groupmod"
        | "adduser"
        | "deluser"
        | "addgroup"
        | "delgroup"
        | "chpasswd"
        | "newusers"
        | "vipw"
        | "vigr"
        | "pwck"
        | "grpck"
        | "pwconv"
        | "pwunconv"
        | "unix_chkpwd"
        | "unix_update"
        | "accounts-daemon"
        | "sssd"
        | "sssd_be"
        | "sssd_nss"
        | "sssd_pam"
        | "krb5_child"
        | "nscd"
        | "nslcd"
        | "winbindd"
        | "saslauthd"
        | "polkitd"
        | "polkit-agent-helper-1"
        | "dovecot"
        | "auth"
        | "xscreensaver"
        | "visudo"
        | "systemd-sysusers"
        | "slapd"
        | "shadowconfig" => Classes::ACCOUNT,
        "ssh"
        | "scp"
        | "sftp"
        | "ssh-add"
        | "ssh-agent"
        | "ssh-keygen"
        | "ssh-copy-id"
        | "autossh"
        | "ssh-keysign"
        | "ssh-keyscan"
        | "gnome-keyring-daemon"
        | "gpg-agent" => Classes::SSH,
        "cron" | "crond" | "anacron" | "atd" | "fcron" | "run-parts" => Classes::CRON,
        "crontab" | "at" | "batch" => Classes::CRONTAB,
        _ => Classes::NONE,
    }
}

fn machinery(name: &str) -> Classes {
    match name {
        "systemd" | "init" | "runit" | "s6-svscan" | "openrc" | "openrc-run" | "tini" | "dumb-init"
        | "upstart" => Classes::INIT,
        "systemctl" | "service" | "invoke-rc.d" | "rc-service" | "journalctl" => Classes::SERVICE_TOOL,
        "systemd-tmpfiles" | "systemd-sysctl" | "systemd-hwdb" => Classes::INIT,
        "chronyd" | "ntpd" | "ntpdate" | "ntpdig" | "openntpd" | "hwclock" | "ptp4l" | "phc2sys"
        | "timedatectl" | "VBoxService" | "vmtoolsd" | "qemu-ga" | "hv_utils" | "htpdate" | "tlsdate" => {
            Classes::TIME
        }
        "runc"
        | "crun"
        | "containerd"
        | "containerd-shim"
        | "containerd-shim-runc-v2"
        | "dockerd"
        | "docker-init"
        | "podman"
        | "conmon"
        | "crio"
        | "kubelet"
        | "lxc-start"
        | "lxd"
        | "incusd"
        | "systemd-nspawn"
        | "buildah"
        | "buildkitd"
        | "snap-confine"
        | "bwrap"
        | "netavark"
        | "flatpak" => Classes::CONTAINER_RUNTIME,
        "modprobe" | "kmod" | "udevadm" | "udevd" => Classes::MODULES,
        "rsyslogd" | "syslog-ng" | "syslogd" | "klogd" | "vector" | "fluent-bit" | "fluentd" | "promtail"
        | "filebeat" | "auditd" | "audispd" | "journalctl-vacuum" | "ulogd" => Classes::LOGGER,
        "sendmail" | "postfix" | "exim" | "exim4" | "msmtp" | "ssmtp" | "nullmailer-send" | "dma"
        | "smtp" | "opensmtpd" | "smtpd" => Classes::MAIL,
        _ => Classes::NONE,
    }
}

fn observation(name: &str) -> Classes {
    match name {
        "gdb" | "gdbserver" | "lldb" | "lldb-server" | "strace" | "ltrace" | "rr" | "valgrind" | "perf"
        | "py-spy" | "dlv" | "uftrace" | "reptyr" | "criu" | "eu-stack" | "pstack" | "rust-gdb" => {
            Classes::DEBUGGER
        }
        "bpftrace" | "bpftool" | "cilium-agent" | "cilium" | "falco" | "tetragon" | "tracee" | "pixie"
        | "parca-agent" | "otel-ebpf-profiler" | "ip" | "tc" | "xdp-loader" | "lxcfs" | "libvirtd"
        | "virtqemud" | "qemu-bridge-helper" | "NetworkManager" | "firewalld" | "suricata"
        | "ebpf_exporter" | "fleetmend-healer" => Classes::BPF,
        "apport" | "abrtd" | "abrt-hook-ccpp" | "kdump" | "whoopsie" | "crashpad_handler" => Classes::CRASH,
        _ => Classes::NONE,
    }
}

#[cfg(test)]
mod tests;
