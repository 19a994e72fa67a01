//! The enrolment service on its own listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_event::TimeMicros;
use fleetmend_identity::authority::IssuedCertificate;
use fleetmend_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use fleetmend_proto::{PROTOCOL_VERSION, host_id, v1};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{EnrolError, Enroller, HostFacts, Refusal};
use crate::listener::{Caller, ListenerLimits, TlsAccepting};

/// Largest message of this listener: a signing request and a few short texts.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// An enrolment is one short call; nobody stays.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CALLS_PER_CONNECTION_MAX: usize = 8;
const LIMITS: ListenerLimits = ListenerLimits {
    connections_max: 512,
    handshake_timeout: Duration::from_secs(10),
};

/// Serves enrolment on `listener`, as tasks of `tasks`, until they end.
pub fn serve(enroller: Enroller, listener: TcpListener, tasks: &Tasks) -> Result<(), EnrolError> {
    let audit = enroller.audit().clone();
    let (accepting, incoming) = TlsAccepting::new(listener, enroller.enrolment_tls()?, LIMITS, audit);
    let end = tasks.token();
    tasks.spawn("enrolment-accept", TaskKind::Critical, async move {
        accepting.run(end.cancelled()).await;
        Ok::<(), EnrolError>(())
    });
    let end = tasks.token();
    let service = EnrolmentServer::new(Service { enroller })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    tasks.spawn("enrolment-serve", TaskKind::Critical, async move {
        Server::builder()
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

impl Service {
    fn renewal(&self, certificate: IssuedCertificate) -> Result<Response<v1::RenewResponse>, Status> {
        renewal(&self.enroller, certificate)
            .map(Response::new)
            .map_err(Status::from)
    }
}

/// The answer to a renewal or a recovery.
fn renewal(enroller: &Enroller, certificate: IssuedCertificate) -> Result<v1::RenewResponse, Refusal> {
    Ok(v1::RenewResponse {
        chain: chain(&certificate),
        trust_bundle: bundle(enroller)?,
        wall_micros: TimeMicros::now().0,
    })
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
        Ok(renewal(self, certificate)?)
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
        Ok(Response::new(v1::EnrollResponse {
            host_id: Bytes::copy_from_slice(enrolled.host.as_bytes()),
            fleet: self.enroller.authority().fleet().to_string(),
            chain: chain(&enrolled.certificate),
            trust_bundle: bundle(&self.enroller)?,
            collectors: self.enroller.inner.config.collectors.clone(),
            wall_micros: TimeMicros::now().0,
        }))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let source = source(&request)?;
        let request = request.into_inner();
        let host = host_id(&request.host_id).map_err(|_| Refusal::Malformed("host_id must be 16 bytes"))?;
        self.renewal(self.enroller.recover(source.ip(), host, &request.csr).await?)
    }

    async fn time(&self, request: Request<v1::TimeRequest>) -> Result<Response<v1::TimeResponse>, Status> {
        let nonce = request.into_inner().nonce;
        if nonce.len() != 16 {
            return Err(Refusal::Malformed("nonce must be 16 bytes").into());
        }
        let signed = self
            .enroller
            .authority()
            .sign_time(TimeMicros::now(), &nonce)
            .map_err(Refusal::from)?;
        let envelope = signed.to_bytes().map_err(Refusal::from)?;
        let envelope = String::from_utf8(envelope).map_err(|_| Refusal::Malformed("envelope is not text"))?;
        Ok(Response::new(v1::TimeResponse { envelope }))
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

fn bundle(enroller: &Enroller) -> Result<String, Refusal> {
    let bytes = enroller.authority().signed_bundle().to_bytes()?;
    String::from_utf8(bytes).map_err(|_| Refusal::Malformed("trust bundle is not text"))
}
