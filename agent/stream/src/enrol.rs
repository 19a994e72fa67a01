//! The host's side of enrolment: enrol, renew, recover, and ask the time.
//!
//! [`enroll`] is run once by an operator with a token. [`keep`] is a task of the running agent: it renews the
//! certificate at two thirds of its life, recovers it when the host slept past its end, and sets the trusted
//! time. The key never leaves the host: what is sent is a signing request that proves its possession.
//!
//! Every call has a deadline; only [`keep`] retries, with growing, jittered waits. What a collector answers is
//! checked against the key and the pinned root before anything is written, and written as a whole or not.

mod error;
mod keep;
mod leave;
mod metrics;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_event::TimeMicros;
use fleetmend_identity::host::Grant;
use fleetmend_identity::{
    EnrolmentToken, HostIdentity, HostKey, LiveIdentity, Signed, TrustBundle, TrustedTime, tls,
};
use fleetmend_proto::v1::carrier_client::CarrierClient;
use fleetmend_proto::v1::enrolment_client::EnrolmentClient;
use fleetmend_proto::{PROTOCOL_VERSION, v1};
use rand::Rng as _;
use tonic::Response;

pub use error::EnrolError;
pub use keep::{Collectors, Keeper, keep};
pub use leave::{Leaving, bundles_since, is_too_old, unenrol};

use crate::connector::Link;
use crate::network::Dialer;

/// From the request to the answer, on a connection that is there.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer: a certificate chain and a trust bundle.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// What a host says of itself when it enrols: for people, never for trust.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// Salted digest of its machine id, for the clone alarm.
    pub machine_id_digest: String,
}

/// Enrols this host with a token and writes its identity into `folder`. The key is made there if there is
/// none; with a key that is enrolled already the host keeps its id, so that this can be run again.
///
/// # Cancel safety
///
/// When dropped, the collector may have enrolled the key already; running it again with the same token and
/// folder finishes the work.
pub async fn enroll(
    dialer: &Dialer,
    token: &EnrolmentToken,
    folder: &Path,
    facts: HostFacts,
    time: &Arc<TrustedTime>,
) -> Result<HostIdentity, EnrolError> {
    let key = Arc::new(HostKey::load_or_create(folder)?);
    let tls = tls::client_for_enrolment(token.root(), time)?;
    let link = Link::connect_by(dialer, token.address(), tls).await?;
    let request = v1::EnrollRequest {
        protocol: PROTOCOL_VERSION,
        secret: Bytes::copy_from_slice(token.secret().expose()),
        csr: key.request()?.into(),
        hostname: facts.hostname,
        machine_id_digest: facts.machine_id_digest,
    };
    let mut client = EnrolmentClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = called(&link, client.enroll(request)).await?;
    let grant = Grant {
        chain: answer
            .chain
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        bundle: Signed::from_bytes(answer.trust_bundle.as_bytes())
            .map_err(fleetmend_identity::IdentityError::from)?,
        collectors: answer.collectors,
        enrolment: token.address().to_owned(),
    };
    let between = documents(&answer.trust_bundles_between)?;
    let identity =
        HostIdentity::accept_through(key, token.root(), &between, grant).map_err(EnrolError::Answer)?;
    if identity.host().as_bytes().as_slice() != answer.host_id.as_ref() {
        return Err(EnrolError::OtherHost);
    }
    identity.save(folder)?;
    tracing::info!(host = %identity.host(), fleet = %identity.fleet(), until = %identity.peer().not_after, "enrolled");
    Ok(identity)
}

/// Renews the certificate over the carrier listener at `address` and makes it the present one.
///
/// # Cancel safety
///
/// When dropped, the present certificate stays in use.
pub async fn renew(
    dialer: &Dialer,
    identity: &LiveIdentity,
    address: &str,
    time: &Arc<TrustedTime>,
) -> Result<(), EnrolError> {
    let link = Link::connect_by(dialer, address, tls::client_for_host(identity, time)?).await?;
    let mut client = CarrierClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = called(&link, client.renew(renew_request(&identity.current())?)).await?;
    adopt(identity, &answer).await
}

/// Gets a new certificate over the enrolment listener after the present one has ended: the enrolled key is
/// the proof. The collector grants it for a limited time after the end only.
///
/// # Cancel safety
///
/// As [`renew`].
pub async fn recover(
    dialer: &Dialer,
    identity: &LiveIdentity,
    time: &Arc<TrustedTime>,
) -> Result<(), EnrolError> {
    let current = identity.current();
    let tls = tls::client_for_enrolment(current.root(), time)?;
    let link = Link::connect_by(dialer, current.enrolment(), tls).await?;
    let mut client = EnrolmentClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = called(&link, client.recover(recover_request(&current)?)).await?;
    adopt(identity, &answer).await
}

