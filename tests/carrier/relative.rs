//! Frames that travel relative to those before them: what arrives is what was spooled, whatever either end knows of
//! relative frames and whatever happens to the stream between them.

use agent_stream::{StreamPhase, StreamState};
use bytes::Bytes;
use collector_ingest::IngestConfig;
use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::relative::{Bases, Limits, is_relative};
use fleetmend_event::table::{MetricChunk, Table, UnitState};
use fleetmend_event::{HostId, Lane, MetricFrame, SeriesKey, SeriesSet, TimeMicros, batch, metric};
use fleetmend_identity::LiveIdentity;
use fleetmend_proto::v1;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_testkit::wait_for;

use super::PATIENCE;
use super::agent::{Agent, unit};
use super::collector::Collector;
use super::scene::{Caller, Scene};

const SERIES: u32 = 60;
const START: i64 = 1_800_000_000_000_000;

fn series() -> SeriesSet {
    let key = |number: u32| {
        SeriesKey::new(
            "system.cpu.time",
            "s",
            [("cpu.logical_number", number.to_string().as_str())],
        )
    };
    (0..SERIES).map(key).collect::<Vec<_>>().into()
}

/// Counters and noise, the same in every run.
fn tick(series: &SeriesSet, second: u32) -> MetricFrame {
    let value = |number: u32| {
        let noise = second.wrapping_mul(2_654_435_761).wrapping_mul(number + 1) >> 20;
        f64::from(1_000 * number + 17 * second) + f64::from(noise) / 100.0
    };
    MetricFrame {
        time: TimeMicros(START + i64::from(second) * 1_000_000),
        series: series.clone(),
        values: (0..SERIES).map(value).collect(),
    }
}

/// Bytes of one second's body before compression.
fn plain_bytes(series: &SeriesSet) -> u64 {
    let rows = MetricChunk::to_batch(&metric::chunks(&[tick(series, 0)])).unwrap();
    batch::plain(&rows).unwrap().len() as u64
}

fn bytes(bytes: u64) -> ByteSize {
    serde_json::from_value(format!("{bytes}B").into()).unwrap()
}

struct Sending {
    scene: Scene,
    agent: Agent,
    series: SeriesSet,
    _folder: tempfile::TempDir,
}

impl Sending {
    async fn begin(config: IngestConfig) -> Self {
        let scene = Scene::with(config).await;
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(
            &scene.fleet.host().unwrap(),
            scene.collector.address,
            folder.path(),
        );
        agent.phase(StreamPhase::Connected).await;
        Self {
            scene,
            agent,
            series: series(),
            _folder: folder,
        }
    }

    /// A batch for every second.
    async fn seconds(&self, seconds: std::ops::Range<u32>) {
        for second in seconds {
            self.agent.spool.append(tick(&self.series, second));
            self.agent.flush().await;
        }
    }

    /// Everything has arrived, as it was; how long it was on the wire and is in the store.
    async fn end(self, seconds: u32) -> (StreamState, u64) {
        self.agent.delivered().await;
        let sent = async || self.agent.state.borrow().clone();
        let state = wait_for(PATIENCE, sent, |state| {
            state.frames_acknowledged >= u64::from(seconds)
        })
        .await
        .unwrap();
        let stored = self.arrived(self.agent.host, seconds);
        self.agent.stop().await;
        self.scene.collector.stop().await;
        (state, stored)
    }

