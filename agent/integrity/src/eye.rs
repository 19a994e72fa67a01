//! The hub's side: each fact is looked at once, on its way, and only what concerns a watched file goes on.
//!
//! Nothing here waits, reads or allocates for a fact that is not wanted: a path costs a few look-ups by hash, an inode
//! one. When the room's own thread does not follow, the event is counted, and everything watched is scanned soon.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use fleetmend_event::Fact;
use fleetmend_event::table::{
    FileEvent, FileEventKind, KernelEvent, KernelEventKind, ProbeState, ProcessEventKind, Source,
};
use tokio::sync::oneshot;

use crate::books::SharedInodes;
use crate::class::is_suid;
use crate::error::RequestError;
use crate::metrics;
use crate::watch::{Kind, Watch};

/// The probe whose state says whether the kernel tells what is done to files.
const FILE_PROBE: &str = "bpf.file";
/// The probe of the source that stands in for it.
const SOURCE_PROBE: &str = "source.files";
/// File type of a mode that has none: only permissions were told.
const REGULAR: u32 = libc::S_IFREG;

/// What the room's thread is told.
pub(crate) enum Message {
    /// Something was done to a watched file, or to one that may be.
    Act(Box<FileEvent>),
    /// Something was mounted.
    Mount(Box<KernelEvent>),
    /// A program that is called like a package manager began.
    ManagerBegan { pid: u32, start_boot_ns: u64 },
    /// Whether events of files are delivered.
    Delivered(bool),
    /// Somebody asks.
    Request(Request),
}

/// What somebody asks, with the way back.
pub(crate) enum Request {
    List(oneshot::Sender<serde_json::Value>),
    Accept(
        Option<std::path::PathBuf>,
        oneshot::Sender<Result<usize, RequestError>>,
    ),
    Rebuild(oneshot::Sender<()>),
}

/// See the module.
pub struct Eye {
    pub(crate) watch: Arc<Watch>,
    pub(crate) inodes: SharedInodes,
    pub(crate) inbox: SyncSender<Message>,
    pub(crate) managers: Vec<String>,
    pub(crate) missed: Arc<AtomicU64>,
    pub(crate) delivered: Option<bool>,
    /// Whether the audit log tells what is done to files, so that it does not matter that the kernel's probe does not.
    pub(crate) audited: bool,
}

impl Eye {
    /// Looks at one fact.
    pub fn observe(&mut self, fact: &Fact) {
        match fact {
            Fact::FileEvent(event) if self.wants(event) => self.pass(Message::Act(event.clone())),
            Fact::KernelEvent(event) if event.kind == KernelEventKind::Mount && event.path.is_some() => {
                self.pass(Message::Mount(event.clone()));
            }
            Fact::ProcessEvent(event) if event.kind == ProcessEventKind::Exec => {
                let exe = event.exe.as_deref().unwrap_or_default();
                if self.managers.iter().any(|manager| manager == exe) {
                    self.pass(Message::ManagerBegan {
                        pid: event.pid,
                        start_boot_ns: event.start_boot_ns,
                    });
                }
            }
            Fact::ProbeStatus(status) => {
                let probe = if self.audited { SOURCE_PROBE } else { FILE_PROBE };
                if status.probe == probe {
                    self.tell_delivered(status.state != ProbeState::Broken);
                }
            }
            _ => {}
        }
        if let Fact::FileEvent(event) = fact
            && matches!(event.source, Source::Ebpf | Source::Audit)
        {
            self.audited = event.source == Source::Audit;
            self.tell_delivered(true);
        }
    }

    fn wants(&self, event: &FileEvent) -> bool {
        if event.kind == FileEventKind::OpenRead || event.error.is_some_and(|error| error != 0) {
            return false;
        }
        let gives_rights = event.mode.is_some_and(|mode| {
            let kind = mode & libc::S_IFMT;
            is_suid(if kind == 0 { mode | REGULAR } else { mode })
        });
        if gives_rights && self.watch.watches_suid() {
            return true;
        }
        let names = [Some(&event.path), event.target.as_ref()];
        if names
            .into_iter()
            .flatten()
            .any(|name| self.watch.class_of(Path::new(name), Kind::Any).is_some())
        {
            return true;
        }
        identity_of(event).is_some_and(|identity| self.inodes.read().contains(identity))
    }

