//! Which source tells a kind: decided once, from what each can do here.

use std::collections::BTreeMap;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus};

use super::{Kind, SourceName, SourcesConfig};

/// What a source can do for a kind on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Can {
    /// All of it.
    Fully,
    /// It, with something missing.
    Partly {
        /// What is missing.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// Perhaps: nothing shows that it does. Taken when it is asked for by name only.
    Perhaps {
        /// What does not show.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// Nothing.
    Not {
        /// Why.
        reason: String,
        /// What to do about it.
        hint: String,
    },
}

/// What was found out about every source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey(BTreeMap<(Kind, SourceName), Can>);

/// The source of a kind, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) kind: Kind,
    /// `None` when nothing tells it.
    pub(crate) source: Option<SourceName>,
    pub(crate) state: ProbeState,
    pub(crate) reason: String,
    pub(crate) hint: String,
}

impl Survey {
    pub(crate) fn note(&mut self, kind: Kind, source: SourceName, can: Can) {
        self.0.insert((kind, source), can);
    }

    fn of(&self, kind: Kind, source: SourceName) -> Can {
        self.0.get(&(kind, source)).cloned().unwrap_or_else(|| Can::Not {
            reason: "this version cannot".to_owned(),
            hint: String::new(),
        })
    }
}

/// The source of every kind.
pub(crate) fn choose(config: &SourcesConfig, survey: &Survey) -> Vec<Chosen> {
    Kind::ALL
        .into_iter()
        .map(|kind| match config.of(kind) {
            SourceName::Off => off(kind),
            SourceName::Auto => first(kind, survey),
            wanted => forced(kind, wanted, survey),
        })
        .collect()
}

fn off(kind: Kind) -> Chosen {
    Chosen {
        kind,
        source: None,
        state: ProbeState::Broken,
        reason: "switched off by the configuration".to_owned(),
        hint: format!("set sources.{} = \"auto\" to switch it on", kind.as_str()),
    }
}

/// A source that was asked for by name has no stand-in: who named it wants to know when it fails.
fn forced(kind: Kind, wanted: SourceName, survey: &Survey) -> Chosen {
    match survey.of(kind, wanted) {
        Can::Not { reason, hint } => {
            let otherwise = format!("or set sources.{} = \"auto\"", kind.as_str());
            Chosen {
                kind,
                source: None,
                state: ProbeState::Broken,
                reason: format!("{} was asked for and cannot tell it: {reason}", wanted.as_str()),
                hint: join(&hint, &otherwise),
            }
        }
        can => chosen(kind, wanted, can, &[]),
    }
}

fn first(kind: Kind, survey: &Survey) -> Chosen {
    let mut refused = Vec::new();
    let mut advice = String::new();
    for source in kind.sources().iter().copied() {
        match survey.of(kind, source) {
            Can::Not { reason, hint } | Can::Perhaps { reason, hint } => {
                refused.push(format!("{}: {reason}", source.as_str()));
                // What would bring the best source back.
                if advice.is_empty() {
                    advice = hint;
                }
            }
            can => {
                let mut chosen = chosen(kind, source, can, &refused);
                if chosen.hint.is_empty() && !refused.is_empty() {
                    chosen.hint = advice;
                }
                return chosen;
            }
        }
    }
    Chosen {
        kind,
        source: None,
        state: ProbeState::Broken,
        reason: format!("nothing here tells it: {}", refused.join("; ")),
        hint: advice,
    }
}

fn chosen(kind: Kind, source: SourceName, can: Can, refused: &[String]) -> Chosen {
    let (state, mut reason, hint) = match can {
        Can::Fully => (
            ProbeState::Real,
            format!("told by {}", source.as_str()),
            String::new(),
        ),
        Can::Partly { reason, hint } | Can::Perhaps { reason, hint } | Can::Not { reason, hint } => (
            ProbeState::Degraded,
            format!("told by {}: {reason}", source.as_str()),
            hint,
        ),
    };
    if !refused.is_empty() {
        reason.push_str("; not by ");
        reason.push_str(&refused.join("; "));
    }
    // A second source is never all of what the probes of the kernel would be.
    let state = if refused.is_empty() {
        state
    } else {
        ProbeState::Degraded
    };
    Chosen {
        kind,
        source: Some(source),
        state,
        reason,
        hint,
    }
}

fn join(first: &str, second: &str) -> String {
    if first.is_empty() {
        return second.to_owned();
    }
    format!("{first}; {second}")
}

impl Chosen {
    /// Name of its probe.
    pub(crate) fn probe(&self) -> String {
        format!("source.{}", self.kind.as_str())
    }

    /// Its row, with nothing counted yet.
    pub(crate) fn status(&self) -> ProbeStatus {
        ProbeStatus {
            time: TimeMicros::now(),
            probe: self.probe(),
            state: self.state,
            reason: self.reason.clone(),
            hint: self.hint.clone(),
            seen: 0,
            delivered: 0,
            lost: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not(reason: &str) -> Can {
        Can::Not {
            reason: reason.to_owned(),
            hint: format!("mend {reason}"),
        }
    }

    fn partly(reason: &str) -> Can {
        Can::Partly {
            reason: reason.to_owned(),
            hint: String::new(),
        }
    }

    fn of(chosen: &[Chosen], kind: Kind) -> Chosen {
        chosen.iter().find(|chosen| chosen.kind == kind).unwrap().clone()
    }

    #[test]
    fn first_that_works_is_taken_and_the_others_refusals_are_told() {
        let mut survey = Survey::default();
        survey.note(Kind::Processes, SourceName::Ebpf, not("no BTF"));
        survey.note(Kind::Processes, SourceName::Audit, not("no log"));
        survey.note(
            Kind::Processes,
            SourceName::Connector,
            partly("some arguments are missed"),
        );
        survey.note(Kind::Network, SourceName::Ebpf, Can::Fully);
        let all = choose(&SourcesConfig::default(), &survey);
        assert_eq!(all.len(), Kind::ALL.len());
        let processes = of(&all, Kind::Processes);
        assert_eq!(processes.source, Some(SourceName::Connector));
        assert_eq!(processes.state, ProbeState::Degraded);
        assert!(processes.reason.contains("some arguments") && processes.reason.contains("no BTF"));
        assert_eq!(processes.hint, "mend no BTF");
        let network = of(&all, Kind::Network);
        assert_eq!(
            (network.source, network.state),
            (Some(SourceName::Ebpf), ProbeState::Real)
        );
        let files = of(&all, Kind::Files);
        assert_eq!((files.source, files.state), (None, ProbeState::Broken));
        assert_eq!(files.status().probe, "source.files");
    }

    #[test]
    fn forced_source_has_no_stand_in() {
        let mut survey = Survey::default();
        survey.note(Kind::Processes, SourceName::Ebpf, Can::Fully);
        survey.note(Kind::Processes, SourceName::Audit, not("no log"));
        let config = SourcesConfig {
            processes: SourceName::Audit,
            network: SourceName::Off,
            ..SourcesConfig::default()
        };
        let all = choose(&config, &survey);
        let processes = of(&all, Kind::Processes);
        assert_eq!((processes.source, processes.state), (None, ProbeState::Broken));
        assert!(processes.reason.contains("asked for") && processes.hint.contains("auto"));
        assert!(of(&all, Kind::Network).reason.contains("switched off"));
    }
}
