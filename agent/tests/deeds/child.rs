//! What the child processes do.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// User without any rights.
const NOBODY: u32 = 65_534;

fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("FOLDER").unwrap())
}

/// A copy of a program under another name.
fn copy_of(program: &str, to: &Path) -> PathBuf {
    fs::copy(program, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    to.to_owned()
}

fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // Whether it succeeds is not what is looked at, but it has to run.
    status.unwrap();
}

/// A mount namespace of its own in which these folders are empty memory.
fn private(folders: &[&str]) {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    for folder in folders {
        if Path::new(folder).is_dir() {
            mount(
                Some("none"),
                *folder,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
        }
    }
}

/// Folders of the system become empty memory, of this process and its children alone.
fn private_system() {
    private(&["/etc", "/root", "/var/log", "/var/spool"]);
    for folder in ["/etc/cron.d", "/root/.ssh"] {
        fs::create_dir_all(folder).unwrap();
    }
    for file in [
        "/etc/shadow",
        "/var/log/auth.log",
        "/var/log/syslog",
        "/root/.bash_history",
    ] {
        fs::write(file, "x\n").unwrap();
    }
    fs::set_permissions("/etc/shadow", fs::Permissions::from_mode(0o640)).unwrap();
}

fn in_private_system(script: &str) {
    let folder = folder();
    private_system();
    let status = Command::new("/bin/sh")
        .args(["-c", script])
        .env("FOLDER", folder)
        .status()
        .unwrap();
    assert!(status.success(), "{script}: {status}");
}

/// A process with the name of one that is guarded. It outlives the deed by some seconds and ends by itself: a target
/// that the kernel's record does not describe is looked at when the record is read.
struct Guarded(Child);

impl Guarded {
    fn start(name: &str) -> Self {
        let program = copy_of("/bin/sleep", &folder().join(name));
        // It descends from the test, not from the deed: as another's process would.
        let mut waits = Command::new(program);
        waits
            .arg("30")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(waits.spawn().unwrap())
    }
}

/// Does the second half of a deed to a guarded process.
fn on_guarded(name: &str, step: &str) {
    let guarded = Guarded::start(name);
    by_another(step, guarded.0.id());
}

/// Runs a deed's second half in a child, so that the first half's processes are not its descendants.
fn by_another(step: &str, target: u32) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_does_its_deed", "--nocapture"])
        .env(super::DEED, step)
        .env("TARGET", target.to_string())
        .status()
        .unwrap();
    assert!(status.success(), "{step}: {status}");
}

fn target() -> i32 {
    std::env::var("TARGET").unwrap().parse().unwrap()
}

/// Start of the target's stack, which may be written.
fn stack_of(pid: i32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
    u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
}

/// Does the deed of this name; a name that is none of these is a fault.
pub(crate) fn act(deed: &str) {
    match deed {
        "run_from_shared_memory" => shared_memory(),
        "run_a_memfd" => memfd(),
        "run_a_set_user_id_copy" => set_user_id_copy(),
        "join_a_shell_to_a_connection" => reverse_shell(),
        "listen_from_a_shared_folder" => listen(),
        "listens" => drop(TcpListener::bind(("0.0.0.0", 0)).unwrap()),
        "scan_ports" => (1..=40).for_each(knock),
        "scan_ports_by_ten_processes" => ten_processes(),
        "knock_at_four" => (0..4).for_each(|index| knock(u16::try_from(target()).unwrap() * 4 + index + 1)),
        "fork_without_end" => forks(),
        "stop_the_audit" => run(copy_of("/bin/true", &folder().join("auditctl")), &["-e", "0"]),
        "add_a_job" => in_private_system("echo '* * * * * root id' | tee /etc/cron.d/job > /dev/null"),
        "rename_over_the_preload" => in_private_system(": > /etc/fresh; mv /etc/fresh /etc/ld.so.preload"),
        "add_a_key" => in_private_system("echo ssh-ed25519 >> /root/.ssh/authorized_keys"),
        "empty_a_log" => in_private_system(": > /var/log/auth.log"),
        "remove_a_log" => in_private_system("rm /var/log/auth.log"),
        // As sed -i does.
        "rewrite_a_log" => {
            in_private_system("cp /var/log/auth.log /var/log/x; mv /var/log/x /var/log/auth.log")
        }
        "add_a_job_by_a_word_like_a_script" => {
            in_private_system("/usr/bin/env true; echo > /etc/cron.d/job #/apt");
        }
        "put_a_folder_of_keys" => in_private_system(
            "rm -r /root/.ssh; mkdir /root/a; echo x > /root/a/authorized_keys; mv /root/a /root/.ssh",
        ),
        "open_the_passwords_with_the_sticky_bit" => in_private_system("chmod 1666 /etc/shadow"),
        "remove_the_history" => in_private_system("rm /root/.bash_history"),
        "open_the_passwords_to_everyone" => in_private_system("chmod 666 /etc/shadow"),
        "drop_a_set_user_id_program" => {
            in_private_system("cp /bin/true \"$FOLDER/x\"; chmod 4755 \"$FOLDER/x\"")
        }
        // The host's own file: the kernel's probe knows secrets by their inode.
        "read_the_passwords" => run("/bin/cat", &["/etc/shadow"]),
        "write_memory_by_proc" => on_guarded("sshd", "writes_by_proc"),
        "attach_to_a_guarded_process" => on_guarded("sshd", "attaches"),
        "write_memory_by_call" => on_guarded("sshd", "writes_by_call"),
        _ => more(deed),
    }
}