    fn tell_delivered(&mut self, delivered: bool) {
        if self.delivered != Some(delivered) {
            self.delivered = Some(delivered);
            self.pass(Message::Delivered(delivered));
        }
    }

    fn pass(&self, message: Message) {
        let reason = match self.inbox.try_send(message) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "full",
            Err(TrySendError::Disconnected(_)) => "ended",
        };
        metrics::event_dropped(reason);
        self.missed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Device and inode of an event, when it tells both.
pub(crate) fn identity_of(event: &FileEvent) -> Option<(u64, u64)> {
    event.device.zip(event.inode).filter(|(_, inode)| *inode != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use fleetmend_event::TimeMicros;
    use fleetmend_event::table::{Actor, ProbeStatus};

    use super::*;
    use crate::config::Config;

    fn eye(room: usize) -> (Eye, Receiver<Message>) {
        let (inbox, messages) = sync_channel(room);
        let eye = Eye {
            watch: Arc::new(Watch::new(&Config::default())),
            inodes: SharedInodes::default(),
            inbox,
            managers: vec!["/usr/bin/dpkg".to_owned()],
            missed: Arc::default(),
            delivered: Some(true),
            audited: false,
        };
        (eye, messages)
    }

    fn event(kind: FileEventKind, path: &str) -> FileEvent {
        FileEvent {
            path: path.to_owned(),
            ..FileEvent::by(Actor::default(), kind, TimeMicros(1), 1, Source::Ebpf)
        }
    }

    #[test]
    fn only_what_concerns_a_watched_file_goes_on() {
        let (mut eye, messages) = eye(100);
        let mut passes = |event: FileEvent| {
            eye.observe(&event.into());
            messages.try_recv().is_ok()
        };
        assert!(passes(event(FileEventKind::OpenWrite, "/etc/ld.so.preload")));
        assert!(!passes(event(FileEventKind::OpenWrite, "/home/ann/notes")));
        assert!(!passes(event(FileEventKind::OpenRead, "/etc/shadow")));
        let renamed = event(FileEventKind::Rename, "/tmp/x");
        assert!(passes(FileEvent {
            target: Some("/etc/sudoers".to_owned()),
            ..renamed
        }));
        let chmod = event(FileEventKind::Chmod, "/home/ann/shell");
        assert!(passes(FileEvent {
            mode: Some(0o4755),
            ..chmod.clone()
        }));
        assert!(!passes(FileEvent {
            mode: Some(0o755),
            ..chmod
        }));
        let refused = event(FileEventKind::OpenWrite, "/etc/passwd");
        assert!(!passes(FileEvent {
            error: Some(13),
            ..refused
        }));
    }

    #[test]
    fn probe_that_another_source_stands_in_for_does_not_end_the_delivery() {
        let (mut eye, messages) = eye(100);
        let row = |probe: &str, state| ProbeStatus {
            time: TimeMicros(1),
            probe: probe.to_owned(),
            state,
            reason: String::new(),
            hint: String::new(),
            seen: 0,
            delivered: 0,
            lost: 0,
        };
        let mut told = |fact: Fact| {
            eye.observe(&fact);
            match messages.try_recv() {
                Ok(Message::Delivered(delivered)) => Some(delivered),
                _ => None,
            }
        };
        assert_eq!(told(row(FILE_PROBE, ProbeState::Broken).into()), Some(false));
        let of_audit = FileEvent::by(
            Actor::default(),
            FileEventKind::OpenRead,
            TimeMicros(1),
            1,
            Source::Audit,
        );
        assert_eq!(told(of_audit.into()), Some(true));
        assert_eq!(told(row(FILE_PROBE, ProbeState::Broken).into()), None);
        assert_eq!(told(row(SOURCE_PROBE, ProbeState::Broken).into()), Some(false));
    }

    #[test]
    fn hub_never_waits_and_what_is_lost_is_counted() {
        let (mut eye, _messages) = eye(1);
        for _ in 0..3 {
            eye.observe(&event(FileEventKind::OpenWrite, "/etc/passwd").into());
        }
        assert_eq!(eye.missed.load(Ordering::Relaxed), 2);
    }
}
