//! Connections by who makes them that raise, and names, each beside the ones that look like them.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{LogRecord, Severity};

use super::lose;
use super::world::World;

pub(super) const NONE: [&str; 0] = [];
pub(super) const FAR: &str = "198.51.100.7";

pub(super) fn with(exe: &str) -> World {
    let mut world = World::with_session();
    world.run(110, exe, &[exe], 1000);
    world.findings.clear();
    world
}

#[test]
fn fifty_megabytes_to_an_unusual_address_are_raised() {
    let mut world = with("/home/eve/upload");
    world.connect(110, FAR, 443);
    world.close(110, FAR, 443, 50_000_000, 20);
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["exfiltration"], Some(Severity::Medium))
    );

    let mut world = with("/home/eve/upload");
    for _ in 0..24 {
        world.connect(110, FAR, 443);
        world.close(110, FAR, 443, 2_500_000, 20);
        world.later(1_800);
    }
    assert_eq!(world.rules(), ["exfiltration"], "five megabytes an hour");

    let mut world = World::with_session();
    for index in 0..12 {
        let (pid, address) = (200 + index, format!("198.51.100.{index}"));
        world.run(pid, "/home/eve/upload", &["upload"], 1000);
        world.connect(pid, &address, 443);
        world.close(pid, &address, 443, 5_000_000, 20);
    }
    assert_eq!(
        world.rules(),
        ["exfiltration"],
        "spread over processes and addresses"
    );
}

#[test]
fn address_that_only_heard_a_beat_is_not_usual() {
    let mut world = with("/home/eve/implant");
    for _ in 0..200 {
        world.close(110, FAR, 443, 900, 1);
        world.later(600);
    }
    world.close(110, FAR, 443, 60_000_000, 20);
    assert_eq!(world.severity_of("exfiltration"), Some(Severity::Medium));
}

#[test]
fn bytes_to_clients_and_usual_places_are_silent_or_low() {
    let mut world = with("/usr/sbin/nginx");
    world.accept(110, FAR, 443);
    let mut row = world.connection(110, fleetmend_event::table::NetworkEventKind::Close, FAR, 50_000);
    (row.local_port, row.bytes_sent) = (443, Some(900_000_000));
    world.observe(&row.into());
    world.close(110, "127.0.0.1", 5432, 900_000_000, 20);
    world.close(110, FAR, 443, 1_000_000, 20);
    assert_eq!(world.rules(), NONE);
    for exe in ["/usr/bin/restic", "/usr/bin/dockerd"] {
        let mut world = with(exe);
        world.close(110, FAR, 443, 900_000_000, 20);
        assert_eq!(world.worst(), Some(Severity::Low), "{exe}");
    }
    let mut world = with("/usr/bin/shipper");
    for _ in 0..200 {
        world.close(110, FAR, 443, 200_000, 20);
        world.later(600);
    }
    world.findings.clear();
    world.close(110, FAR, 443, 60_000_000, 20);
    assert!(
        world.worst().is_none_or(|worst| worst <= Severity::Info),
        "{:?}",
        world.findings
    );
}

#[test]
fn shell_in_the_place_of_a_connected_process_is_raised() {
    let mut world = with("/usr/bin/python3.11");
    world.connect(110, "127.0.0.1", 4444);
    world.exec(110, 102, "/usr/bin/dash", &["/bin/sh", "-i"], 1000);
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["reverse-shell"], Some(Severity::High))
    );

    let mut world = with("/usr/bin/perl");
    world.connect(110, FAR, 4444);
    world.run_as_child(111, 110, "/usr/bin/bash", &["/bin/bash"], 1000);
    assert_eq!(
        world.rules(),
        ["reverse-shell"],
        "as a child that waits for a person"
    );
}

#[test]
fn shell_beside_a_connection_whose_end_may_be_lost_is_low() {
    let mut world = with("/usr/bin/perl");
    world.connect(110, FAR, 4444);
    lose(&mut world, "network_events", 5);
    world.run_as_child(111, 110, "/usr/bin/bash", &["/bin/bash"], 1000);
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["reverse-shell"], Some(Severity::Low))
    );
}

