//! The files of a fleet: root, collector, host, from first start through renewal to damage.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};

use crate::authority::HOST_LIFETIME;
use crate::host::Grant;
use crate::{
    CollectorAuthority, Context, FleetRoot, HostIdentity, HostKey, IdentityError, SignatureError, Signed,
    TrustBundle,
};

fn grant(authority: &CollectorAuthority, key: &HostKey, host: HostId, now: TimeMicros) -> Grant {
    let issued = authority
        .issue_host(&key.request().unwrap(), host, now, HOST_LIFETIME)
        .unwrap();
    Grant {
        chain: issued
            .chain
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        bundle: authority.signed_bundle().clone(),
        collectors: vec!["127.0.0.1:7444".to_owned()],
        enrolment: "127.0.0.1:7443".to_owned(),
    }
}

#[test]
fn web_certificates_name_ipv6_addresses() {
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&root, "c".parse().unwrap()).unwrap();
    let names = ["[::1]", "2001:db8::1", "127.0.0.1", "localhost"].map(str::to_owned);
    let (chain, _) = authority
        .issue_web(&names, TimeMicros::now(), std::time::Duration::from_secs(60))
        .unwrap();
    let leaf = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
    for name in ["::1", "2001:db8::1", "127.0.0.1", "localhost"] {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        rustls::client::verify_server_name(&leaf, &name).unwrap();
    }
}

#[test]
fn a_fleet_is_made_once_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (root_folder, collector) = (folder.path().join("root"), folder.path().join("collector"));
    let root = FleetRoot::open_or_create(&root_folder, "lab".parse().unwrap()).unwrap();
    assert!(matches!(
        FleetRoot::create(&root_folder, "lab".parse().unwrap()),
        Err(IdentityError::AlreadyThere { .. })
    ));
    let again = FleetRoot::open_or_create(&root_folder, "other".parse().unwrap()).unwrap();
    assert_eq!(
        (again.fingerprint(), again.fleet()),
        (root.fingerprint(), root.fleet())
    );

    let made = CollectorAuthority::open_or_create(&collector, &root, "c1".parse().unwrap()).unwrap();
    let opened = CollectorAuthority::open(&collector).unwrap();
    assert_eq!(opened.bundle(), made.bundle());
    assert_eq!(opened.root_fingerprint(), root.fingerprint());
    assert_eq!((opened.name().as_str(), opened.fleet().as_str()), ("c1", "lab"));
    for key in ["root/root.key", "collector/issuing.key", "collector/online.key"] {
        let path = folder.path().join(key);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{key}"
        );
    }
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = FleetRoot::create(&folder.path().join("root"), "lab".parse().unwrap()).unwrap();
    drop(CollectorAuthority::create(&folder.path().join("collector"), &root, "c1".parse().unwrap()).unwrap());
    let open = |name: &str| {
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o644)).unwrap()
    };
    open("root/root.key");
    let error = FleetRoot::open(&folder.path().join("root")).unwrap_err();
    assert!(
        matches!(error, IdentityError::Exposed { mode: 0o644, .. }),
        "{error}"
    );
    open("collector/issuing.key");
    let error = CollectorAuthority::open(&folder.path().join("collector"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("issuing.key") && error.contains("chmod 600"),
        "{error}"
    );
}

#[test]
fn the_online_key_cannot_sign_what_needs_the_root() {
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap();
    assert!(matches!(
        authority.sign(Context::Policy, &"all"),
        Err(SignatureError::Signer { .. })
    ));
    let order: Signed<String> = authority.sign(Context::Order, &"one".to_owned()).unwrap();
    assert_eq!(order.verify(&authority.anchors(), Context::Order).unwrap(), "one");
    let policy: Signed<String> = root.sign(Context::Policy, &"two".to_owned()).unwrap();
    assert_eq!(
        policy.verify(&authority.anchors(), Context::Policy).unwrap(),
        "two"
    );
}

