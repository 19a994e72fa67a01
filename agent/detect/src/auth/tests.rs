use fleetmend_event::table::FindingState;

use super::*;

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

struct Host {
    auth: Auth,
    tracker: FindingTracker,
    time: i64,
    port: u32,
}

impl Host {
    fn new() -> Self {
        Self {
            auth: Auth::new(AuthConfig::default(), KnownUsers::default()),
            tracker: FindingTracker::default(),
            time: 1_000 * DAY,
            port: 1_024,
        }
    }

    /// One second later, over a connection of its own.
    fn login(
        &mut self,
        outcome: AuthOutcome,
        method: Option<&str>,
        user: &str,
        address: &str,
    ) -> Vec<Finding> {
        self.port += 1;
        let port = self.port;
        self.on_port(outcome, method, user, address, port)
    }

    fn on_port(
        &mut self,
        outcome: AuthOutcome,
        method: Option<&str>,
        user: &str,
        address: &str,
        port: u32,
    ) -> Vec<Finding> {
        let mut event = event(AuthEventKind::Login, outcome, user);
        event.method = method.map(str::to_owned);
        event.remote_address = Some(address.to_owned());
        event.remote_port = Some(port);
        self.see(event)
    }

    fn fail(&mut self, user: &str, address: &str) -> Vec<Finding> {
        self.login(AuthOutcome::Failure, Some("password"), user, address)
    }

    fn succeed(&mut self, user: &str, address: &str) -> Vec<Finding> {
        self.login(AuthOutcome::Success, Some("password"), user, address)
    }

    fn see(&mut self, event: AuthEvent) -> Vec<Finding> {
        self.time += 1_000_000;
        let event = AuthEvent {
            time: TimeMicros(self.time),
            ..event
        };
        self.auth
            .observe(&event, TimeMicros(self.time), &mut self.tracker)
    }

    fn quiet(&mut self, micros: i64) -> Vec<Finding> {
        self.time += micros;
        self.auth.tick(TimeMicros(self.time), &mut self.tracker)
    }

    fn open(&self) -> Vec<String> {
        let mut rules: Vec<String> = self.tracker.findings().into_iter().map(|row| row.rule).collect();
        rules.sort();
        rules
    }
}

fn event(kind: AuthEventKind, outcome: AuthOutcome, user: &str) -> AuthEvent {
    AuthEvent {
        time: TimeMicros(0),
        kind,
        outcome,
        service: "sshd".to_owned(),
        method: None,
        user: user.to_owned(),
        user_valid: None,
        target_user: None,
        command: None,
        terminal: None,
        remote_address: None,
        remote_port: None,
        key_fingerprint: None,
        pid: None,
        source: "journal".to_owned(),
        repeats: 1,
    }
}

fn rules(rows: &[Finding]) -> Vec<&str> {
    rows.iter().map(|row| row.rule.as_str()).collect()
}

#[test]
fn brute_force_is_one_finding_that_is_counted_up_and_ends_when_quiet() {
    let mut host = Host::new();
    for _ in 0..4 {
        assert!(host.fail("root", "192.0.2.1").is_empty());
    }
    let opened = host.fail("root", "192.0.2.1");
    assert_eq!(rules(&opened), [BRUTE]);
    let row = &opened[0];
    assert_eq!(
        (row.severity, row.subject.as_str(), row.subject_kind),
        (Severity::Medium, "192.0.2.1", SubjectKind::Address)
    );
    assert_eq!(row.techniques, ["T1110.001"]);
    assert!(row.evidence.contains("auth_events") && row.factors.contains("failed logins"));
    let rows: Vec<Finding> = (0..500).flat_map(|_| host.fail("root", "192.0.2.1")).collect();
    assert_eq!(rows.iter().map(|row| row.count).collect::<Vec<_>>(), [10, 100]);
    assert!(rows.iter().all(|next| next.finding_id == row.finding_id));
    assert!(host.quiet(10 * MINUTE).is_empty());
    let ended = host.quiet(31 * MINUTE);
    assert_eq!(
        (ended.len(), ended[0].state, ended[0].finding_id),
        (1, FindingState::Resolved, row.finding_id)
    );
}

