//! What the tests of acts really do, in children of their own where it cannot be undone.
#![expect(unsafe_code, reason = "most of these calls have no safe wrapper")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use libc::c_long;

/// Set in the process that runs [`crash`] again for its fault.
const CRASH: &str = "FLEETMEND_TEST_CRASH";

/// A process that waits until it is dropped, or killed.
pub(super) struct Victim {
    pub(super) child: Child,
    /// The last word of its stack, which is zero.
    pub(super) stack: u64,
}

impl Victim {
    pub(super) fn start() -> Self {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has executed its program once it answers.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut answer = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let line = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
        let end = line.split(' ').next().unwrap().split('-').nth(1).unwrap();
        let stack = u64::from_str_radix(end, 16).unwrap() - 8;
        Self { child, stack }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A call by its number; a pointer must be good for what the call does with it.
unsafe fn call(number: c_long, arguments: &[u64]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = std::array::from_fn(|index| arguments.get(index).copied().unwrap_or(0));
    // SAFETY: as the caller says.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer == -1 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap());
    }
    Ok(answer)
}

/// Attaches, writes a word of the stack, and lets go.
pub(super) fn trace(victim: &Victim) {
    let pid = libc::pid_t::try_from(victim.pid()).unwrap();
    let null = std::ptr::null_mut::<libc::c_void>();
    let address =
        std::ptr::with_exposed_provenance_mut::<libc::c_void>(usize::try_from(victim.stack).unwrap());
    // SAFETY: the victim is a child of ours; the word written is of its memory and held the same.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, null, null), 0);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_POKEDATA, pid, address, null), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, null, null), 0);
    }
}

/// Reads the last word of the victim's stack and writes it back.
pub(super) fn reach_in(pid: u32, address: u64) {
    let mut word = [0_u8; 8];
    let local = libc::iovec {
        iov_base: word.as_mut_ptr().cast(),
        iov_len: word.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap()),
        iov_len: word.len(),
    };
    let pid = libc::pid_t::try_from(pid).unwrap();
    // SAFETY: both vectors have one part of eight bytes; the local one lives here.
    unsafe {
        assert_eq!(
            libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0),
            8
        );
        assert_eq!(
            libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0),
            8
        );
    }
}

/// A file without a name that holds a program, inherited by children.
pub(super) fn memfd_program(name: &str, program: &str) -> OwnedFd {
    let name = CString::new(name).unwrap();
    // SAFETY: the name is a C string that outlives the call; nobody else owns the descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(name.as_ptr(), 0)) };
    let mut file = File::from(fd);
    file.write_all(&fs::read(program).unwrap()).unwrap();
    file.into()
}

/// Memory of our own, made executable in both ways; returns where.
pub(super) fn make_executable() -> (u64, u64) {
    let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let null = std::ptr::null_mut();
    // SAFETY: new pages that nobody uses.
    unsafe {
        let mapped = libc::mmap(null, 4096, read | write | execute, flags, -1, 0);
        let protected = libc::mmap(null, 4096, read | write, flags, -1, 0);
        assert!(mapped != libc::MAP_FAILED && protected != libc::MAP_FAILED);
        assert_eq!(libc::mprotect(protected, 4096, read | execute), 0);
        (
            mapped.expose_provenance() as u64,
            protected.expose_provenance() as u64,
        )
    }
}

/// Pages of our own program mapped and made executable and writable, as loaders do; returns where.
pub(super) fn make_file_executable() -> u64 {
    use std::os::fd::AsRawFd;
    let file = File::open("/proc/self/exe").unwrap();
    let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    // SAFETY: new private pages that nobody uses.
    unsafe {
        let mapped = libc::mmap(
            std::ptr::null_mut(),
            4096,
            read,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        );
        assert!(mapped != libc::MAP_FAILED);
        assert_eq!(libc::mprotect(mapped, 4096, read | write | execute), 0);
        mapped.expose_provenance() as u64
    }
}

/// A child in a UTS namespace of its own, made by clone(2), which ends at once.
pub(super) fn clone_into_a_namespace() -> u32 {
    let flags = u64::from((libc::CLONE_NEWUTS | libc::SIGCHLD).unsigned_abs());
    // SAFETY: without CLONE_VM the child has a copy of everything, like after fork; it ends without running more.
    let child = unsafe { call(libc::SYS_clone, &[flags]) }.unwrap();
    if child == 0 {
        // SAFETY: ends the copy at once.
        unsafe { libc::_exit(0) };
    }
    let pid = libc::pid_t::try_from(child).unwrap();
    // SAFETY: a null status is allowed.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
    u32::try_from(child).unwrap()
}

