//! The cap on what leaves the host. Time is paused: it goes on only when everybody waits, so what is measured does
//! not depend on the machine.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fleetmend_config::ByteSize;
use fleetmend_event::{Lane, Mark, RecordId, Sequence, SpoolEpoch};
use fleetmend_identity::TrustedTime;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::carrier_server::{Carrier, CarrierServer};
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{PROTOCOL_VERSION, v1};
use fleetmend_shutdown::{BoxError, CancellationToken};
use fleetmend_testkit::TestFleet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::connector::Link;
use crate::relative::Relative;
use crate::session::Session;
use crate::{
    FrameSource, Hint, SourceFrame, SourceLanes, SourceLimit, StreamConfig, StreamParts, StreamState,
};

const EVENT_BYTES: usize = 8 * 1024;
const CRITICAL_BYTES: usize = 2 * 1024;
const CRITICAL_EVERY: Duration = Duration::from_secs(7);
/// Critical frames that wait when the session begins.
const WAITING: usize = 3;

/// Events without end, and critical frames when they come. A frame is its lane, its number and padding; a critical
/// one says when it came.
struct Flood {
    epoch: SpoolEpoch,
    begun: Instant,
    events: u64,
    critical: Arc<Mutex<VecDeque<Instant>>>,
    criticals: u64,
    news: watch::Receiver<u64>,
}

impl Flood {
    fn frame(&self, lane: Lane, number: u64, came: Instant, bytes: usize) -> SourceFrame {
        let came = u64::try_from((came - self.begun).as_micros()).unwrap();
        let mut content = vec![if lane == Lane::Critical { 1 } else { 0 }];
        content.extend_from_slice(&number.to_le_bytes());
        content.extend_from_slice(&came.to_le_bytes());
        content.resize(bytes, 0);
        SourceFrame {
            id: RecordId {
                epoch: self.epoch,
                lane,
                sequence: Sequence(number),
            },
            bytes: content.into(),
        }
    }
}

impl FrameSource for Flood {
    fn epoch(&self) -> SpoolEpoch {
        self.epoch
    }

    fn spooled(&self) -> Vec<Mark> {
        Vec::new()
    }

    fn resume(&mut self, _: &[Mark]) {}

    fn acknowledge(&self, _: &[Mark]) {}

    async fn next_frames(&mut self, limit: SourceLimit) -> Result<Vec<SourceFrame>, BoxError> {
        self.news.mark_unchanged();
        let mut frames = Vec::new();
        while let Some(came) = self.critical.lock().unwrap().pop_front() {
            self.criticals += 1;
            frames.push(self.frame(Lane::Critical, self.criticals, came, CRITICAL_BYTES));
        }
        let mut bytes = frames.len() * CRITICAL_BYTES;
        while limit.lanes == SourceLanes::All && frames.len() < limit.frames {
            bytes += EVENT_BYTES;
            if bytes > limit.bytes && !frames.is_empty() {
                break;
            }
            self.events += 1;
            frames.push(self.frame(Lane::Events, self.events, self.begun, EVENT_BYTES));
        }
        Ok(frames)
    }

    async fn changed(&mut self) -> bool {
        self.news.changed().await.is_ok()
    }
}

#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    /// How long critical frames took.
    took: Vec<Duration>,
    /// Critical frames and others of the first message.
    first: Option<(usize, usize)>,
}

/// Acknowledges everything at once.
#[derive(Clone)]
struct Collector {
    epoch: SpoolEpoch,
    begun: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl Collector {
    fn take(&self, records: &v1::Records) -> Vec<v1::Mark> {
        let mut seen = self.seen.lock().unwrap();
        let mut marks = Vec::new();
        let critical = records.frames.iter().filter(|frame| frame[0] == 1).count();
        seen.first
            .get_or_insert((critical, records.frames.len() - critical));
        for frame in &records.frames {
            seen.bytes += u64::try_from(frame.len()).unwrap();
            let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
            let lane = if frame[0] == 1 {
                Lane::Critical
            } else {
                Lane::Events
            };
            if lane == Lane::Critical {
                let came = self.begun + Duration::from_micros(number(9));
                seen.took.push(Instant::now() - came);
            }
            marks.push(v1::Mark::from(Mark {
                epoch: self.epoch,
                lane,
                sequence: Sequence(number(1)),
            }));
        }
        marks
    }
}

#[tonic::async_trait]
impl Carrier for Collector {
    type StreamStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (answers, receiver) = mpsc::channel(64);
        let (mut inbound, collector) = (request.into_inner(), self.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let answer = match message.message {
                    Some(Up::Hello(_)) => Down::Welcome(v1::Welcome {
                        protocol: PROTOCOL_VERSION,
                        store_epoch: Bytes::from(vec![1; 16]),
                        ..v1::Welcome::default()
                    }),
                    Some(Up::Records(records)) => Down::Acknowledged(v1::Acknowledged {
                        marks: collector.take(&records),
                        ..v1::Acknowledged::default()
                    }),
                    _ => continue,
                };
                let answer = v1::CollectorMessage {
                    message: Some(answer),
                };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        task.detach_all();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }

    async fn unenrol(&self, _: Request<v1::UnenrolRequest>) -> Result<Response<v1::UnenrolResponse>, Status> {
        Err(Status::unimplemented("not of these tests"))
    }
}

/// A session of `time` with this cap; what the collector saw of it.
async fn session(cap: Option<u64>, burst: u64, time: Duration) -> Seen {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let begun = Instant::now();
    let epoch = SpoolEpoch::random();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let collector = Collector {
        epoch,
        begun,
        seen: seen.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let incoming = tokio_stream::iter([Ok::<_, std::io::Error>(far)]);
        let service = CarrierServer::new(collector);
        let serving = tonic::transport::Server::builder().serve_with_incoming(service, incoming);
        serving.await.unwrap();
    });
    let critical = Arc::new(Mutex::new(VecDeque::from([begun; WAITING])));
    let (tell, news) = watch::channel(0);
    let arriving = critical.clone();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(CRITICAL_EVERY).await;
            arriving.lock().unwrap().push_back(Instant::now());
            tell.send_modify(|count| *count += 1);
        }
    });
    let config = StreamConfig {
        egress_bytes_per_s: cap.map(ByteSize),
        egress_burst: ByteSize(burst),
        ..StreamConfig::default()
    };
    let (mut pace, mut relative) = (config.pace(), Relative::default());
    let mut parts = StreamParts {
        config,
        agent_version: "test".to_owned(),
        source: Flood {
            epoch,
            begun,
            events: 0,
            critical,
            criticals: 0,
            news,
        },
        orders: mpsc::channel(1).0,
        results: mpsc::channel(1).1,
        hints: watch::Sender::new(Hint::default()),
        state: watch::Sender::new(StreamState::default()),
    };
    let identity = TestFleet::new().unwrap().host().unwrap();
    let link = Link::over(near, "memory:1").await.unwrap();
    let token = CancellationToken::new();
    let trusted = TrustedTime::system();
    let ways = (&mut pace, &mut relative);
    let mut session = Session::begin(&mut parts, ways, link, &identity, &trusted)
        .await
        .unwrap();
    tokio::select! {
        ended = session.run(&token) => panic!("{ended:?}"),
        () = tokio::time::sleep(time) => {}
    }
    drop(session);
    std::mem::take(&mut *seen.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_cap_is_obeyed_over_minutes_and_the_critical_lane_does_not_wait_for_it() {
    let (rate, burst) = (64 * 1024, 256 * 1024);
    let minutes = Duration::from_secs(300);
    let seen = session(Some(rate), burst, minutes).await;
    let most = rate * minutes.as_secs() + burst;
    assert!(seen.bytes <= most, "{} bytes of at most {most}", seen.bytes);
    let least = rate * minutes.as_secs() * 97 / 100;
    assert!(seen.bytes >= least, "{} bytes of at least {least}", seen.bytes);
    assert!(seen.took.len() >= 40, "{:?}", seen.took);
    let longest = seen.took.iter().max().unwrap();
    assert!(*longest <= Duration::from_millis(50), "{longest:?}");
    // A collector that is full has room for short messages only.
    assert_eq!(seen.first, Some((WAITING, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_critical_lane_beyond_the_cap_is_sent_and_the_others_pay_for_it() {
    // Two frames of 2 KiB in 7 s are under a seventh of the cap; the others get the rest.
    let rate = 4 * 1024;
    let seen = session(Some(rate), rate, Duration::from_secs(700)).await;
    assert!(
        seen.took.iter().all(|took| *took <= Duration::from_millis(50)),
        "{:?}",
        seen.took
    );
    assert!(seen.bytes <= rate * 700 + rate + 8 * 1024, "{}", seen.bytes);
    assert!(seen.bytes >= rate * 700 * 9 / 10, "{}", seen.bytes);
}
