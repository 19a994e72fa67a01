//! Family `file`: what is done to files becomes rows, with the path that the kernel reached or the name that was given.

mod calls;
mod config;
mod path;
mod watched;

use aya::maps::{Array, MapData};
use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::file::{self as abi, FileRecord, Texts, flag, limit};
use fleetmend_ebpf::abi::repeats::FILE_SETS;
use fleetmend_ebpf::abi::{AbiError, Act};
use fleetmend_event::table::{FileEvent, FileEventKind, PathSource, Source, Table};
use fleetmend_event::{Fact, Lane};

pub use config::FilesConfig;

use self::watched::Watched;
use super::enrich::Enricher;
use super::error::FamilyError;
use super::family::map_error;
use super::repeats::Acts;
use super::spec::{Duty, FamilySpec, Handler, Maps};

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::File,
    table: FileEvent::NAME,
    table_id: FileEvent::ID,
    lane: Lane::Events,
    duties: &[
        Duty {
            name: "open",
            ways: calls::OPEN,
        },
        Duty {
            name: "names",
            ways: calls::NAMES,
        },
        Duty {
            name: "metadata",
            ways: calls::METADATA,
        },
    ],
    limits: "calls through io_uring and calls of 32-bit programs pass by these hooks; names are told as the caller wrote \
             them; writes through a descriptor or a mapping are told by their open; calls that fail for another reason than \
             permission are not told",
    shed: &[
        "opens for writing",
        "creations",
        "removals and truncations",
        "renames and links",
    ],
    prepare: |loader, config| {
        loader.map_max_entries("CRITICAL", config.other_ring_bytes);
    },
    handler: |config| Box::new(Acts::new(Files::new(config.files.clone()), FILE_SETS)),
};

/// See the module.
struct Files {
    config: FilesConfig,
    watched: Option<Watched>,
}

impl Files {
    fn new(config: FilesConfig) -> Self {
        Self {
            config,
            watched: None,
        }
    }
}

impl Handler for Files {
    /// The table of calls last: nothing is told before the watched files are known.
    fn begin(&mut self, maps: &mut Maps<'_>, _cx: &mut Enricher) -> Result<(), FamilyError> {
        let mut watched = Watched::new(&self.config, maps.take("WATCHED")?)?;
        watched.refresh();
        self.watched = Some(watched);
        let fault = map_error("WINDOW_NS");
        let mut window: Array<MapData, u64> = Array::try_from(maps.take("WINDOW_NS")?).map_err(&fault)?;
        window.set(0, self.config.repeat_window_ns(), 0).map_err(&fault)?;
        let fault = map_error("CALLS");
        let mut table: Array<MapData, [u8; 16]> = Array::try_from(maps.take("CALLS")?).map_err(&fault)?;
        for (number, call) in calls::TABLE {
            let number = u32::try_from(*number).unwrap_or(limit::CALLS_MAX);
            table.set(number, call.value(), 0).map_err(&fault)?;
        }
        Ok(())
    }

    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let (record, texts) = abi::read(bytes)?;
        let row = row(&Act::parse(bytes)?, &record, &texts, cx);
        if let Some(watched) = &mut self.watched {
            watched.note(&row);
        }
        out.push(row.into());
        Ok(())
    }

    fn tick(&mut self, _cx: &mut Enricher, _out: &mut Vec<Fact>) {
        if let Some(watched) = &mut self.watched {
            watched.refresh_when_due();
        }
    }
}

fn row(act: &Act, record: &FileRecord, texts: &Texts<'_>, cx: &mut Enricher) -> FileEvent {
    let has = |wanted: u16| record.flags & wanted != 0;
    let resolved = has(flag::RESOLVED);
    let cut = has(flag::TRUNCATED);
    let path = if record.kind == abi::SYMLINK {
        path::text(texts.path)
    } else {
        path::joined(texts.from, texts.path, cut)
    };
    let target = path::joined(texts.target_from, texts.target, cut);
    let is_open = record.kind == abi::OPEN;
    let mode = (is_open && resolved) || record.kind == abi::CHMOD;
    let owner = |id: u32| Some(id).filter(|id| record.kind == abi::CHOWN && *id != limit::UNCHANGED);
    let actor = cx.actor(act);
    let time = cx.clock.time_of(act.time_ns);
    FileEvent {
        path,
        path_source: Some(if resolved {
            PathSource::Resolved
        } else {
            PathSource::Argument
        }),
        target: Some(target).filter(|target| !target.is_empty()),
        mode: mode.then_some(record.mode),
        owner_uid: owner(record.owner_uid),
        owner_gid: owner(record.owner_gid),
        flags: is_open.then_some(record.open_flags),
        attribute: Some(path::text(texts.attribute)).filter(|name| !name.is_empty()),
        inode: resolved.then_some(record.inode),
        device: resolved.then(|| watched::device_of(record.device)),
        error: Enricher::act_error(act),
        repeats: u64::from(act.repeats),
        ..FileEvent::by(actor, kind_of(record), time, act.time_ns, Source::Ebpf)
    }
}

fn kind_of(record: &FileRecord) -> FileEventKind {
    match record.kind {
        abi::RENAME => FileEventKind::Rename,
        abi::UNLINK => FileEventKind::Unlink,
        abi::LINK => FileEventKind::Link,
        abi::SYMLINK => FileEventKind::Symlink,
        abi::CHMOD => FileEventKind::Chmod,
        abi::CHOWN => FileEventKind::Chown,
        abi::ATTRIBUTE => FileEventKind::Attribute,
        abi::TRUNCATE => FileEventKind::Truncate,
        _ if record.flags & flag::CREATED != 0 => FileEventKind::Create,
        _ if record.flags & flag::READ != 0 => FileEventKind::OpenRead,
        _ => FileEventKind::OpenWrite,
    }
}
