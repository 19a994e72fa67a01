//! The control database, shared by the rooms that keep state; each has tables of its own.

mod copy;

use anyhow::{Context, Result};
use fleetmend_control::{Control, Health};
use fleetmend_shutdown::{TaskKind, Tasks};
use fleetmend_telemetry::{Readiness, State};

use crate::config::CollectorConfig;

pub(crate) use copy::{ControlArguments, run};

/// Name of the readiness condition.
pub(crate) const CONDITION: &str = "control";

/// Opens the database that the configuration names; a SQLite file is made when there is none.
pub(crate) async fn open(config: &CollectorConfig) -> Result<Control> {
    let default = config.control_database();
    let shown = config.control.address(&default).context("control.url")?;
    Control::open(&config.control, &default)
        .await
        .with_context(|| format!("open the control database {shown}"))
}

/// Shows in the readiness whether the database is there, and listens to what other collectors change in it.
pub(crate) fn follow(control: &Control, readiness: &Readiness, tasks: &Tasks) {
    control.watch(tasks);
    control.serve_signals(tasks);
    let (mut health, readiness, token) = (control.health(), readiness.clone(), tasks.token());
    tasks.spawn("control readiness", TaskKind::BestEffort, async move {
        loop {
            let state = match health.borrow_and_update().clone() {
                Health::Ready => State::Ready,
                Health::Away(reason) => State::NotReady(format!(
                    "{reason}. Hosts that are enrolled go on sending; enrolment, logins and alerts wait"
                )),
            };
            readiness.set(CONDITION, state);
            tokio::select! {
                () = token.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                changed = health.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleetmend_control::ControlConfig;
    use fleetmend_testkit::postgres::Ending;
    use fleetmend_testkit::{PostgresServer, wait_for};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_readiness_says_that_the_database_is_away_and_when_it_is_back() {
        let server = PostgresServer::start().unwrap();
        let mut config = ControlConfig::of(server.url("postgres"));
        config.password_file = Some(server.password_file());
        let control = Control::open(&config, "/".as_ref()).await.unwrap();
        let (readiness, tasks) = (Readiness::new(&[CONDITION]), Tasks::new());
        follow(&control, &readiness, &tasks);
        let state = async || readiness.conditions().remove(CONDITION);
        wait_for(PATIENCE, state, |state| *state == Some(State::Ready))
            .await
            .unwrap();
        server.stop(Ending::Immediate).unwrap();
        let away = |state: &Option<State>| matches!(state, Some(State::NotReady(_)));
        let Some(State::NotReady(reason)) = wait_for(PATIENCE, state, away).await.unwrap() else {
            unreachable!("it was waited for");
        };
        assert!(reason.contains("cannot be reached"), "{reason}");
        assert!(reason.contains("go on sending"), "{reason}");
        server.restart().unwrap();
        wait_for(PATIENCE, state, |state| *state == Some(State::Ready))
            .await
            .unwrap();
        tasks.drain(PATIENCE).await;
    }
}
