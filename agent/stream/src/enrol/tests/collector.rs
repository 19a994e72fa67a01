//! A collector as these tests need it: real keys, TLS and gRPC, and answers that a real one would never give.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::authority::HOST_LIFETIME;
use fleetmend_identity::{EnrolmentToken, HostKey, TokenSecret};
use fleetmend_proto::v1;
use fleetmend_proto::v1::carrier_server::{Carrier, CarrierServer};
use fleetmend_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use fleetmend_testkit::TestFleet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

/// How the collector answers.
#[derive(Debug, Clone)]
pub(super) enum Manner {
    Honest,
    Refuses(Status),
    /// Certifies a key of its own instead of the host's.
    SwapsKey,
    /// Hands out the trust bundle of another fleet.
    SwapsBundle,
    /// Renews for another host id.
    SwapsHost,
    /// Signs the time for another nonce.
    ReplaysTime,
}

#[derive(Clone)]
pub(super) struct Collector {
    pub(super) fleet: Arc<TestFleet>,
    pub(super) host: HostId,
    manner: Arc<Mutex<Manner>>,
    pub(super) enrolment: SocketAddr,
    pub(super) carrier: SocketAddr,
    /// When the certificates that it issues begin.
    issued_at: Arc<Mutex<TimeMicros>>,
    _tasks: Arc<JoinSet<()>>,
}

impl Collector {
    pub(super) async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    pub(super) async fn start_on(address: &str) -> Self {
        let fleet = Arc::new(TestFleet::new().unwrap());
        let bind = async || TcpListener::bind(address).await.unwrap();
        let (enrolment, carrier) = (bind().await, bind().await);
        let mut tasks = JoinSet::new();
        let collector = Self {
            host: HostId::random(),
            manner: Arc::new(Mutex::new(Manner::Honest)),
            enrolment: enrolment.local_addr().unwrap(),
            carrier: carrier.local_addr().unwrap(),
            issued_at: Arc::new(Mutex::new(TimeMicros::now())),
            _tasks: Arc::new(JoinSet::new()),
            fleet: fleet.clone(),
        };
        let service = EnrolmentServer::new(collector.clone());
        let incoming = accept(enrolment, fleet.enrolment_tls().unwrap(), &mut tasks);
        tasks.spawn(async move {
            Server::builder()
                .serve_with_incoming(service, incoming)
                .await
                .unwrap()
        });
        let service = CarrierServer::new(collector.clone());
        let incoming = accept(carrier, fleet.carrier_tls().unwrap(), &mut tasks);
        tasks.spawn(async move {
            Server::builder()
                .serve_with_incoming(service, incoming)
                .await
                .unwrap()
        });
        Self {
            _tasks: Arc::new(tasks),
            ..collector
        }
    }

    pub(super) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub(super) fn issue_from(&self, begin: TimeMicros) {
        *self.issued_at.lock().unwrap() = begin;
    }

    pub(super) fn token(&self) -> EnrolmentToken {
        let root = self.fleet.root().fingerprint();
        EnrolmentToken::new(&self.enrolment.to_string(), root, TokenSecret::generate()).unwrap()
    }

    fn manner(&self) -> Manner {
        self.manner.lock().unwrap().clone()
    }

    fn chain(&self, request: &[u8]) -> Result<Vec<Bytes>, Status> {
        let (request, host) = match self.manner() {
            Manner::Refuses(status) => return Err(status),
            Manner::SwapsKey => (HostKey::generate().unwrap().request().unwrap(), self.host),
            Manner::SwapsHost => (request.to_vec(), HostId::random()),
            _ => (request.to_vec(), self.host),
        };
        let begin = *self.issued_at.lock().unwrap();
        let issued = self
            .fleet
            .authority()
            .issue_host(&request, host, begin, HOST_LIFETIME)
            .unwrap();
        Ok(issued
            .chain
            .iter()
            .map(|certificate| Bytes::copy_from_slice(certificate))
            .collect())
    }

    fn bundle(&self) -> String {
        let bundle = match self.manner() {
            Manner::SwapsBundle => TestFleet::new().unwrap().authority().signed_bundle().to_bytes(),
            _ => self.fleet.authority().signed_bundle().to_bytes(),
        };
        String::from_utf8(bundle.unwrap()).unwrap()
    }

    fn renewal(&self, request: &[u8]) -> Result<Response<v1::RenewResponse>, Status> {
        let chain = self.chain(request)?;
        Ok(Response::new(v1::RenewResponse {
            chain,
            trust_bundle: self.bundle(),
            ..v1::RenewResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Enrolment for Collector {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        Ok(Response::new(v1::EnrollResponse {
            host_id: Bytes::copy_from_slice(self.host.as_bytes()),
            fleet: self.fleet.root().fleet().to_string(),
            chain: self.chain(&request.into_inner().csr)?,
            trust_bundle: self.bundle(),
            collectors: vec![self.carrier.to_string()],
            ..v1::EnrollResponse::default()
        }))
    }

    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        self.renewal(&request.into_inner().csr)
    }

    async fn time(&self, request: Request<v1::TimeRequest>) -> Result<Response<v1::TimeResponse>, Status> {
        let nonce = match self.manner() {
            Manner::ReplaysTime => Bytes::from_static(&[1; 16]),
            _ => request.into_inner().nonce,
        };
        let signed = self
            .fleet
            .authority()
            .sign_time(TimeMicros::now(), &nonce)
            .unwrap();
        Ok(Response::new(v1::TimeResponse {
            envelope: String::from_utf8(signed.to_bytes().unwrap()).unwrap(),
            trust_bundles: Vec::new(),
        }))
    }
}

#[tonic::async_trait]
impl Carrier for Collector {
    type StreamStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn stream(
        &self,
        _: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        self.renewal(&request.into_inner().csr)
    }

    async fn unenrol(&self, _: Request<v1::UnenrolRequest>) -> Result<Response<v1::UnenrolResponse>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }
}

fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    tasks: &mut JoinSet<()>,
) -> ReceiverStream<std::io::Result<Served>> {
    let (ready, connections) = tokio::sync::mpsc::channel(16);
    tasks.spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        // Refused connections are kept, so that their end does not overtake the alert.
        let mut refused = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => ready.send(Ok(Served(stream))).await.unwrap(),
                Err((_, stream)) => refused.push(stream),
            }
        }
    });
    ReceiverStream::new(connections)
}

pub(super) struct Served(TlsStream<TcpStream>);

impl Connected for Served {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Served {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
