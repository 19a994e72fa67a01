//! Tracepoints by name: their numbers, and programs attached to them.
//!
//! The numbers are files of tracefs. Where it is not mounted, as in many containers, a mount that only this process
//! sees is made for the moment of loading (Linux 5.2, CAP_SYS_ADMIN); nothing is mounted in any folder.
#![expect(
    unsafe_code,
    reason = "fsopen, fsmount, perf_event_open and its ioctl have no safe wrappers"
)]

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Where tracefs is mounted.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// `FSCONFIG_CMD_CREATE` of linux/mount.h.
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
/// `PERF_TYPE_TRACEPOINT` of linux/perf_event.h.
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `PERF_ATTR_SIZE_VER1`: what every kernel with BPF knows.
const ATTRIBUTE_BYTES: usize = 72;
/// `PERF_FLAG_FD_CLOEXEC`.
const FLAG_CLOEXEC: libc::c_long = 8;
/// `PERF_EVENT_IOC_SET_BPF`: `_IOW('$', 8, __u32)`.
const SET_BPF: libc::c_ulong = 0x4004_2408;
/// `PERF_EVENT_IOC_ENABLE`: `_IO('$', 0)`.
const ENABLE: libc::c_ulong = 0x2400;

/// Tracefs, opened when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Tracefs {
    folder: Option<OwnedFd>,
}

impl Tracefs {
    /// The number of a tracepoint.
    pub(crate) fn id(&mut self, category: &str, name: &str) -> io::Result<u64> {
        if self.folder.is_none() {
            self.folder = Some(open()?);
        }
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let path = format!("events/{category}/{name}/id");
        let file = openat(
            folder.as_fd(),
            Path::new(&path),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = String::new();
        File::from(file).take(32).read_to_string(&mut text)?;
        text.trim().parse().map_err(io::Error::other)
    }
}

fn open() -> io::Result<OwnedFd> {
    for place in PLACES {
        if Path::new(place).join("events").is_dir() {
            return Ok(File::open(place)?.into());
        }
    }
    mount()
}

/// A mount of tracefs that is in no folder: it goes away with its descriptor.
fn mount() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call; the call only returns a descriptor.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1) })?;
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: the descriptor is open; this command takes no key and no value.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            null,
            null,
            0,
        )
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; the other arguments are numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(answer) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `program` at the tracepoint with this number, on every processor, until the descriptor is dropped.
pub(crate) fn attach(program: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let mut attribute = [0_u8; ATTRIBUTE_BYTES];
    let words: [(usize, &[u8]); 3] = [
        (0, &PERF_TYPE_TRACEPOINT.to_ne_bytes()),
        (4, &72_u32.to_ne_bytes()),
        (8, &id.to_ne_bytes()),
    ];
    for (at, word) in words {
        if let Some(place) = attribute.get_mut(at..at + word.len()) {
            place.copy_from_slice(word);
        }
    }
    // SAFETY: the attribute has the size that it names and outlives the call. Any process, the first processor: a
    // program belongs to the tracepoint itself and runs on all of them.
    let event = descriptor(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attribute.as_ptr(),
            -1,
            0,
            -1,
            FLAG_CLOEXEC,
        )
    })?;
    // SAFETY: both descriptors are open; the request takes a number.
    if unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; the request takes a number.
    if unsafe { libc::ioctl(event.as_raw_fd(), ENABLE, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracepoint_has_a_number_and_an_unknown_one_has_not() {
        if !nix::unistd::geteuid().is_root() {
            println!("COULD NOT RUN: tracefs is root's");
            return;
        }
        let mut tracefs = Tracefs::default();
        assert!(tracefs.id("sched", "sched_switch").unwrap() > 0);
        assert!(tracefs.id("sched", "no_such_tracepoint").is_err());
    }
}
