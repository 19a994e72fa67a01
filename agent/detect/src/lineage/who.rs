//! Who did something, by the columns of a row and by descent.

use super::Classes;

/// The process an act is by, with what is known of its descent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) comm: &'a str,
    pub(crate) exe: Option<&'a str>,
    pub(crate) uid: u32,
    pub(crate) euid: Option<u32>,
    pub(crate) login_uid: Option<u32>,
    pub(crate) unit: Option<&'a str>,
    pub(crate) container: Option<&'a str>,
    /// What its program is.
    pub(crate) own: Classes,
    /// What its ancestors are.
    pub(crate) above: Classes,
    /// Whether all of its ancestors are known.
    pub(crate) known: bool,
}

/// The columns that say who did something.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) ppid: Option<u32>,
    pub(crate) comm: &'a str,
    pub(crate) exe: Option<&'a str>,
    pub(crate) command_line: Option<&'a str>,
    pub(crate) parent_comm: Option<&'a str>,
    pub(crate) parent_exe: Option<&'a str>,
    pub(crate) uid: u32,
    pub(crate) euid: Option<u32>,
    pub(crate) login_uid: Option<u32>,
    pub(crate) unit: Option<&'a str>,
    pub(crate) container: Option<&'a str>,
}

impl Who<'_> {
    /// Its own class and those of its ancestors.
    pub(crate) fn line(&self) -> Classes {
        self.own | self.above
    }

    /// Whether the program lies where everyone may write, or nowhere.
    pub(crate) fn is_risky(&self) -> bool {
        self.own.any(Classes::WRITABLE | Classes::FILELESS)
    }

    /// Whether it acts for root.
    pub(crate) fn is_root(&self) -> bool {
        self.euid.unwrap_or(self.uid) == 0
    }

    /// Whether the upkeep of the host does it: a package manager or configuration management above it. Not in a
    /// container, whose package manager has no business on the host.
    pub(crate) fn is_upkeep(&self) -> bool {
        self.container.is_none() && self.line().any(Classes::UPKEEP)
    }

    /// Whether a person at a login session does it, by all that is known.
    pub(crate) fn is_person(&self) -> bool {
        self.login_uid.is_some() && !self.above.any(Classes::WEB | Classes::CRON)
    }
}