/// Asks the enrolment listener what time it is and sets the trusted time by the signed answer: for a host
/// whose own clock cannot be believed. Returns the time.
///
/// # Cancel safety
///
/// When dropped, the trusted time stays as it was.
pub async fn ask_time(
    dialer: &Dialer,
    identity: &LiveIdentity,
    time: &Arc<TrustedTime>,
) -> Result<TimeMicros, EnrolError> {
    let current = identity.current();
    let nonce: [u8; 16] = rand::rng().random();
    let tls = tls::client_for_time(current.root(), time)?;
    let link = Link::connect_by(dialer, current.enrolment(), tls).await?;
    let mut client = EnrolmentClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = v1::TimeRequest {
        nonce: Bytes::copy_from_slice(&nonce),
        bundle_version: current.bundle().version,
    };
    let answer = called(&link, client.time(request)).await?;
    adopt_time(&current, &answer, &nonce, time)
}

/// Sets the trusted time by a collector's answer to our `nonce`. A host that slept through a rotation verifies it
/// by the bundles that come along; they are taken over with the next certificate only.
pub fn adopt_time(
    identity: &HostIdentity,
    answer: &v1::TimeResponse,
    nonce: &[u8; 16],
    time: &TrustedTime,
) -> Result<TimeMicros, EnrolError> {
    let refused = |error| EnrolError::Answer(fleetmend_identity::IdentityError::from(error));
    let signed = Signed::from_bytes(answer.envelope.as_bytes()).map_err(refused)?;
    let bundles = documents(&answer.trust_bundles)?;
    let anchors = match bundles.split_last() {
        None => identity.bundle().anchors(),
        Some((newest, between)) => {
            let newest = identity.bundle().open_chain(between, newest).map_err(refused)?;
            newest.anchors()
        }
    };
    time.observe_answer(&signed, &anchors, nonce)?;
    Ok(time.now().0)
}

/// What [`renew`] asks.
pub fn renew_request(identity: &HostIdentity) -> Result<v1::RenewRequest, EnrolError> {
    Ok(v1::RenewRequest {
        csr: identity.key().request()?.into(),
        bundle_version: identity.bundle().version,
    })
}

/// What [`recover`] asks.
pub fn recover_request(identity: &HostIdentity) -> Result<v1::RecoverRequest, EnrolError> {
    Ok(v1::RecoverRequest {
        host_id: Bytes::copy_from_slice(identity.host().as_bytes()),
        csr: identity.key().request()?.into(),
        bundle_version: identity.bundle().version,
    })
}

/// Checks the answer to a renewal or a recovery, and makes certificate and trust bundle the present ones, both or
/// neither.
///
/// # Cancel safety
///
/// When dropped, the new identity may or may not be written; either is whole.
pub async fn adopt(identity: &LiveIdentity, answer: &v1::RenewResponse) -> Result<(), EnrolError> {
    let chain = answer
        .chain
        .iter()
        .map(|certificate| certificate.to_vec())
        .collect();
    let bundle = Signed::from_bytes(answer.trust_bundle.as_bytes())
        .map_err(fleetmend_identity::IdentityError::from)?;
    let between = documents(&answer.trust_bundles_between)?;
    let before = identity.current();
    let renewed = before
        .renewed_through(chain, &between, bundle)
        .map_err(EnrolError::Answer)?;
    let until = renewed.peer().not_after;
    let (old, new) = (before.bundle().version, renewed.bundle().version);
    let present = identity.clone();
    // The file is synced to disk: not on the runtime.
    let written = tokio::task::spawn_blocking(move || present.replace(renewed)).await;
    written.map_err(|_| EnrolError::Interrupted)??;
    tracing::info!(%until, "certificate renewed");
    if old != new {
        tracing::info!(old, new, "took over the fleet's newer trust bundle");
    }
    Ok(())
}

/// Trust bundles as they are sent. Nothing is trusted yet.
fn documents(texts: &[String]) -> Result<Vec<Signed<TrustBundle>>, EnrolError> {
    let parse = |text: &String| Signed::from_bytes(text.as_bytes());
    let parsed: Result<Vec<_>, _> = texts.iter().map(parse).collect();
    parsed.map_err(|error| EnrolError::Answer(error.into()))
}

async fn called<T>(
    link: &Link,
    call: impl Future<Output = Result<Response<T>, tonic::Status>>,
) -> Result<T, EnrolError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(EnrolError::of_call(link, &status)),
        Err(_) => Err(EnrolError::Silent {
            address: link.address().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
