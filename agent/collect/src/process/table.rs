//! The inventory's two bounded maps: the processes that run, and those that ended lately.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::ProcessSnapshot;

use super::{Placement, Process, ProcessConfig, ProcessKey, Program};

/// A process above this use of a core, in percent, is worth a row in every snapshot.
const BUSY_CORE_PCT: f64 = 1.0;

/// What the observer read of a process. What was not read again is `None`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) pid: u32,
    pub(crate) ppid: u32,
    pub(crate) start_boot_ns: u64,
    pub(crate) is_kernel_thread: bool,
    pub(crate) state: char,
    pub(crate) cpu_ns: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) thread_count: u32,
    pub(crate) identity: Option<Identity>,
    pub(crate) storage_bytes: Option<(u64, u64)>,
    pub(crate) fd_count: Option<u32>,
}

/// The part of a reading that changes with an exec only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) program: Program,
    pub(crate) placement: Option<Placement>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What an exec event changes.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) key: ProcessKey,
    pub(crate) parent: ProcessKey,
    pub(crate) program: Arc<Program>,
    pub(crate) placement: Option<Arc<Placement>>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a round of readings has shown.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Processes that are new, or run another program.
    pub(crate) began: Vec<Process>,
    /// Processes that are gone.
    pub(crate) ended: Vec<Process>,
}

/// What the observer has to know before it reads.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) start_boot_ns: u64,
    pub(crate) comm: String,
    pub(crate) cpu_ns: u64,
}

#[derive(Debug, Default)]
struct Usage {
    state: char,
    cpu_ns: u64,
    cpu_read_at_ns: u64,
    cpu_core_pct: f64,
    rss_bytes: u64,
    thread_count: u32,
    read_bytes: u64,
    write_bytes: u64,
    fd_count: Option<u32>,
    observed: bool,
}

#[derive(Debug)]
struct Entry {
    process: Process,
    is_kernel_thread: bool,
    usage: Usage,
    /// Storage bytes that were told with the last row; `None` before the first.
    told: Option<(u64, u64)>,
    changed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    running: foldhash::HashMap<u32, Entry>,
    ended: foldhash::HashMap<ProcessKey, Process>,
    ended_order: VecDeque<ProcessKey>,
    /// Processes that ended since the last snapshot and had a row before.
    last_rows: Vec<ProcessSnapshot>,
    running_max: usize,
    ended_max: usize,
    rows_max: usize,
    dropped: u64,
}

impl Table {
    pub(crate) fn new(config: &ProcessConfig) -> Self {
        Self {
            running: foldhash::HashMap::default(),
            ended: foldhash::HashMap::default(),
            ended_order: VecDeque::new(),
            last_rows: Vec::new(),
            running_max: config.running_max,
            ended_max: config.ended_max,
            rows_max: config.snapshot_rows_max,
            dropped: 0,
        }
    }

    pub(crate) fn get(&self, key: ProcessKey) -> Option<Process> {
        let running = self.running.get(&key.pid).map(|entry| &entry.process);
        running
            .filter(|process| process.key == key)
            .or_else(|| self.ended.get(&key))
            .cloned()
    }

