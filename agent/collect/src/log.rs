//! Logs: the systemd journal or the files of a syslog daemon, and files that programs write themselves.
//!
//! One thread reads; it sleeps until inotify says that something was written. A line is a row of `log_records`; what
//! it tells of authentication is a row of `auth_events` ([`auth`]). A line of a web server's access log is a record for
//! rules, and no row ([`access`]).
//!
//! Invariants: the same line is never read from the journal and from a file: where there is a journal of this
//! machine, the files of syslog are left alone. A line comes into memory whole only up to a bound. A storm costs
//! bounded bytes: what is over the rate is counted, told by a row and a gap ([`flow`]), and authentication is still
//! read from every line of it. Secrets are masked before a row is made. Where reading stood is kept some seconds
//! behind, so that a kill repeats a few lines and loses none. Damaged files and entries are told and passed over.

mod access;
pub mod auth;
mod config;
mod flow;
pub mod journal;
mod kept;
pub mod line;
mod metric;
mod pipeline;
mod reader;
pub mod stamp;
mod tail;
mod template;
mod wake;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::sync::mpsc::Sender;

pub use access::AccessRecord;
pub use config::LogConfig;
pub use flow::AGENT;

use crate::vigil::Vigil;
use crate::{FactSink, PaceHandle};
use reader::{Places, Reader};

/// Longest sleep without anything written: rows that wait for time, and the end, are seen so late.
const SLEEP: Duration = Duration::from_secs(1);
/// Pause after something was written, so that a burst is one turn.
const GATHER: Duration = Duration::from_millis(100);
/// The probes of this module.
const PROBES: [&str; 2] = ["logs.journal", "logs.files"];

/// Starts reading logs on a thread of its own; what is kept over restarts goes into `state`, requests of access logs to
/// `rules`.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    tasks: &Tasks,
    config: LogConfig,
    state: PathBuf,
    sink: FactSink,
    pace: PaceHandle,
    rules: Sender<AccessRecord>,
) -> std::io::Result<()> {
    if !config.enabled {
        for probe in PROBES {
            sink.offer(switched_off(probe).into());
        }
        return Ok(());
    }
    let probes = PROBES.map(str::to_owned).to_vec();
    let watch = Vigil::keep(sink.clone(), tasks.token(), probes);
    tasks.spawn_thread("logs", TaskKind::Critical, move |token| {
        let _watch = watch;
        let mut reader = Reader::new(config, &Places::of_host(state), sink, pace).telling(rules);
        while !token.is_cancelled() {
            let more = reader.turn();
            if !more {
                reader.sleep(SLEEP);
            }
            std::thread::sleep(GATHER);
        }
        reader.finish();
        Ok(())
    })
}

fn switched_off(probe: &str) -> ProbeStatus {
    ProbeStatus {
        time: TimeMicros::now(),
        probe: probe.to_owned(),
        state: ProbeState::Broken,
        reason: "switched off: collect.logs.enabled is false".to_owned(),
        hint: String::new(),
        seen: 0,
        delivered: 0,
        lost: 0,
    }
}
