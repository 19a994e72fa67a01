mod hostile;

use fleetmend_event::TimeMicros;

use super::*;

fn line(identifier: &str, message: &str) -> Line {
    Line {
        time: TimeMicros(1),
        source: "/var/log/auth.log".into(),
        identifier: identifier.to_owned(),
        unit: None,
        pid: Some(7),
        uid: None,
        priority: None,
        facility: None,
        message: message.to_owned(),
        truncated: false,
        repeats: 1,
        origin: Origin::Claimed,
    }
}

fn event(identifier: &str, message: &str) -> Option<AuthEvent> {
    let mut line = line(identifier, message);
    line.unfold();
    match read(&line) {
        Verdict::Event(event) => Some(*event),
        Verdict::Nothing | Verdict::Forged => None,
    }
}

/// What matters of an event, in one line.
fn shown(event: &AuthEvent) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "{} {} {} {} user={} valid={} target={} from={} port={} x{}",
        event.service,
        event.kind,
        event.outcome,
        text(&event.method),
        event.user,
        event
            .user_valid
            .map_or("-", |valid| if valid { "yes" } else { "no" }),
        text(&event.target_user),
        text(&event.remote_address),
        event.remote_port.map_or("-".to_owned(), |port| port.to_string()),
        event.repeats,
    )
}

fn check(identifier: &str, cases: &[(&str, &str)]) {
    for (message, wanted) in cases {
        let found = event(identifier, message).map_or_else(|| "nothing".to_owned(), |event| shown(&event));
        assert_eq!(&found, wanted, "{identifier}: {message}");
    }
}

#[test]
fn sshd_of_every_version_is_understood() {
    let cases = [
        (
            "Failed password for root from 192.0.2.1 port 40022 ssh2",
            "sshd login failure password user=root valid=yes target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Failed password for invalid user admin from 2001:db8::7 port 1 ssh2",
            "sshd login failure password user=admin valid=no target=- from=2001:db8::7 port=1 x1",
        ),
        (
            "Failed password for illegal user admin from ::ffff:192.0.2.1 port 1 ssh2",
            "sshd login failure password user=admin valid=no target=- from=192.0.2.1 port=1 x1",
        ),
        (
            "Failed keyboard-interactive/pam for bob from fe80::1%eth0 port 22 ssh2",
            "sshd login failure keyboard-interactive/pam user=bob valid=yes target=- from=fe80::1%eth0 port=22 x1",
        ),
        (
            "message repeated 3 times: [ Failed password for root from 192.0.2.1 port 40022 ssh2]",
            "sshd login failure password user=root valid=yes target=- from=192.0.2.1 port=40022 x3",
        ),
        (
            "Accepted password for alice from 192.0.2.1 port 40022 ssh2",
            "sshd login success password user=alice valid=yes target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Accepted publickey for alice from 192.0.2.1 port 40022 ssh2: ED25519 SHA256:uNiVztksCsDhcc0u9e8BrWxJ",
            "sshd login success publickey user=alice valid=yes target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Invalid user oracle from 192.0.2.1 port 40022",
            "sshd login failure - user=oracle valid=no target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Invalid user oracle from 192.0.2.1",
            "sshd login failure - user=oracle valid=no target=- from=192.0.2.1 port=- x1",
        ),
        (
            "Invalid user  from 192.0.2.1 port 40022",
            "sshd login failure - user= valid=no target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Connection closed by authenticating user root 192.0.2.1 port 40022 [preauth]",
            "sshd login failure - user=root valid=yes target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Connection reset by invalid user a b 192.0.2.1 port 40022 [preauth]",
            "sshd login failure - user=a b valid=no target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "Disconnecting authenticating user root 192.0.2.1 port 40022: Too many authentication failures [preauth]",
            "sshd login failure - user=root valid=yes target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "error: maximum authentication attempts exceeded for invalid user x from 192.0.2.1 port 40022 ssh2 [preauth]",
            "sshd login failure - user=x valid=no target=- from=192.0.2.1 port=40022 x1",
        ),
        (
            "User git from 192.0.2.1 not allowed because not listed in AllowUsers",
            "sshd login failure - user=git valid=yes target=- from=192.0.2.1 port=- x1",
        ),
        ("Failed none for root from 192.0.2.1 port 40022 ssh2", "nothing"),
        ("Connection closed by 192.0.2.1 port 40022 [preauth]", "nothing"),
        (
            "Received disconnect from 192.0.2.1 port 40022:11: disconnected by user",
            "nothing",
        ),
        ("Disconnected from user alice 192.0.2.1 port 40022", "nothing"),
        ("Server listening on 0.0.0.0 port 22.", "nothing"),
        (
            "PAM 2 more authentication failures; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1  user=root",
            "nothing",
        ),
        (
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1  user=root",
            "nothing",
        ),
        (
            "error: PAM: Authentication failure for root from 192.0.2.1",
            "nothing",
        ),
    ];
    for identifier in ["sshd", "sshd-session", "/usr/sbin/sshd"] {
        check(identifier, &cases);
    }
    let event = event("sshd-session", cases[6].0).unwrap();
    assert_eq!(
        event.key_fingerprint.as_deref(),
        Some("SHA256:uNiVztksCsDhcc0u9e8BrWxJ")
    );
    let certificate = "Accepted publickey for a from 192.0.2.1 port 1 ssh2: RSA-CERT SHA256:aa ID id (serial 0) CA RSA SHA256:bb";
    assert_eq!(
        self::event("sshd", certificate)
            .unwrap()
            .key_fingerprint
            .as_deref(),
        Some("SHA256:aa")
    );
}