    pub(crate) fn running(&self, pid: u32) -> Option<Process> {
        self.running.get(&pid).map(|entry| entry.process.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn ancestors(&self, key: ProcessKey, depth_max: usize) -> Vec<Process> {
        let mut chain = Vec::new();
        let mut next = self.get(key).and_then(|process| process.parent);
        while let Some(key) = next.filter(|_| chain.len() < depth_max) {
            let Some(process) = self.get(key) else { break };
            next = process.parent.filter(|parent| *parent != key);
            chain.push(process);
        }
        chain
    }

    /// A child begins with its parent's program and placement.
    pub(crate) fn forked(
        &mut self,
        key: ProcessKey,
        parent: ProcessKey,
        comm: &str,
        uid: u32,
        gid: u32,
    ) -> Process {
        if let Some(known) = self.get(key) {
            return known;
        }
        let from = self.get(parent);
        let program = match &from {
            Some(from) if from.program.comm == comm => Arc::clone(&from.program),
            Some(from) => Arc::new(Program {
                comm: comm.to_owned(),
                ..Program::clone(&from.program)
            }),
            None => Arc::new(Program {
                comm: comm.to_owned(),
                ..Program::default()
            }),
        };
        let placement = from.and_then(|from| from.placement);
        let process = Process {
            key,
            ppid: parent.pid,
            parent: Some(parent),
            program,
            placement,
            uid,
            gid,
            ended: false,
        };
        self.insert(process.clone(), false);
        process
    }

    pub(crate) fn executed(&mut self, exec: Exec) -> Process {
        let known = self
            .running
            .get_mut(&exec.key.pid)
            .filter(|entry| entry.process.key == exec.key);
        if let Some(entry) = known {
            let process = &mut entry.process;
            process.program = exec.program;
            process.placement = exec.placement.or(process.placement.take());
            process.ppid = exec.parent.pid;
            process.parent = Some(exec.parent);
            (process.uid, process.gid) = (exec.uid, exec.gid);
            entry.changed = true;
            return entry.process.clone();
        }
        let placement = exec.placement.or_else(|| self.get(exec.parent)?.placement);
        let process = Process {
            key: exec.key,
            ppid: exec.parent.pid,
            parent: Some(exec.parent),
            program: exec.program,
            placement,
            uid: exec.uid,
            gid: exec.gid,
            ended: false,
        };
        self.insert(process.clone(), false);
        process
    }

    /// A process has given itself another name.
    pub(crate) fn renamed(&mut self, pid: u32, comm: &str) {
        if let Some(entry) = self.running.get_mut(&pid)
            && entry.process.program.comm != comm
        {
            comm.clone_into(&mut Arc::make_mut(&mut entry.process.program).comm);
            entry.changed = true;
        }
    }

    pub(crate) fn exited(&mut self, key: ProcessKey) -> Option<Process> {
        if self.running.get(&key.pid)?.process.key != key {
            return None;
        }
        self.retire(key.pid)
    }

    /// What is known of every process that runs, for the observer to decide what to read.
    pub(crate) fn known(&self) -> HashMap<u32, Known> {
        let known = |entry: &Entry| Known {
            start_boot_ns: entry.process.key.start_boot_ns,
            comm: entry.process.program.comm.clone(),
            cpu_ns: if entry.usage.observed {
                entry.usage.cpu_ns
            } else {
                u64::MAX
            },
        };
        self.running
            .iter()
            .map(|(pid, entry)| (*pid, known(entry)))
            .collect()
    }

    /// Takes over a round of readings that began at `began_ns` and ended at `now_ns`. What was known when it began
    /// and was not read has ended.
    pub(crate) fn observed(&mut self, readings: Vec<Reading>, began_ns: u64, now_ns: u64) -> Changes {
        let mut changes = Changes::default();
        let seen: std::collections::HashSet<u32> = readings.iter().map(|reading| reading.pid).collect();
        let gone = |entry: &&Entry| {
            let key = entry.process.key;
            !seen.contains(&key.pid) && key.start_boot_ns < super::proc_fs::floor_to_tick(began_ns)
        };
        let gone: Vec<u32> = self
            .running
            .values()
            .filter(gone)
            .map(|entry| entry.process.key.pid)
            .collect();
        changes
            .ended
            .extend(gone.into_iter().filter_map(|pid| self.retire(pid)));
        for reading in readings {
            self.observe(reading, now_ns, &mut changes);
        }
        changes
    }

    fn observe(&mut self, reading: Reading, now_ns: u64, changes: &mut Changes) {
        let key = ProcessKey::new(reading.pid, reading.start_boot_ns);
        let parent = self.running.get(&reading.ppid).map(|entry| entry.process.key);
        let known = self.running.get(&key.pid).map(|entry| entry.process.key);
        if known.is_some_and(|known| known != key) {
            changes.ended.extend(self.retire(key.pid));
        }
        if known != Some(key) {
            // Ended by an event after it was read.
            if self.ended.contains_key(&key) {
                return;
            }
            let Some(identity) = &reading.identity else { return };
            let process = Process {
                key,
                ppid: reading.ppid,
                parent,
                program: Arc::new(identity.program.clone()),
                placement: identity.placement.clone().map(Arc::new),
                uid: identity.uid,
                gid: identity.gid,
                ended: false,
            };
            self.insert(process.clone(), reading.is_kernel_thread);
            changes.began.push(process);
        }
        let Some(entry) = self.running.get_mut(&key.pid) else {
            return;
        };
        // Of a process that is being reaped the kernel says parent 0, which is nobody.
        if entry.process.ppid != reading.ppid && reading.ppid != 0 {
            entry.process.ppid = reading.ppid;
            entry.process.parent = parent;
        }
        if let Some(identity) = reading.identity.as_ref().filter(|_| known == Some(key))
            && entry.renew(identity)
        {
            changes.began.push(entry.process.clone());
        }
        entry.measure(&reading, now_ns);
    }

    /// Forgets all but the last `keep` processes that ended: a storm leaves thousands of them behind.
    pub(crate) fn forget_ended(&mut self, keep: usize) {
        let surplus = self.ended_order.len().saturating_sub(keep);
        for key in self.ended_order.drain(..surplus) {
            self.ended.remove(&key);
        }
        self.ended.shrink_to(keep);
        self.ended_order.shrink_to(keep);
    }

    /// Rows of what is new or busy, or of everything, and of what ended since it had a row.
    pub(crate) fn snapshot(&mut self, time: TimeMicros, everything: bool) -> Vec<ProcessSnapshot> {
        let mut rows = std::mem::take(&mut self.last_rows);
        for row in &mut rows {
            row.time = time;
        }
        for entry in self.running.values_mut().filter(|entry| entry.usage.observed) {
            let busy = entry.usage.cpu_core_pct >= BUSY_CORE_PCT;
            let wanted = busy || (!entry.is_kernel_thread && (everything || entry.changed));
            if !wanted {
                continue;
            }
            if rows.len() >= self.rows_max {
                self.dropped += 1;
                continue;
            }
            rows.push(entry.row(time));
        }
        rows
    }

    /// What did not fit since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn insert(&mut self, process: Process, is_kernel_thread: bool) {
        let pid = process.key.pid;
        if self
            .running
            .get(&pid)
            .is_some_and(|previous| previous.process.key != process.key)
        {
            self.retire(pid);
        }
        if self.running.len() >= self.running_max && !self.running.contains_key(&pid) {
            self.dropped += 1;
            return;
        }
        let entry = Entry {
            process,
            is_kernel_thread,
            usage: Usage::default(),
            told: None,
            changed: true,
        };
        self.running.insert(pid, entry);
    }

    fn retire(&mut self, pid: u32) -> Option<Process> {
        let mut entry = self.running.remove(&pid)?;
        entry.process.ended = true;
        if entry.told.is_some() && self.last_rows.len() < self.rows_max {
            let mut row = entry.row(TimeMicros(0));
            "X".clone_into(&mut row.state);
            row.cpu_core_pct = 0.0;
            row.rss_bytes = 0;
            self.last_rows.push(row);
        }
        let key = entry.process.key;
        if self.ended.insert(key, entry.process.clone()).is_none() {
            self.ended_order.push_back(key);
        }
        while self.ended_order.len() > self.ended_max {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
        Some(entry.process)
    }
}

impl Entry {
    /// Takes over what was read again; says whether it runs another program now.
    fn renew(&mut self, identity: &Identity) -> bool {
        (self.process.uid, self.process.gid) = (identity.uid, identity.gid);
        if let Some(placement) = &identity.placement
            && self.process.placement.as_deref() != Some(placement)
        {
            self.process.placement = Some(Arc::new(placement.clone()));
        }
        let before = &self.process.program;
        if **before == identity.program {
            return false;
        }
        let replaced = before.exe != identity.program.exe;
        self.process.program = Arc::new(identity.program.clone());
        self.changed = true;
        replaced
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a percentage does not need more than 53 bits"
    )]
    fn measure(&mut self, reading: &Reading, now_ns: u64) {
        let usage = &mut self.usage;
        let since = if usage.observed {
            usage.cpu_read_at_ns
        } else {
            self.process.key.start_boot_ns
        };
        let before = if usage.observed { usage.cpu_ns } else { 0 };
        let elapsed = now_ns.saturating_sub(since);
        if elapsed > 0 {
            let used = reading.cpu_ns.saturating_sub(before) as f64;
            usage.cpu_core_pct = 100.0 * used / elapsed as f64;
        }
        usage.cpu_ns = reading.cpu_ns;
        usage.cpu_read_at_ns = now_ns;
        usage.state = reading.state;
        usage.rss_bytes = reading.rss_bytes;
        usage.thread_count = reading.thread_count;
        if let Some((read, written)) = reading.storage_bytes {
            // What it did before it was first seen is not news.
            self.told = self.told.or(if usage.observed {
                None
            } else {
                Some((read, written))
            });
            (usage.read_bytes, usage.write_bytes) = (read, written);
        }
        usage.fd_count = reading.fd_count.or(usage.fd_count);
        usage.observed = true;
    }

    fn row(&mut self, time: TimeMicros) -> ProcessSnapshot {
        let Process {
            key,
            ppid,
            program,
            placement,
            uid,
            ..
        } = &self.process;
        let usage = &self.usage;
        let (told_read, told_written) = self.told.unwrap_or_default();
        self.told = Some((usage.read_bytes, usage.write_bytes));
        self.changed = false;
        let placement = placement.as_deref();
        ProcessSnapshot {
            time,
            pid: key.pid,
            start_boot_ns: key.start_boot_ns,
            ppid: *ppid,
            comm: program.comm.clone(),
            exe: program.exe.clone(),
            exe_deleted: program.exe_deleted,
            command_line: program.command_line(),
            uid: *uid,
            state: usage.state.to_string(),
            cgroup: placement.map(|placement| placement.cgroup.clone()),
            unit: placement.and_then(|placement| placement.unit.clone()),
            container_id: placement.and_then(|placement| placement.container_id.clone()),
            cpu_core_pct: usage.cpu_core_pct,
            rss_bytes: usage.rss_bytes,
            read_bytes: usage.read_bytes.saturating_sub(told_read),
            write_bytes: usage.write_bytes.saturating_sub(told_written),
            fd_count: usage.fd_count,
            thread_count: usage.thread_count,
        }
    }
}
