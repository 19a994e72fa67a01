//! A call whose bytes are written by hand.

use bytes::Bytes;
use fleetmend_event::SpoolEpoch;
use fleetmend_identity::LiveIdentity;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::{Message as _, PROTOCOL_VERSION, v1};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service as _, http};

use super::super::PATIENCE;
use super::super::scene::Scene;

/// A stream of a host with a valid certificate.
pub(crate) struct RawCall {
    pieces: mpsc::Sender<Bytes>,
    answer: Body,
    _link: agent_stream::connector::Link,
}

/// Flag and length of a message.
pub(crate) fn prefix(length: u32) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.into()
}

/// A message as it should be.
pub(crate) fn message(message: Up) -> Vec<u8> {
    let message = v1::AgentMessage {
        message: Some(message),
    };
    let body = message.encode_to_vec();
    [&prefix(u32::try_from(body.len()).unwrap())[..], &body].concat()
}

impl RawCall {
    /// After its hello.
    pub(crate) async fn welcomed(scene: &Scene, identity: &LiveIdentity, epoch: SpoolEpoch) -> Self {
        let link = scene.link(identity).await;
        let (pieces, bytes) = mpsc::channel(4);
        let bytes = ReceiverStream::new(bytes).map(|bytes| Ok::<_, Status>(Frame::data(bytes)));
        let request = http::Request::post("/fleetmend.v1.Carrier/Stream")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(StreamBody::new(bytes)))
            .unwrap();
        let mut channel = link.channel();
        std::future::poll_fn(|context| channel.poll_ready(context))
            .await
            .unwrap();
        let host = identity.current().host();
        let hello = message(Up::Hello(v1::Hello {
            protocol: PROTOCOL_VERSION,
            host_id: Bytes::copy_from_slice(host.as_bytes()),
            epoch: Bytes::copy_from_slice(epoch.as_bytes()),
            ..v1::Hello::default()
        }));
        pieces.send(hello.into()).await.unwrap();
        let answer = channel.call(request).await.unwrap().into_body();
        let mut call = Self {
            pieces,
            answer,
            _link: link,
        };
        assert!(
            call.answer.frame().await.unwrap().unwrap().is_data(),
            "no welcome"
        );
        call
    }

    pub(crate) async fn send(&mut self, bytes: Bytes) {
        assert!(self.try_send(bytes).await, "the call has ended");
    }

    /// `false` when the call has ended.
    pub(crate) async fn try_send(&self, bytes: Bytes) -> bool {
        self.pieces.send(bytes).await.is_ok()
    }

    /// Waits for the collector to end the call.
    pub(crate) async fn ended(&mut self, name: &str) {
        let end = async { while let Some(Ok(_)) = self.answer.frame().await {} };
        let ended = tokio::time::timeout(PATIENCE, end).await;
        assert!(ended.is_ok(), "{name}: the call goes on");
    }
}
