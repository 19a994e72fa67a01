//! One valid input for each target.

use std::fs;
use std::path::Path;

use collector_store::ChunkBytes;
use fleetmend_event::frame::Stamp;
use fleetmend_event::healer::HealerRequest;
use fleetmend_event::relative::{Bases, Limits, is_relative};
use fleetmend_event::table::{Exactness, Gap, GapStage, Table, TableInfo};
use fleetmend_event::{Frame, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};
use fleetmend_healer::ledger::{Body, Kind, Ledger};
use fleetmend_identity::{
    CollectorAuthority, EnrolmentToken, FleetRoot, HostKey, Signed, TokenSecret, TrustBundle,
};
use fleetmend_proto::v1;
use prost::Message as _;

/// The epoch of the seeds, as text.
pub(crate) const EPOCH: &str = "09090909-0909-0909-0909-090909090909";

/// Writes them into `folder`, one folder for each target.
pub(crate) fn write(folder: &Path) {
    let put = |target: &str, bytes: &[u8]| {
        let of_target = folder.join(target);
        fs::create_dir_all(&of_target).expect("make the folder of seeds");
        fs::write(of_target.join("seed"), bytes).expect("write a seed");
    };
    let frame = gap_frame();
    put("frame", &frame.encode());
    put("batch", &frame.body);
    put("relative", &relative_frame());
    put("spool", &[frame.encode(), frame.encode()].concat());
    let records = v1::Records {
        frames: vec![frame.encode()],
        ..v1::Records::default()
    };
    let message = v1::AgentMessage {
        message: Some(v1::agent_message::Message::Records(records)),
    };
    put("agent-message", &message.encode_to_vec());
    let welcome = v1::Welcome {
        durable: vec![v1::Mark {
            epoch: vec![9; 16].into(),
            lane: v1::Lane::Critical.into(),
            sequence: 7,
        }],
        ..v1::Welcome::default()
    };
    let message = v1::CollectorMessage {
        message: Some(v1::collector_message::Message::Welcome(welcome)),
    };
    put("collector-message", &message.encode_to_vec());
    let mut exec = vec![0_u8; 160];
    if let Some(kind) = exec.get_mut(8) {
        *kind = 1;
    }
    put("kernel-record", &exec);
    put(
        "tunnel",
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\r\n",
    );
    documents(&put);
    enrolment(&put);
    let request = HealerRequest::Hello { protocol: 1 };
    put(
        "healer-message",
        &serde_json::to_vec(&request).expect("a request"),
    );
    put("audit-log", crate::file::AUDIT_LOG.as_bytes());
    put("rule", RULE.as_bytes());
    put("journal", &journal());
    put(
        "log-line",
        b"<38>Jan  7 13:05:01 h sshd[812]: Failed password for invalid user a from 192.0.2.1 port 22 ssh2",
    );
    put("chunk", &chunk());
    put("backup-manifest", crate::backup::SEED.as_bytes());
    put("backup-object", crate::backup::LIST.as_bytes());
}

/// A journal file with one entry of one field.
fn journal() -> Vec<u8> {
    let mut file = vec![0_u8; 272];
    let mut put = |at: usize, bytes: &[u8]| {
        if file.len() < at + bytes.len() {
            file.resize((at + bytes.len()).next_multiple_of(8), 0);
        }
        file.get_mut(at..at + bytes.len())
            .expect("room")
            .copy_from_slice(bytes);
    };
    let number = u64::to_le_bytes;
    put(0, b"LPKSHHRH");
    put(88, &number(272));
    put(152, &number(1));
    put(176, &number(272));
    // The array of entries, with one item; the entry, with one item; the field.
    put(272, &[6]);
    put(280, &number(32));
    put(296, &number(304));
    put(304, &[3]);
    put(312, &number(80));
    put(368, &number(384));
    put(384, &[1]);
    put(392, &number(64 + 12));
    put(448, b"MESSAGE=text");
    file
}

/// Samples of a counter with a pause, enough of them to be packed.
fn chunk() -> Vec<u8> {
    let times: Vec<i64> = (0..200).map(|n| n * 1_000_000 + n / 50 * 7_000_000).collect();
    let values: Vec<f64> = (0..200).map(|n| f64::from(n * 3 + n % 7) / 100.0).collect();
    ChunkBytes::encode(&times, &values).expect("a chunk")
}