#[test]
fn shells_of_logins_and_of_programs_with_connections_are_silent() {
    let mut world = World::with_session();
    world.run_as_child(120, 100, "/usr/sbin/sshd", &["sshd", "-R"], 0);
    world.accept(120, FAR, 22);
    world.run_as_child(121, 120, "/usr/bin/bash", &["-bash"], 1000);
    world.run_as_child(122, 121, "/usr/bin/bash", &["bash"], 1000);
    world.run_as_child(123, 120, "/usr/bin/bash", &["bash"], 1000);
    world.run(110, "/usr/bin/git", &["git", "fetch"], 1000);
    world.connect(110, FAR, 443);
    world.run_as_child(111, 110, "/usr/bin/dash", &["sh", "-c", "git gc"], 1000);
    world.run(112, "/usr/bin/python3.11", &["python3", "deploy.py"], 1000);
    world.connect(112, FAR, 443);
    world.run_as_child(113, 112, "/usr/bin/dash", &["/bin/sh", "-c", "make"], 1000);
    world.close(112, FAR, 443, 10, 1);
    world.run_as_child(114, 112, "/usr/bin/bash", &["bash"], 1000);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn shell_of_a_listening_tool_is_raised() {
    let mut world = with("/usr/bin/ncat");
    world.listen(110, "0.0.0.0", 4444);
    world.accept(110, FAR, 4444);
    world.exec(110, 102, "/usr/bin/bash", &["bash", "-i"], 1000);
    assert_eq!(world.rules(), ["unusual-listener", "bind-shell"]);
}

#[test]
fn listener_of_an_unusual_program_is_raised() {
    for (exe, severity) in [
        ("/tmp/x", Severity::High),
        ("/usr/bin/nc", Severity::Medium),
        ("/usr/bin/bash", Severity::Medium),
    ] {
        let mut world = with(exe);
        world.listen(110, "0.0.0.0", 31337);
        assert_eq!(
            (world.rules(), world.worst()),
            (vec!["unusual-listener"], Some(severity)),
            "{exe}"
        );
    }
}

#[test]
fn listeners_of_servers_and_of_this_host_only_are_silent() {
    let mut world = with("/usr/sbin/nginx");
    world.listen(110, "0.0.0.0", 443);
    world.run(111, "/home/eve/target/debug/server", &["server"], 1000);
    world.listen(111, "::", 8080);
    world.run(
        112,
        "/usr/bin/python3.11",
        &["python3", "-m", "http.server"],
        1000,
    );
    world.listen(112, "127.0.0.1", 8000);
    assert_eq!(world.rules(), NONE);
    world.listen(112, "0.0.0.0", 8000);
    assert_eq!(world.worst(), Some(Severity::Low));
}

#[test]
fn child_of_a_web_server_that_connects_is_raised() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/usr/sbin/apache2", &["apache2"], 33);
    world.run_as_child(11, 10, "/usr/bin/python3.11", &["python3"], 33);
    world.connect(11, FAR, 4444);
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["web-server-child-connects"], Some(Severity::High))
    );
}

#[test]
fn web_server_that_connects_to_its_database_is_silent() {
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.run_as_child(10, 1, "/usr/sbin/php-fpm8.2", &["php-fpm"], 33);
    world.connect(10, "10.0.0.9", 3306);
    world.run_as_child(11, 10, "/usr/bin/python3.11", &["python3"], 33);
    world.connect(11, "127.0.0.1", 6379);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn forward_of_a_login_over_ssh_is_raised() {
    let mut world = World::with_session();
    world.fork(120, 101);
    world.exec(120, 101, "/usr/sbin/sshd", &["sshd"], 1000);
    world.listen(120, "0.0.0.0", 8022);
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["ssh-remote-forward"], Some(Severity::Medium))
    );
    let mut world = World::with_session();
    world.fork(120, 101);
    world.listen(120, "0.0.0.0", 8022);
    assert_eq!(world.rules(), ["ssh-remote-forward"], "of root");
}

#[test]
fn ssh_server_and_forwarded_windows_are_silent() {
    let mut world = World::with_session();
    world.listen(100, "0.0.0.0", 22);
    world.fork(120, 101);
    world.exec(120, 101, "/usr/sbin/sshd", &["sshd"], 1000);
    world.listen(120, "127.0.0.1", 6010);
    assert_eq!(world.rules(), NONE);
}

#[test]
fn long_connection_to_the_port_of_names_is_raised() {
    let mut world = with("/home/eve/tunnel");
    world.connect(110, FAR, 53);
    world.close(110, FAR, 53, 10_000, 600);
    assert_eq!(world.rules(), ["tunnel-over-dns-port"]);
}