#[test]
fn what_is_unknown_resolves_nothing() {
    let mut host = Host::new();
    for _ in 0..5 {
        host.fail("root", "192.0.2.1");
    }
    host.time += 29 * MINUTE;
    host.auth.miss(TimeMicros(host.time));
    assert!(host.quiet(29 * MINUTE).is_empty());
    assert_eq!(host.quiet(2 * MINUTE).len(), 1);
}

#[test]
fn mistyped_password_is_silent_and_so_are_failures_far_apart() {
    let mut host = Host::new();
    for day in 0..40 {
        let user = if day % 2 == 0 { "alice" } else { "bob" };
        host.fail(user, "192.0.2.1");
        assert!(host.succeed(user, "192.0.2.1").is_empty());
        host.time += 2 * 60 * MINUTE;
    }
    assert!(host.open().is_empty(), "{:?}", host.open());
}

#[test]
fn one_attempt_that_is_told_twice_counts_once() {
    let mut host = Host::new();
    for port in 1..=4 {
        assert!(
            host.on_port(AuthOutcome::Failure, None, "oracle", "192.0.2.1", port)
                .is_empty()
        );
        assert!(
            host.on_port(
                AuthOutcome::Failure,
                Some("password"),
                "oracle",
                "192.0.2.1",
                port
            )
            .is_empty()
        );
        assert!(
            host.on_port(AuthOutcome::Failure, None, "oracle", "192.0.2.1", port)
                .is_empty()
        );
    }
    assert_eq!(
        rules(&host.on_port(AuthOutcome::Failure, None, "oracle", "192.0.2.1", 5)),
        [BRUTE]
    );
    // An agent that offers ten keys before the right one is nothing.
    let mut agent = Host::new();
    for _ in 0..10 {
        assert!(
            agent
                .on_port(AuthOutcome::Failure, Some("publickey"), "alice", "192.0.2.7", 9)
                .is_empty()
        );
    }
    assert!(
        agent
            .on_port(AuthOutcome::Success, Some("publickey"), "alice", "192.0.2.7", 9)
            .is_empty()
    );
}

#[test]
fn lines_that_were_counted_together_count_each() {
    let mut host = Host::new();
    let mut many = event(AuthEventKind::Login, AuthOutcome::Failure, "root");
    many.method = Some("password".to_owned());
    many.remote_address = Some("192.0.2.1".to_owned());
    many.remote_port = Some(9);
    many.repeats = 12_345;
    let rows = host.see(many);
    assert_eq!((rules(&rows), rows[0].count), (vec![BRUTE], 12_345));
}

#[test]
fn success_after_failures_is_high_and_a_key_is_no_guess() {
    let mut host = Host::new();
    for _ in 0..6 {
        host.fail("alice", "192.0.2.1");
    }
    assert!(
        host.login(AuthOutcome::Success, Some("publickey"), "bob", "192.0.2.1")
            .is_empty(),
        "a bastion's other user"
    );
    let rows = host.succeed("alice", "192.0.2.1");
    assert_eq!(rules(&rows), ["auth-success-after-failures"]);
    assert_eq!(rows[0].severity, Severity::High);
    assert!(host.succeed("alice", "192.0.2.2").is_empty(), "another address");
    let mut late = Host::new();
    for _ in 0..6 {
        late.fail("alice", "192.0.2.1");
    }
    late.time += 3 * 60 * MINUTE;
    assert!(late.succeed("alice", "192.0.2.1").is_empty());
}

