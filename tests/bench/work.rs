//! The load, as processes of their own: paced or flat out, bounded in time, with their own account of CPU time.
//!
//! A worker prints one JSON object when it ends: how often it did what, and the CPU microseconds of itself and its
//! children as the kernel counted them.

mod compile;
mod critical;
mod file;

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};

use crate::statistics::quantile;

/// Time between two bursts of a paced load.
const TICK: Duration = Duration::from_millis(10);
/// Ticks in a second.
const TICKS_PER_S: u32 = 100;
/// Execs of the standard load in a second.
pub(crate) const EXECS_PER_S: u32 = 500;
/// Opens of the standard load in a second.
pub(crate) const OPENS_PER_S: u32 = 5_000;
/// Connections of the standard load in a second.
pub(crate) const CONNECTS_PER_S: u32 = 200;
/// Opens of the storm for one exec.
pub(crate) const STORM_OPENS_PER_EXEC: u32 = 100;
/// Opens of the storm for one connection.
pub(crate) const STORM_OPENS_PER_CONNECT: u32 = 50;
/// Opens between two looks at the clock.
const OPENS_PER_CHUNK: u32 = 1_000;
/// Smallest stack that a thread of Rust's library lives on with ease.
const THREAD_STACK_BYTES: usize = 32 * 1024;
/// System calls that are timed at once.
const CALLS_PER_CHUNK: u32 = 50_000;
/// Connections between two looks at the clock.
const CONNECTS_PER_CHUNK: u32 = 100;

