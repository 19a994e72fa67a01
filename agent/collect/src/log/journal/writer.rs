//! A writer of journal files for tests: as journald lays them out, in either width, live or archived.
#![allow(clippy::cast_possible_truncation, reason = "a test's files are small")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const HEADER: u64 = 272;
const COMPACT: u32 = 1 << 4;

pub(crate) struct Writer {
    file: File,
    compact: bool,
    tail: u64,
    entries: u64,
    array: u64,
    array_used: u64,
    array_items: u64,
    seqnum: u64,
}

impl Writer {
    pub(crate) fn create(path: &Path, id: u8, compact: bool) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut header = vec![0_u8; HEADER as usize];
        header[..8].copy_from_slice(b"LPKSHHRH");
        header[12..16].copy_from_slice(&(2_u32 | if compact { COMPACT } else { 0 }).to_le_bytes());
        header[16] = 1;
        header[24..40].fill(id);
        header[72..88].fill(9);
        header[88..96].copy_from_slice(&HEADER.to_le_bytes());
        file.write_all_at(&header, 0).unwrap();
        Self {
            file,
            compact,
            tail: HEADER,
            entries: 0,
            array: 0,
            array_used: 0,
            array_items: 0,
            seqnum: 0,
        }
    }

    fn object(&mut self, kind: u8, flags: u8, body: &[u8]) -> u64 {
        let offset = self.tail;
        let bytes = 16 + body.len() as u64;
        let mut object = vec![kind, flags, 0, 0, 0, 0, 0, 0];
        object.extend(bytes.to_le_bytes());
        object.extend(body);
        object.resize(object.len().div_ceil(8) * 8, 0);
        self.file.write_all_at(&object, offset).unwrap();
        self.tail += object.len() as u64;
        offset
    }

    pub(crate) fn data(&mut self, flags: u8, payload: &[u8]) -> u64 {
        let fixed = if self.compact { 56 } else { 48 };
        let mut body = vec![0; fixed];
        body.extend(payload);
        self.object(1, flags, &body)
    }

    pub(crate) fn add(&mut self, realtime_us: u64, fields: &[(&str, &str)]) {
        let items: Vec<u64> = fields
            .iter()
            .map(|(name, value)| self.data(0, format!("{name}={value}").as_bytes()))
            .collect();
        self.link(realtime_us, &items);
    }

    /// An entry whose items are these offsets.
    pub(crate) fn link(&mut self, realtime_us: u64, items: &[u64]) -> u64 {
        self.seqnum += 1;
        let mut body = Vec::new();
        body.extend(self.seqnum.to_le_bytes());
        body.extend(realtime_us.to_le_bytes());
        body.extend(realtime_us.to_le_bytes());
        body.extend([7; 16]);
        body.extend([0; 8]);
        for item in items {
            if self.compact {
                body.extend((*item as u32).to_le_bytes());
            } else {
                body.extend(item.to_le_bytes());
                body.extend([0; 8]);
            }
        }
        let entry = self.object(3, 0, &body);
        let width = if self.compact { 4 } else { 8 };
        if self.array_used == self.array_items {
            self.array_items = (self.array_items * 2).max(4);
            let array = self.object(6, 0, &vec![0; (8 + self.array_items * width) as usize]);
            let before = if self.array == 0 { 176 } else { self.array + 16 };
            self.file.write_all_at(&array.to_le_bytes(), before).unwrap();
            (self.array, self.array_used) = (array, 0);
        }
        let at = self.array + 24 + self.array_used * width;
        self.file
            .write_all_at(&entry.to_le_bytes()[..width as usize], at)
            .unwrap();
        self.array_used += 1;
        self.entries += 1;
        self.file.write_all_at(&self.entries.to_le_bytes(), 152).unwrap();
        if self.entries == 1 {
            self.file.write_all_at(&realtime_us.to_le_bytes(), 184).unwrap();
        }
        self.file.write_all_at(&realtime_us.to_le_bytes(), 192).unwrap();
        entry
    }

    pub(crate) fn archive(&mut self) {
        self.file.write_all_at(&[2], 16).unwrap();
    }

    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    /// A line of a service of root.
    pub(crate) fn line(&mut self, realtime_us: u64, identifier: &str, message: &str) {
        let fields = [
            ("MESSAGE", message),
            ("SYSLOG_IDENTIFIER", identifier),
            ("PRIORITY", "6"),
            ("_UID", "0"),
            ("_PID", "7"),
            ("_SYSTEMD_UNIT", "x.service"),
        ];
        self.add(realtime_us, &fields);
    }
}
