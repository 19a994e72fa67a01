//! systemd units, over D-Bus, where systemd runs.
//!
//! All units are listed every interval; a row is written for each that changed or is gone, and for all of them
//! every [`FULL_EVERY`] listings, so that a store that lost the change still learns the state.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus, UnitState};
use fleetmend_shutdown::{CancellationToken, Tasks};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;
use zbus::proxy;

use crate::pace::UNHURRIED_TIMES;
use crate::vigil::Vigil;
use crate::{FactSink, Pace, PaceHandle};

/// Name in `probe_status`.
const PROBE: &str = "systemd.units";
/// Where systemd says that it is the init of this host.
const SYSTEMD_RUNTIME: &str = "/run/systemd/system";
/// Listings between two full reports.
const FULL_EVERY: u64 = 6;
/// Longest wait for an answer of systemd.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Most units that are followed.
const UNITS_MAX: usize = 2_000;

/// Units could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// systemd is not this host's init.
    #[error("systemd is not running here ({SYSTEMD_RUNTIME} does not exist)")]
    NotRunning,
    /// The bus refused or broke.
    #[error("systemd did not answer over D-Bus")]
    Bus(#[from] zbus::Error),
    /// The bus took too long.
    #[error("systemd did not answer over D-Bus within {CALL_TIMEOUT:?}")]
    Timeout,
}

type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    zbus::zvariant::OwnedObjectPath,
    u32,
    String,
    zbus::zvariant::OwnedObjectPath,
);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn list_units(&self) -> zbus::Result<Vec<Listed>>;
}

#[proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
}

/// Lists every service unit once.
///
/// # Errors
/// [`UnitError`] says whether systemd is absent or did not answer.
pub async fn list_units() -> Result<Vec<UnitState>, UnitError> {
    if !Path::new(SYSTEMD_RUNTIME).exists() {
        return Err(UnitError::NotRunning);
    }
    timeout(CALL_TIMEOUT, list_over_bus())
        .await
        .map_err(|_| UnitError::Timeout)?
}

async fn list_over_bus() -> Result<Vec<UnitState>, UnitError> {
    let connection = zbus::Connection::system().await?;
    let listed = ManagerProxy::new(&connection).await?.list_units().await?;
    let time = TimeMicros::now();
    let mut units = Vec::new();
    for (unit, description, load_state, active_state, sub_state, _, path, ..) in listed {
        if !unit.ends_with(".service") || units.len() >= UNITS_MAX {
            continue;
        }
        let service = ServiceProxy::builder(&connection)
            .path(path)?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        units.push(UnitState {
            time,
            unit,
            description,
            load_state,
            active_state,
            sub_state,
            main_pid: service.main_pid().await.unwrap_or(0),
            restart_count: service.n_restarts().await.unwrap_or(0),
            result: service.result().await.unwrap_or_default(),
        });
    }
    Ok(units)
}

/// Starts following units; begins again after a fault, which is told.
pub fn spawn(tasks: &Tasks, every: Duration, sink: FactSink, pace: PaceHandle) {
    let token = tasks.token();
    tasks.spawn_restartable("units", move || {
        follow(every, sink.clone(), pace.clone(), token.clone())
    });
}

async fn follow(
    every: Duration,
    sink: FactSink,
    pace: PaceHandle,
    token: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let _watch = Vigil::keep(sink.clone(), token.clone(), vec![PROBE.to_owned()]);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut follower = Follower::default();
    let mut passed_over = 0_u32;
    loop {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        passed_over += 1;
        if passed_over < pace.inventory_times() {
            continue;
        }
        passed_over = 0;
        follower.slow = pace.get() >= Pace::Unhurried;
        let listed = list_units().await;
        follower.report(listed, &sink);
    }
}

#[derive(Default)]
struct Follower {
    known: BTreeMap<String, UnitState>,
    listings: u64,
    last_state: Option<(ProbeState, String)>,
    /// Whether units are listed rarer than configured.
    slow: bool,
}

impl Follower {
    fn report(&mut self, listed: Result<Vec<UnitState>, UnitError>, sink: &FactSink) {
        let full = self.listings.is_multiple_of(FULL_EVERY);
        self.listings = self.listings.saturating_add(1);
        let status = match listed {
            Ok(units) => {
                let reason = format!("{} service units", units.len());
                self.report_units(units, full, sink);
                if self.slow {
                    let slow = format!(
                        "{reason}, listed {UNHURRIED_TIMES} times rarer: the agent is over its budget"
                    );
                    let hint = "raise the budget: `fleetmend-agent status` names what is over it";
                    (ProbeState::Degraded, slow, hint)
                } else {
                    (ProbeState::Real, reason, "")
                }
            }
            Err(error @ UnitError::NotRunning) => (
                ProbeState::Broken,
                error.to_string(),
                "nothing to do on a host without systemd: its units are not watched",
            ),
            Err(error) => {
                let reason = format!(
                    "{error}: {}",
                    std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
                );
                (
                    ProbeState::Degraded,
                    reason,
                    "check that dbus is running: systemctl status dbus",
                )
            }
        };
        let (state, reason, hint) = status;
        let changed = self.last_state.as_ref() != Some(&(state, reason.clone()));
        if changed && state != ProbeState::Real && !self.slow {
            warn!(reason, "units are not watched");
        }
        if changed || full {
            sink.offer(self.status(state, reason.clone(), hint).into());
        }
        self.last_state = Some((state, reason));
    }

