use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use fleetmend_event::healer::{PROTOCOL_VERSION, Proposal, decode_message, encode_message};
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{
    ActionEvent, ActionStage, FindingKind, FindingState, LedgerEntry, Severity, SubjectKind,
};
use fleetmend_event::{FindingId, TimeMicros};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::SystemClock;

const DEADLINE: Duration = Duration::from_secs(20);

/// The other end of the protocol, as a script.
struct Healer {
    listener: UnixListener,
    ledger_next: u64,
}

struct Session(UnixStream);

impl Healer {
    fn bind(folder: &std::path::Path) -> Self {
        let listener = UnixListener::bind(folder.join("healer.sock")).unwrap();
        Self {
            listener,
            ledger_next: 3,
        }
    }

    /// Greets a client and gives the index it follows from.
    async fn accept(&self) -> (Session, u64) {
        let (stream, _) = timeout(DEADLINE, self.listener.accept()).await.unwrap().unwrap();
        let mut session = Session(stream);
        assert_eq!(
            session.receive().await,
            HealerRequest::Hello {
                protocol: PROTOCOL_VERSION
            }
        );
        let status = HealerStatus {
            protocol: PROTOCOL_VERSION,
            version: "0".to_owned(),
            mode: "observe".to_owned(),
            policy_version: 0,
            stopped: false,
            remedies: Vec::new(),
            ledger_next: self.ledger_next,
            bundle_version: None,
        };
        session.send(&HealerReply::Status(status)).await;
        match session.receive().await {
            HealerRequest::Follow { from_index } => (session, from_index),
            other => panic!("{other:?}"),
        }
    }
}

impl Session {
    async fn send(&mut self, reply: &HealerReply) {
        self.0.write_all(&encode_message(reply).unwrap()).await.unwrap();
    }

    async fn receive(&mut self) -> HealerRequest {
        let mut prefix = [0; 4];
        timeout(DEADLINE, self.0.read_exact(&mut prefix))
            .await
            .unwrap()
            .unwrap();
        let mut body = vec![0; usize::try_from(u32::from_le_bytes(prefix)).unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        decode_message(&body).unwrap()
    }

    async fn entry(&mut self, index: u64, event: Option<ActionEvent>) {
        let (previous_hash, hash) = (String::new(), format!("hash {index}"));
        let entry = LedgerEntry {
            time: TimeMicros::now(),
            index,
            previous_hash,
            hash,
            body: "{}".to_owned(),
        };
        self.send(&HealerReply::Entry {
            entry,
            event: event.map(Box::new),
        })
        .await;
    }
}

fn step(proposal: &Proposal, stage: ActionStage, ending: Option<Ending>) -> ActionEvent {
    ActionEvent {
        time: TimeMicros::now(),
        action_id: proposal.action_id,
        finding_id: proposal.finding.finding_id,
        remedy: proposal.remedy.name().to_owned(),
        target: proposal.remedy.target(),
        stage,
        ending,
        reason: String::new(),
        before: "{}".to_owned(),
        after: "{}".to_owned(),
        asserted_by_agent: false,
        ledger_index: 0,
    }
}

fn hog() -> Finding {
    let now = TimeMicros::now();
    Finding {
        time: now,
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: "runaway-process".to_owned(),
        title: "title".to_owned(),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: now,
        count: 1,
        score: None,
        subject_kind: SubjectKind::Process,
        subject: "stress".to_owned(),
        pid: Some(4711),
        start_boot_ns: Some(1),
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

fn config(folder: &std::path::Path) -> Config {
    let (socket, cursor_file): (PathBuf, PathBuf) = (folder.join("healer.sock"), folder.join("cursor"));
    Config {
        socket,
        cursor_file,
        ..Config::default()
    }
}

fn started(folder: &std::path::Path) -> (HealHandle, mpsc::Receiver<Fact>, Tasks) {
    let (facts, queue) = mpsc::channel(64);
    let tasks = Tasks::new();
    let handle = start(config(folder), &tasks, Arc::new(facts), Arc::new(SystemClock));
    (handle, queue, tasks)
}

/// The index of the next ledger entry among the facts.
async fn ledger_index(facts: &mut mpsc::Receiver<Fact>) -> u64 {
    loop {
        if let Fact::Ledger(entry) = timeout(DEADLINE, facts.recv()).await.unwrap().unwrap() {
            return entry.index;
        }
    }
}

async fn probe(facts: &mut mpsc::Receiver<Fact>) -> ProbeStatus {
    loop {
        if let Fact::ProbeStatus(status) = timeout(DEADLINE, facts.recv()).await.unwrap().unwrap() {
            return *status;
        }
    }
}

#[tokio::test]
async fn a_healer_that_is_not_there_is_said_and_found_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, mut facts, tasks) = started(folder.path());
    let status = probe(&mut facts).await;
    assert_eq!(
        (status.probe.as_str(), status.state),
        ("healer", ProbeState::Degraded)
    );
    assert!(
        status.reason.contains("no connection to the healer") && !status.hint.is_empty(),
        "{status:?}"
    );
    handle.offer(&hog());
    let healer = Healer::bind(folder.path());
    let (mut session, from_index) = healer.accept().await;
    assert_eq!(from_index, 0);
    let status = probe(&mut facts).await;
    assert_eq!(
        (status.state, status.reason.as_str()),
        (ProbeState::Real, "observe mode, no policy")
    );
    match session.receive().await {
        HealerRequest::Propose(proposal) => assert_eq!(proposal.remedy.name(), "throttle-process"),
        other => panic!("{other:?}"),
    }
    assert!(tasks.drain(DEADLINE).await.stragglers.is_empty());
}

#[tokio::test]
async fn entries_go_on_as_facts_and_are_asked_for_again_only_after_the_last_that_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let healer = Healer::bind(folder.path());
    let (handle, mut facts, tasks) = started(folder.path());
    handle.offer(&hog());
    let (mut session, from_index) = healer.accept().await;
    assert_eq!(from_index, 0);
    let HealerRequest::Propose(proposal) = session.receive().await else {
        panic!("no proposal")
    };
    session.entry(0, None).await;
    session
        .entry(1, Some(step(&proposal, ActionStage::Proposed, None)))
        .await;
    session
        .entry(
            2,
            Some(step(&proposal, ActionStage::Ended, Some(Ending::FailedSafe))),
        )
        .await;
    for index in 0..3 {
        assert_eq!(ledger_index(&mut facts).await, index);
    }
    // What did not help leads to the next remedy.
    let HealerRequest::Propose(next) = session.receive().await else {
        panic!("no proposal")
    };
    assert_eq!(
        (next.remedy.name(), next.finding.finding_id),
        ("kill-process", proposal.finding.finding_id)
    );
    assert_ne!(next.action_id, proposal.action_id);
    drop(session);
    let (_, from_index) = healer.accept().await;
    assert_eq!(from_index, 3);
    tasks.drain(DEADLINE).await;

