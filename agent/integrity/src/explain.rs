//! Why a change is expected, or that it is not: a pure function of what is known of it.

use std::path::Path;

use fleetmend_event::table::{IntegrityChange, IntegrityVerdict, Severity};

use crate::class::{Class, is_suid};
use crate::config::{Config, ExpectedWriter};
use crate::pattern::Pattern;
use crate::state::FileState;
use crate::watch::patterns;
use crate::who::{Touch, Writer};

/// How long before a change the package database may have been touched last, and still belongs to it.
const DATABASE_NS: i64 = 120_000_000_000;

/// A program of the system that changes watched files by itself.
struct Known {
    programs: &'static [&'static str],
    classes: &'static [Class],
    links_only: bool,
    /// Believed in a unit whose name begins so, or below a package manager: whoever else starts it chooses what it does.
    unit: Option<&'static str>,
}

const KNOWN: &[Known] = &[
    Known {
        programs: &["/usr/bin/systemd-tmpfiles", "/bin/systemd-tmpfiles"],
        classes: &[Class::Unit, Class::Profile, Class::Custom, Class::Cron],
        links_only: false,
        unit: Some("systemd-tmpfiles-"),
    },
    Known {
        programs: &["/usr/bin/systemd-sysusers", "/bin/systemd-sysusers"],
        classes: &[Class::Account],
        links_only: false,
        unit: Some("systemd-sysusers."),
    },
    Known {
        programs: &[
            "/usr/sbin/ldconfig",
            "/sbin/ldconfig",
            "/usr/sbin/ldconfig.real",
            "/sbin/ldconfig.real",
        ],
        classes: &[Class::Library],
        links_only: true,
        unit: None,
    },
    Known {
        programs: &["/usr/bin/update-alternatives"],
        classes: &[Class::Binary, Class::Library, Class::Unit, Class::Custom],
        links_only: true,
        unit: None,
    },
    Known {
        programs: &["/usr/bin/kmod", "/sbin/depmod", "/usr/sbin/depmod"],
        classes: &[Class::KernelModule],
        links_only: false,
        unit: None,
    },
];

/// Programs by which people change such files on purpose, and where they lie. What the one who calls them is, is for
/// the detections by behaviour to judge.
const TOOLS: &[(Class, &str, &[&str])] = &[
    (
        Class::Account,
        "etc",
        &[
            "/usr/bin/passwd",
            "/usr/bin/chsh",
            "/usr/bin/chfn",
            "/usr/bin/chage",
            "/usr/bin/gpasswd",
            "/usr/sbin/useradd",
            "/usr/sbin/usermod",
            "/usr/sbin/userdel",
            "/usr/sbin/groupadd",
            "/usr/sbin/groupmod",
            "/usr/sbin/groupdel",
            "/usr/sbin/chpasswd",
            "/usr/sbin/pwck",
            "/usr/sbin/grpck",
        ],
    ),
    (Class::Cron, "var/spool/cron", &["/usr/bin/crontab"]),
];

/// What is known of a change.
pub(crate) struct Case<'a> {
    pub(crate) path: &'a Path,
    pub(crate) class: Class,
    pub(crate) change: IntegrityChange,
    pub(crate) new: Option<&'a FileState>,
    /// Every touch that is believed, the writer's among them.
    pub(crate) touches: &'a [&'a Touch],
    /// Whether the content is what its package delivered; none when no package says.
    pub(crate) agrees: Option<bool>,
    /// When the package database was last touched.
    pub(crate) database_ns: i64,
    /// Now.
    pub(crate) now_ns: i64,
    /// Whether packages were unpacked about when it changed.
    pub(crate) worked: bool,
    /// Whether a package manager that touched it still runs, and may not have told its database yet.
    pub(crate) manager_runs: bool,
    /// Whether the next package manager may be at work on it: it changed just now, or the database was not read since it
    /// changed.
    pub(crate) unsettled: bool,
}

/// What it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Explanation {
    /// A verdict, with the reason in words.
    Is(IntegrityVerdict, &'static str),
    /// The package manager is at work: ask again.
    Later,
}

/// Writers of the configuration, ready to be asked.
pub(crate) struct Expectations {
    list: Vec<(ExpectedWriter, Vec<Pattern>)>,
}

impl Expectations {
    pub(crate) fn new(config: &Config, root: &Path) -> Self {
        let ready = |expected: &ExpectedWriter| {
            let paths = patterns(root, expected.paths.iter().map(String::as_str));
            (expected.clone(), paths)
        };
        Self {
            list: config.expected.iter().map(ready).collect(),
        }
    }

    /// Explains a change.
    pub(crate) fn explain(&self, case: &Case<'_>) -> Explanation {
        let is = Explanation::Is;
        if case.touches.is_empty() {
            return by_nobody_known(case);
        }
        let all = |explains: &dyn Fn(&Touch) -> bool| case.touches.iter().all(|touch| explains(touch));
        if all(&|touch| self.expects(case, &touch.writer)) {
            return is(
                IntegrityVerdict::Expected,
                "the configuration expects it of this writer",
            );
        }
        if all(&|touch| is_known(case, &touch.writer)) {
            return is(
                IntegrityVerdict::Expected,
                "a program of the system that does this by itself",
            );
        }
        let explained = |touch: &Touch| {
            touch.writer.manager.is_some()
                || self.expects(case, &touch.writer)
                || is_known(case, &touch.writer)
        };
        if all(&explained) {
            return by_manager(case);
        }
        // Its end came before it could be looked at; what it left is what the package says.
        let called = |touch: &Touch| touch.writer.called_manager && !touch.writer.in_container;
        if case.agrees == Some(true) && all(&|touch| explained(touch) || called(touch)) {
            return is(
                IntegrityVerdict::Package,
                "the content is what its package delivers",
            );
        }
        is(IntegrityVerdict::Unexpected, "nothing explains it")
    }