#[test]
fn spray_takes_over_from_the_brute_force_of_the_same_address() {
    let mut host = Host::new();
    let mut rows = Vec::new();
    for number in 0..40 {
        rows.extend(host.fail(&format!("user{number}"), "2001:db8::1"));
    }
    assert_eq!(host.open(), [SPRAY], "one attacker, one finding");
    let spray = rows.iter().find(|row| row.rule == SPRAY).unwrap();
    assert_eq!(
        (spray.severity, spray.techniques[0].as_str()),
        (Severity::High, "T1110.003")
    );
    assert!(
        rows.iter()
            .any(|row| row.rule == BRUTE && row.state == FindingState::Resolved)
    );
    assert!(
        host.fail("user1", "2001:db8::1").is_empty(),
        "counted, no new row"
    );
}

#[test]
fn many_addresses_against_one_account_are_told_of_the_account() {
    let mut host = Host::new();
    let mut rows = Vec::new();
    for round in 0..3 {
        for address in 0..6 {
            rows.extend(host.fail("root", &format!("198.51.100.{}", address + round * 6)));
        }
    }
    assert_eq!(host.open(), [DISTRIBUTED]);
    assert_eq!(
        (rows[0].subject_kind, rows[0].subject.as_str()),
        (SubjectKind::User, "root")
    );
    let guessed = host.succeed("root", "198.51.100.3");
    assert!(
        rules(&guessed).contains(&"auth-success-after-failures"),
        "{:?}",
        rules(&guessed)
    );
    assert!(!rules(&host.succeed("root", "203.0.113.5")).contains(&"auth-success-after-failures"));
}

#[test]
fn slow_brute_force_is_seen_below_the_threshold() {
    let mut host = Host::new();
    let mut rows = Vec::new();
    for _ in 0..25 {
        rows.extend(host.fail("root", "192.0.2.1"));
        host.time += 12 * MINUTE;
        assert!(host.quiet(0).is_empty(), "it goes on");
    }
    assert_eq!(rules(&rows)[0], SLOW);
    assert!(rows.iter().all(|row| row.rule == SLOW));
    assert_eq!(host.quiet(7 * 60 * MINUTE).len(), 1);
}

#[test]
fn root_by_password_is_told_and_by_key_or_from_the_host_itself_is_not() {
    let mut host = Host::new();
    assert_eq!(rules(&host.succeed("root", "192.0.2.1")), ["auth-root-password"]);
    assert!(
        host.login(AuthOutcome::Success, Some("publickey"), "root", "192.0.2.2")
            .is_empty()
    );
    assert!(host.succeed("root", "127.0.0.1").is_empty() && host.succeed("root", "::1").is_empty());
}

#[test]
fn new_networks_and_keys_are_told_after_learning() {
    let mut host = Host::new();
    let with_key = |host: &mut Host, address: &str, key: &str| {
        let mut login = event(AuthEventKind::Login, AuthOutcome::Success, "alice");
        login.method = Some("publickey".to_owned());
        login.remote_address = Some(address.to_owned());
        login.key_fingerprint = Some(key.to_owned());
        host.see(login)
    };
    assert!(with_key(&mut host, "192.0.2.1", "SHA256:a").is_empty());
    assert!(
        with_key(&mut host, "198.51.100.1", "SHA256:b").is_empty(),
        "still learning"
    );
    host.time += 2 * DAY;
    assert!(
        with_key(&mut host, "192.0.2.77", "SHA256:a").is_empty(),
        "the same network"
    );
    assert_eq!(
        rules(&with_key(&mut host, "203.0.113.1", "SHA256:a")),
        ["auth-new-source"]
    );
    assert_eq!(
        rules(&with_key(&mut host, "192.0.2.1", "SHA256:c")),
        ["auth-new-key"]
    );
    assert!(
        with_key(&mut host, "203.0.113.1", "SHA256:c").is_empty(),
        "learnt"
    );
    // What was learnt is kept.
    let text = serde_json::to_string(host.auth.known()).unwrap();
    let mut again = Host {
        auth: Auth::new(AuthConfig::default(), serde_json::from_str(&text).unwrap()),
        ..Host::new()
    };
    again.time = host.time;
    assert!(with_key(&mut again, "203.0.113.1", "SHA256:c").is_empty());
    assert_eq!(
        rules(&with_key(&mut again, "203.0.114.1", "SHA256:c")),
        ["auth-new-source"]
    );
    // The first login of an account that was never seen is no news of that account.
    let mut first = event(AuthEventKind::Login, AuthOutcome::Success, "fresh");
    first.remote_address = Some("192.0.2.1".to_owned());
    assert!(again.see(first).is_empty());
}

