//! Lines that somebody else wrote, or that were cut.

use super::*;

#[test]
fn line_that_somebody_else_logged_is_forged() {
    let mut forged = line("sshd", "Accepted password for root from 192.0.2.1 port 22 ssh2");
    forged.origin = Origin::Forged;
    assert_eq!(read(&forged), Verdict::Forged);
    forged.message = "nothing of the kind".to_owned();
    assert_eq!(read(&forged), Verdict::Nothing);
}

#[test]
fn nothing_panics_on_what_is_cut_anywhere() {
    let lines = [
        (
            "sshd",
            "Failed password for invalid user ä from 192.0.2.1 port 40022 ssh2: RSA SHA256:x",
        ),
        (
            "sudo",
            "alice : TTY=pts/0 ; PWD=/home/ä ; USER=root ; COMMAND=/usr/bin/id",
        ),
        (
            "login",
            "FAILED LOGIN (2) on '/dev/tty1' FOR 'root', Authentication failure",
        ),
        ("login", "ROOT LOGIN ON tty1"),
        ("gpasswd", "members of group wheel set by root to bob"),
        (
            "x",
            "pam_unix(dovecot:auth): 2 more authentication failures; logname= rhost=192.0.2.1 user=x",
        ),
        (
            "pkexec",
            "alice: Executing command [USER=root] [TTY=/dev/pts/0] [CWD=/home/alice] [COMMAND=/usr/bin/id]",
        ),
    ];
    for (identifier, text) in lines {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            event(identifier, &text[..end]);
            event(identifier, &text[end..]);
        }
    }
}

#[test]
fn pam_speaks_under_its_own_facility_only() {
    let told = "pam_unix(sshd:session): session opened for user root by alice(uid=1000)";
    let of = |facility| {
        let mut line = line("app", told);
        line.facility = facility;
        read(&line)
    };
    for facility in [None, Some(4), Some(10)] {
        assert!(matches!(of(facility), Verdict::Event(_)), "{facility:?}");
    }
    assert_eq!(of(Some(3)), Verdict::Nothing, "what a service prints");
}
