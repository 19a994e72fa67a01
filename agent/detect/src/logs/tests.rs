use fleetmend_event::table::FindingState;

use super::*;

const MINUTE: i64 = 60_000_000;

struct Host {
    logs: Logs,
    tracker: FindingTracker,
    time: i64,
}

impl Host {
    fn new() -> Self {
        let logs = Logs::new(LogsConfig::default(), LogBaseline::default());
        Self {
            logs,
            tracker: FindingTracker::default(),
            time: 1_000 * DAY_US,
        }
    }

    fn line(
        &mut self,
        identifier: &str,
        template: u64,
        priority: Option<u32>,
        message: &str,
    ) -> Vec<Finding> {
        let line = LogRecord {
            time: TimeMicros(self.time),
            source: "journal".to_owned(),
            identifier: identifier.to_owned(),
            unit: None,
            pid: None,
            uid: None,
            priority,
            facility: None,
            message: message.to_owned(),
            truncated: false,
            template,
            repeats: 1,
        };
        self.logs.observe(&line, TimeMicros(self.time), &mut self.tracker)
    }

    /// A day of an error every ten minutes.
    fn learn(&mut self, identifier: &str) {
        for _ in 0..150 {
            assert!(
                self.line(identifier, 1, Some(3), "usual error").is_empty(),
                "learning is quiet"
            );
            self.time += 10 * MINUTE;
        }
    }
}

fn rules(rows: &[Finding]) -> Vec<(&str, Severity)> {
    rows.iter().map(|row| (row.rule.as_str(), row.severity)).collect()
}

#[test]
fn new_error_of_a_known_program_is_raised_once_and_a_new_program_is_not() {
    let mut host = Host::new();
    host.learn("shop");
    assert!(
        host.line("shop", 2, Some(6), "something new, and harmless")
            .is_empty()
    );
    assert!(
        host.line("fresh", 3, Some(3), "first error of a new program")
            .is_empty()
    );
    assert_eq!(
        rules(&host.line("shop", 4, Some(3), "new error")),
        [("log-new-error", Severity::Low)]
    );
    assert!(host.line("shop", 4, Some(3), "new error").is_empty(), "known now");
    assert!(
        host.line("shop", 2, None, "it failed, as it was known to")
            .is_empty(),
        "a known template"
    );
    host.time += 2 * 60 * MINUTE;
    let rows = host.logs.tick(TimeMicros(host.time), &mut host.tracker);
    assert_eq!((rows.len(), rows[0].state), (1, FindingState::Resolved));
    assert_eq!(
        rules(&host.line("shop", 5, Some(1), "alert")),
        [("log-new-error", Severity::Medium)]
    );
}

#[test]
fn errors_far_above_the_usual_rate_are_one_finding() {
    let mut host = Host::new();
    host.learn("shop");
    let mut rows = Vec::new();
    for _ in 0..500 {
        host.time += 100_000;
        rows.extend(host.line("shop", 1, Some(3), "usual error"));
    }
    assert_eq!(rules(&rows)[0], ("log-error-rate", Severity::Medium));
    assert!(
        rows.iter().all(|row| row.finding_id == rows[0].finding_id) && rows.len() <= 3,
        "{}",
        rows.len()
    );
    // Nine in five minutes are no storm, whatever the rest of the day was.
    let mut quiet = Host::new();
    quiet.learn("shop");
    quiet.time += 10 * MINUTE;
    let rows: Vec<Finding> = (0..9)
        .flat_map(|_| quiet.line("shop", 1, Some(3), "usual error"))
        .collect();
    assert!(rows.is_empty(), "{:?}", rules(&rows));
}

#[test]
fn failed_logins_are_no_errors_of_sshd() {
    let mut host = Host::new();
    for _ in 0..5_000 {
        host.time += 1_000_000 + i64::from(host.time % 7 == 0) * 60 * MINUTE;
        assert!(
            host.line(
                "sshd",
                1,
                None,
                "Failed password for root from 192.0.2.1 port 22 ssh2"
            )
            .is_empty()
        );
    }
}

#[test]
fn program_that_always_errs_a_lot_is_usual() {
    let mut host = Host::new();
    for _ in 0..3_000 {
        host.time += 20_000_000;
        assert!(host.line("noisy", 1, None, "Error: as ever").is_empty());
    }
}

#[test]
fn our_own_lines_raise_nothing_and_storms_are_told() {
    let mut host = Host::new();
    host.learn("fleetmend-agent");
    assert!(host.line("fleetmend-agent", 9, Some(0), "panic").is_empty());
    let storm = LogRecord {
        source: AGENT.to_owned(),
        identifier: "loud".to_owned(),
        ..LogRecord {
            time: TimeMicros(host.time),
            source: String::new(),
            identifier: String::new(),
            unit: None,
            pid: None,
            uid: None,
            priority: Some(4),
            facility: None,
            message: "log storm".to_owned(),
            truncated: false,
            template: 0,
            repeats: 50_000,
        }
    };
    let rows = host
        .logs
        .observe(&storm, TimeMicros(host.time), &mut host.tracker);
    assert_eq!(rules(&rows), [("log-storm", Severity::Low)]);
}

#[test]
fn memory_is_bounded_and_what_was_learnt_is_kept() {
    let mut host = Host::new();
    for number in 0..20_000_u64 {
        host.time += 1_000;
        host.line(&format!("p{number}"), number + 1, Some(3), "x");
    }
    assert!(host.logs.take_evicted() > 0);
    let text = serde_json::to_string(host.logs.baseline()).unwrap();
    assert!(text.len() < 1_000_000, "{}", text.len());
    let again: LogBaseline = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}
