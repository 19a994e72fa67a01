//! A recording on disk.
//!
//! | file | holds |
//! |---|---|
//! | `session.bin` | every message of both directions, in the order in which they passed: direction (1 up, 2 down), length (u32, little endian), the message as it was on the wire |
//! | `spool.bin` | the agent's spool as it was left, file by file: length of the path (u32), path, length (u32), content |
//! | `rows.txt` | the rows that the store holds afterwards, one per line, sorted |

use std::path::Path;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up = 1,
    Down = 2,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Recording {
    pub(super) messages: Vec<(Direction, Bytes)>,
    /// Path within the folder, and content.
    pub(super) spool: Vec<(String, Bytes)>,
    pub(super) rows: Vec<String>,
}

impl Recording {
    pub(super) fn read(folder: &Path) -> Self {
        let open = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut messages = Vec::new();
        let mut rest = Bytes::from(open("session.bin"));
        while rest.has_remaining() {
            let direction = match rest.get_u8() {
                1 => Direction::Up,
                2 => Direction::Down,
                other => panic!("direction {other}"),
            };
            messages.push((direction, take(&mut rest)));
        }
        let mut spool = Vec::new();
        let mut rest = Bytes::from(open("spool.bin"));
        while rest.has_remaining() {
            let path = String::from_utf8(take(&mut rest).to_vec()).unwrap();
            spool.push((path, take(&mut rest)));
        }
        let rows = String::from_utf8(open("rows.txt")).unwrap();
        Self {
            messages,
            spool,
            rows: rows.lines().map(str::to_owned).collect(),
        }
    }

    pub(super) fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let mut session = BytesMut::new();
        for (direction, message) in &self.messages {
            session.put_u8(*direction as u8);
            put(&mut session, message);
        }
        std::fs::write(folder.join("session.bin"), session).unwrap();
        let mut spool = BytesMut::new();
        for (path, content) in &self.spool {
            put(&mut spool, path.as_bytes());
            put(&mut spool, content);
        }
        std::fs::write(folder.join("spool.bin"), spool).unwrap();
        std::fs::write(folder.join("rows.txt"), self.rows.join("\n") + "\n").unwrap();
    }

    pub(super) fn of(&self, wanted: Direction) -> Vec<Bytes> {
        let of = self.messages.iter().filter(|(direction, _)| *direction == wanted);
        of.map(|(_, message)| message.clone()).collect()
    }

    /// Takes the files of a folder.
    pub(super) fn keep_spool(&mut self, folder: &Path) {
        let mut waiting = vec![folder.to_owned()];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(
                    std::fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                self.spool.push((name, std::fs::read(&path).unwrap().into()));
            }
        }
        self.spool.sort();
    }

    /// Lays the files out again.
    pub(super) fn lay_spool(&self, folder: &Path) {
        for (name, content) in &self.spool {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

fn put(buffer: &mut BytesMut, content: &[u8]) {
    buffer.put_u32_le(u32::try_from(content.len()).unwrap());
    buffer.put_slice(content);
}

fn take(rest: &mut Bytes) -> Bytes {
    let length = usize::try_from(rest.get_u32_le()).unwrap();
    rest.split_to(length)
}
