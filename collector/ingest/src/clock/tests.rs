use bytes::Bytes;
use fleetmend_event::{Lane, RecordId, Sequence, SpoolEpoch};

use super::*;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
const YEAR: i64 = 365 * 24 * HOUR;
const START: i64 = 1_767_225_600 * SECOND;

/// A host that began its present boot at `zero`, with a wall clock that is `ahead`.
struct Machine {
    boot: u8,
    zero: i64,
    ahead: i64,
}

impl Machine {
    fn beat(&self, clock: &HostClock, sent: i64, delay: i64, at: Instant) -> i64 {
        clock.of_boot(&[self.boot; 16]).heard(
            TimeMicros(sent + self.ahead),
            u64::try_from(sent - self.zero).unwrap(),
            TimeMicros(sent + delay),
            at,
        )
    }

    fn frame(&self, made: i64) -> Frame {
        Frame {
            id: RecordId {
                epoch: SpoolEpoch::from_bytes([1; 16]),
                lane: Lane::Events,
                sequence: Sequence(1),
            },
            table: 1,
            schema_version: 1,
            tombstone: false,
            rows: 1,
            made_at: TimeMicros(made + self.ahead),
            made_boot_us: u64::try_from(made - self.zero).unwrap(),
            from_time: TimeMicros(made + self.ahead),
            to_time: TimeMicros(made + self.ahead),
            body: Bytes::new(),
        }
    }

    fn ahead_of(&self, clock: &HostClock, frame: &Frame, received: i64) -> Option<i64> {
        clock
            .of_boot(&[self.boot; 16])
            .ahead_of(frame, TimeMicros(received))
    }
}

#[test]
fn least_delay_of_many_heartbeats_tells_the_clock() {
    let (clock, begun) = (HostClock::default(), Instant::now());
    let host = Machine {
        boot: 1,
        zero: START,
        ahead: -YEAR,
    };
    let mut told = 0;
    for (number, delay) in [900, 400, 3, 2_500, 700].into_iter().enumerate() {
        let sent = START + i64::try_from(number).unwrap() * 10 * SECOND;
        told = host.beat(
            &clock,
            sent,
            delay * 1_000,
            begun + Duration::from_secs(10) * u32::try_from(number).unwrap(),
        );
    }
    assert_eq!(told, -YEAR - 3_000);
    // A way that became longer for good, or a boot clock that runs wrong, is noticed when the window has passed.
    let later = START + HOUR;
    let told = host.beat(&clock, later, 50_000, begun + Duration::from_secs(3_600));
    assert_eq!(told, -YEAR - 50_000);
}

#[test]
fn what_is_told_stays_the_same_while_clocks_are_read_inexactly() {
    let clock = HostClock::default();
    let mut host = Machine {
        boot: 1,
        zero: START,
        ahead: HOUR,
    };
    let told = host.beat(&clock, START + SECOND, 0, Instant::now());
    assert_eq!(told, HOUR);
    for wander in [-19_000, 700, 15_000] {
        host.ahead = HOUR + wander;
        let frame = host.frame(START + 2 * SECOND);
        assert_eq!(host.ahead_of(&clock, &frame, START + 3 * SECOND), Some(told));
        assert_eq!(host.beat(&clock, START + 3 * SECOND, 0, Instant::now()), told);
    }
    host.ahead = HOUR + 40_000;
    let frame = host.frame(START + 4 * SECOND);
    assert_eq!(
        host.ahead_of(&clock, &frame, START + 5 * SECOND),
        Some(HOUR + 40_000)
    );
    assert_eq!(
        host.beat(&clock, START + 5 * SECOND, 0, Instant::now()),
        HOUR + 40_000
    );
}

