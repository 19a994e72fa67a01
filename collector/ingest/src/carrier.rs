//! The carrier service and its listener.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::HostId;
use fleetmend_identity::{PeerIdentity, Revocations};
use fleetmend_proto::v1::carrier_server::{Carrier, CarrierServer};
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{MESSAGE_BYTES_MAX, v1};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::{Crowded, Streams};
use crate::bases::{BasesBudget, StreamBases};
use crate::budget::Budget;
use crate::config::{IngestConfig, OUTGOING_MAX};
use crate::enrol::{Audit, AuditKind, Enroller};
use crate::error::IngestError;
use crate::hosts::{HostOrderResult, HostsLive};
use crate::listener::{Caller, TlsAccepting};
use crate::metered::{MessageLimits, Meter, Metered};
use crate::quota::Quotas;
use crate::session::{Credit, End, Outgoing, Session};
use crate::sink::DurableSink;

/// How often HTTP/2 asks whether a host is still there.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Calls of one connection at once: the stream, a renewal, and one that is ending.
const CALLS_PER_CONNECTION_MAX: u32 = 4;
/// Bytes of a connection that wait in HTTP/2 to be read. They have no room in the budget, so there are few: at 100 ms
/// of round trip a host still sends 2.5 MB/s.
const WINDOW_BYTES: u32 = 256 * 1024;

/// The carrier of a collector.
#[derive(Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
    enroller: Enroller,
}

/// What all streams share.
pub(crate) struct Shared {
    pub(crate) config: IngestConfig,
    pub(crate) sink: Arc<dyn DurableSink>,
    pub(crate) audit: Audit,
    pub(crate) enroller: Enroller,
    pub(crate) revocations: Revocations,
    pub(crate) hosts: HostsLive,
    pub(crate) results: mpsc::Sender<HostOrderResult>,
    pub(crate) budget: Budget,
    pub(crate) bases: BasesBudget,
    pub(crate) quotas: Quotas,
    pub(crate) streams: Streams,
}

/// Bytes of messages that are being received or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Most that there were at once.
    pub bytes_most: usize,
    /// Most that there may be.
    pub bytes_max: u32,
}

impl Ingest {
    /// A carrier that stores into `sink`. Results of orders go to `results`; when it is full they are dropped and
    /// counted, for the ledger tells what became of an order.
    pub fn new(
        config: IngestConfig,
        sink: Arc<dyn DurableSink>,
        enroller: Enroller,
        results: mpsc::Sender<HostOrderResult>,
    ) -> Self {
        crate::metrics::describe();
        let shared = Shared {
            budget: Budget::new(config.budget_bytes()),
            bases: BasesBudget::new(config.bases_bytes()),
            quotas: Quotas::new(config.quota_limits()),
            streams: Streams::new(config.streams_max, config.streams_per_host_max),
            config,
            sink,
            audit: enroller.audit().clone(),
            enroller: enroller.clone(),
            revocations: enroller.revocations().clone(),
            hosts: HostsLive::default(),
            results,
        };
        Self {
            shared: Arc::new(shared),
            enroller,
        }
    }

    /// Who is connected.
    pub fn hosts(&self) -> HostsLive {
        self.shared.hosts.clone()
    }

    /// What messages have taken of the memory that they may take.
    pub fn in_flight(&self) -> InFlight {
        InFlight {
            bytes_most: self.shared.budget.most_taken(),
            bytes_max: self.shared.budget.bytes_max(),
        }
    }

    /// Writes down what is wrong with the rows of a host, as the store found; limited as all refusals are.
    ///
    /// # Cancel safety
    /// The row may be written or not.
    pub async fn blame(&self, host: HostId, detail: &str) {
        let unknown = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let source = self
            .shared
            .hosts
            .host(host)
            .map_or(unknown, |live| live.address.ip());
        let audit = &self.shared.audit;
        audit.refused(AuditKind::Stream, source, Some(host), detail).await;
    }

