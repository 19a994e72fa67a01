//! What is told of a change: its row, and its finding.

use std::path::Path;

use fleetmend_event::table::{
    Finding, FindingKind, FindingState, IntegrityChange, IntegrityEvent, IntegrityVerdict, Severity, Source,
    SubjectKind,
};
use fleetmend_event::{FindingId, TimeMicros};
use serde_json::{Value, json};

use crate::class::Class;
use crate::state::FileState;
use crate::who::{Touch, Writer};

/// Writers that a finding names.
const WRITERS_MAX: usize = 8;
/// Rows of a finding up to which every change is one; from there on powers of ten.
const COUNT_FULL_MAX: u64 = 10;

/// A change with all that is known of it.
pub(crate) struct Told<'a> {
    pub(crate) path: &'a Path,
    pub(crate) class: Class,
    pub(crate) change: IntegrityChange,
    pub(crate) verdict: IntegrityVerdict,
    pub(crate) why: &'static str,
    pub(crate) severity: Severity,
    /// As it was known last.
    pub(crate) old: Option<&'a FileState>,
    pub(crate) new: Option<&'a FileState>,
    /// As it should be.
    pub(crate) baseline: Option<&'a FileState>,
    pub(crate) package: Option<String>,
    pub(crate) agrees: Option<bool>,
    /// Who did it last.
    pub(crate) writer: Option<&'a Touch>,
    /// All who did, as far as it is proven.
    pub(crate) touches: &'a [&'a Touch],
    /// Who may have.
    pub(crate) unproven: &'a [&'a Touch],
    /// Which SUID program of this host it is a copy of, with the same rights.
    pub(crate) copy_of: Option<&'a Path>,
    /// How it was noticed.
    pub(crate) source: &'static str,
}

/// The word of a row for where an event was read.
pub(crate) fn source_word(source: Source) -> &'static str {
    match source {
        Source::Ebpf => "ebpf",
        Source::Audit => "audit",
        Source::Inotify => "inotify",
        _ => "scan",
    }
}

