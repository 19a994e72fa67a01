//! Programs and scripts, and what they count as.

use super::*;

fn of(exe: &str, args: &[&str]) -> Classes {
    classify(Some(exe), base_name(exe), args.iter().copied())
}

#[test]
fn program_is_excused_only_where_root_put_it() {
    assert!(of("/usr/bin/dpkg", &["dpkg"]).any(Classes::PACKAGE));
    for place in ["/tmp/dpkg", "/home/eve/dpkg", "/dev/shm/dpkg"] {
        assert!(!of(place, &["dpkg"]).any(Classes::PACKAGE), "{place}");
    }
    assert!(of("/tmp/dpkg", &["dpkg"]).any(Classes::WRITABLE));
    assert!(of("/memfd:x (deleted)", &["x"]).any(Classes::FILELESS));
}

#[test]
fn script_of_an_interpreter_is_the_program() {
    let upgrade = of(
        "/usr/bin/python3.11",
        &["/usr/bin/python3", "-u", "/usr/bin/unattended-upgrade"],
    );
    assert!(upgrade.any(Classes::PACKAGE) && upgrade.any(Classes::INTERPRETER));
    let script = of(
        "/usr/bin/dash",
        &["/bin/sh", "/var/lib/dpkg/info/nginx.postinst", "configure"],
    );
    assert!(script.any(Classes::PACKAGE));
    assert!(!of("/usr/bin/python3.11", &["python3", "/tmp/unattended-upgrade"]).any(Classes::PACKAGE));
    assert!(!of("/tmp/python3", &["python3", "/usr/bin/unattended-upgrade"]).any(Classes::PACKAGE));
}

#[test]
fn word_that_merely_looks_like_a_script_excuses_nothing() {
    let cases: &[(&str, &[&str])] = &[
        (
            "/usr/bin/dash",
            &["sh", "-c", "/usr/bin/id; cp /tmp/x /etc/cron.d/x #/apt"],
        ),
        ("/usr/bin/bash", &["bash", "-s", "/usr/bin/apt"]),
        ("/usr/bin/bash", &["bash", "-o", "/usr/bin/apt", "/tmp/x"]),
        ("/usr/bin/bash", &["bash", "--rcfile", "/usr/bin/apt"]),
        ("/usr/bin/dash", &["sh", "/usr/../tmp/dpkg"]),
        (
            "/usr/bin/python3.11",
            &["python3", "-W", "/usr/bin/apt", "/tmp/x"],
        ),
        ("/usr/bin/perl", &["perl", "-e", "/usr/bin/dpkg"]),
        ("/usr/bin/mawk", &["awk", "/usr/{system(\"id\")} #/apt"]),
        ("/bin/busybox", &["tee", "/usr/bin/dpkg", "/etc/cron.d/x"]),
    ];
    for (exe, args) in cases {
        assert!(!of(exe, args).any(Classes::PACKAGE), "{args:?}");
    }
    let cases: &[(&str, &[&str])] = &[
        (
            "/usr/bin/dash",
            &["/bin/sh", "-e", "/var/lib/dpkg/info/x.postinst"],
        ),
        ("/usr/bin/perl", &["perl", "-w", "/usr/share/debconf/frontend"]),
        (
            "/usr/libexec/platform-python3.6",
            &["/usr/libexec/platform-python", "/usr/bin/dnf"],
        ),
        (
            "/usr/bin/python3.12",
            &["/usr/bin/python3", "-sP", "/usr/bin/dnf"],
        ),
        ("/bin/busybox", &["/bin/sh", "/usr/sbin/update-rc.d"]),
    ];
    for (exe, args) in cases {
        assert!(of(exe, args).any(Classes::PACKAGE), "{args:?}");
    }
}

#[test]
fn suspicious_programs_go_by_name_wherever_they_lie() {
    let server: &[&str] = &["/srv/app/bin/python3", "/srv/app/bin/gunicorn", "app:app"];
    assert!(of("/usr/bin/python3.11", server).any(Classes::WEB));
    assert!(of("/home/eve/bash", &["bash"]).any(Classes::SHELL));
    assert!(of("/usr/sbin/php-fpm8.2", &["php-fpm"]).any(Classes::WEB));
    assert!(of("/usr/sbin/apache2", &["apache2"]).any(Classes::WEB));
    assert!(classify(None, "bash", std::iter::empty()).any(Classes::SHELL));
}