/// What an sshd 9.2 wrote when it was asked for `nobody`, `oracle`, `root` and an account with a forged address.
#[test]
fn recorded_session_of_a_real_sshd_is_understood() {
    let recorded = include_str!("../../../tests/fixtures/sshd-9.2.log");
    let events: Vec<AuthEvent> = recorded.lines().filter_map(|line| event("sshd", line)).collect();
    assert!(
        events
            .iter()
            .all(|event| event.remote_address.as_deref() == Some("127.0.0.1")),
        "no forged address"
    );
    assert!(
        events
            .iter()
            .all(|event| event.outcome == AuthOutcome::Failure && event.remote_port.is_some())
    );
    let with = |user: &str, method: Option<&str>| {
        events
            .iter()
            .filter(|event| event.user == user && event.method.as_deref() == method)
            .count()
    };
    assert_eq!((with("nobody", Some("password")), with("nobody", None)), (5, 2));
    assert_eq!((with("oracle", Some("password")), with("oracle", None)), (1, 2));
    assert_eq!((with("root", Some("password")), with("root", None)), (5, 3));
    let forged = "root from 203.0.113.9 port 22 ssh2";
    assert_eq!((with(forged, Some("password")), with(forged, None)), (1, 2));
    assert_eq!(events.len(), 21);
}

#[test]
fn user_name_cannot_pretend_another_address() {
    let names = [
        "root from 203.0.113.9 port 22 ssh2",
        "x from 203.0.113.9",
        "x from 203.0.113.9 port 22 ssh2: RSA SHA256:forged",
        "invalid user y from 203.0.113.9 port 1 ssh2",
        "root from 203.0.113.9 port 22 ssh2 [preauth]",
        "a from b from c",
        "x 203.0.113.9 port 22",
        "",
    ];
    for name in names {
        for form in [
            "Failed password for invalid user {} from 192.0.2.66 port 4711 ssh2",
            "Invalid user {} from 192.0.2.66 port 4711",
            "Connection closed by invalid user {} 192.0.2.66 port 4711 [preauth]",
        ] {
            let message = form.replace("{}", name);
            let event = event("sshd", &message).unwrap_or_else(|| panic!("{message}"));
            assert_eq!(event.remote_address.as_deref(), Some("192.0.2.66"), "{message}");
            assert_eq!(
                (event.remote_port, event.user.as_str()),
                (Some(4711), name),
                "{message}"
            );
            assert_eq!(event.outcome, AuthOutcome::Failure, "{message}");
        }
    }
    // Nor can one make a success of a failure, or a line of another form.
    assert_eq!(
        event(
            "sshd",
            "Failed password for invalid user x\nAccepted password for root from 192.0.2.1"
        ),
        None
    );
    assert_eq!(
        event("nginx", "Accepted password for root from 192.0.2.1 port 22 ssh2"),
        None
    );
    assert_eq!(
        event(
            "sshd",
            "error: Accepted password for root from 192.0.2.1 port 22 ssh2"
        ),
        None
    );
}

