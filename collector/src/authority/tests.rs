//! The commands as an operator gives them, over the folders that `init` makes.

use collector_ingest::enrol::{EnrolConfig, Enroller, HostFacts};
use fleetmend_identity::HostKey;

use super::*;
use crate::{control, init};

struct Scene {
    _folder: tempfile::TempDir,
    config: CollectorConfig,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = CollectorConfig {
            state_dir: folder.path().join("state"),
            ..CollectorConfig::default()
        };
        std::fs::create_dir(&config.state_dir).unwrap();
        let root = init::make_root(&config.root_dir(), &"lab".parse().unwrap()).unwrap();
        CollectorAuthority::create(&config.authority_dir(), &root, "c1".parse().unwrap()).unwrap();
        Self {
            _folder: folder,
            config,
        }
    }

    fn rotate(&self, with_root: bool, stage: StageName, force: bool) -> Result<(ExitCode, String)> {
        let stage = StageArguments {
            stage,
            root: None,
            force,
        };
        let command = if with_root {
            AuthorityCommand::RotateRoot {
                stage,
                new_root: None,
            }
        } else {
            AuthorityCommand::RotateOnline(stage)
        };
        self.run(&command)
    }

    fn run(&self, command: &AuthorityCommand) -> Result<(ExitCode, String)> {
        let mut out = Vec::new();
        let code = run_with(&self.config, command, &mut out)?;
        Ok((code, String::from_utf8(out)?))
    }

    fn present(&self) -> CollectorAuthority {
        CollectorAuthority::open(&self.config.authority_dir()).unwrap()
    }

    fn verify(&self, root: Option<Fingerprint>) -> Result<(ExitCode, String)> {
        self.run(&AuthorityCommand::Bundle(BundleCommand::Verify {
            file: None,
            root,
        }))
    }

    /// A host enrols, and does not come back.
    fn enrol_one(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let pool = control::open(&self.config).await.unwrap();
            let enroller = Enroller::open(pool, self.present().into(), EnrolConfig::default())
                .await
                .unwrap();
            let hour = std::time::Duration::from_hours(1);
            let token = enroller.issue_token("ada", hour, 1).await.unwrap();
            let request = HostKey::generate().unwrap().request().unwrap();
            let facts = HostFacts {
                hostname: "web-1".to_owned(),
                ..HostFacts::default()
            };
            let source = std::net::IpAddr::from([127, 0, 0, 1]);
            enroller
                .enrol(source, token.secret().expose(), &request, &facts)
                .await
                .unwrap();
        });
    }
}

#[test]
fn a_root_is_rotated_stage_by_stage_and_every_stage_twice() {
    let scene = Scene::new();
    let first = scene.present();
    for stage in [StageName::Introduce, StageName::Switch, StageName::Retire] {
        let (code, said) = scene.rotate(true, stage, false).unwrap();
        assert_eq!(code, ExitCode::SUCCESS, "{said}");
        assert!(said.contains("done: trust bundle"), "{said}");
        let (code, said) = scene.rotate(true, stage, false).unwrap();
        assert_eq!(code, ExitCode::SUCCESS, "{said}");
        assert!(said.contains("nothing to do"), "{stage:?}: {said}");
    }
    let last = scene.present();
    assert_eq!(last.bundle().version, 4);
    // The place of the root holds the new one, and the next rotation begins from it.
    let root = FleetRoot::open(&scene.config.root_dir()).unwrap();
    assert_eq!(root.fingerprint(), last.root_fingerprint());
    assert_ne!(root.fingerprint(), first.root_fingerprint());
    assert!(!scene.config.state_dir.join("root.next").exists());
    scene.rotate(true, StageName::Introduce, false).unwrap();
    let (_, said) = scene.verify(Some(first.root_fingerprint())).unwrap();
    assert!(said.contains("version 5"), "{said}");
    let stranger = HostKey::generate().unwrap().fingerprint();
    scene.verify(Some(stranger)).unwrap_err();
}

#[test]
fn hosts_that_have_not_followed_hold_a_rotation_until_it_is_forced() {
    let scene = Scene::new();
    scene.enrol_one();
    scene.rotate(false, StageName::Introduce, false).unwrap();
    let (code, said) = scene.rotate(false, StageName::Switch, false).unwrap();
    assert_eq!(code, ExitCode::FAILURE);
    assert!(said.contains("1 of 1 hosts") && said.contains("web-1"), "{said}");
    assert_eq!(scene.present().bundle().version, 2);
    let (_, shown) = scene.run(&AuthorityCommand::Show { json: false }).unwrap();
    assert!(shown.contains("introduced") && shown.contains("web-1"), "{shown}");
    let (code, said) = scene.rotate(false, StageName::Switch, true).unwrap();
    assert_eq!(code, ExitCode::SUCCESS, "{said}");
    assert_eq!(scene.present().bundle().version, 3);
}

#[test]
fn a_stage_out_of_order_says_which_comes_first() {
    let scene = Scene::new();
    let error = format!("{:#}", scene.rotate(false, StageName::Switch, false).unwrap_err());
    assert!(error.contains("take the stage introduce first"), "{error}");
    let error = format!("{:#}", scene.rotate(true, StageName::Switch, false).unwrap_err());
    assert!(error.contains("introduce first"), "{error}");
    scene.rotate(false, StageName::Introduce, false).unwrap();
    let error = format!(
        "{:#}",
        scene.rotate(true, StageName::Introduce, false).unwrap_err()
    );
    assert!(error.contains("finish it first"), "{error}");
}
