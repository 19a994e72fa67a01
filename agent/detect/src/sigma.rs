//! Sigma rules on processes and connections, matched as they happen.
//!
//! Rules are read from folders; each file stands alone: one that cannot be read, parsed or compiled is listed
//! with its reason and hinders no other. A rule whose log source has no source here is listed as unsupported,
//! never skipped in silence. Parsing and matching are the `rsigma` crates'; this module owns the mapping of our
//! facts to Sigma's field names, and the listing.
//!
//! Limits: process_creation and network_connection of Linux, without correlation rules and filters.

mod event;

use std::path::{Path, PathBuf};

use fleetmend_event::Fact;
use fleetmend_event::TimeMicros;
use fleetmend_event::table::{FindingKind, ProbeState, ProbeStatus, Severity, SubjectKind};
use rsigma_eval::{Engine, EvaluationResult, MatchDetailLevel};
use rsigma_parser::{Level, SigmaRule, parse_sigma_yaml};
use serde_json::json;

use self::event::{ConnectionEvent, ProcessCreation};
use crate::metrics;
use crate::tracker::{Notice, Subject};

/// Most rule files that are read.
const FILES_MAX: usize = 10_000;
/// Largest rule file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleState {
    /// It is matched.
    Loaded,
    /// It is sound, but nothing here can feed it; the reason says what is missing.
    Unsupported(String),
    /// It could not be read, parsed or compiled.
    Broken(String),
}

/// A rule and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleListing {
    /// File it stands in.
    pub path: PathBuf,
    /// Its title, or the file's name.
    pub title: String,
    /// What became of it.
    pub state: RuleState,
}

/// The compiled rules.
pub struct Sigma {
    processes: Engine,
    connections: Engine,
    listing: Vec<RuleListing>,
    matched: u64,
    seen: u64,
}

enum Target {
    Processes,
    Connections,
}

impl Sigma {
    /// Reads and compiles every rule below `folders`. A folder that does not exist is listed as broken.
    pub fn load(folders: &[PathBuf]) -> Self {
        let mut sigma = Self {
            processes: engine(),
            connections: engine(),
            listing: Vec::new(),
            matched: 0,
            seen: 0,
        };
        for folder in folders {
            let mut files = Vec::new();
            if let Err(error) = rule_files(folder, &mut files) {
                sigma.list(
                    folder,
                    folder.display().to_string(),
                    RuleState::Broken(error.to_string()),
                );
            }
            files.sort();
            for file in files {
                sigma.load_file(&file);
            }
        }
        for (state, count) in sigma.counts() {
            metrics::sigma_rules(state, count);
        }
        sigma
    }

    /// Every rule and what became of it.
    pub fn listing(&self) -> &[RuleListing] {
        &self.listing
    }

    /// Matches one fact; returns a notice per rule that it meets.
    pub fn observe(&mut self, fact: &Fact) -> Vec<Notice> {
        let notices: Vec<Notice> = match fact {
            Fact::ProcessEvent(event) => {
                let Some(creation) = ProcessCreation::of(event) else {
                    return Vec::new();
                };
                let subject = Subject {
                    process: Some((event.pid, event.start_boot_ns)),
                    ..Subject::named(SubjectKind::Process, &event.comm)
                };
                let matches = self.processes.evaluate(&creation);
                matches
                    .iter()
                    .map(|found| notice(found, subject.clone(), json!({"process_events": event})))
                    .collect()
            }
            Fact::NetworkEvent(event) => {
                let Some(connection) = ConnectionEvent::of(event) else {
                    return Vec::new();
                };
                let subject = Subject {
                    process: Some((event.pid, event.start_boot_ns)),
                    ..Subject::named(SubjectKind::Process, &event.comm)
                };
                let matches = self.connections.evaluate(&connection);
                matches
                    .iter()
                    .map(|found| notice(found, subject.clone(), json!({"network_events": event})))
                    .collect()
            }
            _ => return Vec::new(),
        };
        self.seen = self.seen.saturating_add(1);
        self.matched = self
            .matched
            .saturating_add(u64::try_from(notices.len()).unwrap_or(0));
        notices
    }

    /// How the rules stand, as a row.
    pub fn status(&self) -> ProbeStatus {
        let broken: Vec<&RuleListing> = self
            .listing
            .iter()
            .filter(|rule| matches!(rule.state, RuleState::Broken(_)))
            .collect();
        let counts = self
            .counts()
            .map(|(state, count)| format!("{count} {state}"))
            .join(", ");
        let first = broken.first().map(|rule| {
            let RuleState::Broken(reason) = &rule.state else {
                return String::new();
            };
            format!("; first broken: {}: {reason}", rule.path.display())
        });
        ProbeStatus {
            time: TimeMicros::now(),
            probe: "detect.sigma".to_owned(),
            state: match (broken.is_empty(), self.processes.rule_count()) {
                (_, 0) => ProbeState::Broken,
                (true, _) => ProbeState::Real,
                (false, _) => ProbeState::Degraded,
            },
            reason: format!("rules: {counts}{}", first.unwrap_or_default()),
            hint: if broken.is_empty() {
                String::new()
            } else {
                "see: fleetmend-agent rules check".to_owned()
            },
            seen: self.seen,
            delivered: self.matched,
            lost: 0,
        }
    }