#[test]
fn elevations_are_understood() {
    check(
        "sudo",
        &[
            (
                "   alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id",
                "sudo elevation success - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "alice : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
                "sudo elevation failure password user=alice valid=- target=root from=- port=- x3",
            ),
            (
                "bob : user NOT in sudoers ; TTY=unknown ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
                "sudo elevation failure user NOT in sudoers user=bob valid=- target=root from=- port=- x1",
            ),
            (
                "bob : PWD=/tmp/a ; USER=nobody ; COMMAND=/bin/true ; USER=root ; COMMAND=/bin/sh",
                "sudo elevation success - user=bob valid=- target=root from=- port=- x1",
            ),
            ("alice : (command continued) --password", "nothing"),
            (
                "pam_unix(sudo:auth): authentication failure; logname=a uid=1 euid=0 tty=/dev/pts/0 ruser=a rhost=  user=a",
                "nothing",
            ),
            (
                "pam_unix(sudo:session): session opened for user root(uid=0) by alice(uid=1000)",
                "sudo session_opened success pam user=alice valid=- target=root from=- port=- x1",
            ),
        ],
    );
    let secret = event(
        "sudo",
        "a : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/x --password=hunter2",
    )
    .unwrap();
    assert_eq!(secret.command.as_deref(), Some("/usr/bin/x --password=[masked]"));
    assert_eq!(secret.terminal.as_deref(), Some("pts/0"));
    check(
        "su",
        &[
            (
                "(to root) alice on pts/1",
                "su elevation success - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "FAILED SU (to root) alice on pts/1",
                "su elevation failure - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "Successful su for root by alice",
                "su elevation success - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "FAILED su for root by alice",
                "su elevation failure - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "pam_unix(su-l:session): session opened for user root by alice(uid=1000)",
                "su session_opened success pam user=alice valid=- target=root from=- port=- x1",
            ),
        ],
    );
    check(
        "doas",
        &[
            (
                "alice ran command /bin/ls -l as root from /home/alice/x as nobody from y",
                "doas elevation success - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "alice ran command /bin/ls -l as bob from /home/alice",
                "doas elevation success - user=alice valid=- target=bob from=- port=- x1",
            ),
            (
                "alice ran command /bin/ls -l as root from /home/alice",
                "doas elevation success - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "failed auth for alice",
                "doas elevation failure password user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "command not permitted for alice: rm",
                "doas elevation failure not permitted user=alice valid=- target=root from=- port=- x1",
            ),
        ],
    );
    check(
        "pkexec",
        &[
            (
                "alice: Executing command [USER=root] [TTY=/dev/pts/0] [CWD=/home/alice] [COMMAND=/usr/bin/id]",
                "pkexec elevation success - user=alice valid=- target=root from=- port=- x1",
            ),
            (
                "alice: Error executing command as another user: Not authorized [USER=root] [TTY=x] [CWD=/] [COMMAND=/bin/id]",
                "pkexec elevation failure - user=alice valid=- target=root from=- port=- x1",
            ),
        ],
    );
}