fn more(deed: &str) {
    match deed {
        "load_a_bpf_program" => bpf_program(),
        "open_the_core_pattern" => run("/bin/sh", &["-c", ": >> /proc/sys/kernel/core_pattern"]),
        "drop_privileges" => drop_privileges(),
        "become_another_by_su" => run("/bin/su", &["-s", "/bin/sh", "nobody", "-c", "id"]),
        "become_another_by_sudo" => run("/usr/bin/sudo", &["-n", "-u", "nobody", "id"]),
        "build_in_parallel" => build(),
        "back_up_everything" => run("/bin/tar", &["-cf", "/dev/null", "/etc"]),
        "rotate_logs" => rotate(),
        "install_a_package" => package(),
        "debug_a_child" => debug_child(),
        "debug_an_own_process" => on_guarded("worker", "runs_gdb"),
        "runs_gdb" => run(
            "/usr/bin/gdb",
            &["-batch", "-p", &target().to_string(), "-ex", "detach"],
        ),
        "kill_a_guard" => on_guarded("auditd", "kills"),
        "kills" => run("/bin/sh", &["-c", &format!("kill -9 {}", target())]),
        "writes_by_proc" => write_by_proc(),
        "writes_by_call" => write_by_call(),
        "attaches" => attach(),
        other => panic!("no deed is called {other}"),
    }
}

fn shared_memory() {
    let program = PathBuf::from(format!("/dev/shm/deed{}", std::process::id()));
    run(copy_of("/bin/true", &program), &[]);
    fs::remove_file(program).unwrap();
}

fn memfd() {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create(c"deed", MFdFlags::empty()).unwrap();
    let mut file = fs::File::from(file);
    file.write_all(&fs::read("/bin/true").unwrap()).unwrap();
    run(format!("/proc/self/fd/{}", file.as_raw_fd()), &[]);
}

fn set_user_id_copy() {
    let program = copy_of("/usr/bin/id", &folder().join("x"));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    // The folder of the test is its own; the program has to be reached by another user.
    for folder in program.ancestors().skip(1).take(2) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    drop(
        Command::new("/bin/sh")
            .args(["-c", &format!("{} -u; true", program.display())])
            .uid(NOBODY)
            .gid(NOBODY)
            .status(),
    );
}

fn reverse_shell() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"exit\n").unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec /bin/sh -i <&3 >&3 2>&3");
    run("/bin/bash", &["-c", &script]);
    other.join().unwrap();
}

/// A copy of this program in a shared folder listens, and ends.
fn listen() {
    let own = std::env::current_exe().unwrap();
    let program = folder().join("listener");
    if fs::hard_link(&own, &program).is_err() {
        fs::copy(&own, &program).unwrap();
    }
    let status = Command::new(program)
        .args(["--exact", "child_does_its_deed"])
        .env(super::DEED, "listens")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Low ports of this host, of which nearly all are shut.
fn knock(port: u16) {
    drop(TcpStream::connect(("127.0.0.1", port)));
}

fn ten_processes() {
    for index in 0..10 {
        by_another("knock_at_four", index);
    }
}

/// Children that only wait; ended at once when there are enough.
fn forks() {
    let mut children = Vec::new();
    for _ in 0..450 {
        // SAFETY: the child calls only pause and _exit, which may be called after a fork of a process with threads.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: as above.
                unsafe { libc::pause() };
                // SAFETY: as above.
                unsafe { libc::_exit(0) }
            }
            child if child > 0 => children.push(child),
            _ => break,
        }
    }
    for child in children {
        let child = nix::unistd::Pid::from_raw(child);
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(child, None).unwrap();
    }
}

