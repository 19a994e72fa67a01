//! Family `memory`: reaching into other processes, programs without a file, memory made executable; and settings of
//! the kernel opened for writing, which the same hook sees.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::memory::{self as records, MemoryRecord};
use fleetmend_ebpf::abi::repeats::ACT_SETS;
use fleetmend_ebpf::abi::{AbiError, Act};
use fleetmend_event::table::{KernelEvent, KernelEventKind, MemoryEvent, MemoryEventKind, Source, Table};
use fleetmend_event::{Fact, Lane};

use super::enrich::{Enricher, text};
use super::repeats::Acts;
use super::returns::{CALL, exits, returns};
use super::spec::{At, Duty, FamilySpec, Handler, Hook, Way};

/// Maps of processes that are read in a second, to tell memory of a file from other.
const MAPS_READ_MAX: u32 = 10;
/// Most bytes of one such map.
const MAPS_BYTES_MAX: u64 = 512 * 1024;

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Memory,
    table: MemoryEvent::NAME,
    table_id: MemoryEvent::ID,
    lane: Lane::Critical,
    duties: &[
        Duty {
            name: "ptrace",
            ways: returns!(new "on_ptrace" at "ptrace"),
        },
        Duty {
            name: "process_vm",
            ways: returns!(new "on_readv" at "process_vm_readv", new "on_writev" at "process_vm_writev"),
        },
        Duty {
            name: "files_of_proc",
            ways: &[
                Way {
                    name: "security check of an open",
                    hooks: &[Hook::new("on_file_open", At::Fentry("security_file_open"))],
                },
                Way {
                    name: CALL,
                    hooks: exits!(
                        new "on_open" at "openat",
                        optional "on_open" at "openat2",
                        optional "on_open" at "open",
                    ),
                },
            ],
        },
        Duty {
            name: "memfd",
            ways: returns!(new "on_memfd" at "memfd_create"),
        },
        Duty {
            name: "fileless",
            ways: &[Way {
                name: "scheduler tracepoint",
                hooks: &[Hook::new("on_exec", At::BtfTracepoint("sched_process_exec"))],
            }],
        },
        Duty {
            name: "mappings",
            ways: returns!(
                new "on_mmap" at "mmap",
                new "on_protect" at "mprotect",
                optional "on_pkey_protect" at "pkey_mprotect",
            ),
        },
    ],
    limits: "a target that the caller names in a pid namespace of its own is told by that number unless it is traced; \
             where the kernel is asked before it opens, an open of /proc/PID/mem that it then refuses is told like one \
             that it allows; executable memory is told once in ten minutes of a process; calls of 32-bit programs and of \
             io_uring pass by",
    shed: &[],
    prepare: |_, _| {},
    handler: |_| Box::new(Acts::new(Memory::default(), ACT_SETS)),
};

#[derive(Default)]
struct Memory {
    maps_read: u32,
}

impl Handler for Memory {
    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let record = records::read(bytes)?;
        let act = Act::parse(bytes)?;
        if record.kind == records::KIND_SETTING {
            let path = text(MemoryRecord::text(bytes)?);
            out.push(setting(&path, &act, cx).into());
        } else if let Some(kind) = self.kind_of(&record, &act, cx) {
            let texts = (
                text(MemoryRecord::text(bytes)?),
                text(MemoryRecord::other(bytes)?),
            );
            let detail = detail(kind, &record, texts);
            out.push(
                MemoryEvent {
                    detail,
                    ..row(kind, &record, &act, cx)
                }
                .into(),
            );
        }
        Ok(())
    }

    fn wanted_at_slow_pace(&self, _kind: u16) -> bool {
        true
    }

    fn tick(&mut self, _cx: &mut Enricher, _out: &mut Vec<Fact>) {
        self.maps_read = 0;
    }
}