/// A child that sets both names in a UTS namespace of its own, and asks for each once too long; returns its pid. More
/// text follows the names than their lengths say.
pub(super) fn set_names(host: &str, domain: &str) -> u32 {
    const TOO_LONG: u64 = 65;
    let length = |name: &str| u64::try_from(name.len()).unwrap();
    let texts = [(host, libc::SYS_sethostname), (domain, libc::SYS_setdomainname)]
        .map(|(name, number)| (number, format!("{name}{}", "-behind".repeat(10)), length(name)));
    let mut child = Command::new("true");
    let set = move || {
        let new_names = u64::from(libc::CLONE_NEWUTS.unsigned_abs());
        let failed = std::io::Error::from_raw_os_error;
        // SAFETY: each text is longer than any length given, and lives until the calls return.
        unsafe {
            // Nothing is set where this fails.
            call(libc::SYS_unshare, &[new_names]).map_err(failed)?;
            for (number, text, length) in &texts {
                let address = text.as_ptr().expose_provenance() as u64;
                call(*number, &[address, *length]).map_err(failed)?;
                call(*number, &[address, TOO_LONG]).unwrap_err();
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the child only makes calls, and allocates nothing.
    unsafe { child.pre_exec(set) };
    super::run(&mut child)
}

/// Sets no clock: there is none of this number. The error numbers of both calls.
pub(super) fn set_no_clock() -> [i32; 2] {
    const ADJ_STATUS: u64 = 0x10;
    let time = [0_u64; 2];
    let mut adjustment = [0_u64; 32];
    adjustment[0] = ADJ_STATUS;
    let none = u64::from(u32::MAX);
    // SAFETY: the structures are as large as the calls want them, and live until these return.
    unsafe {
        [
            call(
                libc::SYS_clock_settime,
                &[none, time.as_ptr().expose_provenance() as u64],
            )
            .unwrap_err(),
            call(
                libc::SYS_clock_adjtime,
                &[none, adjustment.as_mut_ptr().expose_provenance() as u64],
            )
            .unwrap_err(),
        ]
    }
}

/// Reads the state of the clock, which changes nothing.
pub(super) fn read_clock_state() {
    let mut state = [0_u64; 32];
    // SAFETY: larger than the structure, and zero: no mode.
    unsafe {
        call(
            libc::SYS_adjtimex,
            &[state.as_mut_ptr().expose_provenance() as u64],
        )
    }
    .unwrap();
}

/// A ring of io_uring, closed again; whether the kernel gave one.
pub(super) fn set_up_uring() -> bool {
    let mut parameters = [0_u64; 15];
    let address = parameters.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the structure has 120 bytes and is zero.
    match unsafe { call(libc::SYS_io_uring_setup, &[4, address]) } {
        // SAFETY: the kernel has just made the descriptor for us.
        Ok(fd) => drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }),
        Err(_) => return false,
    }
    true
}

/// A 32-bit program that ends with 0, in a file of its own.
pub(super) fn compat_program(folder: &std::path::Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    const BASE: u32 = 0x0804_8000;
    // mov eax, 1 (exit); xor ebx, ebx; int 0x80
    let code = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    for value in [2, 3] {
        half(&mut file, value);
    }
    for value in [1, BASE + 84, 52, 0, 0] {
        word(&mut file, value);
    }
    for value in [52, 32, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    let bytes = 84 + u32::try_from(code.len()).unwrap();
    for value in [1, 0, BASE, BASE, bytes, bytes, 5, 0x1000] {
        word(&mut file, value);
    }
    file.extend(code);
    let path = folder.join("compat");
    fs::write(&path, file).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs a copy of this test that reads where nothing is, and returns its pid.
pub(super) fn crash_elsewhere() -> u32 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bpf::tests::deeds::crash"])
        .env(CRASH, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    assert!(!child.wait().unwrap().success());
    pid
}

#[test]
fn crash() {
    if std::env::var_os(CRASH).is_some() {
        let nothing = std::ptr::with_exposed_provenance::<u64>(64);
        // SAFETY: not safe, on purpose: a fault is what is wanted of this process.
        let read = unsafe { std::ptr::read_volatile(nothing) };
        println!("{read}");
    }
}
