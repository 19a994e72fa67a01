//! Connections by their number and beat that raise, each beside the ones that look like them.

use fleetmend_event::table::Severity;

use super::flows::{FAR, NONE, with};
use super::world::World;

#[test]
fn twenty_ports_within_a_minute_are_a_scan() {
    let mut world = with("/usr/bin/nmap");
    for port in 1..20 {
        world.connect_refused(110, FAR, port);
    }
    assert_eq!(world.rules(), NONE, "nineteen are not");
    world.later(30);
    world.connect_refused(110, FAR, 20);
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["port-scan"], Some(Severity::Medium))
    );
}

#[test]
fn scan_spread_over_ten_processes_is_one_scan() {
    let mut world = World::with_session();
    for index in 0..10_u32 {
        let pid = 200 + index;
        world.run(pid, &format!("/usr/bin/tool{index}"), &["x"], 1000);
        world.connect_refused(pid, FAR, 10 + index);
        world.connect_refused(pid, FAR, 110 + index);
        world.connect_refused(pid, FAR, 210 + index);
    }
    let ids: std::collections::HashSet<_> = world.findings.iter().map(|finding| finding.finding_id).collect();
    assert_eq!((world.rules(), ids.len()), (vec!["port-scan"], 1));
}

#[test]
fn scan_below_the_rate_is_seen_by_the_hour() {
    let mut world = with("/usr/bin/slow");
    for port in 0..40 {
        world.connect_refused(110, FAR, 1_000 + port);
        world.later(10);
    }
    assert_eq!(world.rules(), ["port-scan"], "six a minute");
}

#[test]
fn ports_of_open_services_and_of_this_host_are_silent() {
    let mut world = with("/usr/bin/browser");
    for index in 0..200 {
        world.connect(110, FAR, if index % 2 == 0 { 443 } else { 80 });
        // A server's passive data ports, and tests that connect to listeners of their own.
        world.connect(110, FAR, 40_000 + index);
        world.connect(110, "127.0.0.1", 2_000 + index);
    }
    assert_eq!(world.rules(), NONE);
    for port in 0..30 {
        world.connect_refused(110, "127.0.0.1", 3_000 + port);
    }
    assert_eq!(
        world.worst(),
        Some(Severity::Low),
        "of this host itself: low at most"
    );
}

#[test]
fn scan_of_this_host_is_raised() {
    let mut world = with("/usr/sbin/inetd");
    for port in 1..=20 {
        world.accept(110, "203.0.113.5", port);
    }
    assert_eq!(world.rules(), ["port-scanned"]);
}

#[test]
fn many_clients_of_one_port_are_silent() {
    let mut world = with("/usr/sbin/nginx");
    for client in 0..200 {
        world.accept(110, &format!("203.0.113.{client}"), 443);
    }
    assert_eq!(world.rules(), NONE);
}

#[test]
fn one_port_of_many_hosts_is_a_sweep() {
    let mut world = with("/usr/bin/sweep");
    for host in 1..=20 {
        world.connect_refused(110, &format!("10.0.1.{host}"), 6379);
    }
    assert_eq!(world.rules(), ["host-sweep"]);
}

#[test]
fn monitoring_of_many_hosts_that_answer_is_silent() {
    let mut world = with("/usr/bin/prometheus");
    for _ in 0..3 {
        for host in 1..=90 {
            world.connect(110, &format!("10.0.1.{host}"), 9100);
        }
        world.connect_refused(110, "10.0.1.91", 9100);
    }
    assert_eq!(world.rules(), NONE);
}

#[test]
fn logins_on_many_hosts_are_raised() {
    let mut world = World::with_session();
    for host in 1..=8 {
        let pid = 200 + host;
        world.run(pid, "/usr/bin/ssh", &["ssh"], 1000);
        world.connect(pid, &format!("10.0.1.{host}"), 22);
    }
    assert_eq!(
        (world.rules(), world.worst()),
        (vec!["lateral-movement"], Some(Severity::Medium))
    );
}