impl Memory {
    /// What the record is; `None` when it turns out to be nothing.
    fn kind_of(&mut self, record: &MemoryRecord, act: &Act, cx: &Enricher) -> Option<MemoryEventKind> {
        Some(match record.kind {
            records::KIND_PTRACE => MemoryEventKind::Ptrace,
            records::KIND_PROCESS_VM_READ => MemoryEventKind::ProcessVmRead,
            records::KIND_PROCESS_VM_WRITE => MemoryEventKind::ProcessVmWrite,
            records::KIND_PROC_MEM_READ => MemoryEventKind::ProcMemRead,
            records::KIND_PROC_MEM_WRITE => MemoryEventKind::ProcMemWrite,
            records::KIND_MEMFD => MemoryEventKind::Memfd,
            records::KIND_FILELESS_EXEC => MemoryEventKind::FilelessExec,
            records::KIND_PROTECT if self.is_of_a_file(record, act, cx) => return None,
            _ => MemoryEventKind::ExecutableMapping,
        })
    }

    /// Whether the memory is known to be a file's: loaders make those executable all day.
    fn is_of_a_file(&mut self, record: &MemoryRecord, act: &Act, cx: &Enricher) -> bool {
        if self.maps_read >= MAPS_READ_MAX {
            return false;
        }
        self.maps_read += 1;
        let Ok(file) = File::open(cx.inventory().proc().path(act.pid, "maps")) else {
            return false;
        };
        let lines = BufReader::new(file.take(MAPS_BYTES_MAX))
            .lines()
            .map_while(Result::ok);
        has_file(lines, record.address) == Some(true)
    }
}

/// Whether the mapping that `address` lies in has a file; `None` when there is no such mapping.
fn has_file(lines: impl Iterator<Item = String>, address: u64) -> Option<bool> {
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (
            u64::from_str_radix(from, 16).ok()?,
            u64::from_str_radix(to, 16).ok()?,
        );
        if (from..to).contains(&address) {
            return Some(words.nth(3)? != "0");
        }
    }
    None
}

fn row(kind: MemoryEventKind, record: &MemoryRecord, act: &Act, cx: &mut Enricher) -> MemoryEvent {
    let is_foreign = record.flags & records::FLAG_FOREIGN_PID != 0;
    let known = match (record.target_pid, record.target_start_ns) {
        (0, _) => None,
        (pid, 0) if !is_foreign => cx.inventory().running(pid),
        (pid, start) => cx.process(pid, start),
    };
    // A target that the kernel's record does not describe is looked at now: what the inventory holds may be of before
    // its last exec, whose record lies in another ring.
    let now = (record.target_start_ns == 0 && record.target_pid != 0 && !is_foreign)
        .then(|| Present::read(record.target_pid, cx))
        .flatten();
    let told = (record.target_pid != 0 && !is_foreign).then_some(record.target_pid);
    let start = record.target_start_ns;
    let is_mapping = kind == MemoryEventKind::ExecutableMapping;
    let by = MemoryEvent::by(
        cx.actor(act),
        kind,
        cx.clock.time_of(act.time_ns),
        act.time_ns,
        Source::Ebpf,
    );
    MemoryEvent {
        target_pid: told,
        target_start_boot_ns: now
            .as_ref()
            .map(|present| present.start_boot_ns)
            .or_else(|| known.as_ref().map(|process| process.key.start_boot_ns))
            .or_else(|| {
                let key = crate::process::ProcessKey::new(record.target_pid, start);
                (start != 0).then_some(key.start_boot_ns)
            }),
        target_comm: Some(text(&record.target_comm))
            .filter(|comm| !comm.is_empty())
            .or_else(|| now.as_ref().map(|present| present.comm.clone()))
            .or_else(|| known.as_ref().map(|process| process.program.comm.clone())),
        target_exe: now
            .as_ref()
            .and_then(|present| present.exe.clone())
            .or_else(|| known.as_ref().and_then(|process| process.program.exe.clone())),
        target_uid: (start != 0)
            .then_some(record.target_uid)
            .or_else(|| now.as_ref().and_then(|present| present.uid))
            .or_else(|| known.as_ref().map(|process| process.uid)),
        address: Some(record.address).filter(|address| *address != 0),
        length: Some(record.length).filter(|length| *length != 0),
        protection: is_mapping.then_some(record.protection),
        error: Enricher::act_error(act),
        repeats: u64::from(act.repeats),
        ..by
    }
}

