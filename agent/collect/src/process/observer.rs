//! Reads /proc every few seconds: what no event carries, and what events have missed.

use std::collections::HashMap;
use std::time::Duration;

use fleetmend_event::table::{ProbeState, ProbeStatus, ProcessEvent, ProcessEventKind, Source};
use fleetmend_event::{Fact, TimeMicros};

use super::proc_fs::Stat;
use super::table::{Changes, Identity, Known, Reading};
use super::{Inventory, Process, Program};
use crate::bpf::BootClock;
use crate::bpf::Outlet;
use crate::masking::mask_args;
use crate::{Pace, PaceHandle};

/// Time between two readings when they are the only source of events.
const SOLE_SOURCE_INTERVAL: Duration = Duration::from_secs(1);

/// Name of the inventory in `probe_status`.
pub(crate) const PROBE: &str = "process.inventory";

/// Processes that ended and are remembered all the same while the agent is over its budget.
const ENDED_OVER_BUDGET: usize = 128;

/// Who tells what began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventSource {
    /// The kernel's events; the observer only adds and mends.
    Kernel,
    /// Nobody: the observer makes the events from what it reads.
    Observer,
}

/// See the module.
pub(crate) struct Observer {
    inventory: Inventory,
    source: EventSource,
    outlet: Outlet,
    pace: PaceHandle,
    rounds: u64,
    next_snapshot_ns: u64,
    next_full_ns: u64,
    /// Processes that had no room, in all.
    left_out: u64,
    /// Rows of snapshots sent, and refused by the channel.
    sent: (u64, u64),
}

impl Observer {
    pub(crate) fn new(inventory: Inventory, source: EventSource, outlet: Outlet, pace: PaceHandle) -> Self {
        Self {
            inventory,
            source,
            outlet,
            pace,
            rounds: 0,
            next_snapshot_ns: 0,
            next_full_ns: 0,
            left_out: 0,
            sent: (0, 0),
        }
    }

    /// How long to wait for the next round, at the present pace.
    pub(crate) fn interval(&self) -> Duration {
        let interval = match self.source {
            EventSource::Kernel => Duration::from_secs(self.inventory.config().observe_interval_s.max(1)),
            EventSource::Observer => SOLE_SOURCE_INTERVAL,
        };
        interval * self.pace.inventory_times()
    }

    /// Reads every process once, and sends what is due. Nothing is sent for the first round but snapshots: what
    /// ran before the agent did not begin now.
    pub(crate) fn round(&mut self) -> std::io::Result<()> {
        let clock = BootClock::now();
        let began_ns = clock.boot_ns();
        let full_due = began_ns >= self.next_full_ns;
        let readings = self.read_all(full_due)?;
        let now_ns = BootClock::now().boot_ns();
        if self.pace.get() >= Pace::Unhurried {
            self.inventory
                .with_table(|table| table.forget_ended(ENDED_OVER_BUDGET));
        }
        let changes = self
            .inventory
            .with_table(|table| table.observed(readings, began_ns, now_ns));
        if self.source == EventSource::Observer && self.rounds > 0 {
            self.send_events(&clock, changes);
        }
        self.rounds += 1;
        if full_due || began_ns >= self.next_snapshot_ns {
            let dropped = self.send_snapshot(full_due);
            if full_due || dropped > 0 {
                self.send_status(dropped);
            }
            let config = self.inventory.config();
            self.next_snapshot_ns = began_ns + seconds_ns(config.observe_interval_s) - seconds_ns(1) / 2;
            if full_due {
                self.next_full_ns = began_ns + seconds_ns(config.full_snapshot_interval_s);
            }
        }
        self.outlet.flush_gaps();
        Ok(())
    }

    fn read_all(&self, everything: bool) -> std::io::Result<Vec<Reading>> {
        let proc = self.inventory.proc();
        let known = self.inventory.with_table(|table| table.known());
        let pids = proc.pids()?;
        let mut readings = Vec::with_capacity(pids.len());
        for stat in pids.into_iter().filter_map(|pid| proc.stat(pid)) {
            readings.push(self.read(stat, &known, everything));
        }
        Ok(readings)
    }

    fn read(&self, stat: Stat, known: &HashMap<u32, Known>, everything: bool) -> Reading {
        let proc = self.inventory.proc();
        let pid = stat.pid;
        let known = known
            .get(&pid)
            .filter(|known| known.start_boot_ns == stat.start_boot_ns);
        let renamed = known.is_none_or(|known| known.comm != stat.comm);
        let worked = known.is_none_or(|known| known.cpu_ns != stat.cpu_ns);
        let identity = if renamed || (everything && !stat.is_kernel_thread) {
            self.identify(&stat)
        } else {
            None
        };
        let read_usage = (worked || everything) && !stat.is_kernel_thread;
        Reading {
            pid,
            ppid: stat.ppid,
            start_boot_ns: stat.start_boot_ns,
            is_kernel_thread: stat.is_kernel_thread,
            state: stat.state,
            cpu_ns: stat.cpu_ns,
            rss_bytes: stat.rss_pages.saturating_mul(proc.page_bytes()),
            thread_count: stat.thread_count,
            identity,
            storage_bytes: if read_usage { proc.storage_bytes(pid) } else { None },
            fd_count: if read_usage {
                proc.descriptor_count(pid)
            } else {
                None
            },
        }
    }

