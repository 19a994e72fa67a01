//! `fleetmend`: the operator's command line over the API of a collector.
//!
//! It keeps nothing but the session that `fleetmend login` leaves in the user's configuration folder (mode 0600).
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage,
//! 3 not logged in or not allowed, 4 the collector cannot be reached, 5 there is no such thing.

mod args;
mod client;
mod commands;
mod failure;
mod output;
mod session;
mod shown;
mod tls;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Arguments;
use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut output = Output::new(arguments.format(), arguments.wide);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(commands::run(arguments, &mut output)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe went away: nothing failed.
        Err(Failure::Pipe) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}
