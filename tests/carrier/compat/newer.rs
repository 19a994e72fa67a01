//! Peers that are newer than this version: what they say beyond it is passed over, and a protocol of another number
//! is refused in words.

use bytes::Bytes;
use fleetmend_event::SpoolEpoch;
use fleetmend_identity::{Context, Signed, SignedTime};
use fleetmend_proto::PROTOCOL_VERSION;

use super::*;
use crate::agent::unit;

/// A field of bytes, as protobuf writes it.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(&mut bytes, u64::from(number) << 3 | 2);
    varint(&mut bytes, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
}

/// A message in the oneof's field `number`, with fields in it and beside it that nobody knows yet.
fn extended(number: u32, message: &impl fleetmend_proto::Message) -> Bytes {
    let mut inner = message.encode_to_vec();
    inner.extend(field(901, b"of tomorrow"));
    varint(&mut inner, 902 << 3);
    varint(&mut inner, 42);
    [field(900, b"beside it"), field(number, &inner)].concat().into()
}

/// A message of a kind that nobody knows yet.
fn unknown() -> Bytes {
    field(500, b"a message of tomorrow").into()
}

fn greeting(host: HostId, protocol: u32) -> v1::Hello {
    v1::Hello {
        protocol,
        host_id: Bytes::copy_from_slice(host.as_bytes()),
        agent_version: "99.0".to_owned(),
        epoch: Bytes::copy_from_slice(SpoolEpoch::random().as_bytes()),
        ..v1::Hello::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_agents_additions_are_passed_over() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let host = HostId::random();
    let identity = fleet.host_issued(host, TimeMicros::now()).unwrap();
    let hello = greeting(host, PROTOCOL_VERSION);
    let mut stream = RawStream::open(&identity, collector.address, extended(1, &hello)).await;
    let welcome = stream.down.message().await.unwrap().unwrap();
    assert!(matches!(down(&welcome), Some(Down::Welcome(_))));
    stream.up.send(unknown()).await.unwrap();
    let beat = v1::Heartbeat {
        time: Some(v1::TimeRequest {
            nonce: Bytes::from_static(&[3; 16]),
            bundle_version: 1,
        }),
        ..v1::Heartbeat::default()
    };
    stream.up.send(extended(3, &beat)).await.unwrap();
    // It is still listened to, and answered.
    let answer = async {
        loop {
            let message = stream.down.message().await.unwrap().unwrap();
            if let Some(Down::Time(answer)) = down(&message) {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    let signed: Signed<SignedTime> = Signed::from_bytes(answer.envelope.as_bytes()).unwrap();
    let time = signed
        .verify(&fleet.authority().anchors(), Context::Time)
        .unwrap();
    assert_eq!(time.nonce, "03".repeat(16));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_collectors_additions_are_passed_over() {
    let fleet = TestFleet::new().unwrap();
    let mut carrier = RawCarrier::start(&fleet).await;
    let agent = Agent::start(&fleet.host().unwrap(), carrier.address, fleet.folder());
    let mut opened = tokio::time::timeout(PATIENCE, carrier.opened.recv())
        .await
        .unwrap()
        .unwrap();
    let welcome = v1::Welcome {
        protocol: PROTOCOL_VERSION,
        store_epoch: Bytes::from(vec![1; 16]),
        ..v1::Welcome::default()
    };
    for message in [
        extended(1, &welcome),
        unknown(),
        extended(
            5,
            &v1::Hint {
                metrics_interval_ms: 77,
            },
        ),
    ] {
        opened.down.send(Ok(message)).await.unwrap();
    }
    let mut hints = agent.hints.clone();
    let hinted = hints.wait_for(|hint| hint.metrics_interval_ms == Some(77));
    tokio::time::timeout(PATIENCE, hinted).await.unwrap().unwrap();
    agent.spool.append(unit(1));
    let records = async {
        loop {
            let message = opened.up.message().await.unwrap().unwrap();
            if let Up::Records(records) = up(&message) {
                return records;
            }
        }
    };
    let records = tokio::time::timeout(PATIENCE, records).await.unwrap();
    assert_eq!(records.frames.len(), 1);
    assert_eq!(agent.state.borrow().phase, StreamPhase::Connected);
    agent.stop().await;
    carrier.tasks.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_of_another_number_is_refused_by_both_in_words() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let host = HostId::random();
    let identity = fleet.host_issued(host, TimeMicros::now()).unwrap();
    let hello = greeting(host, PROTOCOL_VERSION + 1);
    let mut stream = RawStream::open(&identity, collector.address, extended(1, &hello)).await;
    let answer = stream.down.message().await.unwrap().unwrap();
    let Some(Down::Goodbye(goodbye)) = down(&answer) else {
        panic!("{answer:?}");
    };
    // Trying again is of no use until somebody installs another version.
    assert!(!goodbye.retry);
    assert!(
        goodbye
            .reason
            .contains("agent speaks version 2, this collector 1"),
        "{}",
        goodbye.reason
    );
    collector.stop().await;

    let mut carrier = RawCarrier::start(&fleet).await;
    let agent = Agent::start(&fleet.host().unwrap(), carrier.address, fleet.folder());
    agent.append(0..1);
    let opened = tokio::time::timeout(PATIENCE, carrier.opened.recv())
        .await
        .unwrap()
        .unwrap();
    let welcome = v1::Welcome {
        protocol: PROTOCOL_VERSION + 1,
        ..v1::Welcome::default()
    };
    opened.down.send(Ok(extended(1, &welcome))).await.unwrap();
    let said = async || agent.state.borrow().last_error.clone().unwrap_or_default();
    wait_for(PATIENCE, said, |said| {
        said.contains("it speaks version 2, this agent 1")
    })
    .await
    .unwrap();
    agent.flush().await;
    assert_eq!(
        agent.spool.stat().lanes[1].waiting,
        1,
        "the spool keeps its record"
    );
    agent.stop().await;
    carrier.tasks.drain(PATIENCE).await;
}
