//! What a host can cost: whoever floods, lies, dawdles or hoards takes bounded memory, is named in the audit, and
//! takes nothing from the others.

mod raw;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use collector_ingest::IngestConfig;
use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::{Frame, Lane, SpoolEpoch};
use fleetmend_proto::v1;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_testkit::wait_for;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use self::raw::{RawCall, message, prefix};
use super::PATIENCE;
use super::agent::unit;
use super::collector::impatient;
use super::scene::{Caller, Scene};
use super::sink::Mood;

const MIB: usize = 1 << 20;
const SOON: HumanDuration = HumanDuration::from_millis(1_500);

/// Frames of a quarter of a mebibyte that nothing can make smaller.
fn large_frames(caller: &Caller, count: u64) -> Vec<Bytes> {
    let frame = |number| {
        let small = caller.frame(Lane::Events, number, &[unit(number)]);
        let noise = (0..250_u32 * 1024).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0]);
        Frame {
            body: noise.collect::<Vec<u8>>().into(),
            ..small
        }
        .encode()
    };
    (1..=count).map(frame).collect()
}

/// What is said next; nothing when that takes longer than it should.
async fn next_within(caller: &mut Caller, within: Duration) -> Option<Down> {
    let next = tokio::time::timeout(within, caller.incoming.message()).await;
    next.ok()?.ok()??.message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_store_makes_the_budget_answer_and_not_grow() {
    let scene = Scene::with(IngestConfig {
        in_flight_bytes_max: ByteSize::from_mib(16),
        room_timeout: SOON,
        ..IngestConfig::default()
    })
    .await;
    scene.sink.set(Mood::Stuck);
    let mut callers = Vec::new();
    for _ in 0..10 {
        let caller = scene.welcomed(&scene.fleet.host().unwrap()).await;
        caller.send_frames(large_frames(&caller, 15)).await;
        callers.push(caller);
    }
    let (mut waiting, mut sent_away, begun) = (callers, 0, Instant::now());
    while sent_away < 7 {
        assert!(begun.elapsed() < PATIENCE, "only {sent_away} were sent away");
        for mut caller in std::mem::take(&mut waiting) {
            match next_within(&mut caller, Duration::from_millis(50)).await {
                Some(Down::Goodbye(goodbye)) => {
                    assert!(goodbye.retry && goodbye.retry_after_ms >= 2_000, "{goodbye:?}");
                    assert!(goodbye.reason.contains("no room"), "{goodbye:?}");
                    sent_away += 1;
                }
                None => waiting.push(caller),
                other => panic!("neither goodbye nor silence but {other:?}"),
            }
        }
    }
    // Fourteen of sixteen mebibytes are for large messages; each has not quite four.
    assert_eq!((waiting.len(), sent_away), (3, 7));
    let in_flight = scene.collector.ingest.in_flight();
    assert!(in_flight.bytes_most <= 14 * MIB, "{in_flight:?}");
    // The critical lane has room all the same.
    let mut small = scene.welcomed(&scene.fleet.host().unwrap()).await;
    let frame = small.frame(Lane::Events, 1, &[unit(1)]).encode();
    small.send_frames(vec![frame]).await;
    assert!(next_within(&mut small, Duration::from_secs(1)).await.is_none());
    scene.sink.set(Mood::Well);
    assert_eq!(small.acknowledged().await, [1]);
    for caller in &mut waiting {
        assert_eq!(caller.acknowledged().await, [15]);
    }
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_takes_room_for_one_message_and_who_takes_no_answers_is_named() {
    let scene = Scene::with(IngestConfig {
        answer_timeout: SOON,
        idle_timeout: SOON,
        ..IngestConfig::default()
    })
    .await;
    let identity = scene.fleet.host().unwrap();
    let caller = scene.welcomed(&identity).await;
    // Each acknowledgement names two hundred streams: answers that are not taken soon fill their window.
    let one = caller.frame(Lane::Events, 1, &[unit(1)]);
    let frames: Vec<Bytes> = (0..200)
        .map(|_| {
            let mut frame = one.clone();
            frame.id.epoch = SpoolEpoch::random();
            frame.encode()
        })
        .collect();
    let length: usize = frames.iter().map(Bytes::len).sum();
    let flood = async {
        loop {
            let message = v1::AgentMessage {
                message: Some(Up::Records(v1::Records {
                    frames: frames.clone(),
                    ..v1::Records::default()
                })),
            };
            if caller.outgoing.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, flood)
        .await
        .expect("the flood is never ended");
    let row = scene.collector.audited("stream", "stuck").await;
    assert_eq!(row.host, Some(identity.current().host()));
    let in_flight = scene.collector.ingest.in_flight();
    assert!(
        in_flight.bytes_most < 2 * length,
        "{in_flight:?} of messages of {length}"
    );
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_over_its_quota_is_held_or_sent_away_and_named_once() {
    let scene = Scene::with(IngestConfig {
        rows_per_host_per_s: 100,
        quota_burst: HumanDuration::from_secs(1),
        ..IngestConfig::default()
    })
    .await;
    let identity = scene.fleet.host().unwrap();
    let rows: Vec<_> = (0..130).map(unit).collect();
    let mut caller = scene.welcomed(&identity).await;
    let frame = caller.frame(Lane::Events, 1, &rows).encode();
    caller.send_frames(vec![frame]).await;
    // What came is stored and acknowledged; the next is read when the host is within its quota again.
    assert_eq!(caller.acknowledged().await, [1]);
    let frame = caller.frame(Lane::Events, 2, &rows[..1]).encode();
    caller.send_frames(vec![frame]).await;
    assert_eq!(caller.acknowledged().await, [2]);
    let many: Vec<_> = (0..1_000).map(unit).collect();
    let frame = caller.frame(Lane::Events, 3, &many).encode();
    caller.send_frames(vec![frame]).await;
    assert_eq!(caller.acknowledged().await, [3]);
    let goodbye = caller.goodbye().await;
    assert!(
        goodbye.retry && goodbye.reason.starts_with("quota_rows"),
        "{goodbye:?}"
    );
    assert!((5_000..=60_000).contains(&goodbye.retry_after_ms), "{goodbye:?}");
    let row = scene.collector.audited("stream", "quota_rows").await;
    assert_eq!(row.host, Some(identity.current().host()));
    let named = scene.collector.enroller.audit().newest(100).await.unwrap();
    assert_eq!(
        named.iter().filter(|row| row.detail.starts_with("quota")).count(),
        1
    );
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_promised_to_keep_to_its_credit_and_does_not_is_refused() {
    let scene = Scene::new().await;
    let identity = scene.fleet.host().unwrap();
    let mut caller = scene.call(&identity).await;
    let Up::Hello(hello) = caller.hello(identity.current().host()) else {
        unreachable!()
    };
    caller
        .send(Up::Hello(v1::Hello {
            credit: true,
            ..hello
        }))
        .await;
    let Some(Down::Welcome(welcome)) = caller.next().await else {
        panic!("no welcome")
    };
    assert!(
        (512 << 10..=2 << 20).contains(&welcome.credit_bytes),
        "{welcome:?}"
    );
    caller.send_frames(large_frames(&caller, 1)).await;
    let Some(Down::Acknowledged(acknowledged)) = caller.next().await else {
        panic!("no acknowledgement")
    };
    assert!(
        acknowledged.credit_bytes > welcome.credit_bytes,
        "credit is renewed"
    );
    caller.send_frames(large_frames(&caller, 16)).await;
    let goodbye = caller.goodbye().await;
    assert!(
        !goodbye.retry && goodbye.reason.starts_with("credit"),
        "{goodbye:?}"
    );
    scene.collector.audited("stream", "credit").await;
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_about_lengths_are_refused_at_the_first_byte_and_named() {
    let scene = Scene::new().await;
    let frames = |frames: Vec<Bytes>| {
        message(Up::Records(v1::Records {
            frames,
            ..v1::Records::default()
        }))
    };
    let epoch = SpoolEpoch::random();
    let lying_frame = |claimed: u32| {
        let mut frame = vec![b'F', b'M', b'R', 1, 0, 0, 0, 0];
        frame.extend(claimed.to_le_bytes());
        frame.extend([0; 100]);
        Bytes::from(frame)
    };
    // A field that claims more bytes than its message has.
    let short_field = [&prefix(4)[..], &[0x12, 0x7f, 0x0a, 0x7d]].concat();
    for (name, bytes, code) in [
        ("gRPC length of 4 GiB", prefix(u32::MAX).to_vec(), "too_large"),
        ("protobuf length", short_field, "malformed"),
        (
            "frame length of 4 GiB",
            frames(vec![lying_frame(u32::MAX)]),
            "malformed",
        ),
        (
            "frame length beyond it",
            frames(vec![lying_frame(200_000)]),
            "malformed",
        ),
        (
            "compressed, which was not agreed",
            vec![1, 0, 0, 0, 1, 0],
            "malformed",
        ),
    ] {
        let identity = scene.fleet.host().unwrap();
        let mut call = RawCall::welcomed(&scene, &identity, epoch).await;
        call.send(bytes.into()).await;
        call.ended(name).await;
        let host = identity.current().host();
        let rows = async || scene.collector.enroller.audit().newest(100).await.unwrap();
        let named = wait_for(PATIENCE, rows, |rows| {
            rows.iter().any(|row| row.host == Some(host))
        })
        .await
        .unwrap();
        let row = named.iter().find(|row| row.host == Some(host)).unwrap();
        assert!(row.detail.starts_with(code), "{name}: {row:?}");
    }
    let in_flight = scene.collector.ingest.in_flight();
    assert!(
        in_flight.bytes_most < MIB,
        "nothing was taken for them: {in_flight:?}"
    );
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_that_trickles_is_given_up_and_its_host_named() {
    let scene = Scene::with(IngestConfig {
        message_timeout: SOON,
        ..IngestConfig::default()
    })
    .await;
    let identity = scene.fleet.host().unwrap();
    let mut call = RawCall::welcomed(&scene, &identity, SpoolEpoch::random()).await;
    call.send(prefix(8_000)).await;
    let trickle = async {
        while call.try_send(Bytes::from_static(&[0])).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle)
        .await
        .expect("the trickle is never ended");
    let row = scene.collector.audited("stream", "too_slow").await;
    assert_eq!(row.host, Some(identity.current().host()));
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_that_opens_connections_without_end_keeps_its_share_and_is_named() {
    let scene = Scene::with(IngestConfig {
        connections_per_address_max: 8,
        handshakes_per_address_max: 4,
        // The honest hosts have to shake hands within it too.
        handshake_timeout: HumanDuration::from_secs(3),
        ..IngestConfig::default()
    })
    .await;
    let hoarder = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(connect_from(hoarder, scene.collector.address).await);
    }
    // Those beyond its share are closed at once; the others' handshakes end in their turn.
    for stream in &mut open {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection stays");
    }
    let row = scene.collector.audited("handshake", "too_many_connections").await;
    assert_eq!(row.source.as_deref(), Some("127.0.0.77"));
    scene.collector.audited("handshake", "handshake_timeout").await;
    scene.still_serves().await;
    scene.collector.stop().await;
}

async fn connect_from(address: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_opens_connections_and_streams_without_end_keeps_its_share() {
    let scene = Scene::with(IngestConfig {
        connections_per_host_max: 3,
        streams_per_host_max: 2,
        ..IngestConfig::default()
    })
    .await;
    let identity = scene.fleet.host().unwrap();
    let host = Some(identity.current().host());
    let (mut first, _second) = (scene.call(&identity).await, scene.call(&identity).await);
    let mut third = scene.call(&identity).await;
    let goodbye = third.goodbye().await;
    assert!(
        goodbye.retry && goodbye.reason.contains("too many streams"),
        "{goodbye:?}"
    );
    assert_eq!(
        scene
            .collector
            .audited("stream", "too_many_streams_of_host")
            .await
            .host,
        host
    );
    let tls = scene.fleet.host_tls(&identity).unwrap();
    let mut fourth = tls_to(scene.collector.address, tls).await;
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, fourth.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection stays");
    assert_eq!(
        scene
            .collector
            .audited("handshake", "too_many_connections")
            .await
            .host,
        host
    );
    // What it had goes on.
    first.send(first.hello(identity.current().host())).await;
    assert!(matches!(first.next().await, Some(Down::Welcome(_))));
    scene.still_serves().await;
    scene.collector.stop().await;
}

async fn tls_to(
    address: SocketAddr,
    tls: std::sync::Arc<rustls::ClientConfig>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls);
    let name = fleetmend_identity::tls::server_name();
    connector.connect(name, stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_on_which_nobody_calls_is_closed() {
    let scene = Scene::with(IngestConfig {
        idle_timeout: SOON,
        ..IngestConfig::default()
    })
    .await;
    let identity = scene.fleet.host().unwrap();
    // One that says nothing, and one that speaks HTTP/2 and calls nobody.
    for said in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let tls = scene.fleet.host_tls(&identity).unwrap();
        let mut stream = tls_to(scene.collector.address, tls).await;
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection stays");
    }
    // A host that has a stream and says nothing on it for longer stays.
    let mut quiet = scene.welcomed(&identity).await;
    assert!(next_within(&mut quiet, SOON.get() * 2).await.is_none());
    let frame = quiet.frame(Lane::Events, 1, &[unit(1)]).encode();
    quiet.send_frames(vec![frame]).await;
    assert_eq!(quiet.acknowledged().await, [1]);
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_streams_in_all_are_told_to_come_back() {
    let scene = Scene::with(IngestConfig {
        streams_max: 2,
        ..impatient()
    })
    .await;
    let _first = scene.welcomed(&scene.fleet.host().unwrap()).await;
    let second = scene.welcomed(&scene.fleet.host().unwrap()).await;
    let mut third = scene.call(&scene.fleet.host().unwrap()).await;
    let goodbye = third.goodbye().await;
    assert!(goodbye.retry && goodbye.retry_after_ms >= 2_000, "{goodbye:?}");
    drop(second);
    // The place of one that went is free.
    scene.still_serves().await;
    scene.collector.stop().await;
}
