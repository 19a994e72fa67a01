//! Findings: what was noticed, with what made it.

use super::table;
use crate::{FindingId, Lane, TimeMicros, words};

words! {
    /// How grave a finding is.
    pub enum Severity {
        /// Worth knowing.
        Info = "info",
        /// Worth a look some day.
        Low = "low",
        /// Worth a look today.
        Medium = "medium",
        /// Worth waking someone.
        High = "high",
        /// Worth waking everyone.
        Critical = "critical",
    }
}

words! {
    /// What noticed it.
    pub enum FindingKind {
        /// A model's score.
        Anomaly = "anomaly",
        /// A Sigma rule.
        Sigma = "sigma",
        /// A limit that was crossed.
        Threshold = "threshold",
        /// A site's verdict.
        Site = "site",
        /// A detector over several facts.
        Behaviour = "behaviour",
        /// A watched file that changed.
        Integrity = "integrity",
    }
}

words! {
    /// Whether it still holds.
    pub enum FindingState {
        /// It was noticed and still holds.
        Open = "open",
        /// It no longer holds.
        Resolved = "resolved",
    }
}

words! {
    /// What a finding is about.
    pub enum SubjectKind {
        /// The host as a whole.
        Host = "host",
        /// A process: `subject` is its command name, with `pid` and `start_boot_ns`.
        Process = "process",
        /// A filesystem or a folder: `subject` is its path.
        Filesystem = "filesystem",
        /// A systemd unit: `subject` is its name.
        Unit = "unit",
        /// A site: `subject` is its name.
        Site = "site",
        /// The agent or one of its probes.
        Agent = "agent",
        /// A file: `subject` is its path.
        File = "file",
        /// An account: `subject` is its name.
        User = "user",
        /// A remote address: `subject` is the address.
        Address = "address",
    }
}

table! {
    /// One row per change of a finding; the last row of a `finding_id` is its present state.
    pub struct Finding("findings", id 8, version 1, Lane::Critical) {
        /// When this row became true.
        time: TimeMicros,
        /// The finding.
        finding_id: FindingId,
        /// What noticed it.
        kind: FindingKind,
        /// Rule or model, such as a Sigma rule's id, `host-anomaly`, `runaway-process`.
        rule: String,
        /// One line for a person.
        title: String,
        /// How grave it is.
        severity: Severity,
        /// Whether it still holds.
        state: FindingState,
        /// When it was first noticed.
        first_time: TimeMicros,
        /// How often it was noticed since, equal ones counted together.
        count: u64,
        /// Score, 0..1, for models.
        score: Option<f64>,
        /// What it is about.
        subject_kind: SubjectKind,
        /// Name of what it is about.
        subject: String,
        /// Process it is about, when it is about one.
        pid: Option<u32>,
        /// When that process began, in nanoseconds on the boot clock.
        start_boot_ns: Option<u64>,
        /// ATT&CK techniques, such as `T1059.004`.
        techniques: Vec<String>,
        /// ATT&CK tactics, such as `execution`.
        tactics: Vec<String>,
        /// What made it, as a JSON array of `{"feature","value","expected","contribution"}`.
        factors: String,
        /// The rows that show it, as a JSON object.
        evidence: String,
    }
}
