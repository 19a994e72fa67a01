//! Whoever breaks the rules gets a clear error, and nothing else stops.

use agent_stream::StreamPhase;
use bytes::{BufMut as _, Bytes, BytesMut};
use fleetmend_event::Lane;
use fleetmend_proto::v1;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_testkit::{TestFleet, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::PATIENCE;
use super::agent::{Agent, unit};
use super::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stolen_host_id_is_refused_and_audited() {
    let scene = Scene::new().await;
    let (thief, victim) = (scene.fleet.host().unwrap(), scene.fleet.host().unwrap());
    let mut caller = scene.call(&thief).await;
    caller.send(caller.hello(victim.current().host())).await;
    let goodbye = caller.goodbye().await;
    assert!(
        !goodbye.retry && goodbye.reason.starts_with("host_id"),
        "{goodbye:?}"
    );
    let row = scene.collector.audited("stream", "host_id").await;
    assert_eq!(
        row.host,
        Some(thief.current().host()),
        "the audit names who did it"
    );
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_without_hello_is_refused() {
    let scene = Scene::new().await;
    let host = scene.fleet.host().unwrap();
    let mut silent = scene.call(&host).await;
    assert!(silent.goodbye().await.reason.starts_with("no_hello"));
    let mut hasty = scene.call(&host).await;
    hasty.send(Up::Heartbeat(v1::Heartbeat::default())).await;
    assert!(hasty.goodbye().await.reason.starts_with("no_hello"));
    let mut old = scene.call(&host).await;
    let Up::Hello(hello) = old.hello(host.current().host()) else {
        unreachable!()
    };
    old.send(Up::Hello(v1::Hello {
        protocol: 99,
        ..hello
    }))
    .await;
    assert!(old.goodbye().await.reason.contains("speaks version 99"));
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_frame_are_refused_and_audited() {
    let scene = Scene::new().await;
    for bytes in [Bytes::from_static(b"garbage"), Bytes::from(vec![0; 4096])] {
        let host = scene.fleet.host().unwrap();
        let mut caller = scene.welcomed(&host).await;
        caller.send_frames(vec![bytes]).await;
        let goodbye = caller.goodbye().await;
        assert!(
            !goodbye.retry && goodbye.reason.contains("is none"),
            "{goodbye:?}"
        );
        assert!(scene.sink.frames(host.current().host()).is_empty());
    }
    scene.collector.audited("stream", "malformed").await;
    let host = scene.fleet.host().unwrap();
    let mut flipped = scene.welcomed(&host).await;
    let mut bytes = flipped.frame(Lane::Events, 1, &[unit(1)]).encode().to_vec();
    bytes[90] ^= 1;
    flipped.send_frames(vec![bytes.into()]).await;
    assert!(flipped.goodbye().await.reason.contains("checksum"));
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_of_a_gibibyte_is_refused_before_it_is_read() {
    let scene = Scene::new().await;
    let host = scene.fleet.host().unwrap();
    let caller = scene.welcomed(&host).await;
    // Larger than any message may be, in one piece.
    caller.send_frames(vec![Bytes::from(vec![7; 8 << 20])]).await;
    scene.collector.audited("stream", "too_large").await;
    scene.collector.disconnected(host.current().host()).await;

    // Only the announcement of a gibibyte, over HTTP/2 by hand.
    let tls = scene.fleet.host_tls(&host).unwrap();
    let stream = TcpStream::connect(scene.collector.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls);
    let mut stream = connector
        .connect(fleetmend_identity::tls::server_name(), stream)
        .await
        .unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut bytes = BytesMut::new();
    // SETTINGS without any, then a frame of HTTP/2 of 16 MiB - 1, the most that its header can say.
    bytes.put_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.put_slice(&[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection stays");
    assert!(closed.is_err() || answer.len() < 1024, "{} bytes", answer.len());
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_plain_text_on_the_port_stop_nobody() {
    let scene = Scene::new().await;
    let noise: Vec<u8> = (0..65_536_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        noise,
        vec![0x16, 3, 1, 0xFF, 0xFF],
    ] {
        let mut stream = TcpStream::connect(scene.collector.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .expect("the connection stays");
        assert!(read.is_err() || answer.len() < 32, "{answer:?}");
    }
    scene.collector.audited("handshake", "not_tls").await;
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_record_keeps_its_number_and_the_host_goes_on() {
    let scene = Scene::new().await;
    let host = scene.fleet.host().unwrap();
    let mut caller = scene.welcomed(&host).await;
    // Rows of the events lane in the critical one.
    let poison = caller.frame(Lane::Critical, 1, &[unit(1), unit(2)]);
    let good = caller.frame(Lane::Events, 1, &[unit(3)]);
    caller.send_frames(vec![poison.encode(), good.encode()]).await;
    assert_eq!(caller.acknowledged().await.len(), 2);
    let host = host.current().host();
    assert_eq!(scene.sink.units(host), [3]);
    assert!(
        scene
            .sink
            .frames(host)
            .iter()
            .any(|frame| frame.tombstone && frame.id.lane == Lane::Critical)
    );
    let gaps = scene.sink.gaps(host);
    assert_eq!(
        (gaps.len(), gaps[0].count, gaps[0].reason.as_str()),
        (1, 2, "wrong_lane")
    );
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_number_with_other_content_is_audited_and_passed_over() {
    let scene = Scene::new().await;
    let host = scene.fleet.host().unwrap();
    let mut caller = scene.welcomed(&host).await;
    let first = caller.frame(Lane::Events, 1, &[unit(1)]);
    caller.send_frames(vec![first.encode()]).await;
    assert_eq!(caller.acknowledged().await, [1]);
    // The very same again is nothing.
    caller.send_frames(vec![first.encode()]).await;
    assert_eq!(caller.acknowledged().await, [1]);
    let forged = caller.frame(Lane::Events, 1, &[unit(666)]);
    let next = caller.frame(Lane::Events, 2, &[unit(2)]);
    caller.send_frames(vec![forged.encode(), next.encode()]).await;
    assert_eq!(caller.acknowledged().await, [2]);
    assert_eq!(
        scene.sink.units(host.current().host()),
        [1, 2],
        "the stored one stays"
    );
    scene.collector.audited("stream", "identity_conflict").await;
    assert_eq!(
        scene.sink.gaps(host.current().host())[0].reason,
        "identity_conflict"
    );
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clone_raises_an_alarm_and_the_newer_stream_stays() {
    let scene = Scene::new().await;
    let host = scene.fleet.host().unwrap();
    let mut older = scene.welcomed(&host).await;
    let mut newer = scene.welcomed(&host).await;
    let goodbye = older.goodbye().await;
    assert!(goodbye.retry && goodbye.retry_after_ms >= 30_000, "{goodbye:?}");
    let row = scene.collector.audited("clone", "clone").await;
    assert_eq!(row.host, Some(host.current().host()));
    let frame = newer.frame(Lane::Events, 1, &[unit(1)]);
    newer.send_frames(vec![frame.encode()]).await;
    assert_eq!(newer.acknowledged().await, [1]);
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_closes_the_live_stream_and_refuses_the_next() {
    let scene = Scene::new().await;
    let identity = scene.fleet.host().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(&identity, scene.collector.address, folder.path());
    agent.append(0..1);
    agent.delivered().await;
    let key = identity.current().peer().key;
    scene.collector.enroller.revocations().revoke(agent.host, key);
    let state = agent.phase(StreamPhase::Refused).await;
    assert!(
        state
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("revoked")),
        "{state:?}"
    );
    scene.collector.disconnected(agent.host).await;
    scene.collector.audited("stream", "revoked").await;
    agent.append(1..2);
    agent.flush().await;
    assert_eq!(scene.sink.units(agent.host), [0]);
    agent.stop().await;
    let again = Agent::start(&identity, scene.collector.address, folder.path());
    let state = again.phase(StreamPhase::Refused).await;
    assert!(
        state
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("revoked")),
        "{state:?}"
    );
    again.stop().await;
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_ca_is_told_in_words_and_waits_for_a_person() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(
        &scene.fleet.wrong_ca_host().unwrap(),
        scene.collector.address,
        folder.path(),
    );
    let state = agent.phase(StreamPhase::Refused).await;
    assert!(
        state
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("another fleet")),
        "{state:?}"
    );
    agent.stop().await;
    scene.still_serves().await;
    scene.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_that_is_none_is_retried_and_said_so() {
    let (fleet, folder) = (TestFleet::new().unwrap(), tempfile::tempdir().unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
    };
    let agent = Agent::start(&fleet.host().unwrap(), address, folder.path());
    let told = async {
        let state = async || agent.state.borrow().last_error.clone().unwrap_or_default();
        wait_for(PATIENCE, state, |error| error.contains("does not speak TLS"))
            .await
            .unwrap()
    };
    tokio::select! {
        () = plain => {}
        _ = told => {}
    }
    agent.append(0..5);
    agent.flush().await;
    assert_eq!(
        agent.spool.stat().lanes[1].waiting,
        1,
        "the spool keeps what cannot be sent"
    );
    agent.stop().await;
}
