//! Acts: what a process did to files, credentials, memory, the kernel and other processes.
//!
//! The rows of these tables differ in what was done and share who did it: `act_table!` adds the columns of the
//! [`Actor`] to each.

use super::process::Source;
use super::table;
use crate::{Lane, TimeMicros, words};

/// Who did it: the columns that every table of acts has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Actor {
    /// Process id in the initial namespace (thread group id); 0 when unknown.
    pub pid: u32,
    /// Nanoseconds on the boot clock when the process began; 0 when unknown.
    pub start_boot_ns: u64,
    /// Process id of the parent, when known.
    pub ppid: Option<u32>,
    /// Command name, at most 15 bytes.
    pub comm: String,
    /// Path of the program, when known.
    pub exe: Option<String>,
    /// Arguments joined by spaces, secrets masked, when known.
    pub command_line: Option<String>,
    /// Command name of the parent, when known.
    pub parent_comm: Option<String>,
    /// Path of the parent's program, when known.
    pub parent_exe: Option<String>,
    /// Real user id.
    pub uid: u32,
    /// Effective user id, when known.
    pub euid: Option<u32>,
    /// User id of the login session, when one is set.
    pub login_uid: Option<u32>,
    /// Path of the control group, when known.
    pub cgroup: Option<String>,
    /// systemd unit, when the control group names one.
    pub unit: Option<String>,
    /// Container id, when the control group names one.
    pub container_id: Option<String>,
}

/// A row of a table of acts.
pub trait Act {
    /// Who did it.
    fn actor(&self) -> Actor;
    /// Where it was seen.
    fn source(&self) -> Source;
}

