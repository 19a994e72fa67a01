use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::{TaskKind, Tasks};

/// SIGTERM and SIGINT begin the drain; SIGHUP counts up the returned `watch`, which is a request to reload.
///
/// # Errors
/// When a handler cannot be installed.
pub fn listen_for_signals(tasks: &Tasks) -> io::Result<watch::Receiver<u64>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (reload, requests) = watch::channel(0_u64);
    let owner = tasks.clone();
    let token = tasks.token();
    tasks.spawn("signals", TaskKind::BestEffort, async move {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok::<(), Infallible>(()),
                Some(()) = terminate.recv() => owner.begin("received SIGTERM"),
                Some(()) = interrupt.recv() => owner.begin("received SIGINT"),
                Some(()) = hang_up.recv() => reload.send_modify(|count| *count = count.wrapping_add(1)),
            }
        }
    });
    Ok(requests)
}