    fn counts(&self) -> [(&'static str, usize); 3] {
        let count =
            |wanted: fn(&RuleState) -> bool| self.listing.iter().filter(|rule| wanted(&rule.state)).count();
        [
            ("loaded", count(|state| matches!(state, RuleState::Loaded))),
            (
                "unsupported",
                count(|state| matches!(state, RuleState::Unsupported(_))),
            ),
            ("broken", count(|state| matches!(state, RuleState::Broken(_)))),
        ]
    }

    fn load_file(&mut self, path: &Path) {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) => return self.list(path, name, RuleState::Broken(error.to_string())),
        };
        let collection = match parse_sigma_yaml(&text) {
            Ok(collection) => collection,
            Err(error) => return self.list(path, name, RuleState::Broken(error.to_string())),
        };
        for error in &collection.errors {
            self.list(path, name.clone(), RuleState::Broken(error.to_string()));
        }
        for correlation in &collection.correlations {
            self.list(
                path,
                correlation.title.clone(),
                RuleState::Unsupported("correlation rules are not matched yet".to_owned()),
            );
        }
        for filter in &collection.filters {
            self.list(
                path,
                filter.title.clone(),
                RuleState::Unsupported("filters are not applied yet".to_owned()),
            );
        }
        for rule in &collection.rules {
            let state = self.load_rule(rule);
            self.list(path, rule.title.clone(), state);
        }
    }

    fn load_rule(&mut self, rule: &SigmaRule) -> RuleState {
        let added = match target(rule) {
            Err(reason) => return RuleState::Unsupported(reason),
            Ok(Target::Processes) => self.processes.add_rule(rule),
            Ok(Target::Connections) => self.connections.add_rule(rule),
        };
        added.map_or_else(
            |error| RuleState::Broken(error.to_string()),
            |()| RuleState::Loaded,
        )
    }

    fn list(&mut self, path: &Path, title: String, state: RuleState) {
        self.listing.push(RuleListing {
            path: path.to_owned(),
            title,
            state,
        });
    }
}

fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.set_match_detail(MatchDetailLevel::Summary);
    engine
}

fn target(rule: &SigmaRule) -> Result<Target, String> {
    let source = &rule.logsource;
    let product = source.product.as_deref().unwrap_or("linux");
    match (product, source.category.as_deref(), source.service.as_deref()) {
        ("linux", Some("process_creation"), None) => Ok(Target::Processes),
        ("linux", Some("network_connection"), None) => Ok(Target::Connections),
        (product, category, service) => {
            let words = [Some(product), category, service]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("/");
            Err(format!("no source here feeds the log source {words}"))
        }
    }
}

fn notice(found: &EvaluationResult, subject: Subject, evidence: serde_json::Value) -> Notice {
    let fields = found
        .as_detection()
        .map(|body| body.matched_fields.as_slice())
        .unwrap_or_default();
    let factor = |field: &rsigma_eval::FieldMatch| json!({"feature": field.field, "value": field.value, "expected": field.pattern, "contribution": null});
    let tags = &found.header.tags;
    Notice {
        kind: FindingKind::Sigma,
        rule: found
            .header
            .rule_id
            .clone()
            .unwrap_or_else(|| found.header.rule_title.clone()),
        title: found.header.rule_title.clone(),
        severity: severity(found.header.level),
        score: None,
        subject,
        techniques: techniques(tags),
        tactics: tactics(tags),
        factors: fields.iter().map(factor).collect(),
        evidence,
    }
}

fn severity(level: Option<Level>) -> Severity {
    match level {
        Some(Level::Informational) => Severity::Info,
        Some(Level::Low) => Severity::Low,
        Some(Level::Medium) | None => Severity::Medium,
        Some(Level::High) => Severity::High,
        Some(Level::Critical) => Severity::Critical,
    }
}

/// ATT&CK techniques among a rule's tags: `attack.t1059.004` is `T1059.004`.
fn techniques(tags: &[String]) -> Vec<String> {
    let technique = |tag: &String| {
        let name = tag.strip_prefix("attack.")?;
        let number = name.strip_prefix(['t', 'T'])?;
        number
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| name.to_ascii_uppercase())
    };
    tags.iter().filter_map(technique).collect()
}

/// ATT&CK tactics among a rule's tags: `attack.command-and-control`.
fn tactics(tags: &[String]) -> Vec<String> {
    let is_tactic = |name: &&str| name.len() > 6 && !name.chars().any(|letter| letter.is_ascii_digit());
    tags.iter()
        .filter_map(|tag| tag.strip_prefix("attack."))
        .filter(is_tactic)
        .map(str::to_owned)
        .collect()
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "longer than the {FILE_BYTES_MAX} bytes that a rule file may have"
        )));
    }
    std::fs::read_to_string(path)
}

fn rule_files(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_rule = path
            .extension()
            .is_some_and(|extension| extension == "yml" || extension == "yaml");
        if path.is_dir() && !path.is_symlink() {
            rule_files(&path, files)?;
        } else if is_rule && files.len() < FILES_MAX {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
