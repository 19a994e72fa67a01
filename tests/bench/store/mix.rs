//! Events of a made-up server, the same for the same seed.
//!
//! The mix, in shares of all events: 25 % forks, 15 % execs, 15 % exits, 15 % connects, 8 % accepts, 22 % closes. One in
//! five wants to be an exit; where nothing is there that could exec, exit or close, a fork comes instead. Between two events lies an
//! exponentially distributed time. What is exact on a real host is exact here: times to the nanosecond on the boot
//! clock, a process' start rounded to the kernel's tick, process ids that rise by one to three and wrap, durations
//! that are those of what began, byte counts and CPU times over four decades, ephemeral ports.
//!
//! A server runs 14 programs in 8 units, 2 containers and some sessions. Of the execs a third has an argument that
//! nobody else has, a third one of 400 numbers, a third always the same arguments. There are 40 remote servers and
//! 2,000 clients.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{
    ConnectionOwner, NetworkEvent, NetworkEventKind, ProcessEvent, ProcessEventKind, Source,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const TICK_NS: u64 = 10_000_000;
const PID_MAX: u32 = 4_194_304;
const PAGE_BYTES: u64 = 4_096;
/// Processes and connections that live at once; further ones displace one that never ends.
const LIVE_MAX: usize = 400;
const SERVERS: u32 = 40;
const CLIENTS: u32 = 2_000;

/// How a program's arguments vary.
#[derive(Debug, Clone, Copy)]
enum Vary {
    Never,
    Number,
    Unique,
}

#[derive(Debug)]
struct Kind {
    comm: &'static str,
    exe: &'static str,
    args: &'static [&'static str],
    vary: Vary,
    parent: Parent,
    uid: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    Service(&'static str),
    Session,
    Container,
}

#[derive(Debug, Clone, Copy)]
struct Parent {
    comm: &'static str,
    exe: &'static str,
    line: &'static str,
    pid: u32,
}

const fn parent(comm: &'static str, exe: &'static str, line: &'static str, pid: u32) -> Parent {
    Parent { comm, exe, line, pid }
}

const CRON: Parent = parent("cron", "/usr/sbin/cron", "/usr/sbin/cron -f", 812);
const SHELL: Parent = parent("bash", "/usr/bin/bash", "-bash", 20_417);
const FPM: Parent = parent(
    "php-fpm8.2",
    "/usr/sbin/php-fpm8.2",
    "php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)",
    1_190,
);
const BACKUP: Parent = parent("sh", "/usr/bin/dash", "/bin/sh /usr/local/bin/backup", 3_302);
const SHIM: Parent = parent(
    "containerd-shim",
    "/usr/bin/containerd-shim-runc-v2",
    "/usr/bin/containerd-shim-runc-v2 -namespace moby",
    2_240,
);

macro_rules! kinds {
    ($($comm:literal $exe:literal $args:expr, $vary:ident, $parent:ident, $uid:literal, $unit:expr;)+) => {
        &[$(Kind { comm: $comm, exe: $exe, args: &$args, vary: Vary::$vary, parent: $parent, uid: $uid, unit: $unit },)+]
    };
}

const KINDS: &[Kind] = kinds! {
    "sh" "/usr/bin/dash" ["sh", "-c", "test -x /usr/lib/php/sessionclean && /usr/lib/php/sessionclean"], Never, CRON, 0, Unit::Service("cron.service");
    "sh" "/usr/bin/dash" ["/bin/sh", "-c", "/srv/app/bin/job"], Number, CRON, 33, Unit::Service("cron.service");
    "php8.2" "/usr/bin/php8.2" ["php", "/srv/app/artisan", "schedule:run", "--no-ansi"], Never, CRON, 33, Unit::Service("cron.service");
    "curl" "/usr/bin/curl" ["curl", "-fsS", "-m", "10"], Unique, CRON, 33, Unit::Service("cron.service");
    "convert" "/usr/bin/convert-im6.q16" ["convert", "-resize", "640x480"], Unique, FPM, 33, Unit::Service("php8.2-fpm.service");
    "sendmail" "/usr/sbin/sendmail" ["/usr/sbin/sendmail", "-t", "-i"], Never, FPM, 33, Unit::Service("php8.2-fpm.service");
    "grep" "/usr/bin/grep" ["grep", "-c", "ERROR"], Number, BACKUP, 0, Unit::Service("backup.service");
    "tar" "/usr/bin/tar" ["tar", "-czf"], Unique, BACKUP, 0, Unit::Service("backup.service");
    "stat" "/usr/bin/stat" ["stat", "-c", "%Y"], Number, BACKUP, 0, Unit::Service("backup.service");
    "git" "/usr/bin/git" ["git", "status", "--short"], Never, SHELL, 1_000, Unit::Session;
    "ls" "/usr/bin/ls" ["ls", "--color=auto", "-la"], Number, SHELL, 1_000, Unit::Session;
    "node" "/usr/local/bin/node" ["node", "/app/worker.js"], Unique, SHIM, 1_001, Unit::Container;
    "sleep" "/usr/bin/sleep" ["sleep", "1"], Never, SHIM, 1_001, Unit::Container;
    "nagios-check" "/usr/lib/nagios/plugins/check_disk" ["/usr/lib/nagios/plugins/check_disk", "-w", "20%", "-c", "10%"], Number, CRON, 111, Unit::Service("nrpe.service");
};

