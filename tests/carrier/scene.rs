//! A fleet with a collector, and a host of it that is spoken for by hand.

use std::net::SocketAddr;

use agent_stream::connector::Link;
use bytes::Bytes;
use collector_ingest::IngestConfig;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Table, TableInfo, UnitState};
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};
use fleetmend_identity::LiveIdentity;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::carrier_client::CarrierClient;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{PROTOCOL_VERSION, v1};
use fleetmend_testkit::TestFleet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::PATIENCE;
use super::agent::Agent;
use super::collector::{Collector, impatient};
use super::sink::MemorySink;

pub(crate) struct Scene {
    pub(crate) fleet: TestFleet,
    pub(crate) sink: MemorySink,
    pub(crate) collector: Collector,
}

/// A stream spoken by hand.
pub(crate) struct Caller {
    pub(crate) epoch: SpoolEpoch,
    pub(crate) outgoing: mpsc::Sender<v1::AgentMessage>,
    pub(crate) incoming: Streaming<v1::CollectorMessage>,
    _link: Link,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(impatient()).await
    }

    pub(crate) async fn with(config: IngestConfig) -> Self {
        let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let collector = Collector::start_at(&fleet, &sink, address, config).await;
        Self {
            fleet,
            sink,
            collector,
        }
    }

    pub(crate) async fn link(&self, identity: &LiveIdentity) -> Link {
        let tls = self.fleet.host_tls(identity).unwrap();
        Link::connect(&self.collector.address.to_string(), tls)
            .await
            .unwrap()
    }

    pub(crate) async fn call(&self, identity: &LiveIdentity) -> Caller {
        let link = self.link(identity).await;
        let (outgoing, messages) = mpsc::channel(8);
        let mut client = CarrierClient::new(link.channel()).max_encoding_message_size(usize::MAX);
        let incoming = client
            .stream(ReceiverStream::new(messages))
            .await
            .unwrap()
            .into_inner();
        Caller {
            epoch: SpoolEpoch::random(),
            outgoing,
            incoming,
            _link: link,
        }
    }

    pub(crate) async fn welcomed(&self, identity: &LiveIdentity) -> Caller {
        let mut caller = self.call(identity).await;
        caller.send(caller.hello(identity.current().host())).await;
        assert!(matches!(caller.next().await, Some(Down::Welcome(_))));
        caller
    }

    /// Another host is served from its hello to its acknowledgement.
    pub(crate) async fn still_serves(&self) {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(&self.fleet.host().unwrap(), self.collector.address, folder.path());
        agent.append(0..3);
        agent.delivered().await;
        assert_eq!(self.sink.units(agent.host), [0, 1, 2]);
        agent.stop().await;
    }
}

impl Caller {
    pub(crate) fn hello(&self, host: HostId) -> Up {
        Up::Hello(v1::Hello {
            protocol: PROTOCOL_VERSION,
            host_id: Bytes::copy_from_slice(host.as_bytes()),
            agent_version: "by hand".to_owned(),
            epoch: Bytes::copy_from_slice(self.epoch.as_bytes()),
            spooled: Vec::new(),
            boot_id: Bytes::copy_from_slice(SpoolEpoch::random().as_bytes()),
            time: None,
            ..v1::Hello::default()
        })
    }

    pub(crate) async fn send(&self, message: Up) {
        self.outgoing
            .send(v1::AgentMessage {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    pub(crate) async fn send_frames(&self, frames: Vec<Bytes>) {
        self.send(Up::Records(v1::Records {
            frames,
            ..v1::Records::default()
        }))
        .await;
    }

    pub(crate) async fn next(&mut self) -> Option<Down> {
        let next = tokio::time::timeout(PATIENCE, self.incoming.message())
            .await
            .expect("no answer");
        next.ok().flatten().and_then(|message| message.message)
    }

    pub(crate) async fn acknowledged(&mut self) -> Vec<u64> {
        match self.next().await {
            Some(Down::Acknowledged(acknowledged)) => {
                acknowledged.marks.iter().map(|mark| mark.sequence).collect()
            }
            other => panic!("no acknowledgement but {other:?}"),
        }
    }

    pub(crate) async fn goodbye(&mut self) -> v1::Goodbye {
        match self.next().await {
            Some(Down::Goodbye(goodbye)) => goodbye,
            other => panic!("no goodbye but {other:?}"),
        }
    }

    pub(crate) fn frame(&self, lane: Lane, number: u64, units: &[UnitState]) -> Frame {
        let id = RecordId {
            epoch: self.epoch,
            lane,
            sequence: Sequence(number),
        };
        let now = TimeMicros::now();
        let stamp = Stamp {
            wall: now,
            boot_us: 1,
        };
        let batch = UnitState::to_batch(units).unwrap();
        Frame::of_batch(id, &TableInfo::of::<UnitState>(), &batch, stamp, (now, now)).unwrap()
    }
}
