//! The life of a finding, over a clock that is moved and a store that fails.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use fleetmend_identity::time::Clocks;
use fleetmend_identity::{CollectorAuthority, FleetRoot, TrustedTime};
use fleetmend_testkit::TestControl;

use super::*;
use crate::enrol::{AuditKind, EnrolConfig};

const MINUTE: i64 = 60_000_000;

#[derive(Debug, Clone, Default)]
struct Moved(Arc<AtomicI64>);

impl Moved {
    fn pass(&self, minutes: i64) {
        self.0.fetch_add(minutes * MINUTE, Ordering::Relaxed);
    }
}

impl Clocks for Moved {
    fn wall(&self) -> TimeMicros {
        TimeMicros(1_900_000_000_000_000 + self.0.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed).unsigned_abs())
    }

    fn boot_id(&self) -> String {
        "one".to_owned()
    }
}

#[derive(Default)]
struct Sink {
    broken: AtomicBool,
    told: Mutex<Vec<(HostId, Finding)>>,
}

#[async_trait]
impl FindingSink for Sink {
    async fn tell(&self, host: HostId, finding: Finding) -> Result<(), BoxError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err("disk full".into());
        }
        self.told.lock().unwrap().push((host, finding));
        Ok(())
    }
}

struct Scene {
    control: TestControl,
    clock: Moved,
    enroller: Enroller,
    sink: Sink,
}

impl Scene {
    async fn new() -> Self {
        let (control, clock) = (TestControl::new().unwrap(), Moved::default());
        Self {
            enroller: open(&control, &clock).await,
            control,
            clock,
            sink: Sink::default(),
        }
    }

    async fn sighted(&self, host: HostId) {
        let source = "192.0.2.7".parse().unwrap();
        let audit = self.enroller.audit();
        audit
            .refused(AuditKind::Clone, source, Some(host), "clone: x")
            .await;
    }

    /// One turn, and what was told in it: whether open, and the count.
    async fn turn(&self) -> Vec<(bool, u64, FindingId)> {
        self.enroller.tell_alarms(&self.sink).await.unwrap();
        let told = std::mem::take(&mut *self.sink.told.lock().unwrap());
        let shown =
            |(_, row): (HostId, Finding)| (row.state == FindingState::Open, row.count, row.finding_id);
        told.into_iter().map(shown).collect()
    }
}

async fn open(control: &TestControl, clock: &Moved) -> Enroller {
    let pool = control.open().await.unwrap();
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap();
    let time = TrustedTime::over(Box::new(clock.clone()));
    Enroller::open_with(pool, Arc::new(authority), EnrolConfig::default(), time)
        .await
        .unwrap()
}

#[tokio::test]
async fn sightings_are_one_finding_told_once_a_minute_and_over_after_an_hour() {
    let scene = Scene::new().await;
    let host = HostId::random();
    assert_eq!(scene.turn().await, []);
    scene.sighted(host).await;
    let [(true, 1, finding)] = scene.turn().await[..] else {
        panic!("not told");
    };
    for _ in 0..7 {
        scene.sighted(host).await;
    }
    assert_eq!(scene.turn().await, [], "within the minute");
    scene.clock.pass(2);
    assert_eq!(scene.turn().await, [(true, 8, finding)]);
    scene.clock.pass(30);
    assert_eq!(scene.turn().await, [], "nothing new");
    scene.clock.pass(31);
    assert_eq!(scene.turn().await, [(false, 8, finding)]);
    assert_eq!(scene.turn().await, []);
    scene.sighted(host).await;
    let [(true, 1, another)] = scene.turn().await[..] else {
        panic!("not told");
    };
    assert_ne!(another, finding);
}

#[tokio::test]
async fn what_the_store_did_not_take_is_told_later_also_after_a_restart() {
    let mut scene = Scene::new().await;
    let host = HostId::random();
    scene.sink.broken.store(true, Ordering::Relaxed);
    scene.sighted(host).await;
    assert_eq!(scene.turn().await, []);
    scene.enroller = open(&scene.control, &scene.clock).await;
    assert_eq!(scene.turn().await, []);
    scene.sink.broken.store(false, Ordering::Relaxed);
    let [(true, 1, finding)] = scene.turn().await[..] else {
        panic!("not told");
    };
    // Over while the store was away, and sighted again before it was told: the same finding goes on.
    scene.sink.broken.store(true, Ordering::Relaxed);
    scene.clock.pass(61);
    assert_eq!(scene.turn().await, []);
    scene.sighted(host).await;
    scene.sink.broken.store(false, Ordering::Relaxed);
    assert_eq!(scene.turn().await, [(true, 2, finding)]);
}

#[tokio::test]
async fn a_flood_of_sightings_is_bounded_and_still_told() {
    let scene = Scene::new().await;
    let alarms = scene.enroller.audit().alarms();
    for _ in 0..WAITING_MAX + 5 {
        alarms.sighted(HostId::random(), "192.0.2.7".parse().unwrap(), "x");
    }
    assert_eq!(alarms.waiting.lock().unwrap().len(), WAITING_MAX);
    assert_eq!(scene.turn().await.len(), usize::try_from(TOLD_MAX).unwrap());
}
