//! Users, groups and capabilities of a process, as /proc/PID/status shows them.

use crate::process::proc_fs::ProcFs;

/// Readings until two agree.
const READINGS_MAX: usize = 4;

/// Who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) euid: u32,
    pub(crate) gid: u32,
    pub(crate) egid: u32,
    /// Effective capabilities; `None` when they are of no certain moment.
    pub(crate) capabilities: Option<u64>,
}

/// Reads them. The kernel takes users and capabilities of a status at two moments, so a status is believed when it
/// reads the same twice; of one that never does the users are kept.
pub(crate) fn read(proc: &ProcFs, pid: u32) -> Option<Credentials> {
    let mut last = read_once(proc, pid)?;
    for _ in 1..READINGS_MAX {
        match read_once(proc, pid) {
            Some(again) if again == last => return Some(again),
            Some(again) => last = again,
            None => break,
        }
    }
    Some(Credentials {
        capabilities: None,
        ..last
    })
}

/// The users and groups of one reading; of capabilities it says nothing certain.
pub(crate) fn read_once(proc: &ProcFs, pid: u32) -> Option<Credentials> {
    parse(&proc.read_text(pid, "status")?)
}

fn parse(status: &str) -> Option<Credentials> {
    let line = |label: &str| status.lines().find_map(|line| line.strip_prefix(label));
    let ids = |label: &str| {
        let mut ids = line(label)?.split_ascii_whitespace().map(str::parse::<u32>);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    };
    let ((uid, euid), (gid, egid)) = (ids("Uid:")?, ids("Gid:")?);
    Some(Credentials {
        uid,
        euid,
        gid,
        egid,
        capabilities: line("CapEff:").and_then(|text| u64::from_str_radix(text.trim(), 16).ok()),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn status_is_read_or_refused() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\t6\t6\nCapEff:\t000001ffffffffff\n";
        let read = parse(status).unwrap();
        assert_eq!((read.uid, read.euid, read.gid, read.egid), (1000, 0, 5, 6));
        assert_eq!(read.capabilities, Some(0x1ff_ffff_ffff));
        assert_eq!(parse("Uid:\t1\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn own_credentials_read_the_same_twice() {
        let own = read(&ProcFs::new(Path::new("/proc")), std::process::id()).unwrap();
        assert_eq!(own.uid, nix::unistd::getuid().as_raw());
        assert!(own.capabilities.is_some());
    }
}