/// Arguments of `work`.
#[derive(clap::Args)]
pub(crate) struct WorkArguments {
    #[arg(value_enum)]
    kind: Kind,
    /// How long
    #[arg(long)]
    seconds: f64,
    /// How many a second, for `connects`, `opens`, `storm` and `critical`; 0 is flat out
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// 500 execs, 5,000 opens and 200 connections a second
    Standard,
    /// Connections over loopback, each opened, accepted and closed on both sides
    Connects,
    /// Execs of /bin/true
    Execs,
    /// Opens of 64 files of its own, every sixteenth for writing
    Opens,
    /// The storm: `rate` opens a second, for every hundred of them an exec, for every fifty a connection
    Storm,
    /// Acts that travel in the critical lane, `rate` of them within a second
    Critical,
    /// `rate` distinct paths a second, each made, opened and removed
    Paths,
    /// `rate` threads at a time, ended and begun again
    Threads,
    /// Small C files, compiled one after the other
    Compile,
    /// A system call that nobody traces
    Getppid,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub(crate) struct Done {
    /// Process id of the worker.
    pub(crate) pid: u32,
    /// Programs that were executed.
    pub(crate) execs: u32,
    /// Files that were opened.
    pub(crate) opens: u32,
    /// Connections that were made.
    pub(crate) connects: u32,
    /// Acts that the critical lane has to tell: changes of credentials.
    pub(crate) credential_acts: u32,
    /// And attempts at another root.
    pub(crate) kernel_acts: u32,
    /// Files that were compiled.
    pub(crate) compiled: u32,
    /// Distinct paths that were made.
    pub(crate) paths: u32,
    /// Threads that were begun.
    pub(crate) threads: u32,
    /// Fastest chunk of system calls, nanoseconds for each.
    pub(crate) call_ns: f64,
    /// CPU of the worker and its children, microseconds.
    pub(crate) cpu_us: f64,
    /// CPU of one connection, open or compiled file, flat out: lower quartile of the chunks, because what the machine
    /// does besides only adds to it; microseconds, 0 of other work.
    pub(crate) unit_us: f64,
    /// How long it worked, microseconds.
    pub(crate) wall_us: f64,
}

/// A worker in its own process.
pub(crate) struct Worker(Child);

impl Worker {
    /// Starts one.
    pub(crate) fn start(kind: Kind, time: Duration, rate: u32) -> Result<Self> {
        let word = clap::ValueEnum::to_possible_value(&kind).context("name the work")?;
        let own = std::env::current_exe().context("find this program")?;
        // A death signal, so that no load outlives the benchmark.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(own)
            .args(["work", word.get_name(), "--seconds"])
            .arg(time.as_secs_f64().to_string())
            .args(["--rate", &rate.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a worker")?;
        Ok(Self(child))
    }

    /// Waits for its end; it is bounded in time by itself.
    pub(crate) fn finish(self) -> Result<Done> {
        let output = self.0.wait_with_output().context("wait for a worker")?;
        anyhow::ensure!(output.status.success(), "a worker ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("read what a worker did")
    }
}

/// Starts so many workers side by side and waits for the end of all.
pub(crate) fn side_by_side(count: u32, kind: Kind, time: Duration, rate: u32) -> Result<Vec<Done>> {
    let workers: Vec<Worker> = (0..count)
        .map(|_| Worker::start(kind, time, rate))
        .collect::<Result<_>>()?;
    workers.into_iter().map(Worker::finish).collect()
}

/// Starts a worker and waits for its end.
pub(crate) fn work(kind: Kind, time: Duration, rate: u32) -> Result<Done> {
    Worker::start(kind, time, rate)?.finish()
}

/// Body of the worker's process.
pub(crate) fn run(arguments: &WorkArguments) -> Result<()> {
    let time = Duration::try_from_secs_f64(arguments.seconds).context("read --seconds")?;
    let mut load = Load::new()?;
    let begun = Instant::now();
    // A compiler is slow to warm up: its first file is not counted, nor is the time of it.
    let before_us = if arguments.kind == Kind::Compile {
        load.job.compile()?;
        cpu_us()?
    } else {
        0.0
    };
    load.work(arguments.kind, arguments.rate, begun + time)?;
    let done = json!({
        "pid": std::process::id(),
        "execs": load.execs,
        "opens": load.opens,
        "connects": load.connects,
        "credential_acts": load.credential_acts,
        "kernel_acts": load.kernel_acts,
        "compiled": load.compiled,
        "paths": load.paths,
        "threads": load.threads,
        "call_ns": if load.call_ns.is_finite() { load.call_ns } else { 0.0 },
        "cpu_us": cpu_us()? - before_us,
        "unit_us": if load.units_us.is_empty() { 0.0 } else { quantile(&load.units_us, 0.25) },
        "wall_us": begun.elapsed().as_secs_f64() * 1e6,
    });
    print(&done)
}

fn print(done: &Value) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{done}").context("say what was done")
}

/// Calls `burst` with the tick's number, every tick; what is late is made up for, so that the rate holds.
fn paced(until: Instant, mut burst: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let mut due = Instant::now();
    let mut tick = 0_u32;
    while due < until {
        if Instant::now() > until {
            break;
        }
        burst(tick)?;
        tick = tick.wrapping_add(1);
        due += TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// How many of `rate` a second fall on this tick.
fn per_tick(rate: u32, tick: u32) -> u32 {
    let within = tick % TICKS_PER_S;
    let upto = |ticks: u32| u64::from(rate) * u64::from(ticks) / u64::from(TICKS_PER_S);
    u32::try_from(upto(within + 1) - upto(within)).unwrap_or(0)
}

/// CPU of this process and of its children that ended, microseconds.
fn cpu_us() -> Result<f64> {
    let mut sum = 0.0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who).context("read the CPU time")?;
        sum += (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64;
    }
    Ok(sum)
}

struct Load {
    listener: TcpListener,
    address: SocketAddr,
    files: file::Files,
    job: compile::Job,
    execs: u32,
    opens: u32,
    connects: u32,
    credential_acts: u32,
    kernel_acts: u32,
    compiled: u32,
    paths: u32,
    threads: u32,
    call_ns: f64,
    units_us: Vec<f64>,
}

impl Load {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let address = listener.local_addr().context("read the listener's address")?;
        Ok(Self {
            listener,
            address,
            files: file::Files::new()?,
            job: compile::Job::new()?,
            execs: 0,
            opens: 0,
            connects: 0,
            credential_acts: 0,
            kernel_acts: 0,
            compiled: 0,
            paths: 0,
            threads: 0,
            call_ns: f64::INFINITY,
            units_us: Vec::new(),
        })
    }

    /// Does what is asked for until then.
    fn work(&mut self, kind: Kind, rate: u32, until: Instant) -> Result<()> {
        let busy = || Instant::now() < until;
        match kind {
            Kind::Standard => paced(until, |tick| {
                self.burst(per_tick(EXECS_PER_S, tick), 0, per_tick(CONNECTS_PER_S, tick))?;
                (0..per_tick(OPENS_PER_S, tick)).try_for_each(|_| self.open())
            }),
            Kind::Storm => paced(until, |tick| {
                let execs = per_tick(rate / STORM_OPENS_PER_EXEC, tick);
                let connects = per_tick(rate / STORM_OPENS_PER_CONNECT, tick);
                self.burst(execs, per_tick(rate, tick), connects)
            }),
            Kind::Connects if rate > 0 => paced(until, |tick| self.burst(0, 0, per_tick(rate, tick))),
            Kind::Opens if rate > 0 => paced(until, |tick| self.burst(0, per_tick(rate, tick), 0)),
            Kind::Critical => self.critical(rate),
            Kind::Paths => paced(until, |tick| {
                (0..per_tick(rate, tick)).try_for_each(|_| {
                    self.paths += 1;
                    self.files.distinct(self.paths)
                })
            }),
            Kind::Threads => {
                while busy() {
                    self.threads += threads(rate)?;
                }
                Ok(())
            }
            Kind::Connects => {
                while busy() {
                    self.chunk(CONNECTS_PER_CHUNK, |load| load.burst(0, 0, CONNECTS_PER_CHUNK))?;
                }
                Ok(())
            }
            Kind::Opens => {
                while busy() {
                    self.chunk(OPENS_PER_CHUNK, |load| load.burst(0, OPENS_PER_CHUNK, 0))?;
                }
                Ok(())
            }
            Kind::Execs => {
                while busy() {
                    self.exec()?;
                }
                Ok(())
            }
            Kind::Compile => {
                while busy() {
                    self.chunk(1, |load| load.job.compile())?;
                    self.compiled += 1;
                }
                Ok(())
            }
            Kind::Getppid => {
                while busy() {
                    self.time_calls();
                }
                Ok(())
            }
        }
    }

    /// Does so many units of work, and notes what one of them took.
    fn chunk(&mut self, units: u32, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before_us = cpu_us()?;
        work(self)?;
        self.units_us.push((cpu_us()? - before_us) / f64::from(units));
        Ok(())
    }

    fn burst(&mut self, execs: u32, opens: u32, connects: u32) -> Result<()> {
        for _ in 0..execs {
            self.exec()?;
        }
        for _ in 0..opens {
            self.files.open(self.opens)?;
            self.opens += 1;
        }
        (0..connects).try_for_each(|_| self.connect())
    }

    /// `rate` critical acts, spread over a second: half of them changes of credentials where we may change ours.
    fn critical(&mut self, rate: u32) -> Result<()> {
        let mut acts = critical::Acts::new();
        paced(Instant::now() + Duration::from_secs(1), |tick| {
            (0..per_tick(rate, tick)).try_for_each(|_| acts.one())
        })?;
        (self.credential_acts, self.kernel_acts) = acts.done();
        Ok(())
    }

    fn exec(&mut self) -> Result<()> {
        Command::new("/bin/true").status().context("run /bin/true")?;
        self.execs += 1;
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        drop(File::open("/etc/hostname").context("open /etc/hostname")?);
        self.opens += 1;
        Ok(())
    }

    /// Opens, accepts and closes a connection. It is reset, so that none waits in TIME_WAIT and ports last.
    fn connect(&mut self) -> Result<()> {
        let near = TcpStream::connect(self.address).context("connect over loopback")?;
        let (far, _) = self.listener.accept().context("accept over loopback")?;
        let reset = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&near, sockopt::Linger, &reset).context("let the close reset")?;
        drop(near);
        drop(far);
        self.connects += 1;
        Ok(())
    }

    fn time_calls(&mut self) {
        let begun = Instant::now();
        for _ in 0..CALLS_PER_CHUNK {
            std::hint::black_box(nix::unistd::getppid());
        }
        let ns = begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS_PER_CHUNK);
        // The fastest chunk is the one that nothing disturbed.
        self.call_ns = self.call_ns.min(ns);
    }
}

/// Begins so many threads, and ends them when all live. Their stacks are the smallest.
fn threads(count: u32) -> Result<u32> {
    let gate = std::sync::RwLock::new(());
    let closed = gate.write().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    std::thread::scope(|scope| {
        let mut begun = 0;
        for _ in 0..count {
            let wait = || drop(gate.read());
            let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES);
            if thread.spawn_scoped(scope, wait).is_err() {
                // The machine allows no more: these have to do.
                break;
            }
            begun += 1;
        }
        drop(closed);
        anyhow::ensure!(begun > 0, "the system refuses threads");
        Ok(begun)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_second_add_up_to_the_rate() {
        for rate in [1, 99, 200, 500, 12_345] {
            assert_eq!(
                (0..TICKS_PER_S).map(|tick| per_tick(rate, tick)).sum::<u32>(),
                rate
            );
        }
    }

    #[test]
    fn a_connection_leaves_no_port_behind() {
        let mut load = Load::new().unwrap();
        // More than there are ports.
        (0..70_000).try_for_each(|_| load.connect()).unwrap();
    }
}