    let (_handle, _facts, tasks) = started(folder.path());
    let (_, from_index) = healer.accept().await;
    assert_eq!(from_index, 3, "the cursor outlives the process");
    tasks.drain(DEADLINE).await;

    // A healer whose ledger is younger than the cursor began anew.
    let (_handle, _facts, tasks) = started(folder.path());
    let healer = Healer {
        ledger_next: 1,
        ..healer
    };
    assert_eq!(healer.accept().await.1, 0);
    tasks.drain(DEADLINE).await;
}

/// Takes nothing until it is told to.
struct Stubborn {
    open: tokio::sync::Semaphore,
    taken: Mutex<Vec<u64>>,
}

#[async_trait]
impl FactSink for Stubborn {
    async fn deliver(&self, facts: Vec<Fact>) -> Result<(), SinkClosed> {
        for fact in facts {
            if let Fact::Ledger(entry) = fact {
                self.open.acquire().await.map_err(|_| SinkClosed)?.forget();
                self.taken.lock().unwrap().push(entry.index);
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_entry_that_was_not_taken_is_read_again_by_the_next_agent() {
    let folder = tempfile::tempdir().unwrap();
    let healer = Healer::bind(folder.path());
    let sink = Arc::new(Stubborn {
        open: tokio::sync::Semaphore::new(1),
        taken: Mutex::default(),
    });
    let tasks = Tasks::new();
    start(config(folder.path()), &tasks, sink.clone(), Arc::new(SystemClock));
    let (mut session, _) = healer.accept().await;
    session.entry(0, None).await;
    let kept = CursorFile::new(&folder.path().join("cursor"));
    let until = Instant::now() + DEADLINE;
    while kept.read().unwrap() != 1 {
        assert!(Instant::now() < until, "cursor is {}", kept.read().unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    session.entry(1, None).await;
    // The agent ends while the second waits for room.
    tasks.drain(DEADLINE).await;
    assert_eq!(
        (kept.read().unwrap(), sink.taken.lock().unwrap().as_slice()),
        (1, &[0][..])
    );
    let (_handle, mut facts, tasks) = started(folder.path());
    let (mut session, from_index) = healer.accept().await;
    assert_eq!(from_index, 1);
    session.entry(1, None).await;
    assert_eq!(ledger_index(&mut facts).await, 1);
    tasks.drain(DEADLINE).await;
}

#[tokio::test]
async fn findings_are_dropped_and_never_wait_when_the_queue_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let (facts, queue) = mpsc::channel(1);
    let tasks = Tasks::new();
    // Nobody takes facts: the room stands still, and whoever hands in findings does not.
    let handle = start(
        config(folder.path()),
        &tasks,
        Arc::new(facts),
        Arc::new(SystemClock),
    );
    for _ in 0..FINDINGS_MAX * 2 {
        handle.offer(&hog());
    }
    drop(queue);
    tasks.drain(DEADLINE).await;
}
