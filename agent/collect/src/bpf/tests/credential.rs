//! Changes of users, groups and capabilities, made by programs that are there for it.

use fleetmend_event::table::{CredentialEvent, CredentialEventKind};

use super::*;

/// A user that nobody is.
const NOBODY: u32 = 65_534;

impl Rig {
    fn credential(&mut self, what: &str, wanted: impl Fn(&CredentialEvent) -> bool) -> CredentialEvent {
        self.wait_for(what, |fact| match fact {
            Fact::CredentialEvent(row) if wanted(row) => Some((**row).clone()),
            _ => None,
        })
    }
}

#[test]
fn changes_of_credentials_are_told_with_what_was_before_and_nothing_else_is() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::Credential])) else {
        return;
    };
    let nobody = NOBODY.to_string();
    let dropping = [
        "--reuid",
        nobody.as_str(),
        "--regid",
        nobody.as_str(),
        "--clear-groups",
    ];

    let dropped = run(Command::new("setpriv").args(dropping).arg("true"));
    let user = rig.credential("change of user", |row| {
        row.pid == dropped && row.kind == CredentialEventKind::User
    });
    assert_eq!((user.old_uid, user.old_euid), (Some(0), Some(0)));
    assert_eq!((user.uid, user.euid), (NOBODY, Some(NOBODY)));
    assert!(
        user.call.as_deref().is_some_and(|call| call.starts_with("setre")),
        "{user:?}"
    );
    assert_eq!((user.source, user.user_namespace), (Source::Ebpf, Some(false)));
    assert_ne!(user.old_capabilities, Some(0), "root had some");
    assert_eq!(user.capabilities, Some(0), "and gave them up");
    let group = rig.credential("change of group", |row| {
        row.pid == dropped && row.kind == CredentialEventKind::Group && row.gid == Some(NOBODY)
    });
    assert_eq!(group.old_gid, Some(0));

    // A program that is root's by its file mode, run by nobody.
    let raised = run(Command::new("setpriv").args(dropping).args(["su", "--version"]));
    let root = rig.credential("program of root", |row| {
        row.pid == raised && row.call.as_deref() == Some("execve") && row.euid == Some(0)
    });
    assert_eq!(
        (root.kind, root.uid, root.old_euid),
        (CredentialEventKind::User, NOBODY, Some(NOBODY))
    );
    assert_ne!(root.capabilities, Some(0), "{root:?}");

    let reduced =
        run(Command::new("setpriv").args(["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw", "true"]));
    let own_namespace = run(Command::new("unshare").args(["--user", "true"]));
    let entered = rig.credential("user namespace", |row| {
        row.pid == own_namespace && row.user_namespace == Some(true)
    });
    assert_eq!(entered.call.as_deref(), Some("unshare"));
    assert_eq!(entered.kind, CredentialEventKind::Capabilities);

    // Root becomes root, in every way: nothing changes.
    let same = run(Command::new("setpriv").args(["--reuid", "0", "--regid", "0", "--keep-groups", "true"]));
    let plain = run(&mut Command::new("/bin/true"));
    let marker = run(Command::new("setpriv").args(dropping).arg("true"));
    rig.credential("marker", |row| {
        row.pid == marker && row.kind == CredentialEventKind::User
    });
    for fact in &rig.facts {
        let Fact::CredentialEvent(row) = fact else {
            continue;
        };
        assert!(row.pid != plain && row.pid != same, "nothing changed: {row:?}");
        let is_user = row.kind == CredentialEventKind::User;
        assert!(row.pid != reduced || !is_user, "no user changed: {row:?}");
    }
}
