//! A host with a valid certificate that does not keep to the protocol: it repeats, reorders and forges batches.

use std::path::Path;
use std::time::Duration;

use agent_stream::connector::Link;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Table, TableInfo, UnitState};
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};
use fleetmend_identity::{HostIdentity, LiveIdentity, TrustedTime, tls};
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::carrier_client::CarrierClient;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{PROTOCOL_VERSION, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What became of the rude host's records, over all its visits.
#[derive(Debug, Default)]
pub(super) struct RudeAccount {
    /// Numbers that must be stored, each once.
    pub(super) stored: Vec<u64>,
    /// Numbers that came too late, behind others of their stream: each is a record of a gap.
    pub(super) late: u64,
    /// Records under a number that was stored with other content.
    pub(super) forged: u64,
    next: u64,
}

/// The rude host.
pub(super) struct Rude {
    pub(super) host: HostId,
    pub(super) account: RudeAccount,
    identity: LiveIdentity,
    address: String,
}

struct Visit {
    epoch: SpoolEpoch,
    outgoing: mpsc::Sender<v1::AgentMessage>,
    incoming: Streaming<v1::CollectorMessage>,
    _link: Link,
}

impl Rude {
    /// The host whose identity lies in `folder`.
    pub(super) fn new(folder: &Path, carrier: u16) -> Result<Self> {
        let identity = HostIdentity::load(folder)
            .context("load an identity")?
            .context("find an identity")?;
        Ok(Self {
            host: identity.host(),
            identity: LiveIdentity::new(identity, None),
            account: RudeAccount::default(),
            address: format!("localhost:{carrier}"),
        })
    }

    /// Sends batches in order, again, in disorder, too late, and forged.
    pub(super) async fn visit(&mut self) -> Result<()> {
        let mut visit = self.connect().await?;
        let first = self.account.next * 100;
        self.account.next += 1;
        // The same number is the same record, byte by byte.
        let (epoch, now) = (visit.epoch, TimeMicros::now());
        let frame = |number: u64| visit_frame(epoch, number, first + number, now);
        let frames = |numbers: &[u64]| {
            numbers
                .iter()
                .map(|number| frame(*number))
                .collect::<Result<Vec<_>>>()
        };
        let in_order = frames(&[1, 2, 3, 4, 5])?;
        let doubled_inside = frames(&[6, 6, 7, 7])?;
        let too_early = frames(&[12, 13])?;
        let too_late = frames(&[8, 9, 10, 11])?;
        let backwards = frames(&[13, 12, 5, 4])?;
        let forged = vec![visit_frame(epoch, 13, first + 99, now)?];
        for (batch, mark) in [
            (in_order.clone(), 5),
            (in_order, 5),
            (doubled_inside, 7),
            (too_early, 13),
            (too_late, 13),
            (backwards, 13),
            (forged, 13),
        ] {
            visit.send(batch).await?;
            let acknowledged = visit.acknowledged().await?;
            ensure!(
                acknowledged == mark,
                "{acknowledged} was acknowledged and not {mark}"
            );
        }
        self.account
            .stored
            .extend([1, 2, 3, 4, 5, 6, 7, 12, 13].map(|number| first + number));
        self.account.late += 4;
        self.account.forged += 1;
        Ok(())
    }

    async fn connect(&self) -> Result<Visit> {
        let tls = tls::client_for_host(&self.identity, &TrustedTime::system()).context("prepare TLS")?;
        let link = Link::connect(&self.address, tls).await.context("connect")?;
        let (outgoing, messages) = mpsc::channel(8);
        let mut client = CarrierClient::new(link.channel());
        let stream = client.stream(ReceiverStream::new(messages));
        let incoming = tokio::time::timeout(ANSWER_WITHIN, stream)
            .await
            .context("open a stream")?
            .context("open a stream")?
            .into_inner();
        let mut visit = Visit {
            epoch: SpoolEpoch::random(),
            outgoing,
            incoming,
            _link: link,
        };
        let hello = v1::Hello {
            protocol: PROTOCOL_VERSION,
            host_id: Bytes::copy_from_slice(self.host.as_bytes()),
            agent_version: "rude".to_owned(),
            epoch: Bytes::copy_from_slice(visit.epoch.as_bytes()),
            spooled: Vec::new(),
            boot_id: Bytes::copy_from_slice(visit.epoch.as_bytes()),
            time: None,
            ..v1::Hello::default()
        };
        visit.say(Up::Hello(hello)).await?;
        match visit.next().await? {
            Down::Welcome(_) => Ok(visit),
            other => bail!("no welcome but {other:?}"),
        }
    }
}

impl Visit {
    async fn say(&self, message: Up) -> Result<()> {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        self.outgoing.send(message).await.context("send a message")
    }

    async fn send(&self, frames: Vec<Bytes>) -> Result<()> {
        self.say(Up::Records(v1::Records {
            frames,
            ..v1::Records::default()
        }))
        .await
    }

    async fn next(&mut self) -> Result<Down> {
        let message = tokio::time::timeout(ANSWER_WITHIN, self.incoming.message())
            .await
            .context("wait for an answer")?
            .context("read an answer")?;
        message
            .and_then(|message| message.message)
            .context("find the answer")
    }

    /// The mark of the next acknowledgement.
    async fn acknowledged(&mut self) -> Result<u64> {
        match self.next().await? {
            Down::Acknowledged(acknowledged) => {
                let marks = acknowledged.marks.iter();
                Ok(marks.map(|mark| mark.sequence).max().unwrap_or(0))
            }
            other => bail!("no acknowledgement but {other:?}"),
        }
    }
}

fn visit_frame(epoch: SpoolEpoch, number: u64, content: u64, now: TimeMicros) -> Result<Bytes> {
    let row = UnitState {
        time: now,
        unit: "chaos.service".to_owned(),
        description: content.to_string(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        sub_state: String::new(),
        main_pid: 1,
        restart_count: 0,
        result: "success".to_owned(),
    };
    let id = RecordId {
        epoch,
        lane: Lane::Events,
        sequence: Sequence(number),
    };
    let stamp = Stamp {
        wall: now,
        boot_us: number,
    };
    let batch = UnitState::to_batch(&[row]).context("make a batch")?;
    let frame = Frame::of_batch(id, &TableInfo::of::<UnitState>(), &batch, stamp, (now, now))
        .context("encode a frame")?;
    Ok(frame.encode())
}
