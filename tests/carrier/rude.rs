//! Collectors that do not follow the protocol: the agent says what is wrong, keeps its facts and tries again.

use std::net::SocketAddr;
use std::time::Duration;

use agent_stream::{StreamPhase, StreamState};
use bytes::Bytes;
use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Frame, Lane, SpoolEpoch, TimeMicros};
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::carrier_server::{Carrier, CarrierServer};
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{PROTOCOL_VERSION, v1};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::{TestFleet, wait_for};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::PATIENCE;
use super::agent::Agent;
use super::serve::serve;

/// Answers every stream with the same messages and then keeps it open, reading nothing.
#[derive(Clone)]
struct Rude {
    script: Vec<Down>,
    open: mpsc::Sender<Streaming<v1::AgentMessage>>,
}

#[tonic::async_trait]
impl Carrier for Rude {
    type StreamStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (messages, receiver) = mpsc::channel(16);
        for message in self.script.clone() {
            messages
                .send(Ok(v1::CollectorMessage {
                    message: Some(message),
                }))
                .await
                .unwrap();
        }
        // Kept, so that nothing ends by itself.
        self.open.send(request.into_inner()).await.unwrap();
        tokio::task::spawn_blocking(move || drop_later(messages));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        Err(Status::unimplemented("rude"))
    }

    async fn unenrol(&self, _: Request<v1::UnenrolRequest>) -> Result<Response<v1::UnenrolResponse>, Status> {
        Err(Status::unimplemented("rude"))
    }
}

/// Holds the answering side until the agent is gone.
fn drop_later(messages: mpsc::Sender<Result<v1::CollectorMessage, Status>>) {
    tokio::runtime::Handle::current().block_on(messages.closed());
}

struct Scene {
    fleet: TestFleet,
    address: SocketAddr,
    tasks: Tasks,
    open: mpsc::Receiver<Streaming<v1::AgentMessage>>,
}

impl Scene {
    async fn new(script: Vec<Down>) -> Self {
        let fleet = TestFleet::new().unwrap();
        let (open, opened) = mpsc::channel(64);
        let (address, tasks) = serve(&fleet, CarrierServer::new(Rude { script, open })).await;
        Self {
            fleet,
            address,
            tasks,
            open: opened,
        }
    }

    /// Runs an agent with one row against it until its state is as `wanted`.
    async fn until(self, wanted: impl Fn(&StreamState) -> bool) {
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(&self.fleet.host().unwrap(), self.address, folder.path());
        agent.append(0..1);
        agent.flush().await;
        let state = async || agent.state.borrow().clone();
        wait_for(PATIENCE, state, |state| wanted(state)).await.unwrap();
        let held = agent.spool.stat();
        assert_eq!(
            (held.lanes[1].highest, held.lanes[1].segments),
            (1, 1),
            "the spool keeps its record"
        );
        agent.stop().await;
        self.tasks.drain(PATIENCE).await;
    }
}

fn welcome() -> Down {
    Down::Welcome(v1::Welcome {
        protocol: PROTOCOL_VERSION,
        store_epoch: Bytes::from(vec![1; 16]),
        ..v1::Welcome::default()
    })
}

