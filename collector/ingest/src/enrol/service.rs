//! The enrolment service on its own listener.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use fleetmend_identity::authority::IssuedCertificate;
use fleetmend_identity::{CollectorAuthority, Signed};
use fleetmend_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use fleetmend_proto::{PROTOCOL_VERSION, host_id, v1};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{EnrolError, Enroller, HostFacts, Refusal, upkeep};
use crate::listener::{Caller, ListenerLimits, TlsAccepting};

/// Largest message of this listener: a signing request and a few short texts.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Largest answer: a certificate chain and every trust bundle that is kept.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// An enrolment is one short call; nobody stays.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CALLS_PER_CONNECTION_MAX: usize = 8;
/// Anybody may call: no address has more than half of the connections.
const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 512,
    handshake_timeout: Duration::from_secs(10),
    connections_per_address_max: 256,
    handshakes_per_address_max: 64,
    connections_per_host_max: 8,
    // A connection has an age here.
    idle_max: None,
};
/// Bytes of a connection that wait to be read.
const WINDOW_BYTES: u32 = 64 * 1024;

/// Serves enrolment on `listener`, as tasks of `tasks`, until they end.
pub fn serve(enroller: Enroller, listener: TcpListener, tasks: &Tasks) -> Result<(), EnrolError> {
    let audit = enroller.audit().clone();
    let (accepting, incoming) = TlsAccepting::new(listener, enroller.enrolment_tls()?, LIMITS, audit);
    let end = tasks.token();
    tasks.spawn("enrolment-accept", TaskKind::Critical, async move {
        accepting.run(end.cancelled()).await;
        Ok::<(), EnrolError>(())
    });
    upkeep::spawn(&enroller, tasks);
    let end = tasks.token();
    let service = EnrolmentServer::new(Service { enroller })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    tasks.spawn("enrolment-serve", TaskKind::Critical, async move {
        Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .timeout(CALL_TIMEOUT)
            .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
            .max_connection_age(CONNECTION_AGE_MAX)
            .max_connection_age_grace(CALL_TIMEOUT)
            .serve_with_incoming_shutdown(service, incoming, end.cancelled())
            .await
            .map_err(EnrolError::from)
    });
    Ok(())
}

struct Service {
    enroller: Enroller,
}

impl Enroller {
    /// [`Enroller::renew`] in the messages of the carrier: for its handler of `Renew`.
    pub async fn renew_call(
        &self,
        caller: &Caller,
        request: v1::RenewRequest,
    ) -> Result<v1::RenewResponse, Status> {
        let peer = caller.peer.as_ref().ok_or(Refusal::NotAHost)?;
        let certificate = self.renew(caller.address.ip(), peer, &request.csr).await?;
        Ok(self.renewal(certificate, request.bundle_version)?)
    }

    /// [`Enroller::recover`] in the messages of the enrolment listener.
    pub async fn recover_call(
        &self,
        source: IpAddr,
        request: v1::RecoverRequest,
    ) -> Result<v1::RenewResponse, Status> {
        let host = host_id(&request.host_id).map_err(|_| Refusal::Malformed("host_id must be 16 bytes"))?;
        let certificate = self.recover(source, host, &request.csr).await?;
        Ok(self.renewal(certificate, request.bundle_version)?)
    }

    /// The present time, signed, and the bundles by which its signature is verified.
    pub fn time_call(&self, request: &v1::TimeRequest) -> Result<v1::TimeResponse, Status> {
        if request.nonce.len() != 16 {
            return Err(Refusal::Malformed("nonce must be 16 bytes").into());
        }
        let authority = self.authority();
        let signed = authority
            .sign_time(self.now(), &request.nonce)
            .map_err(Refusal::from)?;
        let mut trust_bundles = between(&authority, request.bundle_version)?;
        if authority.bundle().version > request.bundle_version {
            trust_bundles.push(text(authority.signed_bundle())?);
        }
        Ok(v1::TimeResponse {
            envelope: text(&signed)?,
            trust_bundles,
        })
    }

    /// The answer to a renewal or a recovery of a host that says it holds a bundle of this version. Who holds the
    /// present one already need not show its new certificate before that is believed.
    fn renewal(&self, certificate: IssuedCertificate, version: u64) -> Result<v1::RenewResponse, Refusal> {
        if let Some(host) = certificate.peer.host() {
            self.audit().sightings().said(host, version);
        }
        let authority = self.authority();
        Ok(v1::RenewResponse {
            chain: chain(&certificate),
            trust_bundle: text(authority.signed_bundle())?,
            wall_micros: self.now().0,
            trust_bundles_between: between(&authority, version)?,
        })
    }
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let source = source(&request)?;
        let request = request.into_inner();
        if request.protocol != PROTOCOL_VERSION {
            return Err(Refusal::Protocol {
                ours: PROTOCOL_VERSION,
                theirs: request.protocol,
            }
            .into());
        }
        let facts = HostFacts {
            hostname: request.hostname,
            machine_id_digest: request.machine_id_digest,
        };
        let enrolled = self
            .enroller
            .enrol(source.ip(), &request.secret, &request.csr, &facts)
            .await?;
        let authority = self.enroller.authority();
        Ok(Response::new(v1::EnrollResponse {
            host_id: Bytes::copy_from_slice(enrolled.host.as_bytes()),
            fleet: authority.fleet().to_string(),
            chain: chain(&enrolled.certificate),
            trust_bundle: text(authority.signed_bundle())?,
            collectors: self.enroller.inner.config.collectors.clone(),
            wall_micros: self.enroller.now().0,
            trust_bundles_between: between(&authority, 0)?,
        }))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let source = source(&request)?;
        let answer = self.enroller.recover_call(source.ip(), request.into_inner());
        answer.await.map(Response::new)
    }

    async fn time(&self, request: Request<v1::TimeRequest>) -> Result<Response<v1::TimeResponse>, Status> {
        self.enroller.time_call(&request.into_inner()).map(Response::new)
    }
}

fn source<T>(request: &Request<T>) -> Result<SocketAddr, Status> {
    let caller = request.extensions().get::<Caller>();
    caller
        .map(|caller| caller.address)
        .ok_or_else(|| Status::internal("the connection has no address"))
}

fn chain(certificate: &IssuedCertificate) -> Vec<Bytes> {
    certificate
        .chain
        .iter()
        .map(|certificate| Bytes::copy_from_slice(certificate))
        .collect()
}

/// The bundles after `version` and before the present one.
fn between(authority: &CollectorAuthority, version: u64) -> Result<Vec<String>, Refusal> {
    authority.history_since(version).into_iter().map(text).collect()
}

fn text<T>(signed: &Signed<T>) -> Result<String, Refusal> {
    String::from_utf8(signed.to_bytes()?).map_err(|_| Refusal::Malformed("envelope is not text"))
}