/// The frame that the seed of `relative` is relative to.
pub(crate) fn base() -> Frame {
    gap_frame()
}

fn relative_frame() -> Vec<u8> {
    let mut next = base();
    next.id.sequence = next.id.sequence.next();
    let mut bases = Bases::new(Limits::OWN);
    bases.shorten(&base().encode());
    let relative = bases.shorten(&next.encode());
    assert!(is_relative(&relative), "the seed is not relative");
    relative.to_vec()
}

fn documents(put: &dyn Fn(&str, &[u8])) {
    let root = FleetRoot::in_memory("fuzz".parse().expect("a fleet's name")).expect("a root");
    let name = "collector-1".parse().expect("a collector's name");
    let authority = CollectorAuthority::in_memory(&root, name).expect("an authority");
    let token = EnrolmentToken::new("192.0.2.1:4433", root.fingerprint(), TokenSecret::generate());
    put("token", token.expect("a token").expose().as_bytes());
    let key = HostKey::generate().expect("a host's key");
    put("request", &key.request().expect("a request"));
    put("certificate", root.certificate());
    put("bundle", &authority.signed_bundle().to_bytes().expect("a bundle"));
}

fn enrolment(put: &dyn Fn(&str, &[u8])) {
    let fleet = crate::enrolment::fleet();
    let request = v1::EnrollRequest {
        protocol: 1,
        secret: vec![5; 32].into(),
        csr: HostKey::generate()
            .expect("a host's key")
            .request()
            .expect("a request")
            .into(),
        hostname: "web-1".to_owned(),
        ..v1::EnrollRequest::default()
    };
    put("enrolment-request", &request.encode_to_vec());
    let text = |signed: &Signed<TrustBundle>| {
        String::from_utf8(signed.to_bytes().expect("a bundle")).expect("an envelope is text")
    };
    let (newest, between) = fleet.chain.split_last().expect("a rotation has three");
    let answer = v1::RenewResponse {
        trust_bundle: text(newest),
        trust_bundles_between: between.iter().map(text).collect(),
        ..v1::RenewResponse::default()
    };
    put("enrolment-answer", &answer.encode_to_vec());
    put("chain", &serde_json::to_vec(&fleet.chain).expect("a chain"));
    put("identity", &fleet.record);
    put("ledger", &ledger());
    put("address", b"[2001:db8::1]:7443");
}

/// Two entries.
fn ledger() -> Vec<u8> {
    let folder = crate::file::folder();
    let path = folder.path().join("ledger.jsonl");
    let mut ledger = Ledger::open(&path, 1024 * 1024, &mut |_, _| {}).expect("a ledger");
    for note in ["one", "two"] {
        let body = Body::note(Kind::Start, 0, note.to_owned());
        ledger.append(TimeMicros(1), body, None).expect("an entry");
    }
    fs::read(&path).expect("read the ledger")
}

fn gap_frame() -> Frame {
    let rows = [Gap {
        time: TimeMicros(5),
        table: "metrics".to_owned(),
        lane: Lane::Metrics,
        from_time: TimeMicros(1),
        to_time: TimeMicros(4),
        count: 7,
        exactness: Exactness::AtLeast,
        stage: GapStage::Spool,
        reason: "spool_quota".to_owned(),
    }];
    let id = RecordId {
        epoch: SpoolEpoch::from_bytes([9; 16]),
        lane: Lane::Critical,
        sequence: Sequence(1),
    };
    let stamp = Stamp {
        wall: TimeMicros(6),
        boot_us: 8,
    };
    let batch = Gap::to_batch(&rows).expect("a batch");
    Frame::of_batch(
        id,
        &TableInfo::of::<Gap>(),
        &batch,
        stamp,
        (TimeMicros(1), TimeMicros(5)),
    )
    .expect("a frame")
}

const RULE: &str = r#"title: Reverse shell
id: 0a0a0a0a-0000-4000-8000-000000000001
status: test
logsource:
  product: linux
  category: process_creation
detection:
  shell:
    Image|endswith: ["/bash", "/sh"]
    CommandLine|contains|all: ["/dev/tcp/", ">&"]
  filter:
    User|re: "^adm[a-z]{1,8}$"
  condition: shell and not 1 of filter*
level: high
"#;
