//! Family `kernel`: modules, BPF, mounts, namespaces, the root, other kernels, the clock, the host's names, and what
//! passes by the hooks of calls.

mod duties;
mod words;

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::kernel::{self as records, KernelRecord};
use fleetmend_ebpf::abi::repeats::ACT_SETS;
use fleetmend_ebpf::abi::{AbiError, Act};
use fleetmend_event::table::{KernelEvent, KernelEventKind, Source, Table};
use fleetmend_event::{Fact, Lane};

use super::bypass::How;
use super::calls;
use super::enrich::{Enricher, text};
use super::repeats::Acts;
use super::spec::{FamilySpec, Handler};
use crate::process::ProcessKey;

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Kernel,
    table: KernelEvent::NAME,
    table_id: KernelEvent::ID,
    lane: Lane::Critical,
    duties: duties::DUTIES,
    limits: "texts are those that the caller gave, read as the call returns; the file of a module is not known; loads \
             of BPF programs that fail are told only when permission was lacking; calls of 32-bit programs pass by",
    shed: &[],
    prepare: |_, _| {},
    handler: |_| Box::new(Acts::new(Kernel, ACT_SETS)),
};

struct Kernel;

impl Handler for Kernel {
    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let record = records::read(bytes)?;
        let act = Act::parse(bytes)?;
        let by = KernelEvent::by(
            cx.actor(&act),
            kind_of(&record)?,
            cx.clock.time_of(act.time_ns),
            act.time_ns,
            Source::Ebpf,
        );
        let how = match record.kind {
            records::KIND_URING => Some(How::Uring),
            records::KIND_COMPAT => Some(How::Compat),
            _ => None,
        };
        if let Some(how) = how {
            cx.bypass
                .note(ProcessKey::new(act.pid, act.start_ns), &text(&act.comm), how);
        }
        let some = |bytes: &[u8]| Some(text(bytes)).filter(|text| !text.is_empty());
        let given = text(KernelRecord::detail(bytes)?);
        let row = KernelEvent {
            name: some(KernelRecord::name(bytes)?),
            path: some(KernelRecord::path(bytes)?),
            detail: detail(&record, given),
            flags: has_flags(record.kind).then_some(record.act_flags),
            error: Enricher::act_error(&act),
            repeats: u64::from(act.repeats),
            ..by
        };
        out.push(row.into());
        Ok(())
    }

    fn wanted_at_slow_pace(&self, _kind: u16) -> bool {
        true
    }
}

fn kind_of(record: &KernelRecord) -> Result<KernelEventKind, AbiError> {
    Ok(match record.kind {
        records::KIND_MODULE_LOAD => KernelEventKind::ModuleLoad,
        records::KIND_MODULE_UNLOAD => KernelEventKind::ModuleUnload,
        records::KIND_BPF if record.command == 5 => KernelEventKind::BpfLoad,
        records::KIND_BPF => KernelEventKind::Bpf,
        records::KIND_MOUNT => KernelEventKind::Mount,
        records::KIND_UMOUNT => KernelEventKind::Umount,
        records::KIND_SETNS => KernelEventKind::Setns,
        records::KIND_UNSHARE | records::KIND_CLONE => KernelEventKind::Unshare,
        records::KIND_CHROOT | records::KIND_PIVOT_ROOT => KernelEventKind::ChangeRoot,
        records::KIND_KEXEC => KernelEventKind::Kexec,
        records::KIND_CLOCK => KernelEventKind::ClockSet,
        records::KIND_URING => KernelEventKind::Uring,
        records::KIND_HOST_NAME => KernelEventKind::HostNameSet,
        records::KIND_COMPAT => KernelEventKind::Compat,
        other => return Err(AbiError::Kind(other)),
    })
}

const fn has_flags(kind: u16) -> bool {
    matches!(
        kind,
        records::KIND_MOUNT
            | records::KIND_UMOUNT
            | records::KIND_SETNS
            | records::KIND_UNSHARE
            | records::KIND_CLONE
            | records::KIND_KEXEC
            | records::KIND_CLOCK
            | records::KIND_URING
    )
}

/// What the columns cannot say.
fn detail(record: &KernelRecord, given: String) -> Option<String> {
    let call = || calls::name(record.command).unwrap_or("unknown call");
    match record.kind {
        records::KIND_MODULE_LOAD if record.value != 0 => Some(format!("taints {:#x}", record.value)),
        records::KIND_BPF if record.command == 5 => Some(words::program_type(record.value)),
        records::KIND_BPF => Some(words::bpf_command(record.command)),
        // The type of a mount(2) stands alone: it is what rules ask for.
        records::KIND_MOUNT if call() == "mount" => Some(given).filter(|given| !given.is_empty()),
        records::KIND_MOUNT if given.is_empty() => Some(call().to_owned()),
        records::KIND_MOUNT => Some(format!("{} {given}", call())),
        records::KIND_SETNS | records::KIND_UNSHARE => words::namespaces(record.act_flags),
        records::KIND_CLONE => {
            let kinds = words::namespaces(record.act_flags).unwrap_or_default();
            Some(format!("{kinds} (clone of pid {})", record.value))
        }
        records::KIND_CHROOT | records::KIND_PIVOT_ROOT | records::KIND_KEXEC | records::KIND_HOST_NAME => {
            Some(call().to_owned())
        }
        records::KIND_CLOCK => Some(format!("{} {}", call(), words::clock(record.value))),
        records::KIND_URING => Some(format!("{} entries", record.value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_is_described_by_its_type_and_its_newer_steps_by_their_call() {
        let number = |call: libc::c_long| u32::try_from(call).unwrap();
        let of = |call, given: &str| {
            let record = KernelRecord {
                kind: records::KIND_MOUNT,
                command: number(call),
                ..KernelRecord::default()
            };
            detail(&record, given.to_owned())
        };
        assert_eq!(of(libc::SYS_mount, "tmpfs").as_deref(), Some("tmpfs"));
        assert_eq!(of(libc::SYS_mount, ""), None);
        assert_eq!(of(libc::SYS_fsopen, "ext4").as_deref(), Some("fsopen ext4"));
        assert_eq!(of(libc::SYS_move_mount, "").as_deref(), Some("move_mount"));
    }
}
