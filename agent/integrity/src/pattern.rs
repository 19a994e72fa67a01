//! Patterns of paths: `*` and `?` within a name, `**` for any number of folders.
//!
//! A pattern has a base, the folders before its first wildcard, and a rest. The base is what a path is looked up by,
//! so that a path below none of the bases costs a few look-ups and no matching. Bytes, not text: a name need not be
//! UTF-8.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// Folders that a `**` goes down at most; deeper trees are not followed.
pub(crate) const DEPTH_MAX: usize = 32;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Folder, or file when there is no rest, that the pattern begins with.
    pub(crate) base: PathBuf,
    /// What comes below it.
    rest: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`.
    Folders,
    /// One name, with wildcards.
    Name(Box<[u8]>),
}

impl Pattern {
    /// Reads `text` as a pattern below `root`. A base that is a symbolic link is followed: `/bin` is `/usr/bin` on
    /// most hosts, and events tell the latter.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn parse(root: &Path, text: &str) -> Result<Self, String> {
        let Some(relative) = text.strip_prefix('/') else {
            return Err(format!("{text:?} must begin with /"));
        };
        let mut base = root.to_owned();
        let mut rest = Vec::new();
        for name in relative.split('/').filter(|name| !name.is_empty()) {
            if name == ".." || name == "." {
                return Err(format!("{text:?} must not contain `.` or `..` as a folder"));
            }
            if name == "**" {
                rest.push(Segment::Folders);
            } else if name.contains("**") {
                return Err(format!("{text:?}: `**` must stand alone between slashes"));
            } else if rest.is_empty() && !name.contains(['*', '?']) {
                base.push(name);
            } else {
                rest.push(Segment::Name(name.as_bytes().into()));
            }
        }
        if !rest.is_empty()
            && let Ok(real) = base.canonicalize()
        {
            base = real;
        }
        Ok(Self { base, rest })
    }

    /// Whether the path is one that is meant.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        names_below(&self.base, path).is_some_and(|names| self.covers_names(&names))
    }

    /// The same of a path that is known to lie below the base, by its names there.
    pub(crate) fn covers_names(&self, names: &[&[u8]]) -> bool {
        matches(&self.rest, names)
    }

    /// Whether a folder, by its names below the base, can directly hold what is meant.
    pub(crate) fn holds_names(&self, names: &[&[u8]]) -> bool {
        match self.rest.split_last() {
            Some((Segment::Name(_), folders)) => matches(folders, names),
            _ => false,
        }
    }

    /// Whether something below the folder can be meant.
    pub(crate) fn descends(&self, folder: &Path) -> bool {
        names_below(&self.base, folder)
            .is_some_and(|names| names.len() < DEPTH_MAX && may_hold(&self.rest, &names))
    }
}

/// The names of `path` below `base`.
pub(crate) fn names_below<'a>(base: &Path, path: &'a Path) -> Option<Vec<&'a [u8]>> {
    let below = path.strip_prefix(base).ok()?;
    let name = |component| match component {
        Component::Normal(name) => Some(std::ffi::OsStr::as_bytes(name)),
        _ => None,
    };
    below.components().map(name).collect()
}

fn matches(rest: &[Segment], names: &[&[u8]]) -> bool {
    match (rest.split_first(), names.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((Segment::Folders, after)), first) => {
            matches(after, names) || first.is_some_and(|(_, deeper)| matches(rest, deeper))
        }
        (Some((Segment::Name(_), _)), None) => false,
        (Some((Segment::Name(glob), after)), Some((name, deeper))) => {
            glob_matches(glob, name) && matches(after, deeper)
        }
    }
}

fn may_hold(rest: &[Segment], names: &[&[u8]]) -> bool {
    match (rest.split_first(), names.split_first()) {
        (None, _) => false,
        (Some((Segment::Folders, _)), _) | (Some(_), None) => true,
        (Some((Segment::Name(glob), after)), Some((name, deeper))) => {
            glob_matches(glob, name) && may_hold(after, deeper)
        }
    }
}

/// `*` is any number of bytes, `?` is one. Linear: only the last `*` is ever gone back to.
pub(crate) fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(seen) {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(b'?') => (at, seen) = (at + 1, seen + 1),
            Some(wanted) if wanted == byte => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
        }
    }
    glob.iter().skip(at).all(|byte| *byte == b'*')
}

/// A path from bytes.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(pattern: &str, path: &str) -> bool {
        let path = Path::new("/nowhere").join(path.trim_start_matches('/'));
        Pattern::parse(Path::new("/nowhere"), pattern)
            .unwrap()
            .covers(&path)
    }

    fn holds(pattern: &str, path: &str) -> bool {
        let path = Path::new("/nowhere").join(path.trim_start_matches('/'));
        let pattern = Pattern::parse(Path::new("/nowhere"), pattern).unwrap();
        names_below(&pattern.base, &path).is_some_and(|names| pattern.holds_names(&names))
    }

    #[test]
    fn patterns_cover_files_and_the_folders_that_hold_them() {
        assert!(covers("/etc/cron.d/*", "/etc/cron.d/backup"));
        assert!(holds("/etc/cron.d/*", "/etc/cron.d") && !covers("/etc/cron.d/*", "/etc/cron.d"));
        assert!(!covers("/etc/cron.d/*", "/etc/cron.d/sub/backup"));
        assert!(covers("/etc/systemd/**", "/etc/systemd/system/a.wants/b.service"));
        assert!(covers("/etc/systemd/**", "/etc/systemd"));
        assert!(covers(
            "/home/*/.ssh/authorized_keys*",
            "/home/ann/.ssh/authorized_keys2"
        ));
        assert!(holds("/home/*/.ssh/authorized_keys*", "/home/ann/.ssh"));
        assert!(!holds("/home/*/.ssh/authorized_keys*", "/home/ann"));
        assert!(holds("/var/www/**/*.php", "/var/www/a/b") && !covers("/var/www/**/*.php", "/var/www/a/b"));
        assert!(covers("/etc/ld.so.preload", "/etc/ld.so.preload"));
        assert!(!covers("/etc/ld.so.preload", "/etc") && !holds("/etc/ld.so.preload", "/etc"));
        assert!(!covers("/etc/ld.so.preload", "/etc/ld.so.preload/below"));
        assert!(
            covers("/var/www/**/*.php", "/var/www/a/b/c.php")
                && covers("/var/www/**/*.php", "/var/www/c.php")
        );
        assert!(!covers("/var/www/**/*.php", "/elsewhere/var/www/c.php"));
    }

    #[test]
    fn only_folders_that_can_hold_something_are_gone_into() {
        let pattern = Pattern::parse(Path::new("/"), "/nowhere-at-all/*/keep/*.so").unwrap();
        let goes = |folder: &str| pattern.descends(Path::new(folder));
        assert!(goes("/nowhere-at-all") && goes("/nowhere-at-all/x") && goes("/nowhere-at-all/x/keep"));
        assert!(!goes("/nowhere-at-all/x/other") && !goes("/nowhere-at-all/x/keep/more") && !goes("/"));
    }

    #[test]
    fn base_that_is_a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        let pattern = Pattern::parse(&root, "/bin/*").unwrap();
        assert!(pattern.covers(&root.join("usr/bin/ls")));
    }

    #[test]
    fn bad_patterns_are_refused_in_words() {
        for text in ["etc/passwd", "/etc/../passwd", "/etc/a**b"] {
            assert!(
                Pattern::parse(Path::new("/"), text).unwrap_err().contains("must"),
                "{text}"
            );
        }
    }

    /// The plainest way to match, as an oracle.
    fn plain(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', more)), _) if plain(more, name) => true,
            (Some((b'*', _)), Some((_, deeper))) => plain(glob, deeper),
            (Some((wanted, more)), Some((byte, deeper))) => {
                (*wanted == b'?' || wanted == byte) && plain(more, deeper)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_match_as_the_plainest_matcher_does(glob in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(
                glob_matches(glob.as_bytes(), name.as_bytes()),
                plain(glob.as_bytes(), name.as_bytes())
            );
        }
    }
}
