//! Packaged Sigma rules beside the detectors, each with a command that raises it and one that looks like it.

use std::path::PathBuf;

use fleetmend_event::Fact;

use super::world::World;
use crate::sigma::Sigma;

fn titles(sigma: &mut Sigma, exe: &str, args: &[&str]) -> Vec<String> {
    let mut world = World::with_session();
    let fact = Fact::from(world.exec_row(110, 102, exe, args, 1000));
    sigma
        .observe(&fact)
        .into_iter()
        .map(|notice| notice.title)
        .collect()
}

fn sigma() -> Sigma {
    Sigma::load(&[PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rules"))])
}

#[test]
fn packaged_rules_beside_the_detectors_fire() {
    let mut sigma = sigma();
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "/usr/bin/ssh",
            &["ssh", "-N", "-R", "8080:localhost:80", "host"],
            "Tunnel by the Options of ssh",
        ),
        (
            "/usr/bin/ssh",
            &["ssh", "-fND", "1080", "host"],
            "Tunnel by the Options of ssh",
        ),
        (
            "/home/eve/chisel",
            &["chisel", "client", "x"],
            "Tunnelling Program Run",
        ),
        (
            "/usr/bin/touch",
            &["touch", "-r", "/bin/ls", "/usr/bin/evil"],
            "Time of a System File Set by Hand",
        ),
        (
            "/usr/bin/touch",
            &["touch", "-t", "202001010000", "/etc/cron.d/x"],
            "Time of a System File Set by Hand",
        ),
        (
            "/usr/bin/curl",
            &[
                "curl",
                "--unix-socket",
                "/var/run/docker.sock",
                "http://x/containers/json",
            ],
            "Socket of the Container Engine Used From Outside Its Tools",
        ),
        (
            "/usr/bin/nsenter",
            &["nsenter", "-t", "1", "-m", "sh"],
            "Namespaces of the First Process Entered",
        ),
        (
            "/usr/bin/nsenter",
            &["nsenter", "--target=1", "--mount"],
            "Namespaces of the First Process Entered",
        ),
        (
            "/usr/bin/docker",
            &["docker", "run", "--privileged", "-it", "alpine"],
            "Container Started With the Rights of the Host",
        ),
        (
            "/usr/bin/nmap",
            &["nmap", "-sS", "10.0.0.0/24"],
            "Network Scanner Run",
        ),
        (
            "/usr/bin/journalctl",
            &["journalctl", "--vacuum-time=1s"],
            "Journal Cut to Nearly Nothing",
        ),
        (
            "/usr/bin/chattr",
            &["chattr", "-i", "/etc/passwd"],
            "Protection of a System File Against Change Removed",
        ),
        (
            "/usr/bin/bash",
            &["bash", "-c", "unset HISTFILE; id"],
            "Shell Told to Remember Nothing",
        ),
        (
            "/usr/bin/bash",
            &["bash", "/usr/bin/gcore", "$(pgrep -o sshd)"],
            "Memory of a Guarded Process Written to a File",
        ),
        (
            "/usr/sbin/useradd",
            &["useradd", "-o", "-u", "0", "eve"],
            "Password Tool Told to Add a Root Account",
        ),
    ];
    for (exe, args, title) in cases {
        let found = titles(&mut sigma, exe, args);
        assert!(
            found.iter().any(|found| found == title),
            "{args:?} gave {found:?}, not {title:?}"
        );
    }
}

#[test]
fn packaged_rules_beside_the_detectors_are_silent_on_lookalikes() {
    let mut sigma = sigma();
    let cases: &[(&str, &[&str])] = &[
        ("/usr/bin/ssh", &["ssh", "host", "ls", "-l"]),
        (
            "/usr/bin/ssh",
            &["ssh", "-p", "22", "-o", "RemoteForward=no", "host"],
        ),
        ("/usr/bin/touch", &["touch", "/etc/motd"]),
        ("/usr/bin/touch", &["touch", "-t", "202001010000", "build/stamp"]),
        ("/usr/bin/curl", &["curl", "https://docs.docker.com"]),
        ("/usr/bin/nsenter", &["nsenter", "-t", "1234", "-n", "ip", "a"]),
        (
            "/usr/bin/docker",
            &["docker", "run", "-v", "/srv/data:/data", "alpine"],
        ),
        ("/usr/bin/docker", &["docker", "ps"]),
        ("/usr/bin/ping", &["ping", "10.0.0.1"]),
        ("/usr/bin/journalctl", &["journalctl", "--vacuum-time=30d"]),
        ("/usr/bin/journalctl", &["journalctl", "--vacuum-size=500M"]),
        ("/usr/bin/chattr", &["chattr", "+i", "/etc/passwd"]),
        ("/usr/bin/chattr", &["chattr", "-i", "/srv/data/x"]),
        ("/usr/bin/bash", &["bash", "-c", "export HISTSIZE=5000"]),
        ("/usr/bin/gdb", &["gdb", "-p", "1234"]),
        ("/usr/sbin/useradd", &["useradd", "-u", "1001", "eve"]),
    ];
    for (exe, args) in cases {
        assert_eq!(titles(&mut sigma, exe, args), Vec::<String>::new(), "{args:?}");
    }
}
