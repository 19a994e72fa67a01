//! The files of an authority, and the stages of a rotation.

use super::material::ISSUING_KEY_FILE;
use super::*;

struct Scene {
    _folder: tempfile::TempDir,
    place: PathBuf,
    root: FleetRoot,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("authority");
        let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
        CollectorAuthority::create(&place, &root, "c1".parse().unwrap()).unwrap();
        Self {
            _folder: folder,
            place,
            root,
        }
    }

    fn rotate(&self, stage: Stage, successor: Option<&FleetRoot>) -> Result<Rotated, IdentityError> {
        CollectorAuthority::rotate(&self.place, stage, &self.root, successor, TimeMicros::now())
    }

    fn present(&self) -> CollectorAuthority {
        CollectorAuthority::open(&self.place).unwrap()
    }
}

#[test]
fn an_authority_is_there_whole_or_not_at_all() {
    let scene = Scene::new();
    let again = || CollectorAuthority::open_or_create(&scene.place, &scene.root, "c1".parse().unwrap());
    let made = again().unwrap();
    // As a crash leaves it: some of the keys, and no bundle.
    let partial = scene.place.with_extension("partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join(ISSUING_KEY_FILE), "half a k").unwrap();
    scene.rotate(Stage::Introduce, None).unwrap();
    assert!(!partial.exists());
    assert_eq!(again().unwrap().online.public(), made.online.public());
    // Keys whose bundle was lost may have signed something: they are not replaced.
    fs::remove_file(scene.place.join(BUNDLE_FILE)).unwrap();
    assert!(matches!(again(), Err(IdentityError::AlreadyThere { .. })));
    assert!(scene.place.join(ISSUING_KEY_FILE).exists());
}

#[test]
fn stages_are_taken_in_order_and_once() {
    let scene = Scene::new();
    assert!(matches!(
        scene.rotate(Stage::Switch, None),
        Err(IdentityError::Rotation(_))
    ));
    assert_eq!(scene.rotate(Stage::Retire, None).unwrap(), Rotated::Already(1));
    let before = scene.present();
    assert_eq!(scene.rotate(Stage::Introduce, None).unwrap(), Rotated::Done(2));
    assert_eq!(scene.rotate(Stage::Introduce, None).unwrap(), Rotated::Already(2));
    assert_eq!(scene.present().online.public(), before.online.public());
    assert!(matches!(
        scene.rotate(Stage::Retire, None),
        Err(IdentityError::Rotation(_))
    ));
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let other = scene.rotate(Stage::Switch, Some(&root));
    assert!(matches!(other, Err(IdentityError::Rotation(_))), "{other:?}");
    assert_eq!(scene.rotate(Stage::Switch, None).unwrap(), Rotated::Done(3));
    assert_eq!(scene.rotate(Stage::Switch, None).unwrap(), Rotated::Already(3));
    let after = scene.present();
    assert_ne!(after.online.public(), before.online.public());
    assert_eq!(after.anchors().online.len(), 2);
    assert_eq!(scene.rotate(Stage::Retire, None).unwrap(), Rotated::Done(4));
    assert_eq!(scene.present().anchors().online, [after.online.public()]);
    assert_eq!(
        CollectorAuthority::rotation(&scene.place).unwrap(),
        RotationState::Idle
    );
}

#[test]
fn a_new_root_is_reached_from_the_old_one_over_every_version_between() {
    let scene = Scene::new();
    let first = scene.present();
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    for stage in [Stage::Introduce, Stage::Switch, Stage::Retire] {
        scene.rotate(stage, Some(&root)).unwrap();
    }
    let last = scene.present();
    assert_eq!(last.root_fingerprint(), root.fingerprint());
    assert_eq!(last.anchors().roots, [root.public()]);
    let between: Vec<_> = last.history_since(1).into_iter().cloned().collect();
    assert_eq!(between.len(), 2);
    let reached = first.bundle().open_chain(&between, last.signed_bundle()).unwrap();
    assert_eq!(reached, *last.bundle());
    let pinned = first.root_fingerprint();
    let history: Vec<_> = last.history_since(0).into_iter().cloned().collect();
    assert_eq!(
        TrustBundle::open_pinned_chain(&history, last.signed_bundle(), &pinned).unwrap(),
        reached
    );
    // Without what lies between, the newest is a stranger's.
    assert!(first.bundle().open_successor(last.signed_bundle()).is_err());
    assert!(TrustBundle::open_pinned_chain(&[], last.signed_bundle(), &pinned).is_err());
    // A root that the fleet does not list signs nothing.
    let stranger = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let now = TimeMicros::now();
    let refused = CollectorAuthority::rotate(&scene.place, Stage::Introduce, &stranger, None, now);
    assert!(matches!(refused, Err(IdentityError::Rotation(_))), "{refused:?}");
}