/// A process as /proc shows it at this moment.
struct Present {
    start_boot_ns: u64,
    comm: String,
    exe: Option<String>,
    uid: Option<u32>,
}

impl Present {
    fn read(pid: u32, cx: &Enricher) -> Option<Self> {
        let proc = cx.inventory().proc();
        let stat = proc.stat(pid)?;
        Some(Self {
            start_boot_ns: stat.start_boot_ns,
            comm: stat.comm,
            exe: proc.executable(pid).map(|executable| executable.path),
            uid: proc.owner(pid).map(|(uid, _)| uid),
        })
    }
}

fn detail(kind: MemoryEventKind, record: &MemoryRecord, (name, called): (String, String)) -> Option<String> {
    let is_foreign = record.flags & records::FLAG_FOREIGN_PID != 0;
    match kind {
        MemoryEventKind::Ptrace => Some(request(record.request)),
        MemoryEventKind::Memfd => Some(name),
        MemoryEventKind::FilelessExec if name.starts_with("memfd:") => {
            Some(format!("{name} (called {called})"))
        }
        MemoryEventKind::FilelessExec => Some(called),
        MemoryEventKind::ExecutableMapping => {
            let call = if record.kind == records::KIND_PROTECT {
                "mprotect"
            } else {
                "mmap"
            };
            let writable = record.protection & libc::PROT_WRITE.unsigned_abs() != 0;
            Some(format!("{call}{}", if writable { ", writable too" } else { "" }))
        }
        _ if is_foreign => Some(format!("pid {} of the caller's pid namespace", record.target_pid)),
        _ => None,
    }
}

/// Name of a request of ptrace(2).
fn request(number: u32) -> String {
    let name = match number {
        libc::PTRACE_POKETEXT => "PTRACE_POKETEXT",
        libc::PTRACE_POKEDATA => "PTRACE_POKEDATA",
        libc::PTRACE_POKEUSER => "PTRACE_POKEUSER",
        13 => "PTRACE_SETREGS",
        15 => "PTRACE_SETFPREGS",
        libc::PTRACE_ATTACH => "PTRACE_ATTACH",
        libc::PTRACE_SETREGSET => "PTRACE_SETREGSET",
        libc::PTRACE_SEIZE => "PTRACE_SEIZE",
        other => return other.to_string(),
    };
    name.to_owned()
}

fn setting(path: &str, act: &Act, cx: &mut Enricher) -> KernelEvent {
    let by = KernelEvent::by(
        cx.actor(act),
        KernelEventKind::Setting,
        cx.clock.time_of(act.time_ns),
        act.time_ns,
        Source::Ebpf,
    );
    KernelEvent {
        name: Some(path.replace('/', ".")),
        path: Some(format!("/proc/sys/{path}")),
        error: Enricher::act_error(act),
        repeats: u64::from(act.repeats),
        ..by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_of_a_file_is_told_from_one_without() {
        let maps = "1000-2000 r-xp 00000000 08:01 77 /bin/true\n3000-4000 rwxp 00000000 00:00 0 \n";
        let of = |address| has_file(maps.lines().map(str::to_owned), address);
        assert_eq!(of(0x1000), Some(true));
        assert_eq!(of(0x3fff), Some(false));
        assert_eq!(of(0x4000), None);
        assert_eq!(has_file(std::iter::once("nonsense".to_owned()), 1), None);
    }
}