    fn arrived(&self, host: HostId, seconds: u32) -> u64 {
        let frames = self.scene.sink.frames(host);
        let metrics: Vec<_> = frames
            .iter()
            .filter(|frame| frame.table == MetricChunk::ID)
            .collect();
        assert_eq!(metrics.len(), seconds as usize);
        for (frame, second) in metrics.iter().zip(0..) {
            let rows = MetricChunk::from_batch(&frame.batch().unwrap().unwrap()).unwrap();
            assert_eq!(
                rows,
                metric::chunks(&[tick(&self.series, second)]),
                "second {second}"
            );
        }
        assert!(self.scene.sink.gaps(host).is_empty());
        metrics.iter().map(|frame| frame.encoded_len() as u64).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_one_second_arrive_as_they_were_and_travel_short() {
    let sending = Sending::begin(IngestConfig::default()).await;
    sending.seconds(0..40).await;
    let (state, stored) = sending.end(40).await;
    assert!(
        state.bytes_sent * 3 < stored * 2,
        "{} of {stored}",
        state.bytes_sent
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_is_opened_again_begins_anew_and_loses_nothing() {
    let mut sending = Sending::begin(IngestConfig::default()).await;
    sending.seconds(0..15).await;
    sending.agent.delivered().await;
    for round in 1..3 {
        let address = sending.scene.collector.address;
        let stopped = Collector::start(&sending.scene.fleet, &sending.scene.sink).await;
        std::mem::replace(&mut sending.scene.collector, stopped)
            .stop()
            .await;
        sending.seconds(round * 15..round * 15 + 10).await;
        let again = Collector::start_at(
            &sending.scene.fleet,
            &sending.scene.sink,
            address,
            IngestConfig::default(),
        );
        std::mem::replace(&mut sending.scene.collector, again.await)
            .stop()
            .await;
        sending.seconds(round * 15 + 10..round * 15 + 15).await;
        sending.agent.delivered().await;
    }
    let (state, stored) = sending.end(45).await;
    assert!(state.bytes_sent < stored, "{} of {stored}", state.bytes_sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_that_agrees_on_nothing_is_sent_frames_as_they_are_spooled() {
    // What a collector of before relative frames says is what one without room for bases says: nothing.
    let sending = Sending::begin(IngestConfig {
        bases_bytes_max: ByteSize::from_mib(0),
        ..IngestConfig::default()
    })
    .await;
    sending.seconds(0..20).await;
    let (state, stored) = sending.end(20).await;
    assert!(state.bytes_sent >= stored, "{} of {stored}", state.bytes_sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_that_wants_its_memory_back_gets_it_without_a_break() {
    let sending = Sending::begin(IngestConfig {
        bases_bytes_max: bytes(plain_bytes(&series()) - 1),
        ..IngestConfig::default()
    })
    .await;
    sending.seconds(0..1).await;
    sending.agent.delivered().await;
    sending.seconds(1..20).await;
    let (state, stored) = sending.end(20).await;
    assert_eq!(state.last_error, None);
    assert!(
        state.bytes_sent * 10 > stored * 9,
        "{} of {stored}",
        state.bytes_sent
    );
}

/// A stream by hand whose hello offers what agents offer.
async fn offering(scene: &Scene, identity: &LiveIdentity) -> (Caller, Bases) {
    let mut caller = scene.call(identity).await;
    let Up::Hello(hello) = caller.hello(identity.current().host()) else {
        unreachable!()
    };
    let bases = Some(v1::BodyBases::from(Limits::OWN));
    caller.send(Up::Hello(v1::Hello { bases, ..hello })).await;
    match caller.next().await {
        Some(Down::Welcome(welcome)) => assert_eq!(welcome.bases, bases),
        other => panic!("no welcome but {other:?}"),
    }
    (caller, Bases::new(Limits::OWN))
}

fn frame(caller: &Caller, number: u64, unit_number: u64) -> Bytes {
    caller.frame(Lane::Events, number, &[unit(unit_number)]).encode()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frame_whose_base_is_missing_or_another_is_sent_again_whole() {
    let scene = Scene::new().await;
    for other_base in [false, true] {
        let identity = scene.fleet.host().unwrap();
        let (mut caller, mut honest) = offering(&scene, &identity).await;
        let first = frame(&caller, 1, 1);
        caller.send_frames(vec![honest.shorten(&first)]).await;
        assert_eq!(caller.acknowledged().await, [1]);
        let mut confused = Bases::new(Limits::OWN);
        confused.shorten(&match other_base {
            true => frame(&caller, 1, 7_777),
            false => frame(&caller, 5, 1),
        });
        let (second, third) = (frame(&caller, 2, 2), frame(&caller, 3, 3));
        let hostile = confused.shorten(&second);
        assert!(is_relative(&hostile));
        caller.send_frames(vec![hostile, confused.shorten(&third)]).await;
        let goodbye = caller.goodbye().await;
        assert!(goodbye.retry && goodbye.self_contained, "{goodbye:?}");
        let reason = if other_base {
            "relative body"
        } else {
            "which is not kept"
        };
        assert!(goodbye.reason.contains(reason), "{goodbye:?}");

        let (mut again, _) = offering(&scene, &identity).await;
        again.epoch = caller.epoch;
        again.send_frames(vec![second, third]).await;
        assert_eq!(again.acknowledged().await, [3]);
        assert_eq!(scene.sink.units(identity.current().host()), [1, 2, 3]);
    }
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_that_came_relative_and_comes_again_whole_is_the_same_record() {
    let scene = Scene::new().await;
    let identity = scene.fleet.host().unwrap();
    let (mut caller, mut bases) = offering(&scene, &identity).await;
    let frames = [frame(&caller, 1, 1), frame(&caller, 2, 2)];
    let sent: Vec<Bytes> = frames.iter().map(|frame| bases.shorten(frame)).collect();
    assert!(is_relative(&sent[1]));
    caller.send_frames(sent).await;
    assert_eq!(caller.acknowledged().await, [2]);
    let (mut again, _) = offering(&scene, &identity).await;
    again.send_frames(frames.to_vec()).await;
    assert_eq!(again.acknowledged().await, [2]);
    assert_eq!(scene.sink.repeated(), 2);
    assert_eq!(scene.sink.units(identity.current().host()), [1, 2]);
    let audit = scene.collector.enroller.audit().newest(100).await.unwrap();
    assert!(
        audit
            .iter()
            .all(|row| !row.detail.starts_with("identity_conflict"))
    );
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_counts_what_relative_frames_take_in_the_store() {
    let scene = Scene::with(IngestConfig {
        bytes_per_host_per_s: ByteSize(64 * 1024),
        quota_burst: HumanDuration::from_secs(1),
        ..IngestConfig::default()
    })
    .await;
    let identity = scene.fleet.host().unwrap();
    let (mut caller, mut bases) = offering(&scene, &identity).await;
    let mut noise = 7_u64;
    let description: String = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + (noise >> 58) as u8)
    })
    .take(40_000)
    .collect();
    let frame = |number| {
        let row = UnitState {
            description: description.clone(),
            ..unit(number)
        };
        bases.shorten(&caller.frame(Lane::Events, number, &[row]).encode())
    };
    let mut frames: Vec<Bytes> = (1..=20).map(frame).collect();
    let again = frames.split_off(1);
    assert!(again.iter().map(Bytes::len).sum::<usize>() < 16 * 1024);
    caller.send_frames(frames).await;
    assert_eq!(caller.acknowledged().await, [1]);
    caller.send_frames(again).await;
    assert_eq!(caller.acknowledged().await, [20]);
    let goodbye = caller.goodbye().await;
    assert!(
        goodbye.retry && goodbye.reason.starts_with("quota_bytes"),
        "{goodbye:?}"
    );
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_that_offers_nothing_is_served_and_may_send_nothing_relative() {
    let scene = Scene::new().await;
    let identity = scene.fleet.host().unwrap();
    let mut caller = scene.call(&identity).await;
    caller.send(caller.hello(identity.current().host())).await;
    match caller.next().await {
        Some(Down::Welcome(welcome)) => assert_eq!(welcome.bases, None),
        other => panic!("no welcome but {other:?}"),
    }
    let mut bases = Bases::new(Limits::OWN);
    let first = bases.shorten(&frame(&caller, 1, 1));
    caller.send_frames(vec![first]).await;
    assert_eq!(caller.acknowledged().await, [1]);
    let second = bases.shorten(&frame(&caller, 2, 2));
    assert!(is_relative(&second));
    caller.send_frames(vec![second]).await;
    let goodbye = caller.goodbye().await;
    assert!(
        !goodbye.retry && goodbye.reason.contains("unknown codec 2"),
        "{goodbye:?}"
    );
    scene.still_serves().await;
    scene.collector.stop().await;
}
