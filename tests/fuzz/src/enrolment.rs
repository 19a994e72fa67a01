//! Enrolment: what a stranger may send to the collector, what somebody in its place may answer, the chain of trust
//! bundles, and the files that enrolment leaves.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::OnceLock;

use fleetmend_event::{Mark, TimeMicros};
use fleetmend_healer::ledger::Ledger;
use fleetmend_identity::authority::{HostRequest, Stage};
use fleetmend_identity::host::Grant;
use fleetmend_identity::{
    Address, CollectorAuthority, FleetRoot, HostIdentity, HostKey, Signed, SignedTime, TrustBundle,
};
use fleetmend_proto::v1;
use prost::Message as _;

/// Largest ledger that is read here.
const LEDGER_BYTES_MAX: u64 = 1024 * 1024;

/// A fleet that rotated its root, and a host of it.
pub(crate) struct Fleet {
    /// Where the host's identity lies.
    identity: PathBuf,
    ledger: PathBuf,
    /// The bundle that the host enrolled with.
    first: TrustBundle,
    /// Those after it, oldest first.
    pub(crate) chain: Vec<Signed<TrustBundle>>,
    /// `identity.json` as it was written.
    pub(crate) record: Vec<u8>,
    genuine: Vec<TrustBundle>,
}

/// One for the whole run: the seeds are of it, and so is what a target believes.
pub(crate) fn fleet() -> &'static Fleet {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    FLEET.get_or_init(|| {
        let folder = own_folder();
        let root = || FleetRoot::in_memory("fuzz".parse().expect("a fleet's name")).expect("a root");
        let (old, new) = (root(), root());
        let place = folder.join("authority");
        let name = "collector-1".parse().expect("a collector's name");
        let authority = CollectorAuthority::create(&place, &old, name).expect("an authority");
        let identity = folder.join("identity");
        let key = std::sync::Arc::new(HostKey::load_or_create(&identity).expect("a host's key"));
        let lifetime = fleetmend_identity::authority::HOST_LIFETIME;
        let request = key.request().expect("a request");
        let host = fleetmend_event::HostId::random();
        let issued = authority.issue_host(&request, host, TimeMicros::now(), lifetime);
        let grant = Grant {
            chain: issued
                .expect("a certificate")
                .chain
                .iter()
                .map(|one| one.to_vec())
                .collect(),
            bundle: authority.signed_bundle().clone(),
            collectors: vec!["192.0.2.1:7444".to_owned()],
            enrolment: "192.0.2.1:7443".to_owned(),
        };
        let accepted = HostIdentity::accept(key, old.fingerprint(), grant).expect("an identity");
        accepted.save(&identity).expect("write the identity");
        for stage in [Stage::Introduce, Stage::Switch, Stage::Retire] {
            CollectorAuthority::rotate(&place, stage, &old, Some(&new), TimeMicros::now()).expect("rotate");
        }
        let last = CollectorAuthority::open(&place).expect("open the authority");
        let mut chain: Vec<_> = last.history_since(1).into_iter().cloned().collect();
        chain.push(last.signed_bundle().clone());
        let first = authority.bundle().clone();
        let mut genuine = vec![first.clone()];
        for signed in &chain {
            let before = genuine.last().expect("the first one");
            genuine.push(before.open_successor(signed).expect("a genuine bundle"));
        }
        Fleet {
            record: fs::read(identity.join("identity.json")).expect("read the identity"),
            ledger: folder.join("ledger.jsonl"),
            identity,
            first,
            chain,
            genuine,
        }
    })
}