impl Told<'_> {
    /// The row of the table.
    pub(crate) fn row(&self, time: TimeMicros) -> IntegrityEvent {
        let writer = self.writer.map(|touch| &*touch.writer);
        let (old, new) = (self.old, self.new);
        let size = |state: &FileState| (!state.is_folder()).then_some(state.size);
        IntegrityEvent {
            time,
            path: self.path.to_string_lossy().into_owned(),
            change: self.change,
            class: self.class.as_str().to_owned(),
            verdict: self.verdict,
            old_sha256: old.and_then(FileState::sha256),
            new_sha256: new.and_then(FileState::sha256),
            old_size_bytes: old.and_then(size),
            new_size_bytes: new.and_then(size),
            old_mode: old.map(|state| state.mode),
            new_mode: new.map(|state| state.mode),
            old_uid: old.map(|state| state.uid),
            new_uid: new.map(|state| state.uid),
            old_gid: old.map(|state| state.gid),
            new_gid: new.map(|state| state.gid),
            package: self.package.clone(),
            package_agrees: self.agrees,
            pid: writer.map(|writer| writer.pid),
            start_boot_ns: writer.map(|writer| writer.start_boot_ns),
            uid: writer.map(|writer| writer.uid),
            login_uid: writer.and_then(|writer| writer.login_uid),
            comm: writer.map(|writer| writer.comm.clone()),
            exe: writer.and_then(|writer| writer.exe.clone()),
            chain: writer.map(Writer::chain_text),
            source: self.source.to_owned(),
        }
    }

    /// The finding, opened or going on; `true` when its row has to be written.
    pub(crate) fn finding(&self, time: TimeMicros, open: Option<&Finding>) -> (Finding, bool) {
        let count = open.map_or(1, |finding| finding.count.saturating_add(1));
        let process = self.writer.map(|touch| &touch.writer);
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let worse = open.is_none_or(|finding| finding.severity < self.severity);
        let finding = Finding {
            time,
            finding_id: open.map_or_else(FindingId::random, |finding| finding.finding_id),
            kind: FindingKind::Integrity,
            rule: open.map_or_else(
                || format!("integrity-{}", self.class),
                |finding| finding.rule.clone(),
            ),
            title: self.title(),
            severity: open.map_or(self.severity, |finding| finding.severity.max(self.severity)),
            state: FindingState::Open,
            first_time: open.map_or(time, |finding| finding.first_time),
            count,
            score: None,
            subject_kind: SubjectKind::File,
            subject: self.path.to_string_lossy().into_owned(),
            pid: process.map(|writer| writer.pid),
            start_boot_ns: process.map(|writer| writer.start_boot_ns),
            techniques: words(self.class.techniques()),
            tactics: words(self.class.tactics()),
            factors: self.factors().to_string(),
            evidence: self.evidence().to_string(),
        };
        (
            finding,
            worse || count <= COUNT_FULL_MAX || is_power_of_ten(count),
        )
    }

    fn title(&self) -> String {
        let what = match self.change {
            IntegrityChange::Added => "was added",
            IntegrityChange::Content => "was changed",
            IntegrityChange::Metadata => "has other rights",
            IntegrityChange::Removed => "was removed",
        };
        let path = self.path.display();
        match self.writer.map(|touch| &touch.writer) {
            Some(writer) => format!(
                "{path} {what} by {} (pid {}, uid {})",
                writer.comm, writer.pid, writer.uid
            ),
            None => format!("{path} {what}, by whom is not known"),
        }
    }

    fn factors(&self) -> Value {
        let mut factors = vec![json!({
            "feature": "file.change", "value": self.change.as_str(), "expected": "none", "contribution": 1.0,
        })];
        if let (Some(was), Some(is)) = (self.baseline, self.new)
            && was.mode != is.mode
        {
            factors.push(json!({
                "feature": "file.mode", "value": format!("{:o}", is.mode), "expected": format!("{:o}", was.mode),
                "contribution": 1.0,
            }));
        }
        Value::Array(factors)
    }

    fn evidence(&self) -> Value {
        let state = |state: Option<&FileState>| {
            state.map(|state| {
                json!({
                    "sha256": state.sha256(), "size_bytes": state.size, "mode": format!("{:o}", state.mode),
                    "uid": state.uid, "gid": state.gid, "inode": state.inode,
                })
            })
        };
        json!({
            "path": self.path.to_string_lossy(), "class": self.class.as_str(), "change": self.change.as_str(),
            "verdict": self.verdict.as_str(), "why": self.why, "source": self.source,
            "baseline": state(self.baseline), "before": state(self.old), "after": state(self.new),
            "package": self.package, "package_agrees": self.agrees,
            "copy_of": self.copy_of.map(Path::to_string_lossy),
            "writers": writers(self.touches), "unproven_writers": writers(self.unproven),
        })
    }
}

/// Distinct writers, the last first.
fn writers(touches: &[&Touch]) -> Vec<Value> {
    let mut named: Vec<(u32, u64)> = Vec::new();
    let mut list = Vec::new();
    let mut order: Vec<&&Touch> = touches.iter().collect();
    order.sort_by_key(|touch| std::cmp::Reverse(touch.time));
    for touch in order {
        let writer = &touch.writer;
        let key = (writer.pid, writer.start_boot_ns);
        if named.contains(&key) || list.len() >= WRITERS_MAX {
            continue;
        }
        named.push(key);
        list.push(json!({
            "pid": writer.pid, "start_boot_ns": writer.start_boot_ns, "uid": writer.uid,
            "login_uid": writer.login_uid, "comm": writer.comm, "exe": writer.exe, "unit": writer.unit,
            "act": touch.act, "time": touch.time, "chain": writer.chain,
        }));
    }
    list
}

fn is_power_of_ten(count: u64) -> bool {
    count > 0 && 10_u64.checked_pow(count.ilog10()) == Some(count)
}
