//! Leaving the fleet, and following a rotation for somebody who has no network.

use std::sync::Arc;

use bytes::Bytes;
use fleetmend_event::Mark;
use fleetmend_identity::{LiveIdentity, TrustedTime, tls};
use fleetmend_proto::v1;
use fleetmend_proto::v1::carrier_client::CarrierClient;
use fleetmend_proto::v1::enrolment_client::EnrolmentClient;
use rand::Rng as _;
use tonic::Code;

use super::{EnrolError, MESSAGE_BYTES_MAX, called};
use crate::connector::Link;
use crate::network::Dialer;

/// Whether to leave, or only to find out what would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving<'a> {
    /// Nothing is changed.
    Ask,
    /// The host's key is revoked, for this reason.
    Now(&'a str),
}

/// Whether a collector does not know the call, because it is of an older version.
pub fn is_too_old(error: &EnrolError) -> bool {
    let unimplemented = Code::Unimplemented;
    matches!(error, EnrolError::Failed { code, .. } if *code == unimplemented)
}

/// Has the collector at `address` take this host out of the fleet, or only asks; returns what the collector has of
/// it. For a collector that does not know this call see [`is_too_old`].
///
/// # Cancel safety
///
/// When dropped, the collector may have done it; the next call is then refused because the certificate is revoked.
pub async fn unenrol(
    dialer: &Dialer,
    identity: &LiveIdentity,
    address: &str,
    time: &Arc<TrustedTime>,
    leaving: Leaving<'_>,
) -> Result<Vec<Mark>, EnrolError> {
    let link = Link::connect_by(dialer, address, tls::client_for_host(identity, time)?).await?;
    let mut client = CarrierClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = match leaving {
        Leaving::Ask => v1::UnenrolRequest {
            ask_only: true,
            reason: String::new(),
        },
        Leaving::Now(reason) => v1::UnenrolRequest {
            ask_only: false,
            reason: reason.to_owned(),
        },
    };
    let answer = called(&link, client.unenrol(request)).await?;
    // A mark that cannot be read only makes what would be lost seem more.
    let marks = answer.durable.into_iter();
    Ok(marks.filter_map(|mark| Mark::try_from(mark).ok()).collect())
}

/// The trust bundles after `version`, oldest first, as they are signed: for the healer, which verifies each by the
/// one before it. Nothing of them is verified or taken over here.
///
/// # Cancel safety
///
/// Changes nothing.
pub async fn bundles_since(
    dialer: &Dialer,
    identity: &LiveIdentity,
    time: &Arc<TrustedTime>,
    version: u64,
) -> Result<Vec<String>, EnrolError> {
    let current = identity.current();
    let nonce: [u8; 16] = rand::rng().random();
    let tls = tls::client_for_enrolment(current.root(), time)?;
    let link = Link::connect_by(dialer, current.enrolment(), tls).await?;
    let mut client = EnrolmentClient::new(link.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = v1::TimeRequest {
        nonce: Bytes::copy_from_slice(&nonce),
        bundle_version: version,
    };
    Ok(called(&link, client.time(request)).await?.trust_bundles)
}