#[test]
fn a_host_keeps_its_identity_over_restarts_and_renewals() {
    let folder = tempfile::tempdir().unwrap();
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap();
    let key = Arc::new(HostKey::load_or_create(folder.path()).unwrap());
    assert!(HostIdentity::load(folder.path()).unwrap().is_none());
    let (host, now) = (HostId::random(), TimeMicros::now());
    let identity = HostIdentity::accept(
        key.clone(),
        root.fingerprint(),
        grant(&authority, &key, host, now),
    )
    .unwrap();
    identity.save(folder.path()).unwrap();

    let loaded = HostIdentity::load(folder.path()).unwrap().unwrap();
    assert_eq!((loaded.host(), loaded.peer()), (host, identity.peer()));
    assert_eq!(
        HostKey::load_or_create(folder.path()).unwrap().fingerprint(),
        key.fingerprint()
    );
    let early = loaded.renew_at(0.0).micros_since(now);
    let late = loaded.renew_at(1.0).micros_since(now);
    let day = 24 * 3_600_000_000_i64;
    assert!(
        4 * day < early && early < 5 * day && early < late && late < 6 * day,
        "{early} {late}"
    );

    let next = grant(&authority, &key, host, now.plus_millis(1000));
    let renewed = loaded.renewed(next.chain, next.bundle).unwrap();
    assert_ne!(renewed.peer().serial, loaded.peer().serial);
    let stolen = grant(&authority, &key, HostId::random(), now);
    assert!(loaded.renewed(stolen.chain, stolen.bundle).is_err());
    let foreign_key = HostKey::generate().unwrap();
    let foreign = grant(&authority, &foreign_key, host, now);
    assert!(loaded.renewed(foreign.chain, foreign.bundle).is_err());
}

#[test]
fn a_damaged_identity_says_which_file_and_why() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("identity.json"), b"{\"version\": 1").unwrap();
    fs::set_permissions(
        folder.path().join("identity.json"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let error = HostIdentity::load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("identity.json") && error.contains("host identity"),
        "{error}"
    );
    fs::write(folder.path().join("host.key"), b"not a key").unwrap();
    fs::set_permissions(folder.path().join("host.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let error = HostKey::load_or_create(folder.path()).unwrap_err().to_string();
    assert!(error.contains("host.key") && error.contains("PKCS #8"), "{error}");
}

#[test]
fn a_bundle_follows_only_from_its_predecessor() {
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let stranger = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap();
    let first = authority.bundle().clone();
    let second = TrustBundle {
        version: 2,
        ..first.clone()
    };
    let signed = root.sign(Context::Bundle, &second).unwrap();
    assert_eq!(first.open_successor(&signed).unwrap().version, 2);
    assert!(matches!(
        second.open_successor(authority.signed_bundle()),
        Err(SignatureError::Bundle(_))
    ));
    let usurped = stranger.sign(Context::Bundle, &second).unwrap();
    assert!(matches!(
        first.open_successor(&usurped),
        Err(SignatureError::Signer { .. })
    ));
    assert!(TrustBundle::open_pinned(&usurped, &root.fingerprint()).is_err());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.json");
    TrustBundle::write(&path, &signed).unwrap();
    assert_eq!(TrustBundle::read(&path).unwrap().1, second);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(
        TrustBundle::read(&path),
        Err(IdentityError::Exposed { .. })
    ));
}

#[test]
fn a_request_that_is_not_one_is_refused() {
    let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap();
    let good = HostKey::generate().unwrap().request().unwrap();
    let issue = |request: &[u8]| {
        authority.issue_host(
            request,
            HostId::random(),
            TimeMicros::now(),
            Duration::from_secs(60),
        )
    };
    issue(&good).unwrap();
    for length in 0..good.len() {
        assert!(issue(good.get(..length).unwrap()).is_err(), "cut at {length}");
    }
    // What the request's signature covers: its first element, of two bytes of header and that many more.
    let covered = 3..3 + 2 + usize::from(good[4]);
    for index in covered {
        let mut flipped = good.clone();
        flipped[index] ^= 0x01;
        let refused = issue(&flipped);
        assert!(
            matches!(refused, Err(IdentityError::Request { .. })),
            "bit at {index}: {refused:?}"
        );
    }
    assert!(matches!(
        issue(&vec![0x30; 9000]),
        Err(IdentityError::Request { .. })
    ));
}
