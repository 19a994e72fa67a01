//! What an operator may set.

use std::path::PathBuf;

use fleetmend_config::{Faults, HumanDuration, Secret, Validate};
use serde::Deserialize;
use url::Url;

/// Settings of alerting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertConfig {
    /// Rule files, TOML or YAML, in order: the first rule that wants a finding has it.
    pub rules: Vec<PathBuf>,
    /// Rule files of Prometheus, YAML: recording rules and rules for alerts.
    pub prometheus_rules: Vec<PathBuf>,
    /// After it was down, the collector evaluates recording rules for at most so long a time before now.
    pub record_catch_up_max: HumanDuration,
    /// Recording rules are evaluated a second time this long after, for samples that came late; 0 for never.
    pub record_again_after: HumanDuration,
    /// Whether the built-in rules follow those of the files.
    pub default_rules: bool,
    /// Where messages go.
    pub receivers: Vec<Receiver>,
    /// How often facts are looked at.
    pub poll: HumanDuration,
    /// How often conditions on metrics are computed.
    pub metrics_every: HumanDuration,
    /// How long a new finding waits for a remedy to be proposed.
    pub settle: HumanDuration,
    /// How long a remedy may take before somebody is paged all the same.
    pub heal_deadline: HumanDuration,
    /// Findings older than this when they arrive page nobody.
    pub late_after: HumanDuration,
    /// Alerts that one host may begin in a minute; what is beyond that is told as one.
    pub alerts_per_host_max: u32,
    /// How long a message is retried.
    pub give_up_after: HumanDuration,
}

/// A webhook.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    /// Name for rules and lists.
    pub name: String,
    /// Where to POST. `https`, or `http` on loopback.
    pub url: String,
    /// Key of the signature; both sides have it.
    pub secret: Secret,
    /// How long one attempt may take.
    #[serde(default = "attempt_timeout")]
    pub timeout: HumanDuration,
    /// PEM file of an authority to trust in addition to the public ones.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

const fn attempt_timeout() -> HumanDuration {
    HumanDuration::from_secs(10)
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            prometheus_rules: Vec::new(),
            record_catch_up_max: HumanDuration::from_secs(3_600),
            record_again_after: HumanDuration::from_secs(600),
            default_rules: true,
            receivers: Vec::new(),
            poll: HumanDuration::from_secs(1),
            metrics_every: HumanDuration::from_secs(5),
            settle: HumanDuration::from_secs(3),
            heal_deadline: HumanDuration::from_secs(60),
            late_after: HumanDuration::from_secs(600),
            alerts_per_host_max: 60,
            give_up_after: HumanDuration::from_secs(24 * 3_600),
        }
    }
}

const SECRET_CHARS_MIN: usize = 16;

impl Validate for AlertConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        for (key, duration) in [("poll", self.poll), ("metrics_every", self.metrics_every)] {
            faults.require(duration.get().as_millis() >= 100, key, "has to be at least 100ms");
        }
        faults.require(
            self.alerts_per_host_max > 0,
            "alerts_per_host_max",
            "has to be at least 1",
        );
        for (index, receiver) in self.receivers.iter().enumerate() {
            let key = |name: &str| format!("receivers[{index}].{name}");
            if let Err(reason) = check_url(&receiver.url) {
                faults.add(&key("url"), reason);
            }
            if receiver.secret.expose().chars().count() < SECRET_CHARS_MIN {
                faults.add(
                    &key("secret"),
                    format!("has to have at least {SECRET_CHARS_MIN} characters"),
                );
            }
            faults.require(
                !receiver.timeout.get().is_zero(),
                &key("timeout"),
                "has to be more than nothing",
            );
            let twice = self
                .receivers
                .iter()
                .take(index)
                .any(|other| other.name == receiver.name);
            if receiver.name.is_empty() || twice {
                faults.add(&key("name"), "has to be a name that no other receiver has");
            }
        }
    }
}

/// The URL of a receiver, when messages may go there.
pub(crate) fn check_url(text: &str) -> Result<Url, String> {
    fleetmend_outward::check_url(text, "the signature is what proves the sender")
}
