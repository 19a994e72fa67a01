//! A carrier that speaks bytes: nothing is read into today's messages and written anew, so that what a peer of
//! another version says arrives as it said it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use agent_stream::connector::Link;
use bytes::{Buf as _, BufMut as _, Bytes};
use fleetmend_identity::{LiveIdentity, TrustedTime, tls};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::TestFleet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::StreamingService;
use tonic::{Request, Response, Status, Streaming};

use crate::serve::serve;

const PATH: &str = "/fleetmend.v1.Carrier/Stream";

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A stream of the host with this identity, opened at a collector.
pub(super) struct RawStream {
    pub(super) up: mpsc::Sender<Bytes>,
    pub(super) down: Streaming<Bytes>,
    _link: Link,
}

impl RawStream {
    pub(super) async fn open(identity: &LiveIdentity, collector: SocketAddr, first: Bytes) -> Self {
        let tls = tls::client_for_host(identity, &TrustedTime::system()).unwrap();
        let link = Link::connect(&collector.to_string(), tls).await.unwrap();
        let mut client = tonic::client::Grpc::new(link.channel());
        client.ready().await.unwrap();
        let (up, messages) = mpsc::channel(64);
        up.send(first).await.unwrap();
        let path = http::uri::PathAndQuery::from_static(PATH);
        let request = Request::new(ReceiverStream::new(messages));
        let down = client.streaming(request, path, Raw).await.unwrap().into_inner();
        Self {
            up,
            down,
            _link: link,
        }
    }
}

/// A stream that an agent opened.
pub(super) struct Opened {
    pub(super) up: Streaming<Bytes>,
    pub(super) down: mpsc::Sender<Result<Bytes, Status>>,
}

/// A collector's listener; streams come out of the channel.
pub(super) struct RawCarrier {
    pub(super) address: SocketAddr,
    pub(super) opened: mpsc::Receiver<Opened>,
    pub(super) tasks: Tasks,
}

impl RawCarrier {
    pub(super) async fn start(fleet: &TestFleet) -> Self {
        let (open, opened) = mpsc::channel(64);
        let (address, tasks) = serve(fleet, RawService { open: Arc::new(open) }).await;
        Self {
            address,
            opened,
            tasks,
        }
    }
}

#[derive(Clone)]
struct RawService {
    open: Arc<mpsc::Sender<Opened>>,
}

impl Service<http::Request<Body>> for RawService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(Raw)
                .streaming(Handler(service), request)
                .await)
        })
    }
}

struct Handler(RawService);

impl StreamingService<Bytes> for Handler {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let open = self.0.open.clone();
        Box::pin(async move {
            let (down, messages) = mpsc::channel(64);
            let up = request.into_inner();
            if open.send(Opened { up, down }).await.is_err() {
                return Err(Status::unavailable("the test has ended"));
            }
            Ok(Response::new(ReceiverStream::new(messages)))
        })
    }
}
