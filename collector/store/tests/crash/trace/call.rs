//! What a call of the child changes.

use std::ffi::OsStr;
use std::io::IoSliceMut;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::{Call, Entered, READ_ONLY, Tracer, WRITABLE};
use crate::workload::SAID;

const PATH_BYTES_MAX: usize = 4_096;
const AT_FDCWD: u64 = libc::AT_FDCWD as u64;
/// Flags of an open that a disk which is read-only refuses.
const WRITES: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

impl Tracer {
    pub(super) fn opened_path(&self, thread: Pid, number: i64, arguments: &[u64; 6]) -> Option<PathBuf> {
        match number {
            libc::SYS_openat => self.path_at(thread, arguments[0], arguments[1]),
            libc::SYS_open | libc::SYS_creat => self.path_at(thread, AT_FDCWD, arguments[0]),
            _ => None,
        }
    }

    /// The change that a call made, when it made one in the folder.
    pub(super) fn call(
        &mut self,
        thread: Pid,
        number: i64,
        a: &[u64; 6],
        result: u64,
        entered: &Entered,
    ) -> Option<Call> {
        match number {
            libc::SYS_openat | libc::SYS_open | libc::SYS_creat => {
                let path = self.inside(&self.opened_path(thread, number, a)?)?;
                let flags = open_flags(number, a);
                let has = |flag: i32| flags & flag as u64 == flag as u64;
                assert!(!has(libc::O_TMPFILE), "a file without a name is not simulated");
                let made = has(libc::O_CREAT) && !entered.existed;
                let emptied = has(libc::O_TRUNC) && entered.existed;
                (made || emptied).then_some(Call::Open { path, emptied })
            }
            libc::SYS_write if a[0] == 1 => {
                let text = self.memory(thread, a[1], result);
                self.say(&String::from_utf8_lossy(&text))
            }
            libc::SYS_write | libc::SYS_writev => {
                let (path, after) = self.file(thread, a[0])?;
                let bytes = if number == libc::SYS_write {
                    self.memory(thread, a[1], result)
                } else {
                    self.vectors(thread, a[1], a[2], result)
                };
                let at = after? - result;
                Some(Call::Write { path, at, bytes })
            }
            libc::SYS_pwrite64 => {
                let (path, _) = self.file(thread, a[0])?;
                let bytes = self.memory(thread, a[1], result);
                Some(Call::Write {
                    path,
                    at: a[3],
                    bytes,
                })
            }
            libc::SYS_pwritev | libc::SYS_pwritev2 => {
                let (path, _) = self.file(thread, a[0])?;
                let bytes = self.vectors(thread, a[1], a[2], result);
                Some(Call::Write {
                    path,
                    at: a[3],
                    bytes,
                })
            }
            libc::SYS_ftruncate => {
                let (path, _) = self.file(thread, a[0])?;
                Some(Call::Resize { path, bytes: a[1] })
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let (path, _) = self.file(thread, a[0])?;
                Some(Call::Sync { path })
            }
            libc::SYS_rename => self.rename(thread, (AT_FDCWD, a[0]), (AT_FDCWD, a[1])),
            libc::SYS_renameat | libc::SYS_renameat2 => self.rename(thread, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_link => self.link(thread, (AT_FDCWD, a[0]), (AT_FDCWD, a[1])),
            libc::SYS_linkat => self.link(thread, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_unlink | libc::SYS_rmdir => self.unlink(thread, AT_FDCWD, a[0]),
            libc::SYS_unlinkat => self.unlink(thread, a[0], a[1]),
            libc::SYS_mkdir => self.make_folder(thread, AT_FDCWD, a[0]),
            libc::SYS_mkdirat => self.make_folder(thread, a[0], a[1]),
            libc::SYS_fallocate
            | libc::SYS_copy_file_range
            | libc::SYS_sendfile
            | libc::SYS_truncate
            | libc::SYS_symlink
            | libc::SYS_symlinkat
            | libc::SYS_sync_file_range
            | libc::SYS_io_uring_enter => panic!("call {number} is not simulated; teach it to this file"),
            _ => None,
        }
    }

    /// Whether a disk that is read-only would refuse a call that begins.
    pub(super) fn would_write(&self, thread: Pid, number: i64, a: &[u64; 6]) -> bool {
        let named = |folder, path| {
            self.path_at(thread, folder, path)
                .is_some_and(|path| self.inside(&path).is_some())
        };
        match number {
            libc::SYS_openat | libc::SYS_open | libc::SYS_creat => {
                let is_inside = self
                    .opened_path(thread, number, a)
                    .is_some_and(|path| self.inside(&path).is_some());
                is_inside && open_flags(number, a) & WRITES as u64 != 0
            }
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_pwritev2
            | libc::SYS_ftruncate
            | libc::SYS_fsync
            | libc::SYS_fdatasync => self.file(thread, a[0]).is_some(),
            libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => named(a[2], a[3]),
            libc::SYS_rename | libc::SYS_link => named(AT_FDCWD, a[1]),
            libc::SYS_unlink | libc::SYS_rmdir | libc::SYS_mkdir => named(AT_FDCWD, a[0]),
            libc::SYS_unlinkat | libc::SYS_mkdirat => named(a[0], a[1]),
            _ => false,
        }
    }

    fn rename(&self, thread: Pid, from: (u64, u64), to: (u64, u64)) -> Option<Call> {
        let from = self.inside(&self.path_at(thread, from.0, from.1)?)?;
        let to = self
            .inside(&self.path_at(thread, to.0, to.1)?)
            .expect("no file leaves the folder");
        Some(Call::Rename { from, to })
    }

    fn link(&self, thread: Pid, from: (u64, u64), to: (u64, u64)) -> Option<Call> {
        let to = self.inside(&self.path_at(thread, to.0, to.1)?)?;
        let from = self
            .inside(&self.path_at(thread, from.0, from.1)?)
            .expect("no file comes from outside the folder");
        Some(Call::Link { from, to })
    }

    fn unlink(&self, thread: Pid, folder: u64, path: u64) -> Option<Call> {
        let path = self.inside(&self.path_at(thread, folder, path)?)?;
        Some(Call::Unlink { path })
    }

    fn make_folder(&self, thread: Pid, folder: u64, path: u64) -> Option<Call> {
        let path = self.inside(&self.path_at(thread, folder, path)?)?;
        Some(Call::MakeFolder { path })
    }

    /// Whole lines that matter, one call each.
    fn say(&mut self, text: &str) -> Option<Call> {
        self.line.push_str(text);
        let mut said = None;
        while let Some((line, rest)) = self.line.split_once('\n') {
            let found = line.find(SAID).map(|at| line[at..].to_owned());
            match line {
                _ if line.contains(READ_ONLY) => self.is_read_only = true,
                _ if line.contains(WRITABLE) => self.is_read_only = false,
                _ => {}
            }
            self.line = rest.to_owned();
            if let Some(found) = found {
                // Of several lines in one write all but the last are noted here.
                self.calls.extend(said.replace(Call::Said(found)));
            }
        }
        said
    }

    fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// The file behind a descriptor, where it has a name in the folder, and the place after the last byte.
    fn file(&self, thread: Pid, descriptor: u64) -> Option<(PathBuf, Option<u64>)> {
        let path = std::fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).ok()?;
        if path.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return None;
        }
        let path = self.inside(&path)?;
        let info = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}")).ok()?;
        let place = info
            .lines()
            .find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok());
        Some((path, place))
    }

    fn path_at(&self, thread: Pid, folder: u64, address: u64) -> Option<PathBuf> {
        let text = self.text(thread, address);
        let path = Path::new(OsStr::from_bytes(&text));
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        let folder = if folder as i32 == libc::AT_FDCWD {
            "cwd".to_owned()
        } else {
            format!("fd/{}", folder as i32)
        };
        let folder = std::fs::read_link(format!("/proc/{thread}/{folder}")).ok()?;
        Some(folder.join(path))
    }

    /// A text with a zero at its end.
    fn text(&self, thread: Pid, address: u64) -> Vec<u8> {
        let mut text = Vec::new();
        // Never over a page's end: the next one may not be there.
        while text.len() < PATH_BYTES_MAX {
            let from = address + text.len() as u64;
            let part = self.memory(thread, from, 4_096 - from % 4_096);
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend(&part[..end]);
                return text;
            }
            text.extend(part);
        }
        text
    }

    fn memory(&self, thread: Pid, address: u64, bytes: u64) -> Vec<u8> {
        let mut buffer = vec![0; usize::try_from(bytes).unwrap()];
        let remote = [RemoteIoVec {
            base: usize::try_from(address).unwrap(),
            len: buffer.len(),
        }];
        if !buffer.is_empty() {
            let read = process_vm_readv(thread, &mut [IoSliceMut::new(&mut buffer)], &remote).unwrap();
            assert_eq!(read, usize::try_from(bytes).unwrap());
        }
        buffer
    }

    /// What `writev` wrote: its vectors, up to the bytes that were written.
    fn vectors(&self, thread: Pid, address: u64, count: u64, written: u64) -> Vec<u8> {
        let table = self.memory(thread, address, count * 16);
        let mut bytes = Vec::new();
        for entry in table.chunks_exact(16) {
            let base = u64::from_le_bytes(entry[..8].try_into().unwrap());
            let len = u64::from_le_bytes(entry[8..].try_into().unwrap());
            bytes.extend(self.memory(thread, base, len));
        }
        bytes.truncate(usize::try_from(written).unwrap());
        bytes
    }
}

fn open_flags(number: i64, a: &[u64; 6]) -> u64 {
    match number {
        libc::SYS_openat => a[2],
        libc::SYS_open => a[1],
        _ => (libc::O_CREAT | libc::O_TRUNC) as u64,
    }
}
