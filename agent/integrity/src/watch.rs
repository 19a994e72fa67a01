//! What is watched: rules of the classes, and the question whether a path is one of theirs.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::class::Class;
use crate::config::Config;
use crate::pattern::{Pattern, glob_matches, names_below};
use crate::state::FileState;

/// Names that editors give their temporary and backup files.
const EDITORS: &[&str] = &[
    "*~",
    ".*.sw?",
    ".*.swpx",
    "4913",
    ".#*",
    "#*#",
    "*.dpkg-new",
    "*.dpkg-tmp",
];

/// What Fleetmend watches of a host, class by class; the first rule that covers a path names its class.
const RULES: &[(Class, &[&str])] = &[
    (Class::Preload, &["/etc/ld.so.preload"]),
    (
        Class::Sudoers,
        &["/etc/sudoers", "/etc/sudoers.d/*", "/etc/doas.conf"],
    ),
    (
        Class::SshKey,
        &[
            "/root/.ssh/*",
            "/home/*/.ssh/authorized_keys*",
            "/home/*/.ssh/rc",
            "/home/*/.ssh/environment",
            "/etc/ssh/authorized_keys*",
        ],
    ),
    (Class::SshConfig, &["/etc/ssh/**"]),
    (
        Class::Pam,
        &[
            "/etc/pam.d/*",
            "/etc/pam.conf",
            "/etc/security/**",
            "/usr/lib/security/*.so",
            "/usr/lib64/security/*.so",
            "/usr/lib/*-linux-*/security/*.so",
        ],
    ),
    (
        Class::Account,
        &["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"],
    ),
    (
        Class::Cron,
        &[
            "/etc/crontab",
            "/etc/anacrontab",
            "/etc/cron.allow",
            "/etc/cron.deny",
            "/etc/cron.d/*",
            "/etc/cron.hourly/*",
            "/etc/cron.daily/*",
            "/etc/cron.weekly/*",
            "/etc/cron.monthly/*",
            "/etc/cron.yearly/*",
            "/var/spool/cron/**",
        ],
    ),
    (
        Class::Unit,
        &[
            "/etc/systemd/**",
            "/usr/lib/systemd/system/**",
            "/usr/lib/systemd/user/**",
            "/usr/local/lib/systemd/**",
            "/usr/lib/systemd/system-generators/*",
            "/etc/init.d/*",
            "/etc/rc.local",
        ],
    ),
    (Class::LinkerConfig, &["/etc/ld.so.conf", "/etc/ld.so.conf.d/*"]),
    (
        Class::Profile,
        &[
            "/etc/profile",
            "/etc/profile.d/*",
            "/etc/bash.bashrc",
            "/etc/zsh/*",
            "/etc/environment",
            "/root/.bashrc",
            "/root/.profile",
            "/root/.bash_profile",
            "/root/.bash_login",
            "/root/.bash_logout",
            "/root/.zshrc",
            "/home/*/.bashrc",
            "/home/*/.profile",
            "/home/*/.bash_profile",
            "/home/*/.bash_login",
            "/home/*/.zshrc",
        ],
    ),
    (
        Class::Binary,
        &[
            "/usr/bin/*",
            "/usr/sbin/*",
            "/usr/local/bin/*",
            "/usr/local/sbin/*",
            "/bin/*",
            "/sbin/*",
            "/usr/libexec/*",
        ],
    ),
    (
        Class::PackageDatabase,
        &["/var/lib/dpkg/info/*.md5sums", "/var/lib/dpkg/diversions"],
    ),
    (
        Class::Library,
        &[
            "/usr/lib/*.so*",
            "/usr/lib64/*.so*",
            "/usr/lib/*-linux-*/*.so*",
            "/lib/*.so*",
            "/lib64/*.so*",
            "/lib/*-linux-*/*.so*",
            "/usr/local/lib/*.so*",
            "/usr/local/lib/*-linux-*/*.so*",
        ],
    ),
    (
        Class::KernelModule,
        &[
            "/usr/lib/modules/*/**",
            "/etc/modules",
            "/etc/modules-load.d/*",
            "/etc/modprobe.d/*",
        ],
    ),
];

/// Paths below the rules that change by themselves, and mean nothing.
const UNINTERESTING: &[&str] = &[
    "/root/.ssh/known_hosts*",
    "/usr/lib/modules/*/build/**",
    "/usr/lib/modules/*/source/**",
];

/// What a path is, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file or a link.
    File,
    /// A folder: it is watched when it directly holds what is.
    Folder,
    /// Nobody looked yet.
    Any,
}

