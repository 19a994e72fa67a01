//! Restart a systemd unit that failed. Compensable: what the restart did cannot be taken back; a unit that does
//! not come up again is left as systemd leaves it.

use fleetmend_event::remedy::Ending;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ApplyError, Host, Reading, Treatment, Truth, Undone};

/// How a unit is restarted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPlan {
    pub(super) unit: String,
}

impl RestartPlan {
    fn read(&self, host: &Host, wanted: &str) -> Reading {
        match host.units.active_state(&self.unit) {
            Ok(state) => {
                // A unit on its way (`activating`) is not there yet: it is asked again until the deadline.
                let truth = if state == wanted { Truth::Yes } else { Truth::No };
                Reading::new(
                    truth,
                    format!("{} is {state}", self.unit),
                    json!({"active_state": state}),
                )
            }
            Err(reason) => Reading::new(Truth::Unknown, reason, json!({})),
        }
    }
}

impl Treatment for RestartPlan {
    fn describe(&self) -> String {
        format!("restart {} through systemd", self.unit)
    }

    fn check(&self, host: &Host) -> Reading {
        self.read(host, "failed")
    }

    fn apply(&mut self, host: &Host, _halted: &dyn Fn() -> Option<String>) -> Result<(), ApplyError> {
        host.units.restart(&self.unit).map_err(ApplyError)
    }

    fn verify(&self, host: &Host) -> Reading {
        self.read(host, "active")
    }

    fn undo(&self, _host: &Host) -> Undone {
        Undone::Impossible("a restart cannot be taken back".to_owned())
    }

    fn settle(&self, host: &Host) -> (Ending, String) {
        let reading = self.verify(host);
        match reading.truth {
            Truth::Yes => (
                Ending::Unknown,
                format!("{}; whether we restarted it is not known", reading.detail),
            ),
            _ => (
                Ending::FailedSafe,
                format!("{}; whether we restarted it is not known", reading.detail),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::units::{UnitNames, Units};
    use super::*;

    struct Simulated(Mutex<&'static str>);

    impl Units for Simulated {
        fn applicable(&self) -> Result<(), String> {
            Ok(())
        }
        fn names(&self, unit: &str) -> Result<UnitNames, String> {
            Ok(UnitNames {
                id: unit.to_owned(),
                aliases: Vec::new(),
            })
        }
        fn active_state(&self, _unit: &str) -> Result<String, String> {
            Ok((*self.0.lock().unwrap()).to_owned())
        }
        fn restart(&self, _unit: &str) -> Result<(), String> {
            *self.0.lock().unwrap() = "active";
            Ok(())
        }
    }

    #[test]
    fn a_failed_unit_is_restarted_and_a_running_one_is_not_a_case() {
        let host = Host {
            units: Arc::new(Simulated(Mutex::new("failed"))),
            ..Host::here()
        };
        let mut plan = RestartPlan {
            unit: "shop.service".to_owned(),
        };
        assert_eq!(plan.check(&host).truth, Truth::Yes);
        assert_eq!(plan.verify(&host).truth, Truth::No);
        plan.apply(&host, &|| None).unwrap();
        assert_eq!(plan.verify(&host).truth, Truth::Yes);
        assert_eq!(plan.check(&host).truth, Truth::No);
    }
}
