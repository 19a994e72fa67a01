use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::Source;

use super::*;
use crate::state::Digest;
use crate::who::Ancestor;

fn writer(exe: &str, manager: bool) -> Writer {
    let ancestor = |pid, comm: &str, exe: &str| Ancestor {
        pid,
        start_boot_ns: 1,
        comm: comm.to_owned(),
        exe: Some(exe.to_owned()),
        ppid: 0,
    };
    Writer {
        pid: 10,
        start_boot_ns: 1,
        uid: 0,
        login_uid: None,
        comm: "writer".to_owned(),
        exe: Some(exe.to_owned()),
        unit: Some("writer.service".to_owned()),
        in_container: false,
        chain: vec![ancestor(10, "writer", exe), ancestor(9, "dpkg", "/usr/bin/dpkg")],
        manager: manager.then_some(9),
        called_manager: true,
        shares_root: None,
        kin_shares_root: None,
    }
}

fn touch(writer: Writer) -> Touch {
    Touch {
        time: TimeMicros(1),
        act: "open_write",
        writer: Arc::new(writer),
        identity: None,
        named: true,
        proven: true,
        coincides: false,
        source: Source::Ebpf,
    }
}

const SECOND: i64 = 1_000_000_000;

fn explain(config: &Config, touches: &[&Touch], change: impl FnOnce(&mut Case<'_>)) -> Explanation {
    let mut case = Case {
        path: Path::new("/usr/bin/tool"),
        class: Class::Binary,
        change: IntegrityChange::Content,
        new: None,
        touches,
        agrees: None,
        database_ns: 0,
        now_ns: 1_000 * SECOND,
        worked: false,
        manager_runs: false,
        unsettled: false,
    };
    change(&mut case);
    Expectations::new(config, Path::new("/")).explain(&case)
}

fn verdict(explanation: Explanation) -> Option<IntegrityVerdict> {
    match explanation {
        Explanation::Is(verdict, _) => Some(verdict),
        Explanation::Later => None,
    }
}

#[test]
fn package_manager_is_believed_when_its_database_says_so_too() {
    let config = Config::default();
    let by_dpkg = touch(writer("/usr/bin/dpkg", true));
    let of = |agrees, database_ns, manager_runs| {
        verdict(explain(&config, &[&by_dpkg], |case| {
            (case.agrees, case.database_ns, case.manager_runs) = (agrees, database_ns, manager_runs);
        }))
    };
    let just_now = 999 * SECOND;
    assert_eq!(of(Some(true), 0, true), Some(IntegrityVerdict::Package));
    assert_eq!(of(None, just_now, false), Some(IntegrityVerdict::Package));
    assert_eq!(
        of(None, 0, false),
        Some(IntegrityVerdict::Unexpected),
        "the database did not change"
    );
    assert_eq!(
        of(None, 9_000 * SECOND, false),
        Some(IntegrityVerdict::Unexpected),
        "a database of the future changed at no time that is known"
    );
    assert_eq!(
        of(Some(false), just_now, true),
        None,
        "it may not have told its database yet"
    );
    assert_eq!(
        of(Some(false), just_now, false),
        Some(IntegrityVerdict::Unexpected)
    );
    let next = |agrees| {
        verdict(explain(&config, &[&by_dpkg], |case| {
            (case.agrees, case.database_ns, case.unsettled) = (agrees, just_now, true);
        }))
    };
    assert_eq!(next(Some(false)), None, "the next version may be on its way");
    assert_eq!(next(Some(true)), Some(IntegrityVerdict::Package));
}

#[test]
fn process_that_is_only_called_dpkg_does_not_count() {
    let config = Config::default();
    let impostor = touch(writer("/usr/bin/dpkg", false));
    let of = |agrees| {
        verdict(explain(&config, &[&impostor], |case| {
            (case.agrees, case.database_ns) = (agrees, 999 * SECOND);
        }))
    };
    assert_eq!(of(None), Some(IntegrityVerdict::Unexpected));
    assert_eq!(of(Some(false)), Some(IntegrityVerdict::Unexpected));
    assert_eq!(
        of(Some(true)),
        Some(IntegrityVerdict::Package),
        "it ended, and left what the package delivers"
    );
}

#[test]
fn one_unexplained_writer_among_many_is_enough() {
    let config = Config::default();
    let mut by_vi = writer("/usr/bin/vi", false);
    by_vi.called_manager = false;
    let (by_dpkg, by_vi) = (touch(writer("/usr/bin/dpkg", true)), touch(by_vi));
    let both = explain(&config, &[&by_vi, &by_dpkg], |case| case.agrees = Some(true));
    assert_eq!(verdict(both), Some(IntegrityVerdict::Unexpected));
}

#[test]
fn nobody_known_is_unknown_unless_the_package_agrees() {
    let config = Config::default();
    let of = |agrees| verdict(explain(&config, &[], |case| case.agrees = agrees));
    assert_eq!(of(None), Some(IntegrityVerdict::Unknown));
    assert_eq!(of(Some(false)), Some(IntegrityVerdict::Unknown));
    assert_eq!(of(Some(true)), Some(IntegrityVerdict::Package));
    let while_unpacking = |class, change| {
        verdict(explain(&config, &[], |case| {
            (case.worked, case.class, case.change) = (true, class, change)
        }))
    };
    let (sums, gone) = (Class::PackageDatabase, IntegrityChange::Removed);
    assert_eq!(
        while_unpacking(sums, IntegrityChange::Content),
        Some(IntegrityVerdict::Package)
    );
    assert_eq!(
        while_unpacking(Class::Library, gone),
        Some(IntegrityVerdict::Package)
    );
    assert_eq!(
        while_unpacking(Class::Sudoers, gone),
        Some(IntegrityVerdict::Unknown)
    );
    assert_eq!(
        while_unpacking(Class::Binary, IntegrityChange::Content),
        Some(IntegrityVerdict::Unknown)
    );
}

#[test]
fn configuration_and_the_system_name_expected_writers() {
    let config = Config {
        expected: vec![
            ExpectedWriter {
                exe: Some("/opt/deploy".into()),
                unit: None,
                paths: vec!["/usr/bin/to*".to_owned()],
            },
            ExpectedWriter {
                exe: None,
                unit: Some("writer.service".to_owned()),
                paths: vec!["/etc/cron.d/*".to_owned()],
            },
        ],
        ..Config::default()
    };
    let mut deploy = writer("/opt/deploy", false);
    deploy.called_manager = false;
    let deploy = touch(deploy);
    let of = |touch: &Touch, path: &'static str, class| {
        verdict(explain(&config, &[touch], |case| {
            (case.path, case.class) = (Path::new(path), class)
        }))
    };
    assert_eq!(
        of(&deploy, "/usr/bin/tool", Class::Binary),
        Some(IntegrityVerdict::Expected)
    );
    assert_eq!(
        of(&deploy, "/usr/bin/other", Class::Binary),
        Some(IntegrityVerdict::Unexpected)
    );
    assert_eq!(
        of(&deploy, "/etc/cron.d/x", Class::Cron),
        Some(IntegrityVerdict::Expected),
        "by its unit"
    );
    let mut sysusers = writer("/usr/bin/systemd-sysusers", false);
    let by_hand = touch(sysusers.clone());
    assert_eq!(
        of(&by_hand, "/etc/passwd", Class::Account),
        Some(IntegrityVerdict::Unexpected),
        "whoever starts it names its file"
    );
    sysusers.unit = Some("systemd-sysusers.service".to_owned());
    sysusers.in_container = true;
    let contained = touch(sysusers.clone());
    assert_eq!(
        of(&contained, "/etc/passwd", Class::Account),
        Some(IntegrityVerdict::Unexpected)
    );
    sysusers.in_container = false;
    let sysusers = touch(sysusers);
    assert_eq!(
        of(&sysusers, "/etc/passwd", Class::Account),
        Some(IntegrityVerdict::Expected)
    );
    assert_eq!(
        of(&sysusers, "/etc/sudoers", Class::Sudoers),
        Some(IntegrityVerdict::Unexpected)
    );
}

