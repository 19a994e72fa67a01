//! Tokens, certificates, signed documents and the healer's messages.

use std::str::FromStr as _;
use std::sync::OnceLock;

use fleetmend_event::healer::{HealerReply, HealerRequest, decode_message};
use fleetmend_healer::policy::Policy;
use fleetmend_identity::authority::HostRequest;
use fleetmend_identity::{
    EnrolmentToken, Fingerprint, FleetRoot, PeerIdentity, Signed, SignedTime, TrustBundle,
};

/// The root whose fingerprint a target pins: another one than the seed's, so that nothing may verify.
fn pinned() -> &'static Fingerprint {
    static PINNED: OnceLock<Fingerprint> = OnceLock::new();
    PINNED.get_or_init(|| {
        let root = FleetRoot::in_memory("fuzz".parse().expect("a fleet's name")).expect("a root");
        root.fingerprint()
    })
}

/// What an operator pastes.
pub(crate) fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(token) = EnrolmentToken::from_str(text) {
        let again = EnrolmentToken::from_str(&token.expose()).expect("a token that was written by us");
        assert_eq!(again.root(), token.root(), "a token changed on its way");
        assert_eq!(again.address(), token.address(), "a token changed on its way");
    }
}

/// A signing request.
pub(crate) fn request(data: &[u8]) {
    if let Ok(request) = HostRequest::parse(data) {
        request.key();
    }
}

/// A peer's certificate.
pub(crate) fn certificate(data: &[u8]) {
    PeerIdentity::from_certificate(data).ok();
}

/// A trust bundle, or any other signed document. None of them is signed by the pinned root.
pub(crate) fn bundle(data: &[u8]) {
    if let Ok(signed) = Signed::<TrustBundle>::from_bytes(data) {
        let opened = TrustBundle::open_pinned(&signed, pinned());
        assert!(opened.is_err(), "a bundle of a foreign root was believed");
    }
    if let Ok(signed) = Signed::<SignedTime>::from_bytes(data) {
        signed.digest();
    }
    if let Ok(policy) = serde_json::from_slice::<Policy>(data) {
        policy.fault();
    }
}

/// What comes over the healer's socket, from either side.
pub(crate) fn healer_message(data: &[u8]) {
    decode_message::<HealerRequest>(data).ok();
    decode_message::<HealerReply>(data).ok();
}
