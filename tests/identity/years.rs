//! The two years.

use std::collections::BTreeMap;
use std::time::Instant;

use fleetmend_event::TimeMicros;
use fleetmend_identity::FleetRoot;
use fleetmend_identity::authority::Stage;
use fleetmend_identity::tls::TlsFault;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::clocks::{DAY, HOUR, Truth};
use crate::collector::Collector;
use crate::host::{Fate, Host};

const HONEST: u32 = 50;
const REVOKED: u32 = 6;
const GONE: u32 = 4;
const DAYS: i64 = 730;
const STEP: i64 = 6 * HOUR;
/// Hosts that cannot come back try this often.
const HOPELESS_EVERY: i64 = 14 * DAY;
/// When the collector's clock is wrong: first day, last day, by how much.
const WRONG: [(i64, i64, i64); 5] = [
    (100, 101, HOUR),
    (120, 121, -HOUR),
    (300, 301, 365 * DAY),
    (500, 501, -365 * DAY),
    (600, 602, -30 * DAY),
];
/// Days that a host is awake between two sleeps, at least.
const AWAKE: i64 = 2;
/// How long after the collector's clock was set right everybody is back.
const SETTLED: i64 = DAY;
/// Days on which the stages of a rotation may first be taken, and by which they are forced.
const ROOT_ROTATION: [(i64, i64); 3] = [(200, 200), (207, 215), (222, 230)];
const ONLINE_ROTATION: [(i64, i64); 3] = [(400, 400), (407, 425), (432, 450)];
const STAGES: [Stage; 3] = [Stage::Introduce, Stage::Switch, Stage::Retire];

