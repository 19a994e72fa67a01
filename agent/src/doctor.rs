//! `fleetmend-agent doctor`: looks at everything the agent needs, in the order in which it needs it, and says in
//! words what is wrong and what to do next.
//!
//! It changes nothing: the trusted time is read and not set, the spool is read and not locked, and no stream is
//! opened, because a second one of this host would be taken for a clone. A collector is asked up to an HTTP/2
//! ping, which it answers only to a host whose certificate it accepted; what lies beyond is what the running agent
//! says of its own stream.

mod clock;
mod files;
mod network;
mod proxy;
mod report;
mod running;
mod tls;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use agent_stream::enrol::ask_time;
use anyhow::{Context, Result};
use fleetmend_event::TimeMicros;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use serde_json::Value;

use self::report::{Check, Report};
use crate::command::is_closed_pipe;
use crate::config::AgentConfig;

/// Addresses that are looked at; a fleet has a few collectors.
const ADDRESSES_MAX: usize = 16;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    config: super::ConfigArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Checks everything; fails when anything failed.
pub(crate) fn run(arguments: &DoctorArguments) -> Result<ExitCode> {
    match check(arguments) {
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

fn check(arguments: &DoctorArguments) -> Result<ExitCode> {
    let mut report = Report::new(arguments.json, std::io::stdout());
    let (check, config) = files::configuration(&arguments.config.config);
    report.add(check)?;
    match config {
        Some(config) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            let examined = runtime.block_on(examine(&config, &mut report));
            // A name server that does not answer is not waited for.
            runtime.shutdown_background();
            examined?;
        }
        None => report.add(Check::skipped(
            "everything else",
            "without a configuration it is not known where anything is",
        ))?,
    }
    report.finish()
}

async fn examine(config: &AgentConfig, report: &mut Report<impl Write>) -> Result<()> {
    for check in files::state(config) {
        report.add(check)?;
    }
    let time = match TrustedTime::open(config.time_file()) {
        Ok(time) => time,
        Err(error) => {
            report.add(files::trusted_time(&error))?;
            TrustedTime::system()
        }
    };
    let status = running::status(&config.admin_socket);
    report.add(running::agent(&config.admin_socket, &status))?;
    let (check, identity) = files::identity(config);
    report.add(check)?;
    if let Some(identity) = identity {
        let (trusted, source) = time.now();
        report.add(clock::certificate(&identity, trusted))?;
        report.add(clock::system(
            TimeMicros::now(),
            trusted,
            source,
            identity.peer().not_before,
        ))?;
        let identity = LiveIdentity::new(identity, None);
        Box::pin(collectors(config, report, &identity, &time, &status)).await?;
    } else {
        report.add(Check::skipped(
            "collectors",
            "who they are is known after enrolment",
        ))?;
    }
    report.add(running::kernel(&status))?;
    report.add(running::healer(&config.heal))
}

async fn collectors(
    config: &AgentConfig,
    report: &mut Report<impl Write>,
    identity: &LiveIdentity,
    time: &std::sync::Arc<TrustedTime>,
    status: &Result<Value, std::io::Error>,
) -> Result<()> {
    let current = identity.current();
    let enrolment = current.enrolment();
    let dialer = match proxy::dialer(config) {
        Ok(dialer) => dialer,
        Err(check) => {
            report.add(check)?;
            return report.add(Check::skipped("collectors", "the way to them is not known"));
        }
    };
    let (checks, reached) = proxy::reach("enrolment listener", enrolment, &dialer).await;
    for check in checks {
        report.add(check)?;
    }
    // A time of its own: what the collector answers is looked at, and the agent's is not set.
    let mut signed = None;
    if reached.is_some() {
        let asked = Box::pin(ask_time(&dialer, identity, &TrustedTime::system())).await;
        let (check, time) = clock::collector(enrolment, asked, TimeMicros::now(), time.now());
        signed = time;
        report.add(check)?;
    }
    let named = &config.stream.collectors;
    let addresses = if named.is_empty() {
        current.collectors()
    } else {
        named
    };
    if addresses.is_empty() {
        return report.add(Check::failed(
            "collectors",
            "this host was told of none",
            "name them: stream.collectors in the agent's configuration, or enrolment.collectors in the collector's and enrol again",
        ));
    }
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let (checks, reached) = proxy::reach("collector", address, &dialer).await;
        for check in checks {
            report.add(check)?;
        }
        if let Some(stream) = reached {
            report.add(Box::pin(tls::examine(address, stream, &dialer, identity, time, signed)).await)?;
        }
    }
    report.add(running::stream(status))
}