#[test]
fn logins_of_configuration_management_are_low_and_few_are_silent() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/ansible-playbook", &["ansible-playbook"], 1000);
    for host in 1..=20 {
        let pid = 200 + host;
        world.run_as_child(pid, 110, "/usr/bin/ssh", &["ssh"], 1000);
        world.connect(pid, &format!("10.0.1.{host}"), 22);
    }
    assert_eq!(world.worst(), Some(Severity::Low));
    let mut world = World::with_session();
    world.run(110, "/usr/bin/rsync", &["rsync"], 1000);
    for host in 1..=20 {
        let pid = 200 + host;
        world.run_as_child(pid, 110, "/usr/bin/ssh", &["ssh"], 1000);
        world.connect(pid, &format!("10.0.1.{host}"), 22);
    }
    assert_eq!(world.worst(), Some(Severity::Low), "a backup");
    let mut world = World::empty();
    world.exec(1, 0, "/usr/lib/systemd/systemd", &["systemd"], 0);
    world.unit = Some("nagios.service".to_owned());
    world.run_as_child(10, 1, "/usr/sbin/nagios", &["nagios"], 110);
    for host in 1..=20 {
        let pid = 200 + host;
        world.run_as_child(pid, 10, "/usr/lib/nagios/plugins/check_ssh", &["check_ssh"], 110);
        world.connect(pid, &format!("10.0.1.{host}"), 22);
    }
    assert_eq!(world.worst(), Some(Severity::Low), "monitoring");
    let mut world = with("/usr/bin/ssh");
    for _ in 0..100 {
        world.connect(110, "10.0.1.1", 22);
        world.connect(110, "10.0.1.2", 22);
    }
    assert_eq!(world.rules(), NONE);
}

/// Connections at a beat of `period` seconds that is up to `jitter` of it early or late, each by a process of its own.
fn beat(world: &mut World, exe: &str, address: &str, period: f64, jitter: f64) {
    let mut seed = 7_u64;
    for index in 0..14 {
        let pid = 300 + index;
        world.run(pid, exe, &[exe], 1000);
        world.connect(pid, address, 443);
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let even = f64::from(u32::try_from(seed >> 33).unwrap()) / f64::from(1_u32 << 31);
        let seconds = period * (1.0 + jitter * (2.0 * even - 1.0));
        world.later(format!("{seconds:.0}").parse().unwrap());
    }
}

#[test]
fn steady_beat_with_jitter_is_a_beacon() {
    for (period, jitter) in [(30.0, 0.1), (60.0, 0.0), (300.0, 0.3), (600.0, 0.2)] {
        let mut world = World::with_session();
        beat(&mut world, "/home/eve/implant", FAR, period, jitter);
        assert_eq!(world.rules(), ["beacon"], "{period} s, jitter {jitter}");
        assert_eq!(world.worst(), Some(Severity::Medium));
    }
    let mut world = World::with_session();
    beat(&mut world, "/dev/shm/implant", FAR, 60.0, 0.2);
    assert_eq!(world.severity_of("beacon"), Some(Severity::High));
    let mut world = World::with_session();
    beat(&mut world, "/usr/bin/curl", FAR, 60.0, 0.0);
    assert_eq!(world.severity_of("beacon"), Some(Severity::Medium));
}

#[test]
fn connections_without_a_beat_are_silent_and_services_are_low() {
    let mut world = with("/usr/bin/browser");
    for gap in [1, 40, 3, 200, 7, 900, 12, 30, 2_000, 5, 80, 33, 400, 21, 1] {
        world.connect(110, FAR, 443);
        world.later(gap);
    }
    // Faster and slower than any beacon.
    for gap in [6, 4_000] {
        for _ in 0..20 {
            world.connect(110, "203.0.113.9", 443);
            world.later(gap);
        }
    }
    assert_eq!(world.rules(), NONE);
    let mut world = World::with_session();
    world.unit = Some("collector.service".to_owned());
    beat(&mut world, "/usr/bin/pusher", FAR, 60.0, 0.0);
    assert_eq!(world.worst(), Some(Severity::Low), "a service of the host");
    let mut world = World::with_session();
    beat(&mut world, "/usr/lib/thunderbird/thunderbird", FAR, 300.0, 0.0);
    assert_eq!(world.worst(), Some(Severity::Low), "a person's mail");
    let mut world = World::with_session();
    world.run(150, "/usr/sbin/cron", &["cron"], 0);
    for index in 0..12 {
        world.run_as_child(400 + index, 150, "/usr/bin/curl", &["curl"], 0);
        world.connect(400 + index, FAR, 443);
        world.later(60);
    }
    assert_eq!(world.worst(), Some(Severity::Low), "a job of cron");
}
