//! Family `signal`: signals between processes, faults, and kills for lack of memory.

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::repeats::ACT_SETS;
use fleetmend_ebpf::abi::signal::{self as records, SignalRecord};
use fleetmend_ebpf::abi::{AbiError, Act};
use fleetmend_event::table::{SignalEvent, SignalEventKind, Source, Table};
use fleetmend_event::{Fact, Lane};

use super::enrich::{Enricher, text};
use super::repeats::Acts;
use super::spec::{At, Duty, FamilySpec, Handler, Hook, Way};
use crate::process::ProcessKey;

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Signal,
    table: SignalEvent::NAME,
    table_id: SignalEvent::ID,
    lane: Lane::Events,
    duties: &[
        Duty {
            name: "signals",
            ways: &[
                Way {
                    name: "tracepoint of signals",
                    hooks: &[Hook::new("on_signal", At::BtfTracepoint("signal_generate"))],
                },
                Way {
                    name: "tracepoint of signals, plain reads",
                    hooks: &[Hook::new("on_signal_raw", At::RawTracepoint("signal_generate"))],
                },
            ],
        },
        Duty {
            name: "oom",
            ways: &[Way {
                name: "tracepoint of victims",
                hooks: &[Hook::new("on_victim", At::RawTracepoint("mark_victim"))],
            }],
        },
    ],
    limits: "SIGCHLD, SIGURG, SIGWINCH and signals that a process sends itself are not told; equal signals within ten \
             seconds are one row; a fault that the program handles itself is told like any other; before Linux 6.9 the \
             victim of an OOM kill is known by its pid alone",
    shed: &["signals but for KILL, TERM and STOP", "faults"],
    prepare: |_, _| {},
    handler: |_| Box::new(Acts::new(Signals, ACT_SETS)),
};

struct Signals;

impl Handler for Signals {
    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let record = records::read(bytes)?;
        let act = Act::parse(bytes)?;
        out.push(row(&record, &act, cx).into());
        Ok(())
    }

    fn wanted_at_slow_pace(&self, kind: u16) -> bool {
        kind == records::KIND_OOM_KILL
    }
}

fn row(record: &SignalRecord, act: &Act, cx: &mut Enricher) -> SignalEvent {
    let kind = match record.kind {
        records::KIND_FAULT => SignalEventKind::Fault,
        records::KIND_OOM_KILL => SignalEventKind::OomKill,
        _ => SignalEventKind::Signal,
    };
    let known = match record.target_start_ns {
        0 => cx.inventory().running(record.target_pid),
        start => cx.process(record.target_pid, start),
    };
    let placement = known
        .as_ref()
        .and_then(|process| process.placement.clone())
        .or_else(|| {
            cx.placement(
                record.target_pid,
                record.target_cgroup_set,
                record.target_cgroup_id,
                act.time_ns,
            )
        });
    let start = match record.target_start_ns {
        0 => known.as_ref().map(|process| process.key.start_boot_ns),
        start => Some(ProcessKey::new(record.target_pid, start).start_boot_ns),
    };
    let page_bytes = cx.inventory().proc().page_bytes();
    let by = SignalEvent::by(
        cx.actor(act),
        kind,
        cx.clock.time_of(act.time_ns),
        act.time_ns,
        Source::Ebpf,
    );
    SignalEvent {
        signal: record.signal,
        target_pid: record.target_pid,
        target_start_boot_ns: start,
        target_comm: Some(text(&record.target_comm))
            .filter(|comm| !comm.is_empty())
            .or_else(|| known.as_ref().map(|process| process.program.comm.clone())),
        target_exe: known.as_ref().and_then(|process| process.program.exe.clone()),
        target_unit: placement.and_then(|placement| placement.unit.clone()),
        rss_bytes: (kind == SignalEventKind::OomKill && record.rss_pages > 0)
            .then(|| record.rss_pages.saturating_mul(page_bytes)),
        repeats: u64::from(act.repeats),
        ..by
    }
}