#[test]
fn elevations_are_judged() {
    let mut host = Host::new();
    let sudo = |outcome| event(AuthEventKind::Elevation, outcome, "alice");
    assert!(host.see(sudo(AuthOutcome::Success)).is_empty(), "learning");
    host.time += 2 * DAY;
    assert!(host.see(sudo(AuthOutcome::Success)).is_empty(), "known to do so");
    let mut other = sudo(AuthOutcome::Success);
    other.user = "mallory".to_owned();
    assert_eq!(rules(&host.see(other.clone())), ["auth-first-elevation"]);
    assert!(host.see(other).is_empty());
    assert!(
        host.see(sudo(AuthOutcome::Failure)).is_empty() && host.see(sudo(AuthOutcome::Failure)).is_empty()
    );
    assert_eq!(
        rules(&host.see(sudo(AuthOutcome::Failure))),
        ["auth-elevation-failures"]
    );
}

#[test]
fn accounts_that_become_root_are_high_and_others_are_not() {
    let mut host = Host::new();
    let mut change = |method: &str, values: Option<&str>, group: Option<&str>| {
        let mut change = event(AuthEventKind::Account, AuthOutcome::Success, "bob");
        change.method = Some(method.to_owned());
        change.command = values.map(str::to_owned);
        change.target_user = group.map(str::to_owned);
        let rows = host.see(change);
        assert!(rows.iter().all(|row| row.severity == Severity::High));
        rows.first().map(|row| row.rule.clone())
    };
    assert_eq!(
        change("create_user", Some("UID=1000, GID=1000, home=/home/UID=0"), None),
        None
    );
    assert_eq!(change("add_to_group", None, Some("www-data")), None);
    assert_eq!(
        change("create_user", Some("UID=0, GID=0, home=/root"), None).as_deref(),
        Some("auth-uid-zero")
    );
    assert_eq!(
        change("add_to_group", None, Some("sudo")).as_deref(),
        Some("auth-privileged-group")
    );
}

#[test]
fn maps_are_bounded_and_what_makes_room_is_counted() {
    let mut host = Host::new();
    for number in 0..u32::try_from(TRACKED_MAX).unwrap() + 500 {
        host.fail(
            "root",
            &format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255),
        );
    }
    assert!(host.auth.take_evicted() >= 500);
    assert_eq!(host.auth.take_evicted(), 0);
    assert_eq!(host.open(), [DISTRIBUTED]);
}

#[test]
fn time_that_lies_in_the_future_does_not_hold_a_finding_for_ever() {
    let mut host = Host::new();
    for _ in 0..5 {
        host.time += 1_000_000;
        let mut far = event(AuthEventKind::Login, AuthOutcome::Failure, "root");
        far.time = TimeMicros(host.time + 1_000 * DAY);
        far.method = Some("password".to_owned());
        far.remote_address = Some("192.0.2.1".to_owned());
        far.remote_port = Some(9);
        host.auth.observe(&far, TimeMicros(host.time), &mut host.tracker);
    }
    assert_eq!(host.open(), [BRUTE]);
    assert_eq!(host.quiet(31 * MINUTE).len(), 1);
}

#[test]
fn thresholds_have_bounds() {
    assert!(AuthConfig::default().faults().is_empty());
    let wrong = AuthConfig {
        failures: 0,
        slow_failures: 1_000,
        window_s: 0,
        quiet_s: 0,
        ..AuthConfig::default()
    };
    let keys: Vec<String> = wrong.faults().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["auth.failures", "auth.slow_failures", "auth.window_s"]);
}
