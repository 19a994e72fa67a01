//! A line of a log, wherever it was read.

use fleetmend_event::TimeMicros;

use super::journal::JournalEntry;

/// Name under which the journal is shown as a source.
pub(crate) const JOURNAL: &str = "journal";

/// How far the name of the service that logged a line can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The kernel told who logged it, and it is root or a program that only root can have installed.
    Proven,
    /// The line says so itself: whoever may write to the log may claim it.
    Claimed,
    /// The kernel told who logged it, and it is somebody else than the line says.
    Forged,
}

/// A line, before it is limited, masked and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was logged, by the log's own clock.
    pub time: TimeMicros,
    /// `journal`, or the path of the file.
    pub source: std::sync::Arc<str>,
    /// Who logged it.
    pub identifier: String,
    /// systemd unit, when known.
    pub unit: Option<String>,
    /// Process id, when known.
    pub pid: Option<u32>,
    /// User id, when known.
    pub uid: Option<u32>,
    /// Severity, 0 to 7, when known.
    pub priority: Option<u32>,
    /// Facility, when known.
    pub facility: Option<u32>,
    /// The message.
    pub message: String,
    /// Whether it was cut already.
    pub truncated: bool,
    /// Equal lines that it stands for.
    pub repeats: u64,
    /// Whether the service can be believed.
    pub origin: Origin,
}

/// Programs that run for any user and log authentication in their own name.
const SETUID_PROGRAMS: [&str; 12] = [
    "/usr/bin/sudo",
    "/usr/bin/su",
    "/usr/bin/doas",
    "/usr/bin/pkexec",
    "/usr/bin/passwd",
    "/usr/bin/chfn",
    "/usr/bin/chsh",
    "/usr/bin/gpasswd",
    "/usr/bin/newgrp",
    "/usr/bin/chage",
    "/bin/su",
    "/usr/sbin/unix_chkpwd",
];

impl Line {
    /// The line of a journal entry; `None` when it has no message.
    pub fn of_entry(entry: &JournalEntry, source: &std::sync::Arc<str>) -> Option<Self> {
        let message = match entry.text("MESSAGE") {
            Some(message) => message,
            None if entry.unreadable > 0 => "[a message that could not be read]".to_owned(),
            None => return None,
        };
        let kernel = entry.bytes("_TRANSPORT") == Some(b"kernel".as_slice());
        let identifier = entry
            .text("SYSLOG_IDENTIFIER")
            .or_else(|| entry.text("_COMM"))
            .unwrap_or_else(|| if kernel { "kernel" } else { "unknown" }.to_owned());
        let uid = entry.number("_UID");
        let exe = entry.text("_EXE");
        let of_program = exe.as_deref().is_some_and(|exe| SETUID_PROGRAMS.contains(&exe));
        let unit = entry.text("_SYSTEMD_UNIT");
        // What systemd says of a unit is about that unit.
        let about = entry.text("UNIT").filter(|_| entry.number("_PID") == Some(1));
        Some(Self {
            time: TimeMicros(i64::try_from(entry.realtime_us).unwrap_or(i64::MAX)),
            source: source.clone(),
            identifier,
            unit: about.or(unit),
            pid: entry.number("_PID").or_else(|| entry.number("SYSLOG_PID")),
            uid,
            priority: entry.number("PRIORITY").filter(|priority| *priority < 8),
            facility: entry.number("SYSLOG_FACILITY").filter(|facility| *facility < 128),
            message,
            truncated: entry.truncated,
            repeats: 1,
            origin: if uid == Some(0) || of_program || (kernel && uid.is_none()) {
                Origin::Proven
            } else {
                Origin::Forged
            },
        })
    }

    /// Undoes what a syslog daemon does to repeats: `message repeated 5 times: [ text ]`.
    pub fn unfold(&mut self) {
        let Some(rest) = self.message.strip_prefix("message repeated ") else {
            return;
        };
        let Some((count, text)) = rest.split_once(" times: [") else {
            return;
        };
        let Some(text) = text.trim_end().strip_suffix(']') else {
            return;
        };
        if let Ok(count) = count.parse::<u64>() {
            self.repeats = count.clamp(1, 1_000_000);
            self.message = text.trim().to_owned();
        }
    }
}