/// Programs that talk to others: name, user, where they listen.
const TALKERS: [(&str, u32, u32); 4] = [
    ("nginx", 33, 443),
    ("php-fpm8.2", 33, 9_000),
    ("sshd", 0, 22),
    ("node", 1_001, 3_000),
];
const SERVER_PORTS: [u32; 6] = [443, 443, 3_306, 6_379, 5_432, 53];

/// A process that lives.
#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u32,
    start_ns: u64,
    kind: usize,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    talker: usize,
    pid: u32,
    start_ns: u64,
    opened_ns: u64,
    local_port: u32,
    remote: [u8; 4],
    remote_port: u32,
}

/// One event.
#[derive(Debug)]
pub(super) enum Event {
    Process(Box<ProcessEvent>),
    Network(Box<NetworkEvent>),
}

/// A made-up server.
#[derive(Debug)]
pub(super) struct Server {
    random: StdRng,
    number: u32,
    /// Time on the boot clock.
    boot_ns: u64,
    /// When it started, microseconds since 1970.
    booted_us: i64,
    mean_gap_ns: f64,
    next_pid: u32,
    forked: Vec<Process>,
    running: Vec<Process>,
    connections: Vec<Connection>,
    containers: [String; 2],
}

impl Server {
    /// Server `number`, whose first event is soon after `begin`, with `mean_gap_us` between two.
    pub(super) fn new(seed: u64, number: u32, begin: TimeMicros, mean_gap_us: f64) -> Self {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(number.into()));
        // Up for ten to a hundred days.
        let boot_ns = random.random_range(10..100_u64) * 86_400_000_000_000 + random.random_range(0..TICK_NS);
        let up_us = i64::try_from(boot_ns / 1_000).unwrap_or(i64::MAX);
        let mut container = || {
            (0..32)
                .map(|_| format!("{:02x}", random.random::<u8>()))
                .collect()
        };
        let containers = [container(), container()];
        let next_pid = random.random_range(1_000..PID_MAX);
        Self {
            random,
            number,
            boot_ns,
            booted_us: begin.0.saturating_sub(up_us),
            mean_gap_ns: mean_gap_us * 1_000.0,
            next_pid,
            forked: Vec::new(),
            running: Vec::new(),
            connections: Vec::new(),
            containers,
        }
    }

    /// What happens next.
    pub(super) fn next(&mut self) -> Event {
        let even: f64 = self.random.random_range(1e-9..1.0);
        let gap = (-even.ln() * self.mean_gap_ns).clamp(1_000.0, 1e15);
        self.boot_ns = self.boot_ns.saturating_add(whole(gap));
        match self.random.random_range(0..100_u32) {
            20..35 if !self.forked.is_empty() => self.exec(),
            35..55 if !self.running.is_empty() => self.exit(),
            55..70 => self.open(NetworkEventKind::Connect),
            70..78 => self.open(NetworkEventKind::Accept),
            78.. if !self.connections.is_empty() => self.close(),
            _ => self.fork(),
        }
    }

    fn time(&self) -> TimeMicros {
        let up = i64::try_from(self.boot_ns / 1_000).unwrap_or(i64::MAX);
        TimeMicros(self.booted_us.saturating_add(up))
    }

    /// Over four decades, as sizes and times are.
    fn wide(&mut self, least: f64) -> u64 {
        let exponent = self.random.random_range(0.0..4.0_f64);
        whole(least * 10_f64.powf(exponent))
    }

    fn take<T>(random: &mut StdRng, from: &mut Vec<T>) -> Option<T> {
        let at = random.random_range(0..from.len().max(1));
        (at < from.len()).then(|| from.swap_remove(at))
    }

    fn fork(&mut self) -> Event {
        self.next_pid += self.random.random_range(1..=3);
        if self.next_pid >= PID_MAX {
            self.next_pid = 1_000;
        }
        let process = Process {
            pid: self.next_pid,
            start_ns: self.boot_ns - self.boot_ns % TICK_NS,
            kind: self.random.random_range(0..KINDS.len()),
        };
        if self.forked.len() >= LIVE_MAX {
            Self::take(&mut self.random, &mut self.forked);
        }
        self.forked.push(process);
        self.event(process, ProcessEventKind::Fork)
    }

    fn exec(&mut self) -> Event {
        let Some(process) = Self::take(&mut self.random, &mut self.forked) else {
            return self.fork();
        };
        if self.running.len() >= LIVE_MAX {
            Self::take(&mut self.random, &mut self.running);
        }
        self.running.push(process);
        self.event(process, ProcessEventKind::Exec)
    }

    fn exit(&mut self) -> Event {
        let Some(process) = Self::take(&mut self.random, &mut self.running) else {
            return self.fork();
        };
        self.event(process, ProcessEventKind::Exit)
    }

    fn args(&mut self, kind: &Kind) -> Vec<String> {
        let mut args: Vec<String> = kind.args.iter().map(|part| (*part).to_owned()).collect();
        match kind.vary {
            Vary::Never => {}
            Vary::Number => args.push(format!("/srv/data/{}", self.random.random_range(0..400_u32))),
            Vary::Unique => args.push(format!("/tmp/{:010x}", self.random.random::<u64>() >> 24)),
        }
        args
    }

    fn event(&mut self, process: Process, what: ProcessEventKind) -> Event {
        #[expect(clippy::indexing_slicing, reason = "a process's kind is a place in this list")]
        let kind = &KINDS[process.kind];
        let (exec, exit) = (what == ProcessEventKind::Exec, what == ProcessEventKind::Exit);
        // Before its exec a process is its parent.
        let (comm, exe) = match what {
            ProcessEventKind::Fork => (kind.parent.comm, kind.parent.exe),
            _ => (kind.comm, kind.exe),
        };
        let container = self.containers.get(process.kind % 2).cloned().unwrap_or_default();
        let (cgroup, unit, container_id) = match kind.unit {
            Unit::Service(unit) => (format!("/system.slice/{unit}"), Some(unit.to_owned()), None),
            Unit::Session => {
                let unit = format!("session-{}.scope", 40 + self.boot_ns / 3_600_000_000_000 % 5);
                (format!("/user.slice/user-1000.slice/{unit}"), Some(unit), None)
            }
            Unit::Container => {
                let unit = format!("docker-{container}.scope");
                (format!("/system.slice/{unit}"), Some(unit), Some(container))
            }
        };
        let args = if exec { self.args(kind) } else { Vec::new() };
        let cpu_us = self.wide(100.0);
        let signal = exit && self.random.random_ratio(1, 100);
        let code = i32::from(self.random.random_ratio(1, 20));
        let mut wide_if_exit = |least: f64| exit.then(|| self.wide(least));
        let (user_us, rss_pages) = (wide_if_exit(50.0), wide_if_exit(20.0));
        Event::Process(Box::new(ProcessEvent {
            time: self.time(),
            boot_ns: self.boot_ns,
            kind: what,
            pid: process.pid,
            start_boot_ns: process.start_ns,
            ppid: kind.parent.pid,
            parent_comm: Some(kind.parent.comm.to_owned()),
            parent_exe: Some(kind.parent.exe.to_owned()),
            parent_command_line: Some(kind.parent.line.to_owned()),
            comm: comm.to_owned(),
            exe: Some(exe.to_owned()),
            args,
            args_truncated: false,
            uid: kind.uid,
            gid: kind.uid,
            cgroup: Some(cgroup),
            unit,
            container_id,
            exit_code: (exit && !signal).then_some(code),
            exit_signal: signal.then_some(15),
            duration_us: exit.then(|| self.boot_ns.saturating_sub(process.start_ns) / 1_000),
            user_us,
            system_us: exit.then_some(cpu_us),
            rss_bytes_max: rss_pages.map(|pages| pages.saturating_mul(PAGE_BYTES)),
            source: Source::Ebpf,
            euid: None,
            login_uid: None,
            working_directory: None,
            fileless: None,
        }))
    }

    fn open(&mut self, what: NetworkEventKind) -> Event {
        let talker = self.random.random_range(0..TALKERS.len());
        let (_, _, listens) = TALKERS.get(talker).copied().unwrap_or(TALKERS[0]);
        let ephemeral = self.random.random_range(32_768..60_999_u32);
        let (local_port, remote, remote_port) = if what == NetworkEventKind::Connect {
            let server = self.random.random_range(0..SERVERS);
            let port = SERVER_PORTS.get((server % 6) as usize).copied().unwrap_or(443);
            (ephemeral, [10, 20, 0, low(server)], port)
        } else {
            let client = self.random.random_range(0..CLIENTS);
            (listens, [100, 64, low(client >> 8), low(client)], ephemeral)
        };
        // A worker of some that have run for long.
        let worker = self.random.random_range(0..8_u32);
        let connection = Connection {
            talker,
            pid: 1_200 + u32::try_from(talker).unwrap_or(0) * 40 + worker,
            start_ns: u64::from(worker + 11) * TICK_NS * 100,
            opened_ns: self.boot_ns,
            local_port,
            remote,
            remote_port,
        };
        if self.connections.len() >= LIVE_MAX {
            Self::take(&mut self.random, &mut self.connections);
        }
        self.connections.push(connection);
        self.connection(connection, what)
    }

    fn close(&mut self) -> Event {
        match Self::take(&mut self.random, &mut self.connections) {
            Some(connection) => self.connection(connection, NetworkEventKind::Close),
            None => self.open(NetworkEventKind::Connect),
        }
    }

    fn connection(&mut self, connection: Connection, what: NetworkEventKind) -> Event {
        let (comm, uid, _) = TALKERS.get(connection.talker).copied().unwrap_or(TALKERS[0]);
        let close = what == NetworkEventKind::Close;
        let (sent, received) = (self.wide(200.0), self.wide(80.0));
        let [a, b, c, d] = connection.remote;
        Event::Network(Box::new(NetworkEvent {
            time: self.time(),
            boot_ns: self.boot_ns,
            kind: what,
            owner: ConnectionOwner::Caller,
            pid: connection.pid,
            start_boot_ns: connection.start_ns,
            comm: comm.to_owned(),
            uid,
            protocol: "tcp".to_owned(),
            local_address: format!("10.20.{}.{}", 1 + (self.number >> 8), self.number & 255),
            local_port: connection.local_port,
            remote_address: format!("{a}.{b}.{c}.{d}"),
            remote_port: connection.remote_port,
            bytes_sent: close.then_some(sent),
            bytes_received: close.then_some(received),
            duration_us: close.then(|| self.boot_ns.saturating_sub(connection.opened_ns) / 1_000),
            error: None,
            source: Source::Ebpf,
            exe: None,
            cgroup: None,
            unit: None,
            container_id: None,
            retransmits: None,
            round_trip_us: None,
            network_namespace: None,
        }))
    }
}

/// The part before the point; the values here are far below the type's end.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and below 1e15, and `as` saturates"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// The lowest byte.
fn low(value: u32) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_has_the_shares_it_says_and_rising_times() {
        let mut server = Server::new(1, 0, TimeMicros(1_700_000_000_000_000), 10_000.0);
        let mut counts = std::collections::BTreeMap::new();
        let mut last = TimeMicros(0);
        for _ in 0..100_000 {
            let (time, kind) = match server.next() {
                Event::Process(row) => (row.time, row.kind.to_string()),
                Event::Network(row) => (row.time, row.kind.to_string()),
            };
            assert!(time >= last);
            last = time;
            *counts.entry(kind).or_insert(0_u32) += 1;
        }
        let share = |kind: &str| f64::from(counts[kind]) / 1_000.0;
        for (kind, wanted) in [
            ("fork", 25.0),
            ("exec", 15.0),
            ("exit", 15.0),
            ("connect", 15.0),
            ("accept", 8.0),
            ("close", 22.0),
        ] {
            assert!((share(kind) - wanted).abs() < 1.0, "{kind}: {} %", share(kind));
        }
    }
}