struct World {
    truth: Truth,
    begun: TimeMicros,
    collector: Collector,
    hosts: Vec<Host>,
    random: StdRng,
    /// Sleeps to come: host, first day, days, whether its battery is empty when it boots.
    sleeps: Vec<(usize, i64, i64, bool)>,
    forced: u32,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let begun = TimeMicros(TimeMicros::now().0 / 1_000_000 * 1_000_000 + 1_000_000);
        let truth = Truth::starting(begun);
        let collector = Collector::new(&truth).await;
        let mut hosts = Vec::new();
        for number in 0..HONEST + REVOKED + GONE {
            let fate = match number {
                number if number < HONEST => Fate::Honest,
                number if number < HONEST + REVOKED => Fate::Revoked,
                _ => Fate::Gone,
            };
            hosts.push(Host::enrol(&collector, number, fate, &mut random).await);
        }
        let mut world = Self {
            truth,
            begun,
            collector,
            hosts,
            random,
            sleeps: Vec::new(),
            forced: 0,
        };
        world.plan();
        world
    }

    /// A certificate has at least 3.5 of its 14 days left when it is renewed; with the grace of 30 days a sleep of
    /// up to 33 days is survived, and one of more than 44 is not.
    fn plan(&mut self) {
        for index in 0..HONEST as usize {
            for _ in 0..self.random.random_range(0..4) {
                let days = if self.random.random_bool(0.5) {
                    self.random.random_range(1..14)
                } else {
                    self.random.random_range(9..33)
                };
                let first = self.random.random_range(5..DAYS - 45);
                self.sleeps
                    .push((index, first, days, self.random.random_bool(0.5)));
            }
        }
        // Two sleep through the whole of the root's rotation up to its last stage, one with an empty battery.
        self.sleeps.push((0, 199, 31, false));
        self.sleeps.push((1, 199, 31, true));
        for (place, first) in [(0, 140), (1, 195), (2, 340), (3, 640)] {
            let index = (HONEST + REVOKED + place) as usize;
            let days = self.random.random_range(45..80);
            self.sleeps.push((index, first, days, false));
        }
        let plagued = |first: i64, days: i64| {
            WRONG
                .iter()
                .any(|(begins, ends, _)| first < ends + 15 && first + days > begins - 15)
        };
        // An honest host that sleeps while the collector's clock is wrong may come back with a certificate that ended earlier
        // than it thinks: how long it may sleep is then another sum.
        self.sleeps
            .retain(|(index, first, days, _)| *index >= HONEST as usize || !plagued(*first, *days));
        // The sum above is of a host that was awake long enough to renew before it slept: what was planned last (and
        // on purpose) stays, what overlaps it or leaves less than that between the two goes.
        let mut kept: Vec<(usize, i64, i64, bool)> = Vec::new();
        for sleep in self.sleeps.drain(..).rev() {
            let (index, first, days, _) = sleep;
            let crowded = kept.iter().any(|(sleeper, begins, lasts, _)| {
                *sleeper == index && first < begins + lasts + AWAKE && *begins < first + days + AWAKE
            });
            if !crowded {
                kept.push(sleep);
            }
        }
        self.sleeps = kept;
    }

    fn day(&self) -> i64 {
        self.truth.now().micros_since(self.begun) / DAY
    }

    fn clock_is_wrong(&self) -> bool {
        let passed = self.truth.now().micros_since(self.begun);
        WRONG
            .iter()
            .any(|(first, last, _)| (first * DAY..last * DAY + SETTLED).contains(&passed))
    }

    async fn step(&mut self) {
        let passed = self.truth.now().micros_since(self.begun);
        let off = WRONG
            .iter()
            .find(|(first, last, _)| (first * DAY..last * DAY).contains(&passed));
        let off = off.map_or(0, |(_, _, by)| *by);
        if self
            .collector
            .offset
            .swap(off, std::sync::atomic::Ordering::Relaxed)
            != off
        {
            // Its operator restarts it.
            self.hosts.iter_mut().for_each(Host::cut);
        }
        self.collector.enroller.look_after().await.unwrap();
        if passed % DAY == 0 {
            self.operate().await;
        }
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        order.shuffle(&mut self.random);
        for index in order {
            self.one(index, passed).await;
        }
    }

    async fn one(&mut self, index: usize, passed: i64) {
        let now = self.truth.now();
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        if let Some(wakes) = host.wakes {
            if now < wakes {
                return;
            }
            host.wakes = None;
            let empty = self.sleeps.iter().any(|(sleeper, first, days, empty)| {
                *sleeper == index && *empty && self.begun.plus_micros((first + days) * DAY) <= now
            });
            // Back to the year 2000.
            let offset = if empty { 946_684_800_000_000 - now.0 } else { 0 };
            host.boot(&self.truth, offset);
        }
        let starts =
            |(sleeper, first, ..): &&(usize, i64, i64, bool)| *sleeper == index && first * DAY == passed;
        if let Some((_, first, days, _)) = self.sleeps.iter().find(starts) {
            host.sleep_until(self.begun.plus_micros((first + days) * DAY));
            return;
        }
        let revoked = self.collector.enroller.revocations().current();
        let hopeless = !revoked.is_empty() && host.fate == Fate::Revoked || host.fate == Fate::Gone;
        if hopeless && host.renewals > 0 && passed % HOPELESS_EVERY != 0 && host.is_refused() {
            return;
        }
        host.live(&self.collector).await;
    }

    /// What the operator does on this day: revoke, rotate.
    async fn operate(&mut self) {
        let day = self.day();
        for (place, on) in [30, 110, 205, 301, 420, 700].into_iter().enumerate() {
            if day == on {
                let host = self.hosts.get(HONEST as usize + place).unwrap().id;
                let enroller = &self.collector.enroller;
                assert!(enroller.revoke_host(host, "stolen").await.unwrap());
            }
        }
        for (rotation, with_root) in [(ROOT_ROTATION, true), (ONLINE_ROTATION, false)] {
            let version = self.collector.enroller.authority().bundle().version;
            let taken = version - if with_root { 1 } else { 4 }.min(version);
            let stage = usize::try_from(taken).unwrap();
            let (Some((first, last)), Some(next)) = (rotation.get(stage), STAGES.get(stage)) else {
                continue;
            };
            if version < 4 && !with_root || day < *first {
                continue;
            }
            let behind = self.collector.behind().await;
            if *next != Stage::Introduce && behind > 0 && day < *last {
                continue;
            }
            self.forced += u32::from(*next != Stage::Introduce && behind > 0);
            if with_root && *next == Stage::Introduce {
                self.collector.new_root = Some(FleetRoot::in_memory("lab".parse().unwrap()).unwrap());
            }
            let version = self.collector.rotate(*next).await;
            println!("day {day}: {next:?} is bundle {version}, {behind} hosts behind");
            if *next == Stage::Retire {
                self.collector.settle();
            }
        }
    }

    /// Whoever is awake, honest and has had a clear day is connected; nobody who is revoked is.
    async fn check(&mut self) {
        let (day, wrong) = (self.day(), self.clock_is_wrong());
        for host in &mut self.hosts {
            if host.wakes.is_some() {
                continue;
            }
            let met = host.connect(&self.collector).await;
            let revoked = self.collector.enroller.revocations().current();
            match host.fate {
                Fate::Honest if !wrong => {
                    assert_eq!(met, Ok(()), "day {day}: {}", host.describe());
                }
                Fate::Revoked if host.is_in(&revoked) => {
                    assert!(met.is_err(), "day {day}: {}", host.describe());
                }
                _ => {}
            }
        }
    }

    async fn end(&mut self) {
        let present = self.collector.enroller.authority();
        let audit = self.collector.enroller.audit().newest(1_000_000).await.unwrap();
        let mut kinds = BTreeMap::new();
        for row in &audit {
            let word = row.detail.split([':', ' ']).next().unwrap_or_default().to_owned();
            *kinds.entry((row.kind.clone(), word)).or_insert(0_u32) += 1;
        }
        println!("audit: {kinds:?}");
        let recorded = |host: &Host, kind: &str, word: &str| {
            audit
                .iter()
                .any(|row| row.host == Some(host.id) && row.kind == kind && row.detail.starts_with(word))
        };
        for host in &mut self.hosts {
            let met = host.connect(&self.collector).await;
            let shown = host.describe();
            match host.fate {
                Fate::Honest => {
                    assert_eq!(met, Ok(()), "{shown}");
                    assert_eq!(host.bundle_version(), present.bundle().version, "{shown}");
                    assert!(host.renewals > 50, "{}: {shown}", host.renewals);
                }
                Fate::Revoked => {
                    let fault = met.unwrap_err();
                    assert!(
                        matches!(
                            fault,
                            TlsFault::OursRevoked
                                | TlsFault::OursExpired
                                | TlsFault::OursUnknown
                                | TlsFault::TheirsUnknown
                        ),
                        "{fault:?} {shown}"
                    );
                    assert!(recorded(host, "revoked", "stolen"), "{shown}");
                    assert!(recorded(host, "recover", "host_revoked"), "{shown}");
                }
                Fate::Gone => {
                    met.unwrap_err();
                    assert!(recorded(host, "recover", "too_late"), "{shown}");
                }
            }
        }
        assert_eq!(present.bundle().version, 7);
    }
}

#[tokio::test]
async fn in_two_years_every_honest_host_stays_and_no_revoked_one_comes_back() {
    // The same two years each time; another seed makes others.
    let seed: u64 = std::env::var("FLEETMEND_TEST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    println!("FLEETMEND_TEST_SEED={seed}");
    let begun = Instant::now();
    let mut world = World::new(seed).await;
    let steps = DAYS * DAY / STEP;
    for step in 0..steps {
        world.truth.set(world.begun.plus_micros(step * STEP));
        world.step().await;
        if (step * STEP) % (28 * DAY) == 20 * DAY {
            world.check().await;
        }
    }
    world.end().await;
    let renewals: u32 = world.hosts.iter().map(|host| host.renewals).sum();
    println!(
        "{} hosts, {renewals} renewals and recoveries, {} sleeps, {} stages forced, {:.1?}",
        world.hosts.len(),
        world.sleeps.len(),
        world.forced,
        begun.elapsed()
    );
}