    /// Serves the carrier on `listener` as tasks of `tasks`, until they end. Streams end first, with a goodbye.
    ///
    /// # Errors
    /// When there is no usable TLS configuration.
    pub fn serve(&self, listener: TcpListener, tasks: &Tasks) -> Result<(), IngestError> {
        let tls = self.enroller.carrier_tls()?;
        let limits = self.shared.config.listener_limits();
        let (accepting, incoming) = TlsAccepting::new(listener, tls, limits, self.shared.audit.clone());
        let end = tasks.token();
        tasks.spawn("carrier-accept", TaskKind::Critical, async move {
            accepting.run(end.cancelled()).await;
            Ok::<(), IngestError>(())
        });
        let service = Service {
            ingest: self.clone(),
            streams: tasks.child("carrier-streams"),
        };
        let server = CarrierServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let config = &self.shared.config;
        let server = Metered {
            inner: server,
            limits: MessageLimits {
                budget: self.shared.budget.clone(),
                bytes_max: MESSAGE_BYTES_MAX,
                transfer_timeout: config.message_timeout.get(),
                room_timeout: config.room_timeout.get(),
            },
        };
        let end = tasks.token();
        tasks.spawn("carrier-serve", TaskKind::Critical, async move {
            Server::builder()
                .http2_keepalive_interval(Some(PING_EVERY))
                .http2_keepalive_timeout(Some(PING_TIMEOUT))
                .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .serve_with_incoming_shutdown(server, incoming, end.cancelled())
                .await
                .map_err(IngestError::from)
        });
        Ok(())
    }
}

struct Service {
    ingest: Ingest,
    streams: Tasks,
}

#[tonic::async_trait]
impl Carrier for Service {
    type StreamStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (caller, peer, host) = caller_of(&request)?;
        let call = caller.calls.begin();
        let meter = request.extensions().get::<Meter>().cloned().unwrap_or_default();
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let admitted = match self.ingest.shared.streams.admit(host) {
            Ok(admitted) => admitted,
            Err(crowded) => {
                self.send_away(&caller, host, crowded, &outgoing).await;
                return Ok(Response::new(ReceiverStream::new(messages)));
            }
        };
        let bases = StreamBases::new(self.ingest.shared.bases.clone());
        let session = Session {
            shared: self.ingest.shared.clone(),
            peer,
            address: caller.address,
            host,
            outgoing,
            inbound: request.into_inner(),
            meter,
            credit: Credit::default(),
            bases,
            held_until: None,
            _place: (admitted, call),
            told_time: None,
        };
        let token = self.streams.token();
        self.streams
            .spawn("carrier-stream", TaskKind::BestEffort, async move {
                Box::pin(session.run(token)).await;
                Ok::<(), IngestError>(())
            });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let (caller, ..) = caller_of(&request)?;
        let _call = caller.calls.begin();
        self.ingest
            .enroller
            .renew_call(&caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn unenrol(
        &self,
        request: Request<v1::UnenrolRequest>,
    ) -> Result<Response<v1::UnenrolResponse>, Status> {
        let (caller, peer, host) = caller_of(&request)?;
        let _call = caller.calls.begin();
        let request = request.into_inner();
        if !request.ask_only {
            let (source, enroller) = (caller.address.ip(), &self.ingest.enroller);
            enroller.unenrol(source, &peer, &request.reason).await?;
        }
        let wait = self.ingest.shared.config.commit_timeout.get();
        let durable = tokio::time::timeout(wait, self.ingest.shared.sink.marks(host)).await;
        let durable = durable
            .map_err(|_| Status::unavailable("the store does not say in time what it has; try again later"))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let durable = durable.into_iter().map(v1::Mark::from).collect();
        Ok(Response::new(v1::UnenrolResponse { durable }))
    }
}

impl Service {
    /// Tells a host that there is no place for its stream.
    async fn send_away(&self, caller: &Caller, host: HostId, crowded: Crowded, outgoing: &Outgoing) {
        let end = End::Crowded(crowded);
        crate::metrics::stream_refused(end.code());
        if crowded == Crowded::Host {
            let audit = &self.ingest.shared.audit;
            audit
                .refused(AuditKind::Stream, caller.address.ip(), Some(host), end.code())
                .await;
        }
        let message = v1::CollectorMessage {
            message: end.goodbye(host).map(Down::Goodbye),
        };
        // The queue is new.
        if outgoing.try_send(Ok(message)).is_err() {
            tracing::debug!(%host, "goodbye found nobody");
        }
    }
}

/// Whom the certificate of the connection names. The TLS verifier lets in nobody else.
fn caller_of<T>(request: &Request<T>) -> Result<(Caller, Arc<PeerIdentity>, HostId), Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let named = caller.and_then(|caller| {
        let peer = caller.peer.clone()?;
        let host = peer.host()?;
        Some((caller, peer, host))
    });
    named.ok_or_else(|| Status::unauthenticated("the connection has no certificate of a host"))
}