/// Declares a table of acts: time, kind, the columns given, then the actor's and the source.
macro_rules! act_table {
    ($(#[$meta:meta])* pub struct $name:ident($table:literal, id $id:literal, version $version:literal, $lane:expr) by $kind:ty {
        $($(#[$fmeta:meta])* $field:ident: $type:ty,)+
    }) => {
        table! {
            $(#[$meta])*
            pub struct $name($table, id $id, version $version, $lane) {
                /// When it happened.
                time: TimeMicros,
                /// Nanoseconds on the boot clock when it happened.
                boot_ns: u64,
                /// What was done.
                kind: $kind,
                $($(#[$fmeta])* $field: $type,)+
                /// Error number of a call that failed; `None` when it succeeded or the hook does not tell.
                error: Option<i32>,
                /// How many equal acts this row stands for: the kernel counts repeats instead of telling each.
                repeats: u64,
                /// Process id in the initial namespace (thread group id); 0 when unknown.
                pid: u32,
                /// Nanoseconds on the boot clock when the process began; 0 when unknown.
                start_boot_ns: u64,
                /// Process id of the parent, when known.
                ppid: Option<u32>,
                /// Command name, at most 15 bytes.
                comm: String,
                /// Path of the program, when known.
                exe: Option<String>,
                /// Arguments joined by spaces, secrets masked, when known.
                command_line: Option<String>,
                /// Command name of the parent, when known.
                parent_comm: Option<String>,
                /// Path of the parent's program, when known.
                parent_exe: Option<String>,
                /// Real user id.
                uid: u32,
                /// Effective user id, when known.
                euid: Option<u32>,
                /// User id of the login session, when one is set.
                login_uid: Option<u32>,
                /// Path of the control group, when known.
                cgroup: Option<String>,
                /// systemd unit, when the control group names one.
                unit: Option<String>,
                /// Container id, when the control group names one.
                container_id: Option<String>,
                /// Where it was seen.
                source: Source,
            }
        }

        impl $name {
            /// An act of this kind by `actor`, done once and without error; every other column is empty.
            pub fn by(actor: Actor, kind: $kind, time: TimeMicros, boot_ns: u64, source: Source) -> Self {
                Self {
                    time,
                    boot_ns,
                    kind,
                    $($field: Default::default(),)+
                    error: None,
                    repeats: 1,
                    pid: actor.pid,
                    start_boot_ns: actor.start_boot_ns,
                    ppid: actor.ppid,
                    comm: actor.comm,
                    exe: actor.exe,
                    command_line: actor.command_line,
                    parent_comm: actor.parent_comm,
                    parent_exe: actor.parent_exe,
                    uid: actor.uid,
                    euid: actor.euid,
                    login_uid: actor.login_uid,
                    cgroup: actor.cgroup,
                    unit: actor.unit,
                    container_id: actor.container_id,
                    source,
                }
            }
        }

        impl Act for $name {
            fn actor(&self) -> Actor {
                Actor {
                    pid: self.pid,
                    start_boot_ns: self.start_boot_ns,
                    ppid: self.ppid,
                    comm: self.comm.clone(),
                    exe: self.exe.clone(),
                    command_line: self.command_line.clone(),
                    parent_comm: self.parent_comm.clone(),
                    parent_exe: self.parent_exe.clone(),
                    uid: self.uid,
                    euid: self.euid,
                    login_uid: self.login_uid,
                    cgroup: self.cgroup.clone(),
                    unit: self.unit.clone(),
                    container_id: self.container_id.clone(),
                }
            }

            fn source(&self) -> Source {
                self.source
            }
        }
    };
}

words! {
    /// What was done to a file.
    pub enum FileEventKind {
        /// Opened for writing.
        OpenWrite = "open_write",
        /// Made by the open that is told.
        Create = "create",
        /// Opened for reading, of files that hold secrets only.
        OpenRead = "open_read",
        /// Given another name; `target` is the new one.
        Rename = "rename",
        /// A name removed.
        Unlink = "unlink",
        /// Given a further name; `target` is the new one.
        Link = "link",
        /// A symbolic link made: `path` is what it says, `target` its own name.
        Symlink = "symlink",
        /// Its mode changed.
        Chmod = "chmod",
        /// Its owner changed.
        Chown = "chown",
        /// An extended attribute of `security.*` or `system.*` set or removed.
        Attribute = "attribute",
        /// Cut to a length by its name.
        Truncate = "truncate",
    }
}

words! {
    /// How far a path can be trusted.
    pub enum PathSource {
        /// Read from the file that the kernel reached.
        Resolved = "resolved",
        /// The text that the caller gave, made absolute where possible; links in it are not followed, and another
        /// thread may have changed it.
        Argument = "argument",
    }
}

act_table! {
    /// What was done to a file.
    pub struct FileEvent("file_events", id 16, version 1, Lane::Events) by FileEventKind {
        /// Path of the file.
        path: String,
        /// How far `path` and `target` can be trusted; `None` when unknown.
        path_source: Option<PathSource>,
        /// The second path of a rename or link.
        target: Option<String>,
        /// Mode bits after a chmod or creation, file type included where known.
        mode: Option<u32>,
        /// Mode bits before a chmod, when known.
        old_mode: Option<u32>,
        /// Owner given by a chown.
        owner_uid: Option<u32>,
        /// Group given by a chown.
        owner_gid: Option<u32>,
        /// Flags of an open, as open(2) takes them.
        flags: Option<u32>,
        /// Name of the extended attribute.
        attribute: Option<String>,
        /// Inode, when known.
        inode: Option<u64>,
        /// Device of the file system, major in the upper 32 bits and minor in the lower, when known.
        device: Option<u64>,
    }
}

words! {
    /// What happened to a process' credentials.
    pub enum CredentialEventKind {
        /// A user id changed.
        User = "user",
        /// A group id changed.
        Group = "group",
        /// Capabilities changed, and no user id.
        Capabilities = "capabilities",
    }
}

act_table! {
    /// A change of user, group or capabilities. `uid` and `euid` are those after the change.
    pub struct CredentialEvent("credential_events", id 17, version 1, Lane::Critical) by CredentialEventKind {
        /// The call that changed them, such as `setuid`, `execve`, `capset`; `None` when unknown.
        call: Option<String>,
        /// Real user id before.
        old_uid: Option<u32>,
        /// Effective user id before.
        old_euid: Option<u32>,
        /// Real group id before.
        old_gid: Option<u32>,
        /// Effective group id before.
        old_egid: Option<u32>,
        /// Real group id after.
        gid: Option<u32>,
        /// Effective group id after.
        egid: Option<u32>,
        /// Effective capabilities before, one bit each as capabilities(7) numbers them.
        old_capabilities: Option<u64>,
        /// Effective capabilities after.
        capabilities: Option<u64>,
        /// Whether the process was in a user namespace of its own: root there is not root of the host.
        user_namespace: Option<bool>,
    }
}

words! {
    /// What was done to memory.
    pub enum MemoryEventKind {
        /// ptrace(2) attached to, or wrote into, another process.
        Ptrace = "ptrace",
        /// process_vm_readv(2) of another process.
        ProcessVmRead = "process_vm_read",
        /// process_vm_writev(2) into another process.
        ProcessVmWrite = "process_vm_write",
        /// /proc/PID/mem of another process opened for writing.
        ProcMemWrite = "proc_mem_write",
        /// /proc/PID/mem of another process opened for reading.
        ProcMemRead = "proc_mem_read",
        /// A file without a name made by memfd_create(2).
        Memfd = "memfd",
        /// A program executed that has no name in any file system.
        FilelessExec = "fileless_exec",
        /// Anonymous memory mapped executable, or made so.
        ExecutableMapping = "executable_mapping",
    }
}

act_table! {
    /// An act on memory, of the process itself or of another.
    pub struct MemoryEvent("memory_events", id 18, version 1, Lane::Critical) by MemoryEventKind {
        /// Process acted on, when it is another.
        target_pid: Option<u32>,
        /// When that process began, in nanoseconds on the boot clock.
        target_start_boot_ns: Option<u64>,
        /// Its command name.
        target_comm: Option<String>,
        /// Path of its program, when known.
        target_exe: Option<String>,
        /// Its real user id, when known.
        target_uid: Option<u32>,
        /// The request of a ptrace, such as `PTRACE_ATTACH`; the name of a memfd; the path executed.
        detail: Option<String>,
        /// Address, for a mapping or a ptrace that writes.
        address: Option<u64>,
        /// Length in bytes.
        length: Option<u64>,
        /// Protection as mmap(2) takes it.
        protection: Option<u32>,
    }
}

words! {
    /// What was asked of the kernel.
    pub enum KernelEventKind {
        /// A module loaded.
        ModuleLoad = "module_load",
        /// A module removed.
        ModuleUnload = "module_unload",
        /// A BPF program loaded.
        BpfLoad = "bpf_load",
        /// Another command of bpf(2) that changes something: attach, link, pin.
        Bpf = "bpf",
        /// A file system mounted.
        Mount = "mount",
        /// A file system unmounted.
        Umount = "umount",
        /// Namespaces entered by setns(2).
        Setns = "setns",
        /// Namespaces made by unshare(2) or clone(2).
        Unshare = "unshare",
        /// The root changed by pivot_root(2) or chroot(2).
        ChangeRoot = "change_root",
        /// Another kernel loaded by kexec.
        Kexec = "kexec",
        /// The clock set.
        ClockSet = "clock_set",
        /// io_uring set up: its calls pass by the hooks of calls.
        Uring = "uring",
        /// A 32-bit program's first call: its calls pass by some hooks.
        Compat = "compat",
        /// A setting of the kernel written.
        Setting = "setting",
        /// The host's name or its NIS domain's set; `detail` is the call.
        HostNameSet = "host_name_set",
    }
}

act_table! {
    /// A change of the kernel's own state.
    pub struct KernelEvent("kernel_events", id 19, version 1, Lane::Critical) by KernelEventKind {
        /// Name of the module, of the BPF program, source of a mount, name given to the host or its domain.
        name: Option<String>,
        /// Path mounted at, or of the module's file.
        path: Option<String>,
        /// File system type, BPF program type or command, in words.
        detail: Option<String>,
        /// Flags: of clone(2) for namespaces, of mount(2) for mounts.
        flags: Option<u64>,
    }
}

words! {
    /// What ended or interrupted a process.
    pub enum SignalEventKind {
        /// A signal sent by a process to another.
        Signal = "signal",
        /// A process killed because memory ran out.
        OomKill = "oom_kill",
        /// A signal that the kernel sent for a fault of the process, such as SIGSEGV; actor and target are one.
        Fault = "fault",
    }
}

act_table! {
    /// A signal, or a kill for lack of memory. The actor is the sender.
    pub struct SignalEvent("signal_events", id 20, version 1, Lane::Events) by SignalEventKind {
        /// Number of the signal.
        signal: i32,
        /// Process that it was sent to.
        target_pid: u32,
        /// When that process began, in nanoseconds on the boot clock.
        target_start_boot_ns: Option<u64>,
        /// Its command name.
        target_comm: Option<String>,
        /// Path of its program, when known.
        target_exe: Option<String>,
        /// Its control group, when known.
        target_unit: Option<String>,
        /// Resident bytes of the process, for an OOM kill.
        rss_bytes: Option<u64>,
    }
}
