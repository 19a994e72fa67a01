//! A rotation of the root, followed by a healer that has no network: the real enrolment listener, the agent's
//! fetching and carrying, and the healer behind its real socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_heal::trust::{BundleSource, CarryError, carry};
use agent_stream::enrol::{HostFacts, bundles_since, enroll};
use agent_stream::network::Dialer;
use async_trait::async_trait;
use collector_ingest::enrol::{EnrolConfig, Enroller, serve};
use fleetmend_control::Control;
use fleetmend_event::TimeMicros;
use fleetmend_healer::clock::SystemClock;
use fleetmend_healer::engine::{Healer, Options};
use fleetmend_healer::interrupt::Never;
use fleetmend_healer::policy::{Breaker, HostScope, Mode, Policy};
use fleetmend_healer::remedy::Host;
use fleetmend_healer::server::{self, Access};
use fleetmend_identity::authority::Stage;
use fleetmend_identity::{
    CollectorAuthority, Context, FleetRoot, HostIdentity, LiveIdentity, Signed, TrustBundle, TrustedTime,
};
use fleetmend_shutdown::{BoxError, Tasks};
use tokio::net::TcpListener;

struct Scene {
    folder: tempfile::TempDir,
    root: FleetRoot,
    enroller: Enroller,
    identity: HostIdentity,
    healer: Healer,
    tasks: Tasks,
}

/// As `agent/src/trust.rs`; the version may be one that the host does not have yet.
struct Bundles {
    identity: LiveIdentity,
    version: u64,
    forged: Option<String>,
}

#[async_trait]
impl BundleSource for Bundles {
    fn version(&self) -> u64 {
        self.version
    }

    async fn since(&self, version: u64) -> Result<Vec<String>, BoxError> {
        let time = TrustedTime::system();
        let mut bundles = bundles_since(&Dialer::direct(), &self.identity, &time, version).await?;
        bundles.splice(0..0, self.forged.clone());
        Ok(bundles)
    }
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
        let place = folder.path().join("authority");
        CollectorAuthority::create(&place, &root, "c1".parse().unwrap()).unwrap();
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let config = EnrolConfig {
            address: listener.local_addr().unwrap().to_string(),
            ..EnrolConfig::default()
        };
        let pool = Control::sqlite(&folder.path().join("control.sqlite"))
            .await
            .unwrap();
        let authority = Arc::new(CollectorAuthority::open(&place).unwrap());
        let enroller = Enroller::open(pool, authority, config).await.unwrap();
        serve(enroller.clone(), listener, &tasks).unwrap();
        let token = enroller
            .issue_token("ada", Duration::from_hours(1), 1)
            .await
            .unwrap();
        let (identity_dir, time) = (folder.path().join("identity"), TrustedTime::system());
        let facts = HostFacts::default();
        let dialer = Dialer::direct();
        let identity = enroll(&dialer, &token, &identity_dir, facts, &time)
            .await
            .unwrap();
        // What `enroll` run as root does for the healer.
        TrustBundle::write(&folder.path().join("trust-bundle.json"), identity.signed_bundle()).unwrap();
        let healer = Healer::open(
            Options {
                state_dir: folder.path().join("healer"),
                trust_bundle: folder.path().join("trust-bundle.json"),
                host_file: None,
                ledger_bytes_max: 1 << 24,
            },
            Host::here(),
            Arc::new(SystemClock),
            Arc::new(Never),
        );
        let healer = healer.unwrap();
        let socket = folder.path().join("healer.sock");
        let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        server::serve(
            server::bind(&socket, "").unwrap(),
            healer.clone(),
            Access::only(vec![own]),
            &tasks,
        );
        Self {
            folder,
            root,
            enroller,
            identity,
            healer,
            tasks,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("healer.sock")
    }

    fn bundles(self: &Scene, version: u64) -> Bundles {
        let identity = HostIdentity::load(&self.folder.path().join("identity")).unwrap();
        Bundles {
            identity: LiveIdentity::new(identity.unwrap(), None),
            version,
            forged: None,
        }
    }

    async fn rotate(&self, successor: &FleetRoot, stages: &[Stage]) {
        let place = self.folder.path().join("authority");
        for stage in stages {
            let now = TimeMicros::now();
            CollectorAuthority::rotate(&place, *stage, &self.root, Some(successor), now).unwrap();
        }
        self.enroller.look_after().await.unwrap();
    }

    fn install(&self, root: &FleetRoot, version: u64) -> bool {
        let now = TimeMicros::now();
        let policy = Policy {
            format: 1,
            version,
            issued_at: now,
            not_after: now.plus_millis(3_600_000),
            scope: HostScope::Fleet {
                fleet: root.fleet().clone(),
            },
            mode: Mode::Enforce,
            kill_switch_path: None,
            actions_per_hour_max: 5,
            breaker: Breaker {
                failures: 3,
                window_s: 60,
                open_s: 60,
            },
            grants: Vec::new(),
        };
        let signed: Signed<Policy> = root.sign(Context::Policy, &policy).unwrap();
        self.healer.install_policy(&signed.to_bytes().unwrap()).is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healer_follows_a_new_root_over_what_the_agent_only_carries() {
    let scene = Scene::new().await;
    assert_eq!(scene.identity.bundle().version, 1);
    let successor = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let carried = carry(&scene.socket(), &scene.tasks, &scene.bundles(1))
        .await
        .unwrap();
    assert_eq!(carried, 0, "there is nothing newer");
    // The host slept through all of it.
    scene
        .rotate(&successor, &[Stage::Introduce, Stage::Switch, Stage::Retire])
        .await;
    assert!(scene.install(&scene.root, 1));
    assert!(!scene.install(&successor, 2), "before the chain");

    // An agent that makes one up gets nowhere with it.
    let forger = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let mut forged = scene.identity.bundle().clone();
    forged.version = 2;
    let forged: Signed<TrustBundle> = forger.sign(Context::Bundle, &forged).unwrap();
    let mut lying = scene.bundles(4);
    lying.forged = Some(String::from_utf8(forged.to_bytes().unwrap()).unwrap());
    let refused = carry(&scene.socket(), &scene.tasks, &lying).await;
    assert!(matches!(refused, Err(CarryError::Refused(_))), "{refused:?}");
    assert_eq!(scene.healer.status().bundle_version, Some(1));

    let carried = carry(&scene.socket(), &scene.tasks, &scene.bundles(4))
        .await
        .unwrap();
    assert_eq!(carried, 3);
    assert_eq!(scene.healer.status().bundle_version, Some(4));
    assert!(scene.install(&successor, 2));
    assert!(!scene.install(&scene.root, 3), "the old root is retired");
    let carried = carry(&scene.socket(), &scene.tasks, &scene.bundles(4))
        .await
        .unwrap();
    assert_eq!(carried, 0);
    scene.tasks.drain(Duration::from_secs(20)).await;
}
