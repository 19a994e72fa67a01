use fleetmend_event::SeriesKey;
use fleetmend_event::table::FindingState;

use super::*;

fn limits() -> Limits {
    Limits::new(LimitsConfig {
        process_cpu_for_s: 10,
        site_down_probes: 2,
        ..LimitsConfig::default()
    })
}

fn process(second: i64, cpu_core_pct: f64) -> Fact {
    let snapshot = ProcessSnapshot {
        time: TimeMicros(second * 1_000_000),
        pid: 42,
        start_boot_ns: 7,
        ppid: 1,
        comm: "spin".into(),
        exe: None,
        exe_deleted: false,
        command_line: "spin".into(),
        uid: 0,
        state: "R".into(),
        cgroup: Some("/demo".into()),
        unit: None,
        container_id: None,
        cpu_core_pct,
        rss_bytes: 0,
        read_bytes: 0,
        write_bytes: 0,
        fd_count: None,
        thread_count: 1,
    };
    snapshot.into()
}

fn filesystem(second: i64, share: f64) -> Fact {
    let key = SeriesKey::new(
        "system.filesystem.utilization",
        "1",
        [("system.filesystem.mountpoint", "/data")],
    );
    Fact::Metrics(MetricFrame {
        time: TimeMicros(second * 1_000_000),
        series: vec![key].into(),
        values: vec![share],
    })
}

fn site(verdict: SiteVerdict) -> Fact {
    let probe = SiteProbe {
        time: TimeMicros::now(),
        site: "shop".into(),
        url: "http://shop/".into(),
        verdict,
        reason: "connection refused".into(),
        remote_address: None,
        http_status: None,
        redirect_count: 0,
        dns_ms: None,
        connect_ms: None,
        tls_ms: None,
        first_byte_ms: None,
        total_ms: None,
        body_bytes: None,
        tls_version: None,
        certificate_not_after: None,
        certificate_issuer: None,
        certificate_fault: None,
    };
    probe.into()
}

fn states(
    limits: &mut Limits,
    tracker: &mut FindingTracker,
    facts: Vec<Fact>,
) -> Vec<(String, FindingState)> {
    facts
        .iter()
        .flat_map(|fact| limits.observe(fact, tracker))
        .map(|row| (row.rule, row.state))
        .collect()
}

#[test]
fn process_above_the_limit_for_long_enough_is_one_finding_until_it_calms_down() {
    let (mut limits, mut tracker) = (limits(), FindingTracker::default());
    let busy = (0..6).map(|step| process(step * 5, 99.0)).collect();
    assert_eq!(
        states(&mut limits, &mut tracker, busy),
        [(RUNAWAY_PROCESS.to_owned(), FindingState::Open)]
    );
    let calm = vec![process(30, 5.0), process(35, 4.0)];
    assert_eq!(
        states(&mut limits, &mut tracker, calm),
        [(RUNAWAY_PROCESS.to_owned(), FindingState::Resolved)]
    );
}

#[test]
fn process_that_rests_now_and_then_is_no_finding() {
    let (mut limits, mut tracker) = (limits(), FindingTracker::default());
    let bursts = (0..40)
        .map(|step| process(step * 5, if step % 3 == 2 { 10.0 } else { 99.0 }))
        .collect();
    assert_eq!(states(&mut limits, &mut tracker, bursts), []);
}

#[test]
fn filesystem_opens_at_the_limit_and_clears_below_the_lower_one() {
    let (mut limits, mut tracker) = (limits(), FindingTracker::default());
    let shares = [0.5, 0.91, 0.95, 0.88, f64::NAN, 0.90, 0.84, 0.5];
    let facts = shares
        .iter()
        .zip(0..)
        .map(|(share, second)| filesystem(second, *share))
        .collect();
    let expected = [
        (FILESYSTEM_FULL.to_owned(), FindingState::Open),
        (FILESYSTEM_FULL.to_owned(), FindingState::Resolved),
    ];
    assert_eq!(states(&mut limits, &mut tracker, facts), expected);
}

#[test]
fn site_needs_two_failures_and_unknown_changes_nothing() {
    use SiteVerdict::{Down, Unknown, Up};
    let (mut limits, mut tracker) = (limits(), FindingTracker::default());
    let seen = states(
        &mut limits,
        &mut tracker,
        [Up, Down, Up, Unknown, Unknown, Unknown].map(site).to_vec(),
    );
    assert_eq!(seen, []);
    let seen = states(
        &mut limits,
        &mut tracker,
        [Down, Unknown, Down, Down, Unknown, Up].map(site).to_vec(),
    );
    assert_eq!(
        seen,
        [
            (SITE_DOWN.to_owned(), FindingState::Open),
            (SITE_DOWN.to_owned(), FindingState::Resolved)
        ]
    );
}

#[test]
fn full_filesystem_that_was_unmounted_is_resolved_and_one_that_is_silent_is_not() {
    let (mut limits, mut tracker) = (limits(), FindingTracker::default());
    let other = |second: i64| {
        let key = SeriesKey::new(
            "system.filesystem.utilization",
            "1",
            [("system.filesystem.mountpoint", "/")],
        );
        Fact::Metrics(MetricFrame {
            time: TimeMicros(second * 1_000_000),
            series: vec![key].into(),
            values: vec![0.1],
        })
    };
    let opened = states(&mut limits, &mut tracker, vec![filesystem(0, 0.95)]);
    assert_eq!(opened.len(), 1);
    let silent = (1..300).map(|second| filesystem(second, f64::NAN)).collect();
    assert_eq!(states(&mut limits, &mut tracker, silent), []);
    let nothing = Fact::Metrics(MetricFrame {
        time: TimeMicros(900_000_000),
        series: vec![].into(),
        values: vec![],
    });
    assert_eq!(states(&mut limits, &mut tracker, vec![other(300), nothing]), []);
    let gone = (301..400).map(other).collect();
    assert_eq!(
        states(&mut limits, &mut tracker, gone),
        [(FILESYSTEM_FULL.to_owned(), FindingState::Resolved)]
    );
}

#[test]
fn what_still_holds_after_a_restart_keeps_its_finding() {
    let (mut before, mut tracker) = (limits(), FindingTracker::default());
    let down = vec![site(SiteVerdict::Down), site(SiteVerdict::Down)];
    let facts = [filesystem(0, 0.95)].into_iter().chain(down).collect();
    assert_eq!(states(&mut before, &mut tracker, facts).len(), 2);
    let kept = tracker.findings();

    let (mut limits, mut tracker) = (limits(), FindingTracker::default());
    let now = TimeMicros::now();
    tracker.restore(kept, now);
    let facts = vec![filesystem(1, 0.95), site(SiteVerdict::Down)];
    assert_eq!(
        states(&mut limits, &mut tracker, facts),
        [],
        "neither is opened again"
    );
    let later = now.plus_millis(3_600_000);
    assert!(tracker.resolve_unseen(later, later).is_empty(), "both were seen");
}