fn says(state: &StreamState, text: &str) -> bool {
    state
        .last_error
        .as_ref()
        .is_some_and(|error| error.contains(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodbye_without_retry_waits_for_a_person() {
    let goodbye = Down::Goodbye(v1::Goodbye {
        reason: "go away".to_owned(),
        retry_after_ms: 0,
        retry: false,
        self_contained: false,
    });
    let scene = Scene::new(vec![goodbye]).await;
    scene
        .until(|state| state.phase == StreamPhase::Refused && says(state, "go away"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_that_is_no_welcome_is_named() {
    let scene = Scene::new(vec![Down::Acknowledged(v1::Acknowledged::default())]).await;
    scene
        .until(|state| says(state, "first message is no welcome"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_version_and_second_welcome_are_named() {
    let scene = Scene::new(vec![Down::Welcome(v1::Welcome {
        protocol: 2,
        ..v1::Welcome::default()
    })])
    .await;
    scene.until(|state| says(state, "it speaks version 2")).await;
    let scene = Scene::new(vec![welcome(), welcome()]).await;
    scene.until(|state| says(state, "welcomed twice")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_marks_are_named() {
    let mark = v1::Mark {
        epoch: Bytes::from_static(b"short"),
        lane: 1,
        sequence: 1,
    };
    let scene = Scene::new(vec![
        welcome(),
        Down::Acknowledged(v1::Acknowledged {
            marks: vec![mark],
            ..v1::Acknowledged::default()
        }),
    ])
    .await;
    scene.until(|state| says(state, "must be 16 bytes")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgement_of_what_was_never_sent_breaks_nothing() {
    let epoch = Bytes::copy_from_slice(SpoolEpoch::random().as_bytes());
    let mark = v1::Mark {
        epoch,
        lane: 2,
        sequence: u64::MAX,
    };
    let scene = Scene::new(vec![
        welcome(),
        Down::Acknowledged(v1::Acknowledged {
            marks: vec![mark],
            ..v1::Acknowledged::default()
        }),
    ])
    .await;
    scene
        .until(|state| state.phase == StreamPhase::Connected && state.frames_in_flight == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_beyond_the_limit_ends_the_session_and_no_more() {
    let order = Down::Order(v1::Order {
        order_id: Bytes::from(vec![1; 16]),
        envelope: "x".repeat(8 << 20),
    });
    let scene = Scene::new(vec![welcome(), order]).await;
    scene
        .until(|state| says(state, "stream broke") && says(state, "OutOfRange"))
        .await;
}

/// Lanes of the frames that came within a moment without any, and their bytes.
async fn frames_until_quiet(stream: &mut Streaming<v1::AgentMessage>) -> (Vec<Lane>, usize) {
    let (mut lanes, mut bytes) = (Vec::new(), 0);
    let quiet = Duration::from_secs(1);
    let mut last = tokio::time::Instant::now();
    // Heartbeats go on all the time.
    while let Ok(message) = tokio::time::timeout_at(last + quiet, stream.message()).await {
        if let Some(Up::Records(records)) = message.unwrap().unwrap().message {
            last = tokio::time::Instant::now();
            bytes += records.frames.iter().map(Bytes::len).sum::<usize>();
            lanes.extend(
                records
                    .frames
                    .iter()
                    .map(|frame| Frame::decode(frame).unwrap().id.lane),
            );
        }
    }
    (lanes, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_that_is_used_up_holds_all_but_the_critical_lane() {
    let credit = 600_000;
    let Down::Welcome(welcome) = welcome() else {
        unreachable!()
    };
    let mut scene = Scene::new(vec![Down::Welcome(v1::Welcome {
        credit_bytes: credit as u64,
        ..welcome
    })])
    .await;
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(&scene.fleet.host().unwrap(), scene.address, folder.path());
    // Nothing of it is acknowledged, and there is more than the credit.
    for first in (0..1_000).step_by(50) {
        agent.append_noisy(first..first + 50);
        agent.flush().await;
    }
    let mut stream = tokio::time::timeout(PATIENCE, scene.open.recv())
        .await
        .unwrap()
        .unwrap();
    let (lanes, bytes) = frames_until_quiet(&mut stream).await;
    assert!(lanes.iter().all(|lane| *lane == Lane::Events), "{lanes:?}");
    assert!(
        bytes <= credit && bytes > credit / 4,
        "{bytes} bytes of a credit of {credit}"
    );
    assert!(
        agent.spool.stat().lanes[1].waiting > lanes.len() as u64,
        "more waits"
    );
    let now = TimeMicros::now();
    agent.spool.append(Gap {
        time: now,
        table: "*".to_owned(),
        lane: Lane::Events,
        from_time: now,
        to_time: now,
        count: 1,
        exactness: Exactness::Exact,
        stage: GapStage::Kernel,
        reason: "a test".to_owned(),
    });
    agent.flush().await;
    let (lanes, _) = frames_until_quiet(&mut stream).await;
    assert_eq!(lanes, [Lane::Critical]);
    agent.stop().await;
    drop(stream);
    scene.tasks.drain(PATIENCE).await;
}