impl Kind {
    /// What a state says.
    pub(crate) fn of(state: &FileState) -> Self {
        if state.is_folder() {
            Self::Folder
        } else {
            Self::File
        }
    }
}

struct Rule {
    class: Class,
    pattern: Pattern,
    /// Tells this rule from others over restarts.
    print: u32,
    /// Not known when the baseline was made: what it finds first is no news.
    fresh: bool,
}

/// See the module.
pub(crate) struct Watch {
    rules: Vec<Rule>,
    /// Rules by the bytes of their base, in order.
    by_base: HashMap<Box<[u8]>, Vec<usize>>,
    exclude: Vec<Pattern>,
    suid: bool,
    /// Where the host's tree begins.
    pub(crate) root: PathBuf,
}

impl Watch {
    /// The rules of `config`. Patterns that cannot be read are left out: [`Config::faults`] has named them.
    pub(crate) fn new(config: &Config) -> Self {
        let root = config.root.canonicalize().unwrap_or_else(|_| config.root.clone());
        let on = |class: &Class| !config.classes_off.contains(class);
        let mut wanted: Vec<(Class, String)> = Vec::new();
        for (class, texts) in RULES.iter().filter(|(class, _)| on(class)) {
            wanted.extend(texts.iter().map(|text| (*class, (*text).to_owned())));
        }
        if on(&Class::WebRoot) {
            for folder in &config.web_roots {
                let folder = folder.trim_end_matches('/');
                let texts = config.web_extensions.iter();
                wanted.extend(texts.map(|extension| (Class::WebRoot, format!("{folder}/**/*.{extension}"))));
            }
        }
        wanted.extend(config.paths.iter().map(|text| (Class::Custom, text.clone())));
        let mut watch = Self {
            rules: Vec::new(),
            by_base: HashMap::new(),
            exclude: patterns(
                &root,
                UNINTERESTING
                    .iter()
                    .copied()
                    .chain(config.exclude.iter().map(String::as_str)),
            ),
            suid: on(&Class::Suid),
            root,
        };
        for (class, text) in wanted {
            watch.add(class, &text);
        }
        watch
    }

    fn add(&mut self, class: Class, text: &str) {
        let Ok(pattern) = Pattern::parse(&self.root, text) else {
            return;
        };
        if self.rules.iter().any(|rule| rule.pattern == pattern) {
            return;
        }
        let base = pattern.base.as_os_str().as_bytes();
        self.by_base
            .entry(base.into())
            .or_default()
            .push(self.rules.len());
        self.rules.push(Rule {
            class,
            pattern,
            print: crc32c::crc32c(format!("{class} {text}").as_bytes()),
            fresh: false,
        });
    }

    /// The class of a path, or of a folder that directly holds paths of one.
    pub(crate) fn class_of(&self, path: &Path, kind: Kind) -> Option<Class> {
        self.rule_of(path, kind).map(|rule| rule.class)
    }

    /// Whether the path is watched by a rule that the baseline does not know.
    pub(crate) fn is_fresh(&self, path: &Path, kind: Kind) -> bool {
        self.rule_of(path, kind).is_some_and(|rule| rule.fresh)
    }

    /// Whether files with the rights of their owner are watched wherever they are.
    pub(crate) fn watches_suid(&self) -> bool {
        self.suid
    }

    /// Whether the path is left out.
    pub(crate) fn excludes(&self, path: &Path) -> bool {
        self.exclude.iter().any(|pattern| pattern.covers(path))
    }

