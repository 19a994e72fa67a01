//! bpftrace and auditd over the same storm, on the same machine, in the same run: exec, open and connect, with names.
//!
//! Nothing is installed here. auditd is measured only when that is asked for: once audit was enabled, every task that
//! begins is slower until the machine is booted again; `task,never` takes most of that back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::Times;
use super::cost::{Added, Loops};
use crate::child::Program;
use crate::process::{comm_pids, cpu_seconds};
use crate::report::{Bar, Report, progress};
use crate::work::{self, Kind};

/// What the agent's families tell, as far as bpftrace tells it too.
const BPFTRACE: &str = r#"
tracepoint:sched:sched_process_exec { printf("exec %llu %d %d %s %s\n", nsecs, pid, uid, comm, str(args->filename)); }
tracepoint:syscalls:sys_enter_openat { printf("open %llu %d %d %s %s\n", nsecs, pid, uid, comm, str(args->filename)); }
tracepoint:syscalls:sys_enter_connect { printf("connect %llu %d %d %s fd=%d\n", nsecs, pid, uid, comm, args->fd); }
"#;
/// bpftrace finds its tracepoints there; where nobody mounted it, it is mounted for bpftrace alone.
const WITH_TRACEFS: &str = r#"[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; exec bpftrace "$@""#;
/// The same for audit; `-f 1` only complains when something is lost.
const AUDIT_RULES: [&str; 8] = [
    "-D",
    "-b 8192",
    "--backlog_wait_time 60000",
    "-f 1",
    "-a always,exit -F arch=b64 -S execve,execveat -k exec",
    "-a always,exit -F arch=b64 -S open,openat,creat -k open",
    "-a always,exit -F arch=b64 -S connect -k connect",
    "-e 1",
];
/// What leaves new tasks as fast as they can be afterwards.
const AUDIT_AFTER: [&str; 3] = ["-D", "-a task,never", "-e 0"];
/// How long a peer has to attach.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STORM_OPENS_PER_S: u32 = 50_000;

/// Measures what is there, and names what is not.
pub(super) fn measure(report: &mut Report, times: &Times, with_auditd: bool, workers: u32) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        report.not_measured("bpftrace_*", "only root may trace");
        return Ok(());
    }
    if installed("bpftrace") {
        try_one(report, times, Peer::Bpftrace, workers);
    } else {
        report.not_measured(
            "bpftrace_*",
            "bpftrace is not installed: apt-get install bpftrace",
        );
    }
    if !with_auditd {
        report.not_measured(
            "auditd_*",
            "not asked for: --with-auditd; tasks of this machine stay slower until it is booted again",
        );
    } else if installed("auditd") && installed("auditctl") {
        try_one(report, times, Peer::Auditd, workers);
    } else {
        report.not_measured("auditd_*", "auditd is not installed: apt-get install auditd");
    }
    Ok(())
}

fn installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Bpftrace,
    Auditd,
}

/// A peer that runs; auditd's rules are taken back when it is dropped.
struct Running {
    peer: Peer,
    program: Program,
    folder: tempfile::TempDir,
}

impl Peer {
    const fn name(self) -> &'static str {
        match self {
            Peer::Bpftrace => "bpftrace",
            Peer::Auditd => "auditd",
        }
    }

    fn start(self) -> Result<Running> {
        let folder = tempfile::tempdir().context("make a folder for a peer")?;
        let events = folder.path().join("events");
        let mut command = match self {
            Peer::Bpftrace => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"]);
                command.arg("-o").arg(&events).args(["-e", BPFTRACE]);
                command
            }
            Peer::Auditd => {
                let config = folder.path().join("auditd.conf");
                let text = format!(
                    "log_file = {}\nlog_format = RAW\nflush = INCREMENTAL_ASYNC\nfreq = 50\nmax_log_file = 4000\n\
                     num_logs = 2\nmax_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = SUSPEND\n\
                     admin_space_left = 50\nadmin_space_left_action = SUSPEND\ndisk_full_action = SUSPEND\n\
                     disk_error_action = SUSPEND\npriority_boost = 0\n",
                    events.display()
                );
                std::fs::write(&config, text).context("write auditd's configuration")?;
                let mut command = Command::new("auditd");
                // In the foreground, enabled by the rules.
                command.args(["-n", "-s", "nochange", "-c"]).arg(folder.path());
                command
            }
        };
        let program = Program::start(self.name(), &mut command, folder.path().join("log"))?;
        let mut running = Running {
            peer: self,
            program,
            folder,
        };
        if self == Peer::Auditd {
            // It has to be there before the events are.
            std::thread::sleep(Duration::from_secs(1));
            AUDIT_RULES.iter().try_for_each(|rule| auditctl(rule))?;
        }
        let poke = || {
            Command::new("/bin/true").stdin(Stdio::null()).status().ok();
            events.metadata().is_ok_and(|metadata| metadata.len() > 200)
        };
        running.program.wait_until(READY_WITHIN, poke)?;
        Ok(running)
    }
}