#[test]
fn each_frame_has_the_clock_of_its_own_moment() {
    let clock = HostClock::default();
    let now = Instant::now();
    let mut host = Machine {
        boot: 1,
        zero: START - 10 * HOUR,
        ahead: 0,
    };
    host.beat(&clock, START, 0, now);
    let right = host.frame(START + SECOND);
    for ahead in [HOUR, -HOUR, YEAR, -YEAR] {
        host.ahead = ahead;
        let before = host.frame(START + 2 * SECOND);
        assert_eq!(
            host.ahead_of(&clock, &before, START + 3 * SECOND),
            Some(ahead),
            "before any heartbeat says so"
        );
        host.beat(&clock, START + 4 * SECOND, 0, now);
        assert_eq!(host.ahead_of(&clock, &before, START + 5 * SECOND), Some(ahead));
        assert_eq!(
            host.ahead_of(&clock, &right, START + 5 * SECOND),
            Some(0),
            "waited in the spool"
        );
    }
}

#[test]
fn frames_of_an_earlier_boot_have_its_clock() {
    let clock = HostClock::default();
    let now = Instant::now();
    let heard = Machine {
        boot: 1,
        zero: START,
        ahead: 2 * HOUR,
    };
    heard.beat(&clock, START + SECOND, 0, now);
    let waited = heard.frame(START + 2 * SECOND);
    let unheard = Machine {
        boot: 2,
        zero: START + HOUR,
        ahead: 0,
    };
    let of_unheard = [
        unheard.frame(START + HOUR + SECOND),
        unheard.frame(START + 9 * HOUR),
    ];
    let present = Machine {
        boot: 3,
        zero: START + 10 * HOUR,
        ahead: 0,
    };
    let received = START + 11 * HOUR;
    assert_eq!(
        present.ahead_of(&clock, &waited, received),
        Some(2 * HOUR),
        "before its first heartbeat"
    );
    assert_eq!(present.ahead_of(&clock, &of_unheard[0], received), None);
    present.beat(&clock, received, 0, now);
    assert_eq!(present.ahead_of(&clock, &waited, received), Some(2 * HOUR));
    for frame in &of_unheard {
        assert_eq!(
            present.ahead_of(&clock, frame, received),
            Some(0),
            "a clock that went on"
        );
    }
}

#[test]
fn what_is_remembered_of_a_host_is_bounded_whatever_it_says() {
    let clock = HostClock::default();
    let begun = Instant::now();
    for number in 0..2_000_u32 {
        let boot = [u8::try_from(number % 7).unwrap(); 16];
        let wild = i64::from(number) * YEAR;
        clock.of_boot(&boot).heard(
            TimeMicros(wild),
            u64::MAX - u64::from(number),
            TimeMicros(START + i64::from(number)),
            begun + Duration::from_millis(u64::from(number)),
        );
    }
    let boots = clock.0.lock();
    assert!(boots.heard.len() <= BOOTS_MAX);
    for boot in &boots.heard {
        assert!(boot.least.len() <= LEAST_MAX && boot.settings.len() <= SETTINGS_MAX);
    }
}

#[test]
fn estimate_that_would_make_rows_go_as_too_old_is_none() {
    let now = Instant::now();
    let host = Machine {
        boot: 1,
        zero: START,
        ahead: 0,
    };
    // The collector's clock was a year behind when it heard the host, and then it was set.
    let clock = HostClock::default();
    host.beat(&clock, START + SECOND, -YEAR, now);
    let frame = host.frame(START + 2 * SECOND);
    assert_eq!(
        host.ahead_of(&clock, &frame, START + 2 * SECOND - YEAR),
        Some(YEAR)
    );
    assert_eq!(host.ahead_of(&clock, &frame, START + 3 * SECOND), None);

    // A right clock in a boot that nobody heard of, a year ahead in the present one, which is younger.
    let clock = HostClock::default();
    let waited = host.frame(START + 9 * HOUR);
    let present = Machine {
        boot: 2,
        zero: START + 10 * HOUR,
        ahead: YEAR,
    };
    present.beat(&clock, START + 11 * HOUR, 0, now);
    assert_eq!(present.ahead_of(&clock, &waited, START + 11 * HOUR), None);
}