fn write_by_proc() {
    let pid = target();
    let mut memory = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .unwrap();
    memory.seek(SeekFrom::Start(stack_of(pid))).unwrap();
    drop(memory.write(&[0]));
}

fn write_by_call() {
    let pid = target();
    let byte = [0_u8];
    let local = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(usize::try_from(stack_of(pid)).unwrap()),
        iov_len: 1,
    };
    // SAFETY: both vectors have one element; the local one points to a byte that lives, the other process is ours.
    let written = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    assert_eq!(written, 1, "{}", std::io::Error::last_os_error());
}

fn attach() {
    let pid = nix::unistd::Pid::from_raw(target());
    nix::sys::ptrace::attach(pid).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    nix::sys::ptrace::detach(pid, None).unwrap();
}

/// The smallest program there is: it returns 0.
fn bpf_program() {
    const PROG_LOAD: libc::c_long = 5;
    const SOCKET_FILTER: u32 = 1;
    let code: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let licence = c"GPL";
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        code: u64,
        licence: u64,
        rest: [u64; 16],
    }
    let attributes = Attributes {
        kind: SOCKET_FILTER,
        count: 2,
        code: code.as_ptr().addr() as u64,
        licence: licence.as_ptr().addr() as u64,
        rest: [0; 16],
    };
    let size = std::mem::size_of::<Attributes>();
    // SAFETY: the attributes are those of the command, as long as told, and what they point to lives.
    let descriptor = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size) };
    assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
}

/// As a server does: root's rights are given up for good, with a moment's return.
fn drop_privileges() {
    let status = Command::new("/bin/sh")
        .args(["-c", "id; /bin/true"])
        .uid(NOBODY)
        .gid(NOBODY)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    use nix::unistd::{Uid, seteuid, setresuid};
    let nobody = Uid::from_raw(NOBODY);
    seteuid(nobody).unwrap();
    seteuid(Uid::from_raw(0)).unwrap();
    setresuid(nobody, nobody, nobody).unwrap();
}

fn build() {
    let targets: String = (0..120).map(|index| format!(" t{index}")).collect();
    fs::write(
        folder().join("Makefile"),
        format!("all:{targets}\nt%:\n\t@/bin/sh -c 'true; /bin/true'\n"),
    )
    .unwrap();
    let status = Command::new("/usr/bin/make")
        .args(["-s", "-j16"])
        .current_dir(folder())
        .status()
        .unwrap();
    assert!(status.success());
}

fn rotate() {
    private(&["/var/log"]);
    for log in ["/var/log/auth.log", "/var/log/syslog"] {
        fs::write(log, "x\n").unwrap();
    }
    let rules = "/var/log/auth.log /var/log/syslog {\n rotate 1\n create 640 root root\n copytruncate\n}\n";
    let settings = folder().join("logrotate.conf");
    fs::write(&settings, rules).unwrap();
    let settings = settings.display().to_string();
    for _ in 0..3 {
        run("/usr/sbin/logrotate", &["-f", "-s", "/var/log/state", &settings]);
    }
}

/// A package with a unit and a set-user-ID program, made and unpacked below the deed's folder.
fn package() {
    let (tree, root) = (folder().join("tree"), folder().join("root"));
    for folder in ["DEBIAN", "usr/bin", "lib/systemd/system", "etc/cron.d"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    for folder in [
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let control =
        "Package: deed\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.com>\nDescription: x\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::write(tree.join("lib/systemd/system/deed.service"), "[Unit]\n").unwrap();
    fs::write(tree.join("etc/cron.d/deed"), "").unwrap();
    let package = folder().join("deed.deb");
    let package = package.to_str().unwrap();
    run(
        "/usr/bin/dpkg-deb",
        &["--root-owner-group", "-b", tree.to_str().unwrap(), package],
    );
    let root = format!("--root={}", root.display());
    run("/usr/bin/dpkg", &[&root, "--force-all", "-i", package]);
}

fn debug_child() {
    let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::ptrace::attach(pid).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    nix::sys::ptrace::detach(pid, None).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}
