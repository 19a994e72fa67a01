//! Agents and collectors of other versions.
//!
//! `compat/v*` are recordings of whole sessions, each made when the protocol, the spool or the frames grew; see
//! `compat/README.md`. Today's collector takes what a recorded agent said and must store exactly the recorded rows;
//! today's agent takes over the recorded spool, hears what a recorded collector said, and must send all of it.

mod newer;
mod raw;
mod record;
mod recording;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_stream::StreamPhase;
use bytes::Bytes;
use fleetmend_event::relative::{Bases, Limits};
use fleetmend_event::{Frame, HostId, Lane, Mark, SpoolEpoch, TimeMicros};
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{Message as _, v1};
use fleetmend_testkit::{TestFleet, wait_for};

use self::raw::{RawCarrier, RawStream};
use self::record::{ENVELOPE, HINT_MS, ORDER, keeping, record, stored};
use self::recording::{Direction, Recording};
use super::PATIENCE;
use super::agent::Agent;
use super::collector::Collector;
use super::sink::MemorySink;

/// Names the recording that is to be made anew: `FLEETMEND_COMPAT_RECORD=v3`.
const RECORD: &str = "FLEETMEND_COMPAT_RECORD";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("carrier/compat")
}

/// Every recording there is, with its name.
fn recordings() -> Vec<(String, Recording)> {
    let entries = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|path| path.is_dir())
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                Recording::read(&path),
            )
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(found.len() >= 2, "only {} recordings", found.len());
    found
}

fn up(message: &Bytes) -> Up {
    v1::AgentMessage::decode(message.clone())
        .unwrap()
        .message
        .unwrap()
}

fn down(message: &Bytes) -> Option<Down> {
    v1::CollectorMessage::decode(message.clone()).unwrap().message
}

fn hello(recording: &Recording) -> (Bytes, v1::Hello) {
    let first = recording.of(Direction::Up).remove(0);
    match up(&first) {
        Up::Hello(hello) => (first, hello),
        other => panic!("a recording begins with {other:?}"),
    }
}