#[test]
fn logins_sessions_and_other_services_are_understood() {
    check(
        "login",
        &[
            (
                "LOGIN ON tty1 BY alice",
                "login login success password user=alice valid=yes target=- from=- port=- x1",
            ),
            (
                "ROOT LOGIN ON tty1",
                "login login success password user=root valid=yes target=- from=- port=- x1",
            ),
            (
                "FAILED LOGIN (2) on '/dev/tty1' FOR 'root', Authentication failure",
                "login login failure password user=root valid=- target=- from=- port=- x1",
            ),
        ],
    );
    check(
        "CRON",
        &[
            (
                "pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)",
                "cron session_opened success pam user=root valid=- target=- from=- port=- x1",
            ),
            (
                "pam_unix(cron:session): session closed for user root",
                "cron session_closed success pam user=root valid=- target=- from=- port=- x1",
            ),
            ("(root) CMD (run-parts /etc/cron.hourly)", "nothing"),
        ],
    );
    check(
        "vsftpd",
        &[(
            "pam_unix(vsftpd:auth): authentication failure; logname= uid=0 euid=0 tty=ftp ruser=a rhost=192.0.2.1  user=a b",
            "vsftpd login failure pam user=a b valid=yes target=- from=192.0.2.1 port=- x1",
        )],
    );
    check(
        "auth",
        &[(
            "pam_unix(dovecot:auth): 2 more authentication failures; logname= uid=0 euid=0 tty=dovecot ruser= rhost=192.0.2.1 user=x",
            "dovecot login failure pam user=x valid=yes target=- from=192.0.2.1 port=- x2",
        )],
    );
    check(
        "systemd-logind",
        &[
            (
                "New session 12 of user alice.",
                "systemd-logind session_opened success logind user=alice valid=- target=- from=- port=- x1",
            ),
            ("Removed session 12.", "nothing"),
        ],
    );
    check(
        "passwd",
        &[(
            "pam_unix(passwd:chauthtok): password changed for alice",
            "passwd secret success password user=alice valid=- target=- from=- port=- x1",
        )],
    );
}

#[test]
fn changes_of_accounts_are_understood() {
    let cases = [
        (
            "useradd",
            "new user: name=bob, UID=0, GID=0, home=/root, shell=/bin/sh, from=/dev/pts/0",
            "create_user bob -",
        ),
        ("useradd", "new group: name=bob, GID=1001", "create_group bob -"),
        ("useradd", "add 'bob' to group 'sudo'", "add_to_group bob sudo"),
        ("usermod", "add 'bob' to group 'sudo'", "add_to_group bob sudo"),
        (
            "usermod",
            "change user 'bob' UID from '1001' to '0'",
            "change_uid bob -",
        ),
        ("usermod", "lock user 'bob' password", "lock_user bob -"),
        (
            "gpasswd",
            "user bob added by root to group wheel",
            "add_to_group bob wheel",
        ),
        (
            "gpasswd",
            "members of group wheel set by root to bob",
            "add_to_group bob wheel",
        ),
        ("userdel", "delete user 'bob'", "remove_user bob -"),
        (
            "userdel",
            "removed group 'bob' owned by 'bob'",
            "remove_group bob -",
        ),
        (
            "groupadd",
            "group added to /etc/group: name=ops, GID=1002",
            "create_group ops -",
        ),
    ];
    for (identifier, message, wanted) in cases {
        let event = event(identifier, message).unwrap_or_else(|| panic!("{message}"));
        let target = event.target_user.as_deref().unwrap_or("-");
        assert_eq!(
            format!("{} {} {target}", event.method.unwrap(), event.user),
            wanted
        );
        assert_eq!(event.kind, AuthEventKind::Account);
    }
    assert_eq!(event("usermod", "add 'bob' to shadow group 'sudo'"), None);
    let event = event("useradd", cases[0].1).unwrap();
    assert!(
        event.command.unwrap().contains("UID=0,"),
        "the new values are kept"
    );
}