    /// `None` when the process ended meanwhile.
    fn identify(&self, stat: &Stat) -> Option<Identity> {
        let proc = self.inventory.proc();
        let (uid, gid) = proc.owner(stat.pid)?;
        let (mut args, args_truncated) = proc.args(stat.pid, self.inventory.config().args_bytes_max)?;
        mask_args(&mut args);
        let executable = proc.executable(stat.pid);
        let program = Program {
            comm: stat.comm.clone(),
            exe_deleted: executable.as_ref().is_some_and(|executable| executable.deleted),
            exe: executable.map(|executable| executable.path),
            args,
            args_truncated,
        };
        Some(Identity {
            program,
            placement: proc.placement(stat.pid),
            uid,
            gid,
        })
    }

    fn send_events(&mut self, clock: &BootClock, changes: Changes) {
        let ended = changes
            .ended
            .into_iter()
            .map(|process| (ProcessEventKind::Exit, process));
        let began = changes
            .began
            .into_iter()
            .map(|process| (ProcessEventKind::Exec, process));
        for (kind, process) in ended.chain(began) {
            let parent = process.parent.and_then(|parent| self.inventory.get(parent));
            let row = event_row(kind, &process, parent.as_ref(), clock);
            self.outlet.send(Fact::from(row));
        }
    }

    fn send_snapshot(&mut self, everything: bool) -> u64 {
        let (rows, dropped) = self.inventory.with_table(|table| {
            (
                table.snapshot(TimeMicros::now(), everything),
                table.take_dropped(),
            )
        });
        if dropped > 0 {
            metrics::counter!(crate::bpf::metric::PROCESSES_DROPPED).increment(dropped);
            tracing::warn!(dropped, "inventory is full, processes are left out");
        }
        for row in rows {
            let taken = self.outlet.send(Fact::from(row));
            let count = if taken { &mut self.sent.0 } else { &mut self.sent.1 };
            *count += 1;
        }
        self.left_out += dropped;
        dropped
    }

    /// The inventory's own row: with each full snapshot, and when processes were left out.
    fn send_status(&mut self, dropped: u64) {
        let slow = self.pace.get() >= Pace::Unhurried;
        let (state, reason, hint) = match (dropped, slow) {
            (1.., _) => (
                ProbeState::Degraded,
                format!(
                    "{dropped} processes or rows had no room, {} in all",
                    self.left_out
                ),
                "raise process.running_max or process.snapshot_rows_max",
            ),
            (0, true) => (
                ProbeState::Degraded,
                "read rarer: the agent is over its budget".to_owned(),
                "raise the budget: `fleetmend-agent status` names what is over it",
            ),
            (0, false) => (
                ProbeState::Real,
                format!(
                    "{} processes, read every {:?}",
                    self.inventory.len(),
                    self.interval()
                ),
                "",
            ),
        };
        let (delivered, refused) = self.sent;
        let row = ProbeStatus {
            time: TimeMicros::now(),
            probe: PROBE.to_owned(),
            state,
            reason,
            hint: hint.to_owned(),
            seen: delivered + refused + self.left_out,
            delivered,
            lost: refused + self.left_out,
        };
        self.outlet.send(Fact::from(row));
    }
}

fn seconds_ns(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000_000_000)
}

/// An event that was concluded from two readings: when it happened is known to the interval only.
fn event_row(
    kind: ProcessEventKind,
    process: &Process,
    parent: Option<&Process>,
    clock: &BootClock,
) -> ProcessEvent {
    let exited = kind == ProcessEventKind::Exit;
    let program = &process.program;
    let placement = process.placement.as_deref();
    let boot_ns = clock.boot_ns();
    ProcessEvent {
        time: clock.time_of(boot_ns),
        boot_ns,
        kind,
        pid: process.key.pid,
        start_boot_ns: process.key.start_boot_ns,
        ppid: process.ppid,
        parent_comm: parent.map(|parent| parent.program.comm.clone()),
        parent_exe: parent.and_then(|parent| parent.program.exe.clone()),
        parent_command_line: parent
            .filter(|_| !exited)
            .map(|parent| parent.program.command_line()),
        comm: program.comm.clone(),
        exe: program.exe.clone(),
        args: if exited { Vec::new() } else { program.args.clone() },
        args_truncated: !exited && program.args_truncated,
        uid: process.uid,
        gid: process.gid,
        cgroup: placement.map(|placement| placement.cgroup.clone()),
        unit: placement.and_then(|placement| placement.unit.clone()),
        container_id: placement.and_then(|placement| placement.container_id.clone()),
        exit_code: None,
        exit_signal: None,
        duration_us: exited.then(|| boot_ns.saturating_sub(process.key.start_boot_ns) / 1_000),
        user_us: None,
        system_us: None,
        rss_bytes_max: None,
        source: Source::Proc,
        euid: None,
        login_uid: None,
        working_directory: None,
        fileless: None,
    }
}
