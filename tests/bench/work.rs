//! The load, as processes of their own: paced or flat out, bounded in time, with their own account of CPU time.
//!
//! A worker prints one JSON object when it ends: how often it did what, and the CPU microseconds of itself and its
//! children as the kernel counted them.

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
    /// Connections a second, for `connects`; 0 is flat out
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
    /// A system call that nobody traces
    Getppid,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub(crate) struct Done {
    /// Programs that were executed.
    pub(crate) execs: u32,
    /// Connections that were made.
    pub(crate) connects: u32,
    /// Fastest chunk of system calls, nanoseconds for each.
    pub(crate) call_ns: f64,
    /// CPU of the worker and its children, microseconds.
    pub(crate) cpu_us: f64,
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

/// Starts a worker and waits for its end.
pub(crate) fn work(kind: Kind, time: Duration, rate: u32) -> Result<Done> {
    Worker::start(kind, time, rate)?.finish()
}

/// Body of the worker's process.
pub(crate) fn run(arguments: &WorkArguments) -> Result<()> {
    let time = Duration::try_from_secs_f64(arguments.seconds).context("read --seconds")?;
    let mut load = Load::new()?;
    let begun = Instant::now();
    let until = begun + time;
    match arguments.kind {
        Kind::Standard => paced(until, |tick| {
            for _ in 0..per_tick(EXECS_PER_S, tick) {
                load.exec()?;
            }
            for _ in 0..per_tick(OPENS_PER_S, tick) {
                load.open()?;
            }
            (0..per_tick(CONNECTS_PER_S, tick)).try_for_each(|_| load.connect())
        })?,
        Kind::Connects if arguments.rate > 0 => paced(until, |tick| {
            (0..per_tick(arguments.rate, tick)).try_for_each(|_| load.connect())
        })?,
        Kind::Connects => {
            while Instant::now() < until {
                (0..CONNECTS_PER_CHUNK).try_for_each(|_| load.connect())?;
            }
        }
        Kind::Execs => {
            while Instant::now() < until {
                load.exec()?;
            }
        }
        Kind::Getppid => {
            while Instant::now() < until {
                load.time_calls();
            }
        }
    }
    let done = json!({
        "execs": load.execs,
        "opens": load.opens,
        "connects": load.connects,
        "call_ns": if load.call_ns.is_finite() { load.call_ns } else { 0.0 },
        "cpu_us": cpu_us()?,
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
    execs: u32,
    opens: u32,
    connects: u32,
    call_ns: f64,
}

impl Load {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let address = listener.local_addr().context("read the listener's address")?;
        Ok(Self {
            listener,
            address,
            execs: 0,
            opens: 0,
            connects: 0,
            call_ns: f64::INFINITY,
        })
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