    fn expects(&self, case: &Case<'_>, writer: &Writer) -> bool {
        self.list.iter().any(|(expected, paths)| {
            let by_program = expected.exe.as_ref().is_none_or(|exe| {
                let runs =
                    |program: &Option<String>| program.as_deref().is_some_and(|path| Path::new(path) == exe);
                !writer.in_container && (runs(&writer.exe) || writer.chain.iter().any(|one| runs(&one.exe)))
            });
            let by_unit = expected
                .unit
                .as_ref()
                .is_none_or(|unit| writer.unit.as_ref() == Some(unit));
            let of_path = expected.paths.is_empty() || paths.iter().any(|pattern| pattern.covers(case.path));
            by_program && by_unit && of_path
        })
    }
}

/// While the agent was off, or without events: what lies there has to speak for itself.
fn by_nobody_known(case: &Case<'_>) -> Explanation {
    if case.agrees == Some(true) {
        return Explanation::Is(
            IntegrityVerdict::Package,
            "the content is what its package delivers",
        );
    }
    // dpkg's own sums, a file of an older version that is gone, a link: what no sums are there for.
    let without_sums = case.class == Class::PackageDatabase
        || case.change == IntegrityChange::Removed
        || case.new.is_some_and(FileState::is_link);
    let plain = !matches!(
        case.class,
        Class::Preload | Class::Sudoers | Class::SshKey | Class::Account
    );
    if case.agrees.is_none() && case.worked && without_sums && plain {
        return Explanation::Is(
            IntegrityVerdict::Package,
            "packages were unpacked in the same while",
        );
    }
    Explanation::Is(IntegrityVerdict::Unknown, "who did it is not known")
}

fn by_manager(case: &Case<'_>) -> Explanation {
    // A time of the future, of a clock that was set back or of a `touch`, is of no run that is over.
    let apart_ns = case.now_ns.saturating_sub(case.database_ns).unsigned_abs();
    let in_the_same_while = apart_ns <= DATABASE_NS.unsigned_abs();
    match case.agrees {
        Some(true) => Explanation::Is(
            IntegrityVerdict::Package,
            "a package manager wrote what the package delivers",
        ),
        _ if case.manager_runs => Explanation::Later,
        // The next version of it is there before its sums and before the event that tells who brought it.
        Some(false) if case.unsettled => Explanation::Later,
        None if in_the_same_while => Explanation::Is(
            IntegrityVerdict::Package,
            "a package manager did it while its database changed",
        ),
        // Rights and removal are not in the sums.
        Some(false) if case.change == IntegrityChange::Metadata && in_the_same_while => Explanation::Is(
            IntegrityVerdict::Package,
            "a package manager did it while its database changed",
        ),
        Some(false) => Explanation::Is(
            IntegrityVerdict::Unexpected,
            "a package manager's process wrote what its package does not have",
        ),
        None => Explanation::Is(
            IntegrityVerdict::Unexpected,
            "a package manager's process wrote it and its database did not change",
        ),
    }
}

fn is_known(case: &Case<'_>, writer: &Writer) -> bool {
    let Some(exe) = writer.exe.as_deref().filter(|_| !writer.in_container) else {
        return false;
    };
    let is_link = case.new.is_none_or(FileState::is_link);
    let in_unit = |begin: &str| writer.unit.as_deref().is_some_and(|unit| unit.starts_with(begin));
    KNOWN.iter().any(|known| {
        known.programs.contains(&exe)
            && known.classes.contains(&case.class)
            && (is_link || !known.links_only)
            && known
                .unit
                .is_none_or(|begin| writer.manager.is_some() || in_unit(begin))
    })
}

/// How grave a change is that nothing explains.
pub(crate) fn severity(
    class: Class,
    path: &Path,
    change: IntegrityChange,
    states: (Option<&FileState>, Option<&FileState>),
    writer: Option<&Writer>,
) -> Severity {
    let (old, new) = states;
    let grave = class.severity(path, change);
    let tool = writer
        .filter(|writer| !writer.in_container)
        .and_then(|writer| writer.exe.as_deref());
    if tool.is_some_and(|exe| is_tool(class, exe, path)) {
        return grave.min(Severity::Low);
    }
    let is_folder = new.or(old).is_some_and(FileState::is_folder);
    if is_folder {
        // A folder that anyone may write to is as grave as its files; one more or less is not.
        let opened =
            new.is_some_and(|new| new.mode & 0o022 != 0 && old.is_none_or(|old| old.mode & 0o022 == 0));
        return if opened {
            grave.max(Severity::High)
        } else {
            grave.min(Severity::Low)
        };
    }
    if gained_suid(old, new) {
        grave.max(Severity::High)
    } else {
        grave
    }
}

/// Whether people change files of this class by this program.
fn is_tool(class: Class, exe: &str, path: &Path) -> bool {
    // Below whichever root is watched.
    let lies = |below: &str| path.ancestors().any(|folder| folder.ends_with(below));
    TOOLS
        .iter()
        .any(|(of, below, programs)| *of == class && programs.contains(&exe) && lies(below))
}

/// Whether a program now runs with the rights of its owner or group, and did not before.
pub(crate) fn gained_suid(old: Option<&FileState>, new: Option<&FileState>) -> bool {
    new.is_some_and(|new| is_suid(new.mode)) && !old.is_some_and(|old| is_suid(old.mode))
}

#[cfg(test)]
mod tests;
