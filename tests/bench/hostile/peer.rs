//! A call whose bytes are written by hand, from a host with a valid certificate.

use std::sync::Arc;
use std::time::Duration;

use agent_stream::connector::Link;
use anyhow::{Context, Result};
use bytes::Bytes;
use fleetmend_event::SpoolEpoch;
use fleetmend_identity::{LiveIdentity, TrustedTime, tls};
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

/// Nobody waits longer for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A stream that was said hello on.
pub(super) struct Peer {
    pub(super) epoch: SpoolEpoch,
    pieces: mpsc::Sender<Bytes>,
    answer: Body,
    _link: Link,
}

/// Flag and length of a message.
pub(super) fn prefix(length: u32) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes
}

/// A message as it should be.
pub(super) fn message(message: Up) -> Vec<u8> {
    let message = v1::AgentMessage {
        message: Some(message),
    };
    let body = message.encode_to_vec();
    let mut bytes = prefix(u32::try_from(body.len()).unwrap_or(u32::MAX));
    bytes.extend(body);
    bytes
}

/// A message of frames.
pub(super) fn records(frames: Vec<Bytes>) -> Vec<u8> {
    message(Up::Records(v1::Records {
        frames,
        ..v1::Records::default()
    }))
}

/// TLS as the host's agent speaks it.
pub(super) fn tls_of(identity: &LiveIdentity) -> Result<Arc<rustls::ClientConfig>> {
    tls::client_for_host(identity, &TrustedTime::system()).context("prepare TLS")
}

impl Peer {
    /// Connects, says hello and waits for the welcome.
    pub(super) async fn welcomed(address: &str, identity: &LiveIdentity) -> Result<Self> {
        let mut peer = Self::connected(address, identity).await?;
        let host = identity.current().host();
        let hello = message(Up::Hello(v1::Hello {
            protocol: PROTOCOL_VERSION,
            host_id: Bytes::copy_from_slice(host.as_bytes()),
            epoch: Bytes::copy_from_slice(peer.epoch.as_bytes()),
            ..v1::Hello::default()
        }));
        peer.pieces.send(hello.into()).await.context("say hello")?;
        let welcome = tokio::time::timeout(ANSWER_WITHIN, peer.answer.frame());
        let welcome = welcome.await.context("wait for the welcome")?;
        welcome.context("read the welcome")?.context("read the welcome")?;
        Ok(peer)
    }

    /// Connects and calls; says nothing.
    pub(super) async fn connected(address: &str, identity: &LiveIdentity) -> Result<Self> {
        let connecting = Link::connect(address, tls_of(identity)?);
        let link = tokio::time::timeout(ANSWER_WITHIN, connecting)
            .await
            .context("connect")?
            .context("connect")?;
        let (pieces, bytes) = mpsc::channel(4);
        let bytes = ReceiverStream::new(bytes).map(|bytes| Ok::<_, Status>(Frame::data(bytes)));
        let request = http::Request::post("/fleetmend.v1.Carrier/Stream")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(StreamBody::new(bytes)))
            .context("make a request")?;
        let mut channel = link.channel();
        let call = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, call)
            .await
            .context("call")?
            .context("call")?;
        Ok(Self {
            epoch: SpoolEpoch::random(),
            pieces,
            answer: answer.into_body(),
            _link: link,
        })
    }

    /// `false` when the call has ended.
    pub(super) async fn send(&mut self, bytes: impl Into<Bytes>) -> bool {
        self.pieces.send(bytes.into()).await.is_ok()
    }

    /// Takes answers until the call ends.
    pub(super) async fn read_to_end(&mut self) {
        while let Some(Ok(_)) = self.answer.frame().await {}
    }
}