    fn report_units(&mut self, units: Vec<UnitState>, full: bool, sink: &FactSink) {
        let mut now = BTreeMap::new();
        for unit in units {
            let changed = self.known.get(&unit.unit).is_none_or(|known| {
                UnitState {
                    time: unit.time,
                    ..known.clone()
                } != unit
            });
            if full || changed {
                sink.offer(unit.clone().into());
            }
            now.insert(unit.unit.clone(), unit);
        }
        // A listing that was cut short says nothing of the units beyond its end.
        if now.len() < UNITS_MAX {
            for (name, known) in &self.known {
                if !now.contains_key(name) {
                    sink.offer(gone(known).into());
                }
            }
        }
        self.known = now;
    }

    fn status(&self, state: ProbeState, reason: String, hint: &str) -> ProbeStatus {
        ProbeStatus {
            time: TimeMicros::now(),
            probe: PROBE.to_owned(),
            state,
            reason,
            hint: hint.to_owned(),
            seen: self.listings,
            delivered: self.listings,
            lost: 0,
        }
    }
}

/// The last row of a unit that systemd has unloaded: it holds no state any more, failed or not.
fn gone(known: &UnitState) -> UnitState {
    UnitState {
        time: TimeMicros::now(),
        load_state: "not-found".to_owned(),
        active_state: "inactive".to_owned(),
        sub_state: "dead".to_owned(),
        main_pid: 0,
        ..known.clone()
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::Fact;
    use tokio::sync::mpsc;

    use super::*;

    fn unit(name: &str, active_state: &str) -> UnitState {
        UnitState {
            time: TimeMicros::now(),
            unit: name.into(),
            description: String::new(),
            load_state: "loaded".into(),
            active_state: active_state.into(),
            sub_state: "running".into(),
            main_pid: 1,
            restart_count: 0,
            result: "success".into(),
        }
    }

    fn units_sent(receiver: &mut mpsc::Receiver<Fact>) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(fact) = receiver.try_recv() {
            if let Fact::UnitState(unit) = fact {
                names.push(unit.unit.clone());
            }
        }
        names
    }

    #[test]
    fn only_what_changed_is_written_between_full_reports() {
        let (sender, mut receiver) = mpsc::channel(100);
        let sink = FactSink::new(sender);
        let mut follower = Follower::default();
        follower.report(
            Ok(vec![unit("a.service", "active"), unit("b.service", "active")]),
            &sink,
        );
        assert_eq!(units_sent(&mut receiver), ["a.service", "b.service"]);
        follower.report(
            Ok(vec![unit("a.service", "failed"), unit("b.service", "active")]),
            &sink,
        );
        assert_eq!(units_sent(&mut receiver), ["a.service"]);
    }

    #[test]
    fn unit_that_is_gone_has_a_last_row_that_is_not_failed() {
        let (sender, mut receiver) = mpsc::channel(100);
        let sink = FactSink::new(sender);
        let mut follower = Follower::default();
        follower.report(
            Ok(vec![unit("a.service", "failed"), unit("b.service", "active")]),
            &sink,
        );
        units_sent(&mut receiver);
        follower.report(Ok(vec![unit("b.service", "active")]), &sink);
        let mut last = None;
        while let Ok(fact) = receiver.try_recv() {
            if let Fact::UnitState(unit) = fact {
                last = Some((
                    unit.unit.clone(),
                    unit.active_state.clone(),
                    unit.load_state.clone(),
                ));
            }
        }
        let expected = ("a.service".into(), "inactive".into(), "not-found".into());
        assert_eq!(last, Some(expected));
        follower.report(Err(UnitError::Timeout), &sink);
        assert!(
            units_sent(&mut receiver).is_empty(),
            "no answer is not an empty one"
        );
    }

    #[test]
    fn absence_of_systemd_is_said_and_is_no_unit_failure() {
        let (sender, mut receiver) = mpsc::channel(100);
        Follower::default().report(Err(UnitError::NotRunning), &FactSink::new(sender));
        let Ok(Fact::ProbeStatus(status)) = receiver.try_recv() else {
            panic!("no status row")
        };
        assert_eq!(status.state, ProbeState::Broken);
        assert!(status.reason.contains("systemd is not running"));
        assert!(receiver.try_recv().is_err());
    }
}
