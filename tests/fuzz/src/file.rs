//! Files that others may have written: rules, the audit log, journals and other logs, a damaged spool, chunks of
//! samples.

use std::fs;
use std::path::Path;

use agent_collect::log::journal::{JournalFile, Next};
use agent_collect::log::line::{Line, Origin};
use agent_collect::log::{auth, stamp};
use agent_collect::process::{Inventory, ProcessConfig};
use agent_collect::source::audit::{AuditRecord, Joiner, Translator};
use agent_detect::sigma::Sigma;
use agent_spool::{Spool, SpoolConfig};
use collector_store::ChunkBytes;
use fleetmend_event::TimeMicros;
use tempfile::TempDir;

/// Memory, so that the disk is not what is measured.
pub(crate) const MEMORY: &str = "/dev/shm";

pub(crate) fn folder() -> TempDir {
    TempDir::new_in(MEMORY).expect("a temporary folder")
}

/// A rule file stands alone: whatever is in it, it is listed.
pub(crate) fn rule(data: &[u8]) {
    let folder = folder();
    fs::write(folder.path().join("rule.yml"), data).expect("write the rule");
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    sigma.status();
}

/// An event of several records.
pub(crate) const AUDIT_LOG: &str = "type=SYSCALL msg=audit(1700000000.123:42): arch=c000003e syscall=59 success=yes exit=0 \
    a0=1 a1=2 a2=3 a3=4 items=1 ppid=1 pid=4100000 auid=0 uid=0 gid=0 euid=0 comm=\"ls\" exe=\"/usr/bin/ls\" key=(null)\n\
    type=EXECVE msg=audit(1700000000.123:42): argc=2 a0=\"ls\" a1_len=4 a1[0]=2D6C\n\
    type=CWD msg=audit(1700000000.123:42): cwd=\"/root\"\n\
    type=PATH msg=audit(1700000000.123:42): item=0 name=\"/usr/bin/ls\" inode=7 dev=08:01 mode=0100755 nametype=NORMAL\n\
    type=SOCKADDR msg=audit(1700000000.123:42): saddr=02000050C0000201\n\
    type=PROCTITLE msg=audit(1700000000.123:42): proctitle=6C73002D6C\n\
    type=USER_LOGIN msg=audit(1700000000.123:43): pid=5 uid=0 msg='op=login acct=\"root\" res=failed'\n";

/// A log of auditd: each line is a record or refused, records are joined and become rows; a secret stays masked.
pub(crate) fn audit_log(data: &[u8]) {
    let translator = Translator::new(Inventory::new(ProcessConfig::default()));
    let mut joiner: Joiner = Joiner::default();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(record) = AuditRecord::parse(line) else {
            continue;
        };
        let masked = record.clone().masked();
        assert_eq!(masked.field("type"), record.field("type"));
        for event in joiner.push(record, ()) {
            translator.rows(&event);
        }
    }
    for event in joiner.finish() {
        translator.rows(&event);
    }
}

/// A journal file is read to an end, whatever its offsets say.
pub(crate) fn journal(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("system.journal");
    fs::write(&path, data).expect("write the journal");
    let Ok(mut file) = JournalFile::open(&path) else {
        return;
    };
    // An entry takes eight bytes of an array at least; what is read of one file ends before that many.
    let most = data.len() / 4 + 1;
    let source = "journal".into();
    let mut read = 0;
    while let Ok(Next::Entry(_) | Next::Skipped(_)) = file.next_entry().inspect(|next| {
        if let Next::Entry(entry) = next {
            Line::of_entry(entry, &source);
        }
    }) {
        read += 1;
        assert!(
            read <= most,
            "a file of {} bytes has no {read} entries",
            data.len()
        );
    }
}

/// A line of a log file, and what it tells of authentication.
pub(crate) fn log_line(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = stamp::parse(&text, TimeMicros(1_767_225_600_000_000), &jiff::tz::TimeZone::UTC);
    let mut line = Line {
        time: parsed.time.unwrap_or(TimeMicros(0)),
        source: "file".into(),
        identifier: parsed.identifier.unwrap_or_default(),
        unit: None,
        pid: parsed.pid,
        uid: None,
        priority: parsed.priority,
        facility: parsed.facility,
        message: parsed.message,
        truncated: false,
        repeats: 1,
        origin: Origin::Claimed,
    };
    line.unfold();
    auth::read(&line);
}

/// A spool whose first segment holds these bytes: it opens, and opens again.
pub(crate) fn spool(data: &[u8]) {
    let folder = folder();
    let root = folder.path().join("spool");
    segment(&root, data);
    for _ in 0..2 {
        let config = SpoolConfig {
            folder: root.clone(),
            ..SpoolConfig::default()
        };
        Spool::open(config)
            .map(drop)
            .expect("damage is no reason not to open");
    }
}

/// Samples of a stored chunk: damage is an error, and what can be read is what would be written.
pub(crate) fn chunk(data: &[u8]) {
    if let Some((times, values)) = ChunkBytes::decode(data) {
        let again = ChunkBytes::encode(&times, &values).expect("encode what was decoded");
        let (same_times, same_values) = ChunkBytes::decode(&again).expect("decode what was encoded");
        assert_eq!(same_times, times);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&same_values), bits(&values));
    }
}

fn segment(root: &Path, data: &[u8]) {
    use std::os::unix::fs::DirBuilderExt as _;
    let epoch = root.join(format!("00000001-{}", crate::seeds::EPOCH));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&epoch).expect("make the folder of the epoch");
    fs::write(epoch.join("critical-00000000000000000001.frames"), data).expect("write the segment");
}
