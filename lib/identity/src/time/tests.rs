use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::SigningKey;

/// Clocks that tests set: (wall µs, boot µs).
struct Set {
    wall: Arc<AtomicI64>,
    boot: Arc<AtomicI64>,
    boot_id: &'static str,
}

impl Clocks for Set {
    fn wall(&self) -> TimeMicros {
        TimeMicros(self.wall.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_micros(self.boot.load(Ordering::Relaxed).unsigned_abs())
    }

    fn boot_id(&self) -> String {
        self.boot_id.to_owned()
    }
}

const SECOND: i64 = 1_000_000;
const NOON: i64 = 1_800_000_000 * SECOND;

struct Scene {
    folder: tempfile::TempDir,
    wall: Arc<AtomicI64>,
    boot: Arc<AtomicI64>,
    key: SigningKey,
}

impl Scene {
    fn new() -> Self {
        let number = |value| Arc::new(AtomicI64::new(value));
        let key = SigningKey::generate().unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            wall: number(5 * SECOND),
            boot: number(100 * SECOND),
            key,
        }
    }

    fn time(&self, boot_id: &'static str) -> TrustedTime {
        let clocks = Set {
            wall: self.wall.clone(),
            boot: self.boot.clone(),
            boot_id,
        };
        TrustedTime::open_with(self.folder.path().join("time.json"), Box::new(clocks)).unwrap()
    }

    fn signed(&self, unix: i64) -> Signed<SignedTime> {
        Signed::sign(
            &self.key,
            Context::Time,
            &SignedTime {
                unix: TimeMicros(unix),
                nonce: String::new(),
            },
        )
        .unwrap()
    }

    fn anchors(&self) -> TrustAnchors {
        TrustAnchors {
            roots: Vec::new(),
            online: vec![self.key.public()],
        }
    }
}

#[test]
fn a_signed_time_outlasts_a_wrong_wall_clock_and_a_reboot() {
    let scene = Scene::new();
    let time = scene.time("first");
    assert_eq!(time.now(), (TimeMicros(5 * SECOND), TimeSource::System));
    time.observe(&scene.signed(NOON), &scene.anchors()).unwrap();
    scene.boot.fetch_add(60 * SECOND, Ordering::Relaxed);
    scene.wall.store(9 * SECOND, Ordering::Relaxed);
    assert_eq!(
        time.now(),
        (TimeMicros(NOON + 60 * SECOND), TimeSource::Collector)
    );

    scene.boot.store(SECOND, Ordering::Relaxed);
    let after = scene.time("second");
    assert_eq!(after.now(), (TimeMicros(NOON), TimeSource::SystemAfterBoot));
    scene.wall.store(NOON + 7, Ordering::Relaxed);
    assert_eq!(after.now(), (TimeMicros(NOON + 7), TimeSource::SystemAfterBoot));
}

#[test]
fn an_old_signed_time_is_a_replay_and_a_foreign_one_is_refused() {
    let scene = Scene::new();
    let time = scene.time("first");
    time.observe(&scene.signed(NOON), &scene.anchors()).unwrap();
    let replay = time.observe(&scene.signed(NOON - 3600 * SECOND), &scene.anchors());
    assert!(matches!(replay, Err(TimeError::Replayed { .. })), "{replay:?}");
    let stranger = SigningKey::generate().unwrap();
    let foreign = Signed::sign(
        &stranger,
        Context::Time,
        &SignedTime {
            unix: TimeMicros(NOON),
            nonce: String::new(),
        },
    )
    .unwrap();
    assert!(matches!(
        time.observe(&foreign, &scene.anchors()),
        Err(TimeError::Signature(_))
    ));
    assert_eq!(time.now(), (TimeMicros(NOON), TimeSource::Collector));
}

#[test]
fn a_damaged_file_is_the_same_as_none() {
    let scene = Scene::new();
    files::write_private(&scene.folder.path().join("time.json"), b"{\"unix\": torn").unwrap();
    assert_eq!(scene.time("first").now().1, TimeSource::System);
}

#[test]
fn the_answer_to_our_own_question_may_set_the_time_back() {
    let scene = Scene::new();
    let time = scene.time("first");
    time.observe(&scene.signed(NOON), &scene.anchors()).unwrap();
    let nonce = [7; 16];
    let answer = SignedTime {
        unix: TimeMicros(NOON - 7200 * SECOND),
        nonce: hex::encode(nonce),
    };
    let answer = Signed::sign(&scene.key, Context::Time, &answer).unwrap();
    assert!(matches!(
        time.observe_answer(&answer, &scene.anchors(), &[8; 16]),
        Err(TimeError::Nonce)
    ));
    time.observe_answer(&answer, &scene.anchors(), &nonce).unwrap();
    assert_eq!(
        time.now(),
        (TimeMicros(NOON - 7200 * SECOND), TimeSource::Collector)
    );
}
