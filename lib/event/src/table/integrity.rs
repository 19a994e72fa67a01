//! Integrity: watched files that changed, and who changed them.

use super::table;
use crate::{Lane, TimeMicros, words};

words! {
    /// How a watched file differs from its baseline.
    pub enum IntegrityChange {
        /// It was not there before.
        Added = "added",
        /// Its content changed.
        Content = "content",
        /// Mode, owner, capabilities or type changed, and not its content.
        Metadata = "metadata",
        /// It is gone.
        Removed = "removed",
    }
}

words! {
    /// Why a change is expected, or that it is not.
    pub enum IntegrityVerdict {
        /// A package manager did it.
        Package = "package",
        /// A process that the configuration or a rule names did it.
        Expected = "expected",
        /// Nobody expected it.
        Unexpected = "unexpected",
        /// Who did it is not known.
        Unknown = "unknown",
    }
}

table! {
    /// A change of a watched file.
    pub struct IntegrityEvent("integrity_events", id 22, version 1, Lane::Critical) {
        /// When it was noticed.
        time: TimeMicros,
        /// Path of the file.
        path: String,
        /// What of it changed.
        change: IntegrityChange,
        /// Class of the file, such as `binary`, `unit`, `cron`, `ssh_key`, `preload`, `suid`, `sudoers`, `web_root`.
        class: String,
        /// Whether it was expected.
        verdict: IntegrityVerdict,
        /// SHA-256 before, in hex; `None` when there was no file, or it was too large to hash.
        old_sha256: Option<String>,
        /// SHA-256 after, in hex.
        new_sha256: Option<String>,
        /// Size in bytes before.
        old_size_bytes: Option<u64>,
        /// Size in bytes after.
        new_size_bytes: Option<u64>,
        /// Mode before, file type included.
        old_mode: Option<u32>,
        /// Mode after.
        new_mode: Option<u32>,
        /// Owner before.
        old_uid: Option<u32>,
        /// Owner after.
        new_uid: Option<u32>,
        /// Group before.
        old_gid: Option<u32>,
        /// Group after.
        new_gid: Option<u32>,
        /// Package that the file belongs to, when one does.
        package: Option<String>,
        /// Whether the content is what the package delivered; `None` when it does not say.
        package_agrees: Option<bool>,
        /// Process that changed it, when known.
        pid: Option<u32>,
        /// When that process began, in nanoseconds on the boot clock.
        start_boot_ns: Option<u64>,
        /// Its real user id.
        uid: Option<u32>,
        /// User id of its login session, when one is set.
        login_uid: Option<u32>,
        /// Its command name.
        comm: Option<String>,
        /// Path of its program.
        exe: Option<String>,
        /// Command names from the process to its eldest known ancestor, joined by ` < `.
        chain: Option<String>,
        /// How the change came to be known: `ebpf`, `audit`, `inotify` or `scan`.
        source: String,
    }
}