impl Running {
    fn cpu_seconds(&self) -> Result<f64> {
        let mut seconds = cpu_seconds(self.program.pid())?;
        if self.peer == Peer::Auditd {
            // The thread that hands the kernel's records over.
            for pid in comm_pids("kauditd")? {
                seconds += cpu_seconds(pid)?;
            }
        }
        Ok(seconds)
    }

    /// Lines told so far.
    fn lines(&self) -> Result<f64> {
        let text = std::fs::read(self.folder.path().join("events")).context("read a peer's events")?;
        Ok(text.iter().filter(|byte| **byte == b'\n').count() as f64)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.peer == Peer::Auditd {
            for rule in AUDIT_AFTER {
                if let Err(error) = auditctl(rule) {
                    progress(format!("audit is not as it was: {error:#}"));
                }
            }
        }
    }
}

fn auditctl(rule: &str) -> Result<()> {
    let output = Command::new("auditctl")
        .args(rule.split(' '))
        .stdin(Stdio::null())
        .output()
        .context("start auditctl")?;
    anyhow::ensure!(
        output.status.success(),
        "auditctl {rule} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A peer that fails takes no figure of ours along.
fn try_one(report: &mut Report, times: &Times, peer: Peer, workers: u32) {
    if let Err(error) = one(report, times, peer, workers) {
        report.not_measured(&format!("{}_*", peer.name()), format!("{error:#}"));
    }
}

fn one(report: &mut Report, times: &Times, peer: Peer, workers: u32) -> Result<()> {
    let name = peer.name();
    progress(format!("the fixed storm beside {name}"));
    storm(report, times, peer, workers)?;
    let mut added = Added::default();
    for pair in 0..times.peer_pairs {
        progress(format!(
            "loops with and without {name}, pair {} of {}",
            pair + 1,
            times.peer_pairs
        ));
        let (mut with, mut without) = (Loops::default(), Loops::default());
        for traced in [pair % 2 == 0, pair % 2 == 1] {
            if traced {
                let running = peer.start()?;
                with = Loops::measure(times)?;
                drop(running);
            } else {
                without = Loops::measure(times)?;
            }
        }
        added.pair(with, without);
    }
    added.tell(report, &format!("{name}_"), false);
    Ok(())
}

fn storm(report: &mut Report, times: &Times, peer: Peer, workers: u32) -> Result<()> {
    let name = peer.name();
    let running = peer.start()?;
    let (lines, cpu, begun) = (running.lines()?, running.cpu_seconds()?, Instant::now());
    let rate = STORM_OPENS_PER_S / workers.max(1);
    let done = work::side_by_side(workers, Kind::Storm, times.storm, rate)?;
    let seconds = begun.elapsed().as_secs_f64();
    let core_pct = (running.cpu_seconds()? - cpu) / seconds * 100.0;
    // What is in its buffers is written within this.
    std::thread::sleep(Duration::from_secs(2));
    let told = running.lines()? - lines;
    let opens: f64 = done.iter().map(|done| f64::from(done.opens)).sum();
    report.figure(&format!("{name}_storm_cpu_core_pct"), core_pct, Bar::None);
    report.figure(&format!("{name}_storm_opens_per_s"), opens / seconds, Bar::None);
    report.condition(
        &format!("{name}_storm"),
        json!({"seconds": seconds, "opens": opens, "lines_told": told}),
    );
    Ok(())
}
