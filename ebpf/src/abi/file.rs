//! Records of the family `file`: `abi/file.h`.

use super::layout::{self, record};
use super::{AbiError, FieldLayout, KIND_REPEATS, Layout, RepeatsRecord, kind_of};

/// An open for writing, or of a secret for reading.
pub const OPEN: u16 = 1;
/// Given another name.
pub const RENAME: u16 = 2;
/// A name removed.
pub const UNLINK: u16 = 3;
/// Given a further name.
pub const LINK: u16 = 4;
/// A symbolic link made.
pub const SYMLINK: u16 = 5;
/// Its mode changed.
pub const CHMOD: u16 = 6;
/// Its owner changed.
pub const CHOWN: u16 = 7;
/// An extended attribute set or removed.
pub const ATTRIBUTE: u16 = 8;
/// Cut to a length by its name.
pub const TRUNCATE: u16 = 9;

/// Flags of a file record.
pub mod flag {
    /// `from` is the path of the file itself.
    pub const RESOLVED: u16 = 1;
    /// A text is longer than the record.
    pub const TRUNCATED: u16 = 2;
    /// The open made the file.
    pub const CREATED: u16 = 4;
    /// Opened for reading only.
    pub const READ: u16 = 8;
    /// The agent watches the file.
    pub const WATCHED: u16 = 16;
}

/// Numbers that the object's maps and records agree on: `abi/file.h`.
pub mod limit {
    /// Calls that the table has a place for.
    pub const CALLS_MAX: u32 = 512;
    /// What an owner is that was not changed.
    pub const UNCHANGED: u32 = u32::MAX;
    /// Opens for reading are told.
    pub const WATCH_READS: u32 = 1;
    /// Acts go to the critical ring.
    pub const WATCH_CRITICAL: u32 = 2;
}

record! {
    /// `file_record`, without the texts that follow it.
    pub struct FileRecord("file_record", 144) {
        time_ns: u64 = 0, "act.head.time_ns";
        kind: u16 = 8, "act.head.kind";
        flags: u16 = 10, "act.head.flags";
        inode: u64 = 104, "inode";
        device: u32 = 112, "device";
        open_flags: u32 = 116, "flags";
        mode: u32 = 120, "mode";
        owner_uid: u32 = 124, "owner_uid";
        owner_gid: u32 = 128, "owner_gid";
        attribute_len: u16 = 132, "attribute_len";
        from_len: u16 = 134, "from_len";
        path_len: u16 = 136, "path_len";
        target_from_len: u16 = 138, "target_from_len";
        target_len: u16 = 140, "target_len";
    }
}

/// The texts of a file record. Folders are names ended by a NUL each, the innermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Texts<'a> {
    /// Name of the extended attribute.
    pub attribute: &'a [u8],
    /// Folders of `path`, or the file itself.
    pub from: &'a [u8],
    /// The name as the caller gave it.
    pub path: &'a [u8],
    /// Folders of `target`.
    pub target_from: &'a [u8],
    /// The second name as the caller gave it.
    pub target: &'a [u8],
}

/// Reads an act; who did it is in [`super::Act`], read from the same bytes.
///
/// # Errors
/// When the bytes are fewer than the record says or its kind is unknown.
pub fn read<'a>(bytes: &'a [u8]) -> Result<(FileRecord, Texts<'a>), AbiError> {
    match kind_of(bytes)? {
        OPEN..=TRUNCATE => {}
        other => return Err(AbiError::Kind(other)),
    }
    let record = FileRecord::parse(bytes)?;
    let mut at = FileRecord::SIZE;
    let mut next = |len: u16| -> Result<&'a [u8], AbiError> {
        let text = layout::tail(bytes, at, len)?;
        at += text.len();
        Ok(text)
    };
    let texts = Texts {
        attribute: next(record.attribute_len)?,
        from: next(record.from_len)?,
        path: next(record.path_len)?,
        target_from: next(record.target_from_len)?,
        target: next(record.target_len)?,
    };
    Ok((record, texts))
}

/// Which arguments a call has what in, one more than the argument's number; 0 for none. See `struct file_call`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are described once, in abi/file.h")]
pub struct FileCall {
    pub kind: u8,
    pub folder: u8,
    pub path: u8,
    pub target_folder: u8,
    pub target: u8,
    pub fd: u8,
    pub flags: u8,
    pub mode: u8,
    pub uid: u8,
    pub gid: u8,
    pub attribute: u8,
    pub how: u8,
    pub implied: u8,
}

impl FileCall {
    /// Bytes of `struct file_call`.
    pub const fn value(&self) -> [u8; 16] {
        [
            self.kind,
            self.folder,
            self.path,
            self.target_folder,
            self.target,
            self.fd,
            self.flags,
            self.mode,
            self.uid,
            self.gid,
            self.attribute,
            self.how,
            self.implied,
            0,
            0,
            0,
        ]
    }
}

/// Bytes of `struct watched_key`.
pub fn watched_key(inode: u64, device: u32) -> [u8; 16] {
    let mut key = [0; 16];
    layout::write(&mut key, 0, &inode.to_le_bytes());
    layout::write(&mut key, 8, &device.to_le_bytes());
    key
}

const fn field(name: &'static str, offset: usize, size: usize) -> FieldLayout {
    FieldLayout { name, offset, size }
}

/// Layouts of the records and of what the maps hold.
pub const LAYOUTS: &[Layout] = &[
    FileRecord::LAYOUT,
    Layout {
        name: "file_call",
        size: 16,
        fields: &[
            field("kind", 0, 1),
            field("folder", 1, 1),
            field("path", 2, 1),
            field("target_folder", 3, 1),
            field("target", 4, 1),
            field("fd", 5, 1),
            field("flags", 6, 1),
            field("mode", 7, 1),
            field("uid", 8, 1),
            field("gid", 9, 1),
            field("attribute", 10, 1),
            field("how", 11, 1),
            field("implied", 12, 1),
        ],
    },
    Layout {
        name: "watched_key",
        size: 16,
        fields: &[field("inode", 0, 8), field("device", 8, 4)],
    },
];

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    match kind_of(bytes)? {
        KIND_REPEATS => RepeatsRecord::parse(bytes).map(drop),
        _ => read(bytes).map(drop),
    }
}