#[test]
fn gravity_rises_with_rights_and_falls_for_the_tools_of_a_class() {
    let state = |mode| FileState {
        mode,
        uid: 0,
        gid: 0,
        device: 1,
        inode: 1,
        size: 1,
        changed_ns: 1,
        capabilities: 0,
        digest: Digest::None,
    };
    let (plain, suid) = (state(libc::S_IFREG | 0o755), state(libc::S_IFREG | 0o4755));
    let of = |class, old: &FileState, new: &FileState, writer: Option<&Writer>| {
        let path = Path::new(match class {
            Class::Account => "/etc/passwd",
            Class::Cron => "/var/spool/cron/crontabs/root",
            _ => "/var/www/a.cgi",
        });
        severity(
            class,
            path,
            IntegrityChange::Metadata,
            (Some(old), Some(new)),
            writer,
        )
    };
    assert_eq!(of(Class::WebRoot, &plain, &suid, None), Severity::High);
    assert_eq!(of(Class::WebRoot, &suid, &plain, None), Severity::Medium);
    let (closed, open) = (state(libc::S_IFDIR | 0o755), state(libc::S_IFDIR | 0o777));
    assert_eq!(of(Class::Cron, &closed, &open, None), Severity::High);
    assert_eq!(of(Class::Cron, &open, &closed, None), Severity::Low);
    let passwd = writer("/usr/bin/passwd", false);
    assert_eq!(of(Class::Account, &plain, &plain, Some(&passwd)), Severity::Low);
    assert_eq!(of(Class::Account, &plain, &plain, None), Severity::High);
    assert_eq!(of(Class::Cron, &plain, &plain, Some(&passwd)), Severity::Medium);
    let mut crontab = writer("/usr/bin/crontab", false);
    assert_eq!(of(Class::Cron, &plain, &plain, Some(&crontab)), Severity::Low);
    assert_eq!(of(Class::Sudoers, &plain, &plain, Some(&crontab)), Severity::High);
    let elsewhere = severity(
        Class::Cron,
        Path::new("/etc/cron.d/job"),
        IntegrityChange::Content,
        (Some(&plain), Some(&plain)),
        Some(&crontab),
    );
    assert_eq!(elsewhere, Severity::Medium, "it writes nothing there");
    let below_a_root = severity(
        Class::Account,
        Path::new("/host/etc/passwd"),
        IntegrityChange::Content,
        (Some(&plain), Some(&plain)),
        Some(&passwd),
    );
    assert_eq!(below_a_root, Severity::Low);
    crontab.in_container = true;
    assert_eq!(of(Class::Cron, &plain, &plain, Some(&crontab)), Severity::Medium);
}