/// A folder in memory for as long as the process lives. Nobody is told of its end, so the next one clears away what
/// those that ended left.
fn own_folder() -> PathBuf {
    const PREFIX: &str = "fleetmend-fuzz-";
    let memory = Path::new(crate::file::MEMORY);
    for entry in fs::read_dir(memory).expect("read the folder").flatten() {
        let name = entry.file_name();
        let ended = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            // One under this process's own number is from before a restart of the machine or of the container.
            .is_some_and(|process| {
                process == std::process::id().to_string() || !Path::new("/proc").join(process).exists()
            });
        if ended {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    let folder = memory.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&folder).expect("make a folder");
    folder
}

/// What a stranger asks of the enrolment listener, or a host of the carrier.
pub(crate) fn request(data: &[u8]) {
    let csrs = [
        v1::EnrollRequest::decode(data).map(|message| message.csr),
        v1::RenewRequest::decode(data).map(|message| message.csr),
        v1::RecoverRequest::decode(data).map(|message| {
            fleetmend_proto::host_id(&message.host_id).ok();
            message.csr
        }),
    ];
    for csr in csrs.into_iter().flatten() {
        HostRequest::parse(&csr).ok();
    }
    v1::TimeRequest::decode(data).ok();
    v1::UnenrolRequest::decode(data).ok();
}

/// What somebody in a collector's place answers.
pub(crate) fn answer(data: &[u8]) {
    if let Ok(message) = v1::EnrollResponse::decode(data) {
        bundles(&message.trust_bundles_between, &message.trust_bundle);
        fleetmend_proto::host_id(&message.host_id).ok();
    }
    if let Ok(message) = v1::RenewResponse::decode(data) {
        bundles(&message.trust_bundles_between, &message.trust_bundle);
    }
    if let Ok(message) = v1::TimeResponse::decode(data) {
        if let Some((newest, between)) = message.trust_bundles.split_last() {
            bundles(between, newest);
        }
        if let Ok(signed) = Signed::<SignedTime>::from_bytes(message.envelope.as_bytes()) {
            signed.digest();
        }
    }
    if let Ok(message) = v1::UnenrolResponse::decode(data) {
        message
            .durable
            .into_iter()
            .filter_map(|mark| Mark::try_from(mark).ok())
            .count();
    }
}

fn bundles(between: &[String], newest: &str) {
    let parse = |text: &String| Signed::<TrustBundle>::from_bytes(text.as_bytes()).ok();
    if let (Some(between), Ok(newest)) = (
        between.iter().map(parse).collect::<Option<Vec<_>>>(),
        Signed::from_bytes(newest.as_bytes()),
    ) {
        follow(&between, &newest);
    }
}

/// A chain as the healer keeps it.
pub(crate) fn chain(data: &[u8]) {
    let Ok(chain) = serde_json::from_slice::<Vec<Signed<TrustBundle>>>(data) else {
        return;
    };
    if let Some((newest, between)) = chain.split_last() {
        follow(between, newest);
    }
}

/// Whatever a chain leads to was signed by the fleet.
fn follow(between: &[Signed<TrustBundle>], newest: &Signed<TrustBundle>) {
    let fleet = fleet();
    if let Ok(opened) = fleet.first.open_chain(between, newest) {
        assert!(fleet.genuine.contains(&opened), "a forged bundle was believed");
    }
}

/// A host's `identity.json`, beside its genuine key.
pub(crate) fn identity(data: &[u8]) {
    let fleet = fleet();
    write(&fleet.identity.join("identity.json"), data);
    HostIdentity::load(&fleet.identity).ok();
}

/// The healer's ledger: what opens verifies.
pub(crate) fn ledger(data: &[u8]) {
    let path = &fleet().ledger;
    write(path, data);
    Ledger::verify(path).ok();
    if Ledger::open(path, LEDGER_BYTES_MAX, &mut |_, _| {}).is_ok() {
        Ledger::verify(path).expect("a ledger that was just opened");
    }
}

/// An address as configuration and tokens hold it.
pub(crate) fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(address) = Address::from_str(text) {
        let again = Address::from_str(&address.to_string()).expect("an address that was written by us");
        assert_eq!(
            again.to_string(),
            address.to_string(),
            "an address changed on its way"
        );
    }
}

/// What a proxy answers to the question for a tunnel.
pub(crate) fn tunnel(data: &[u8]) {
    let Err(fault) = agent_stream::network::judge(data, true) else {
        return;
    };
    let said = fault.to_string();
    assert!(
        !said.contains(char::is_control),
        "a proxy moves the cursor: {said:?}"
    );
    assert!(said.chars().count() < 2_000, "a proxy fills the log");
}

fn write(path: &Path, data: &[u8]) {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).expect("open a file");
    file.write_all(data).expect("write a file");
}
