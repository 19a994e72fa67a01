//! Runs the sensor for some seconds and says what it saw and what that cost this process.
//!
//! `cargo run -p agent-collect --example sense -- SECONDS [quiet]`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use agent_collect::bpf::{BpfConfig, BpfSensor};
use agent_collect::process::{Inventory, ProcessConfig};
use fleetmend_event::Fact;
use fleetmend_shutdown::Tasks;
use nix::sys::resource::{UsageWho, getrusage};
use tokio::sync::mpsc;
use tokio::time::timeout;

const CHANNEL: usize = 65_536;
const BATCH: usize = 1024;

fn cpu_seconds() -> Result<f64, nix::Error> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let duration = Duration::from_secs(arguments.next().unwrap_or_else(|| "10".to_owned()).parse()?);
    let quiet = arguments.next().is_some_and(|word| word == "quiet");
    let mut out = std::io::stdout();
    let (sensor, statuses) = BpfSensor::load(BpfConfig::default());
    for status in statuses {
        writeln!(out, "{} {} {}", status.probe, status.state, status.reason)?;
    }
    let tasks = Tasks::new();
    let (sender, mut receiver) = mpsc::channel(CHANNEL);
    sensor.run(&tasks, sender, Inventory::new(ProcessConfig::default()))?;
    let mut tables: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lost = 0;
    let mut facts = Vec::with_capacity(BATCH);
    // The first second is the start: the first reading of all processes.
    let start = Instant::now() + Duration::from_secs(1);
    let mut before = None;
    while start.elapsed() < duration {
        if before.is_none() && Instant::now() >= start {
            before = Some(cpu_seconds()?);
            tables.clear();
        }
        // As the agent's hub does: whatever has come, at once.
        if timeout(Duration::from_millis(500), receiver.recv_many(&mut facts, BATCH))
            .await
            .is_err()
        {
            continue;
        }
        for fact in facts.drain(..) {
            *tables.entry(fact.table_name()).or_default() += 1;
            match &fact {
                Fact::Gap(gap) => lost += gap.count,
                Fact::Metrics(_) => {}
                _ if quiet => {}
                Fact::ProcessEvent(row) => {
                    writeln!(out, "{} {} {} {:?}", row.kind, row.pid, row.comm, row.args)?
                }
                fact => writeln!(out, "{fact:?}")?,
            }
        }
    }
    let used = cpu_seconds()? - before.unwrap_or_default();
    let seconds = duration.as_secs_f64();
    writeln!(out, "facts {tables:?}, lost {lost}")?;
    writeln!(out, "{:.3} % of a core", 100.0 * used / seconds)?;
    tasks.drain(Duration::from_secs(2)).await;
    Ok(())
}