    fn rule_of(&self, path: &Path, kind: Kind) -> Option<&Rule> {
        let bytes = path.as_os_str().as_bytes();
        let mut best: Option<usize> = None;
        let ends = bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at.max(1));
        for end in ends.chain([bytes.len()]) {
            let Some((base, rules)) = bytes.get(..end).and_then(|base| self.by_base.get_key_value(base))
            else {
                continue;
            };
            let Some(names) = names_below(Path::new(OsStr::from_bytes(base)), path) else {
                continue;
            };
            let covers = |index: &&usize| {
                self.rules.get(**index).is_some_and(|Rule { pattern, .. }| {
                    pattern.covers_names(&names) || (kind != Kind::File && pattern.holds_names(&names))
                })
            };
            if let Some(index) = rules.iter().find(covers) {
                best = Some(best.map_or(*index, |known| known.min(*index)));
            }
        }
        let rule = self.rules.get(best?)?;
        let of_an_editor = rule.class.tolerates_editors()
            && path.file_name().is_some_and(|name| {
                EDITORS
                    .iter()
                    .any(|glob| glob_matches(glob.as_bytes(), name.as_bytes()))
            });
        (!of_an_editor && !self.excludes(path)).then_some(rule)
    }

    /// Where to begin, and whether to go into a folder, for every rule.
    pub(crate) fn bases(&self) -> Vec<PathBuf> {
        let mut bases: Vec<PathBuf> = self.rules.iter().map(|rule| rule.pattern.base.clone()).collect();
        bases.sort();
        bases.dedup();
        bases
    }

    /// Whether something below the folder, which lies at or below `base`, can be watched by a rule of that base.
    pub(crate) fn descends(&self, base: &Path, folder: &Path) -> bool {
        let rules = self
            .by_base
            .get(base.as_os_str().as_bytes())
            .into_iter()
            .flatten();
        let mut rules = rules.filter_map(|index| self.rules.get(*index));
        rules.any(|rule| rule.pattern.descends(folder)) && !self.excludes(folder)
    }

    /// What tells the rules from those of another configuration.
    pub(crate) fn prints(&self) -> Vec<u32> {
        self.rules.iter().map(|rule| rule.print).collect()
    }

    /// Takes note of the rules that a baseline was made with.
    pub(crate) fn compare_with(&mut self, known: &HashSet<u32>) {
        for rule in &mut self.rules {
            rule.fresh = !known.contains(&rule.print);
        }
    }
}

/// The patterns of texts that can be read.
pub(crate) fn patterns<'a>(root: &Path, texts: impl Iterator<Item = &'a str>) -> Vec<Pattern> {
    texts.filter_map(|text| Pattern::parse(root, text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(path: &str) -> Option<&'static str> {
        Watch::new(&Config::default())
            .class_of(Path::new(path), Kind::File)
            .map(Class::as_str)
    }

    #[test]
    fn paths_of_a_host_have_their_classes() {
        assert_eq!(class("/etc/ld.so.preload"), Some("preload"));
        assert_eq!(class("/etc/cron.d/backup"), Some("cron"));
        assert_eq!(class("/home/ann/.ssh/authorized_keys"), Some("ssh_key"));
        assert_eq!(class("/etc/systemd/system/a.service"), Some("unit"));
        assert_eq!(class("/usr/bin/ls"), Some("binary"));
        assert_eq!(class("/usr/bin"), None);
        let watch = Watch::new(&Config::default());
        let folder = |path: &str| watch.class_of(Path::new(path), Kind::Folder).map(Class::as_str);
        assert_eq!(
            (folder("/usr/bin"), folder("/var/www/html")),
            (Some("binary"), Some("web_root"))
        );
        assert_eq!(folder("/usr/share"), None);
        assert_eq!(class("/var/www/html/shell.php"), Some("web_root"));
        assert_eq!(class("/var/www/html/photo.jpeg"), None);
        assert_eq!(class("/home/ann/notes"), None);
        assert_eq!(class("/root/.ssh/known_hosts"), None);
    }

    #[test]
    fn temporary_files_of_editors_are_no_files_of_cron_but_may_be_programs() {
        assert_eq!(class("/etc/cron.d/.backup.swp"), None);
        assert_eq!(class("/etc/sudoers~"), None);
        assert_eq!(class("/usr/bin/ls~"), Some("binary"));
    }

    #[test]
    fn class_that_is_off_and_paths_left_out_are_not_watched() {
        let config = Config {
            classes_off: vec![Class::Cron],
            exclude: vec!["/usr/local/bin/noisy*".to_owned()],
            paths: vec!["/opt/app/**".to_owned()],
            ..Config::default()
        };
        let watch = Watch::new(&config);
        assert_eq!(watch.class_of(Path::new("/etc/cron.d/backup"), Kind::File), None);
        assert_eq!(
            watch.class_of(Path::new("/usr/local/bin/noisy-tool"), Kind::File),
            None
        );
        assert_eq!(
            watch.class_of(Path::new("/opt/app/bin/run"), Kind::File),
            Some(Class::Custom)
        );
    }

    #[test]
    fn rules_that_a_baseline_does_not_know_are_fresh() {
        let mut watch = Watch::new(&Config::default());
        let known: HashSet<u32> = watch.prints().into_iter().collect();
        let config = Config {
            paths: vec!["/opt/app/**".to_owned()],
            ..Config::default()
        };
        watch.compare_with(&known);
        assert!(!watch.is_fresh(Path::new("/usr/bin/ls"), Kind::File));
        let mut watch = Watch::new(&config);
        watch.compare_with(&known);
        assert!(
            watch.is_fresh(Path::new("/opt/app/x"), Kind::File)
                && !watch.is_fresh(Path::new("/usr/bin/ls"), Kind::File)
        );
    }
}