fn host_of(hello: &v1::Hello) -> HostId {
    HostId::from_bytes(hello.host_id.as_ref().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_collector_stores_what_recorded_agents_said() {
    for (name, recording) in recordings() {
        collector_takes(&name, &recording).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_agent_sends_a_recorded_spool_to_recorded_collectors() {
    for (name, recording) in recordings() {
        agent_takes(&name, &recording).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_made_now_is_replayed_both_ways() {
    let made = record().await;
    let folder = match std::env::var(RECORD) {
        Ok(name) => folder().join(name),
        Err(_) => tempfile::tempdir().unwrap().keep(),
    };
    made.write(&folder);
    let read = Recording::read(&folder);
    assert_eq!(read.messages, made.messages);
    collector_takes("now", &read).await;
    agent_takes("now", &read).await;
    if std::env::var(RECORD).is_err() {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

async fn collector_takes(name: &str, recording: &Recording) {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let mut collector = Collector::start(&fleet, &sink).await;
    let (first, hello) = hello(recording);
    let host = host_of(&hello);
    let identity = fleet.host_issued(host, TimeMicros::now()).unwrap();
    let mut stream = RawStream::open(&identity, collector.address, first).await;
    let welcome = stream.down.message().await.unwrap().unwrap();
    assert!(matches!(down(&welcome), Some(Down::Welcome(_))), "{name}");
    let (mut frames, mut results) = (0, 0);
    for message in recording.of(Direction::Up).into_iter().skip(1) {
        match up(&message) {
            Up::Records(records) => frames += records.frames.len(),
            Up::OrderResult(_) => results += 1,
            _ => {}
        }
        stream.up.send(message).await.unwrap();
    }
    let rows = async || stored(&sink, host);
    wait_for(PATIENCE, rows, |rows| rows.len() >= recording.rows.len())
        .await
        .unwrap();
    assert_eq!(stored(&sink, host), recording.rows, "{name}");
    assert_eq!(sink.frames(host).len(), frames, "{name}");
    assert_eq!((results, sink.repeated()), (1, 0), "{name}");
    let result = tokio::time::timeout(PATIENCE, collector.results.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (result.order_id, result.reason.as_str()),
        (ORDER, "no policy"),
        "{name}"
    );
    // What was stored was acknowledged, and the end is said.
    let stop = collector.stop();
    let heard = async {
        let mut marks = BTreeMap::new();
        let mut goodbye = None;
        while let Ok(Some(message)) = stream.down.message().await {
            match down(&message) {
                Some(Down::Acknowledged(acknowledged)) => note(&mut marks, acknowledged.marks),
                Some(Down::Goodbye(last)) => goodbye = Some(last),
                _ => {}
            }
        }
        (marks, goodbye)
    };
    let ((), (marks, goodbye)) = tokio::join!(stop, heard);
    let recorded =
        recording
            .of(Direction::Down)
            .iter()
            .filter_map(down)
            .fold(BTreeMap::new(), |mut marks, message| {
                if let Down::Acknowledged(acknowledged) = message {
                    note(&mut marks, acknowledged.marks);
                }
                marks
            });
    assert_eq!(marks, recorded, "{name}");
    assert!(goodbye.is_some_and(|goodbye| goodbye.retry), "{name}");
}

type Marks = BTreeMap<(SpoolEpoch, Lane), u64>;

fn note(marks: &mut Marks, said: Vec<v1::Mark>) {
    for mark in said {
        let mark = Mark::try_from(mark).unwrap();
        let highest = marks.entry((mark.epoch, mark.lane)).or_default();
        *highest = mark.sequence.0.max(*highest);
    }
}

async fn agent_takes(name: &str, recording: &Recording) {
    let fleet = TestFleet::new().unwrap();
    let (_, hello) = hello(recording);
    let identity = fleet.host_issued(host_of(&hello), TimeMicros::now()).unwrap();
    let config = keeping(fleet.folder());
    recording.lay_spool(&config.folder);
    let mut carrier = RawCarrier::start(&fleet).await;
    let mut agent = Agent::start_with(&identity, carrier.address, config);
    let mut opened = tokio::time::timeout(PATIENCE, carrier.opened.recv())
        .await
        .unwrap()
        .unwrap();
    let said = opened.up.message().await.unwrap().unwrap();
    assert!(matches!(up(&said), Up::Hello(_)), "{name}");

    let mut whole = Whole::of(recording);
    let mut sent: BTreeMap<(SpoolEpoch, Lane, u64), Bytes> = BTreeMap::new();
    let mut seen = Marks::new();
    for message in recording.of(Direction::Down) {
        if let Some(Down::Acknowledged(acknowledged)) = down(&message) {
            let mut wanted = Marks::new();
            note(&mut wanted, acknowledged.marks);
            let reached = |seen: &Marks| wanted.iter().all(|(lane, number)| seen.get(lane) >= Some(number));
            while !reached(&seen) {
                let message = tokio::time::timeout(PATIENCE, opened.up.message()).await;
                let message = message.unwrap_or_else(|_| panic!("{name}: {seen:?} of {wanted:?}"));
                let Up::Records(records) = up(&message.unwrap().unwrap()) else {
                    continue;
                };
                for frame in whole.frames(records) {
                    let id = Frame::decode(&frame).unwrap().id;
                    let highest = seen.entry((id.epoch, id.lane)).or_default();
                    assert_eq!(
                        id.sequence.0,
                        *highest + 1,
                        "{name}: a number is skipped or came twice"
                    );
                    *highest = id.sequence.0;
                    sent.insert((id.epoch, id.lane, id.sequence.0), frame);
                }
            }
        }
        opened.down.send(Ok(message)).await.unwrap();
    }
    same_frames(name, recording, &sent);
    let order = tokio::time::timeout(PATIENCE, agent.orders.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (order.order_id, order.envelope.as_str()),
        (ORDER, ENVELOPE),
        "{name}"
    );
    let hinted = agent
        .hints
        .wait_for(|hint| hint.metrics_interval_ms == Some(HINT_MS));
    tokio::time::timeout(PATIENCE, hinted).await.unwrap().unwrap();
    let state = agent.phase(StreamPhase::Waiting).await;
    let error = state.last_error.unwrap_or_default();
    assert!(error.contains("the collector is stopping"), "{name}: {error}");
    agent.stop().await;
    carrier.tasks.drain(PATIENCE).await;
}

/// Makes the frames of a stream whole, where its welcome allowed relative ones.
struct Whole(Option<Bases>);

impl Whole {
    fn of(recording: &Recording) -> Self {
        let welcome = recording
            .of(Direction::Down)
            .iter()
            .find_map(|message| match down(message) {
                Some(Down::Welcome(welcome)) => Some(welcome),
                _ => None,
            });
        let bases = welcome.and_then(|welcome| welcome.bases).map(|bases| {
            Bases::new(Limits {
                slots: usize::try_from(bases.slots).unwrap(),
                plain_bytes: usize::try_from(bases.plain_bytes).unwrap(),
            })
        });
        Self(bases)
    }

    fn frames(&mut self, records: v1::Records) -> Vec<Bytes> {
        let Some(bases) = &mut self.0 else {
            return records.frames;
        };
        if records.bases_cleared {
            bases.clear();
        }
        let restore = |frame: &Bytes| bases.restore(frame).unwrap();
        records.frames.iter().map(restore).collect()
    }
}

/// What was sent is what was recorded, byte for byte once it is whole.
fn same_frames(name: &str, recording: &Recording, sent: &BTreeMap<(SpoolEpoch, Lane, u64), Bytes>) {
    let mut whole = Whole::of(recording);
    let mut frames = 0;
    for message in recording.of(Direction::Up) {
        let Up::Records(records) = up(&message) else {
            continue;
        };
        for frame in whole.frames(records) {
            frames += 1;
            let id = Frame::decode(&frame).unwrap().id;
            let ours = &sent[&(id.epoch, id.lane, id.sequence.0)];
            assert_eq!(*ours, frame, "{name}: {id:?} has other bytes");
        }
    }
    assert_eq!(sent.len(), frames, "{name}");
}