#[test]
fn transfer_of_a_zone_and_resolvers_are_silent() {
    let mut world = with("/usr/sbin/named");
    world.close(110, FAR, 53, 90_000_000, 600);
    world.run(111, "/usr/bin/dig", &["dig", "axfr"], 1000);
    world.close(111, FAR, 53, 300, 1);
    assert!(!world.rules().contains(&"tunnel-over-dns-port"));
}

#[test]
fn busy_process_connected_to_a_pool_is_raised() {
    let mut world = with("/home/eve/worker");
    world.connect(110, FAR, 3333);
    // Another connection of it ends.
    world.connect(110, "203.0.113.9", 443);
    world.close(110, "203.0.113.9", 443, 100, 1);
    world.snapshot(110, 97.0, false);
    assert_eq!(world.rules(), ["miner-connection"]);
}

#[test]
fn busy_or_connected_alone_is_silent() {
    let mut world = with("/home/eve/worker");
    world.snapshot(110, 97.0, false);
    world.connect(110, FAR, 3333);
    world.snapshot(110, 3.0, false);
    world.close(110, FAR, 3333, 100, 5);
    world.snapshot(110, 97.0, false);
    assert_eq!(world.rules(), NONE);
}

fn log(world: &mut World, identifier: &str, message: &str) {
    world.later(1);
    let row = LogRecord {
        time: TimeMicros(world.time().0),
        source: "journal".to_owned(),
        identifier: identifier.to_owned(),
        unit: None,
        pid: None,
        uid: None,
        priority: None,
        facility: None,
        message: message.to_owned(),
        truncated: false,
        template: 0,
        repeats: 1,
    };
    world.observe(&row.into());
}

#[test]
fn names_that_do_not_exist_carry_data_or_wander_are_raised() {
    let mut world = World::empty();
    for index in 0..10 {
        log(
            &mut world,
            "dnsmasq",
            &format!("reply kq{index}xvz.example.com is NXDOMAIN"),
        );
    }
    assert_eq!(world.rules(), ["dns-nxdomain-burst"]);

    let mut world = World::empty();
    for index in 0..10 {
        log(
            &mut world,
            "unbound",
            &format!("[1:0] info: 10.0.0.5 q{index}.example.com. A IN NXDOMAIN 0.1 0 45"),
        );
    }
    assert_eq!(world.rules(), ["dns-nxdomain-burst"]);

    let mut world = World::empty();
    for index in 0..20 {
        let label = format!("mzxw6ytboi4dk3lpoqqgs{index}5tfebqw4zbam5");
        log(
            &mut world,
            "named",
            &format!("client @0x1 10.0.0.5#5000 (x): query: {label}.t.example.net IN A +E(0)K (10.0.0.1)"),
        );
    }
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["dns-tunnel"], Some(Severity::Medium))
    );

    let mut world = World::empty();
    for index in 0..15 {
        log(
            &mut world,
            "dnsmasq",
            &format!("reply www.example.org is 20{index}.{index}.1.1"),
        );
    }
    assert_eq!(world.rules(), NONE, "some are no addresses");
    for index in 0..15 {
        log(
            &mut world,
            "dnsmasq",
            &format!("reply www.example.org is 100.{index}.1.1"),
        );
    }
    assert_eq!(world.rules(), ["dns-fast-flux"]);
}

#[test]
fn everyday_names_are_silent() {
    let mut world = World::empty();
    for index in 0..200 {
        log(
            &mut world,
            "dnsmasq",
            &format!("query[A] www{index}.example.com from 10.0.0.5"),
        );
        log(
            &mut world,
            "dnsmasq",
            &format!("reply www{index}.example.com is 198.51.100.{}", index % 250),
        );
        log(&mut world, "dnsmasq", "reply printer is NXDOMAIN");
        log(
            &mut world,
            "dnsmasq",
            &format!("reply {index}.0.0.10.in-addr.arpa is NXDOMAIN"),
        );
        log(
            &mut world,
            "dnsmasq",
            &format!("query[TXT] domain{index}.com from 10.0.0.5"),
        );
        log(
            &mut world,
            "sshd",
            &format!("reply x{index}.example.com is NXDOMAIN"),
        );
        log(&mut world, "dnsmasq", "query[");
        log(
            &mut world,
            "dnsmasq",
            &format!("query[A] {index}.2.0.192.mzxw6ytboi4dk3lpoqqgs5tfeb.zen.example.net from 10.0.0.5"),
        );
    }
    assert_eq!(world.rules(), NONE);
}
