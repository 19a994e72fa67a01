//! Calls that act on files.

use fleetmend_event::table::{Actor, FileEvent, FileEventKind, PathSource, Source};

use super::record::AuditRecord;
use super::rows::Call;

/// `AT_FDCWD` as an int.
const AT_FDCWD: u32 = (-100_i32).cast_unsigned();
/// Access mode and flags of open(2) as x86-64, aarch64 and i386 number them.
const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
/// The owner that a chown leaves as it is.
const UNCHANGED: u32 = u32::MAX;

/// A call by its kind and where its arguments stand.
struct Shape {
    kind: FileEventKind,
    /// Argument that is the folder of a relative path.
    folder: Option<usize>,
    /// Argument of the mode, the flags or the owner.
    value: Option<usize>,
}

pub(super) fn is_file_call(name: &str) -> bool {
    shape(name).is_some()
}

fn shape(name: &str) -> Option<Shape> {
    use FileEventKind::{
        Attribute, Chmod, Chown, Create, Link, OpenWrite, Rename, Symlink, Truncate, Unlink,
    };
    let of = |kind, folder, value| Some(Shape { kind, folder, value });
    match name {
        "open" => of(OpenWrite, None, Some(1)),
        "openat" => of(OpenWrite, Some(0), Some(2)),
        "openat2" => of(OpenWrite, Some(0), None),
        "creat" => of(OpenWrite, None, None),
        "mknod" => of(Create, None, Some(1)),
        "mknodat" => of(Create, Some(0), Some(2)),
        "unlink" | "rmdir" => of(Unlink, None, None),
        "unlinkat" => of(Unlink, Some(0), None),
        "rename" => of(Rename, None, None),
        "renameat" | "renameat2" => of(Rename, Some(0), None),
        "link" => of(Link, None, None),
        "linkat" => of(Link, Some(0), None),
        "symlink" => of(Symlink, None, None),
        "symlinkat" => of(Symlink, Some(1), None),
        "chmod" | "fchmod" => of(Chmod, None, Some(1)),
        "fchmodat" | "fchmodat2" => of(Chmod, Some(0), Some(2)),
        "chown" | "lchown" | "fchown" | "chown32" | "lchown32" | "fchown32" => of(Chown, None, Some(1)),
        "fchownat" => of(Chown, Some(0), Some(2)),
        "setxattr" | "lsetxattr" | "fsetxattr" | "removexattr" | "lremovexattr" | "fremovexattr" => {
            of(Attribute, None, None)
        }
        "truncate" | "truncate64" => of(Truncate, None, None),
        _ => None,
    }
}

/// The row of a call on a file.
pub(super) fn row(call: &Call<'_>, actor: Actor) -> Option<FileEvent> {
    let shape = shape(call.name)?;
    let item = |wanted: &[&str]| {
        wanted.iter().find_map(|wanted| {
            call.event
                .all("PATH")
                .find(|path| path.field("nametype") == Some(wanted))
        })
    };
    let (subject, target) = match shape.kind {
        FileEventKind::Rename => (
            item(&["DELETE"]).or_else(|| item(&["UNKNOWN", "NORMAL"])),
            call.event
                .all("PATH")
                .filter(|path| path.field("nametype") == Some("CREATE"))
                .last(),
        ),
        FileEventKind::Link => (item(&["NORMAL", "UNKNOWN"]), item(&["CREATE"])),
        FileEventKind::Symlink => (item(&["UNKNOWN", "NORMAL"]), item(&["CREATE"])),
        _ => (item(&["CREATE", "DELETE", "NORMAL", "UNKNOWN"]), None),
    };
    let folder = shape.folder;
    let absolute = |path: &AuditRecord| absolute(call, path, folder);
    let mut row = FileEvent::by(actor, shape.kind, call.time, call.boot_ns, Source::Audit);
    row.error = call.error;
    let named = subject.and_then(absolute);
    row.path_source = named.as_ref().map(|_| PathSource::Argument);
    row.path = named.unwrap_or_default();
    if shape.kind == FileEventKind::Symlink {
        // What a link says is text, not a place.
        row.path = subject
            .and_then(|path| path.field("name"))
            .unwrap_or_default()
            .to_owned();
    }
    row.target = target.and_then(absolute);
    let described = subject.or(target);
    row.inode = described.and_then(|path| path.number("inode"));
    row.device = described.and_then(|path| device(path.field("dev")?));
    let mode = described.and_then(|path| u32::from_str_radix(path.field("mode")?, 8).ok());
    let value = shape.value.and_then(|index| call.int(index));
    match shape.kind {
        FileEventKind::OpenWrite => {
            let flags = flags(call, value);
            row.flags = flags;
            let created = subject.is_some_and(|path| path.field("nametype") == Some("CREATE"));
            row.kind = match flags {
                _ if created => FileEventKind::Create,
                Some(flags) if flags & O_ACCMODE == 0 && flags & O_TRUNC == 0 => FileEventKind::OpenRead,
                _ => FileEventKind::OpenWrite,
            };
            row.mode = mode.filter(|_| created);
        }
        FileEventKind::Create => row.mode = mode.or(value),
        FileEventKind::Chmod => {
            row.old_mode = mode;
            let file_type = mode.unwrap_or(0) & !0o7777;
            row.mode = value.map(|bits| (bits & 0o7777) | file_type);
        }
        FileEventKind::Chown => {
            row.owner_uid = value.filter(|uid| *uid != UNCHANGED);
            let group = shape.value.and_then(|index| call.int(index + 1));
            row.owner_gid = group.filter(|gid| *gid != UNCHANGED);
        }
        _ => {}
    }
    Some(row)
}

/// The path that an event names first, other than a folder of one.
pub(super) fn first_path(call: &Call<'_>) -> Option<String> {
    absolute(call, named(call).next()?, None)
}

/// The path that it names last.
pub(super) fn last_path(call: &Call<'_>) -> Option<String> {
    absolute(call, named(call).last()?, None)
}

fn named<'a>(call: &Call<'a>) -> impl Iterator<Item = &'a AuditRecord> {
    let paths = call.event.all("PATH");
    paths.filter(|path| path.field("nametype") != Some("PARENT"))
}

fn flags(call: &Call<'_>, value: Option<u32>) -> Option<u32> {
    match call.name {
        "creat" => Some(O_CREAT | O_WRONLY | O_TRUNC),
        "openat2" => {
            let octal = call.event.record("OPENAT2")?.field("oflag")?;
            u32::from_str_radix(octal, 8).ok()
        }
        _ => value,
    }
}

/// The path of an item, made absolute where the working directory is what it is relative to.
fn absolute(call: &Call<'_>, path: &AuditRecord, folder: Option<usize>) -> Option<String> {
    let name = path.field("name")?;
    if name.starts_with('/') {
        return Some(plain(name));
    }
    let from_folder = folder
        .and_then(|index| call.int(index))
        .is_some_and(|fd| fd != AT_FDCWD);
    let cwd = call.event.record("CWD").and_then(|cwd| cwd.field("cwd"));
    match cwd {
        Some(cwd) if !from_folder && cwd.starts_with('/') => Some(plain(&format!("{cwd}/{name}"))),
        _ => Some(name.to_owned()),
    }
}

/// A path as the probes name it: without empty parts and `.`, and with `..` taking back the part before it. Links are
/// not followed.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `08:01`, major and minor in hexadecimal.
fn device(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    let part = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
    Some(part(major)? << 32 | part(minor)?)
}
