//! Sigma rules over our facts and over raw records of logs, matched as they happen.
//!
//! Rules are read from folders; each file stands alone: one that cannot be read, parsed or compiled is listed
//! with its reason and hinders no other. A rule whose log source has no source here is listed as unsupported,
//! never skipped in silence. A later folder's rule replaces an earlier one's of the same id; the configuration
//! switches rules off with a reason.
//!
//! The `rsigma-parser` crate reads the files. Matching is ours: a rule is compiled to a condition over tests of
//! fields ([`rule`], [`compile`], [`value`]), an index names the few rules that an event could match ([`index`]), and
//! those are evaluated exactly ([`matching`]). Nothing is compiled or read while an event is looked at.
//!
//! # Reload
//! [`Reloader`] compiles another set on a thread of its own and hands it over whole; the next event is matched by
//! it. A file that is broken now goes on with what it said before. State of correlations that are the same goes on.
//!
//! # Limits
//! No quantifiers over arrays; correlations with sliding windows of at most seven days, in memory; regular
//! expressions without look-around. docs/specs/rules.md says what feeds which field.

mod builder;
mod compile;
mod correlate;
mod dialect;
mod document;
mod event;
mod explain;
mod index;
mod mapping;
mod matching;
mod meta;
mod read;
mod reload;
mod rule;
mod scene;
mod set;
mod sources;
mod text;
mod trial;
mod twins;
mod users;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_event::{Fact, TimeMicros};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::event::RawEvent;
pub use self::explain::{Explanation, explain};
pub use self::matching::Matched;
pub use self::reload::Reloader;
pub use self::rule::LogSource;
pub use self::trial::{Trial, Verdict};

use self::correlate::Window;
use self::event::{Fields, Slots};
use self::index::Candidates;
use self::reload::Handover;
use self::scene::{Scene, correlated, log_subject, notice, raw_subject};
use self::set::RuleSet;
use self::sources::{Kind, Origin};
use self::twins::{Teller, Twins};
use crate::metrics;
use crate::tracker::Notice;

/// Correlations over correlations, one above the other.
const CORRELATIONS_DEEP_MAX: usize = 8;

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleState {
    /// It is matched.
    Loaded,
    /// It is sound, but nothing here can feed it; the reason says what is missing.
    Unsupported(String),
    /// It could not be read, parsed or compiled; the reason says where.
    Broken(String),
    /// The configuration switches it off, for this reason.
    Disabled(String),
    /// Another rule of the same id is matched instead.
    Replaced(String),
}

impl RuleState {
    /// The state in one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Unsupported(_) => "unsupported",
            Self::Broken(_) => "broken",
            Self::Disabled(_) => "disabled",
            Self::Replaced(_) => "replaced",
        }
    }

    /// Why it is not simply loaded.
    pub fn reason(&self) -> &str {
        match self {
            Self::Loaded => "",
            Self::Unsupported(reason)
            | Self::Broken(reason)
            | Self::Disabled(reason)
            | Self::Replaced(reason) => reason,
        }
    }
}

/// A rule and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleListing {
    /// File it stands in.
    pub path: PathBuf,
    /// Its id, or its title where it has none; empty for a file without a rule.
    pub id: String,
    /// Its title, or the file's name.
    pub title: String,
    /// What became of it.
    pub state: RuleState,
}

/// A rule that the site does not want.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisabledRule {
    /// Its id, or its title.
    pub rule: String,
    /// Why, for those who come after.
    pub reason: String,
}

/// Where rules come from and what the site says of them.
#[derive(Debug, Clone, Default)]
pub struct RuleOptions {
    /// Folders and files of rules; later ones replace rules of the same id.
    pub folders: Vec<PathBuf>,
    /// Rules that are switched off.
    pub disabled: Vec<DisabledRule>,
    /// What `%name%` stands for in values with `expand`.
    pub placeholders: BTreeMap<String, Vec<String>>,
}

/// The compiled rules, and what they remember.
pub struct Sigma {
    set: Arc<RuleSet>,
    handover: Arc<Handover>,
    windows: Vec<Window>,
    candidates: Candidates,
    twins: Twins,
    matched: u64,
    seen: u64,
}

/// A rule that an event met, on its way to the correlations that look at it.
struct Met<'a> {
    time: TimeMicros,
    scene: &'a dyn Fn() -> Scene,
    depth: usize,
}

impl Sigma {
    /// Reads and compiles every rule below `folders`. A folder that does not exist is listed as broken.
    pub fn load(folders: &[PathBuf]) -> Self {
        Self::with(&RuleOptions {
            folders: folders.to_vec(),
            ..RuleOptions::default()
        })
    }

    /// Reads and compiles every rule.
    pub fn with(options: &RuleOptions) -> Self {
        let read_from = reload::survey(&options.folders);
        Self::made(RuleSet::load(options, None), options.clone(), read_from)
    }

    pub(crate) fn over(set: RuleSet, options: RuleOptions) -> Self {
        Self::made(set, options, reload::Survey::default())
    }

    fn made(set: RuleSet, options: RuleOptions, read_from: reload::Survey) -> Self {
        let set = Arc::new(set);
        let mut sigma = Self {
            set: Arc::clone(&set),
            handover: Arc::new(Handover::new(set, options, read_from)),
            windows: Vec::new(),
            candidates: Candidates::default(),
            twins: Twins::default(),
            matched: 0,
            seen: 0,
        };
        sigma.windows = sigma.set.correlations.iter().map(|_| Window::default()).collect();
        sigma.count();
        sigma
    }

    /// What reads the rules anew.
    pub fn reloader(&self) -> Reloader {
        Reloader::new(Arc::clone(&self.handover))
    }

    /// Every rule and what became of it.
    pub fn listing(&self) -> &[RuleListing] {
        &self.set.listing
    }

    /// Matches one fact; returns a notice per rule that it meets.
    pub fn observe(&mut self, fact: &Fact) -> Vec<Notice> {
        self.take_over();
        let set = Arc::clone(&self.set);
        if let Fact::LogRecord(record) = fact {
            let scene = || Scene {
                subject: log_subject(record.unit.as_deref(), &record.identifier),
                evidence: json!({"log_records": record}),
            };
            return mapping::log_record(record, |origin, fields| {
                let groups = set.route_of(&origin);
                self.look(&set, &groups, &fields, record.time, None, &scene)
            });
        }
        let views = mapping::views(fact, |kind| !set.route(kind).is_empty());
        let mut notices = Vec::new();
        for (number, view) in views.iter().enumerate() {
            // A rule for every source has seen this fact from another side. Auditd's side has rules of its own.
            let earlier: Vec<Kind> = match view.kind {
                Kind::Audit => Vec::new(),
                kind => {
                    let earlier = views.iter().take(number).map(|view| view.kind);
                    earlier.filter(|earlier| *earlier != kind).collect()
                }
            };
            let route = set.route(view.kind);
            let rest: Vec<usize>;
            let groups = if earlier.is_empty() {
                route
            } else {
                let seen = |group: &usize| earlier.iter().any(|kind| set.route(*kind).contains(group));
                rest = route.iter().copied().filter(|group| !seen(group)).collect();
                rest.as_slice()
            };
            let time = fact.time();
            let teller = (view.kind == Kind::Audit).then_some(Teller::Sensor);
            notices.extend(self.look(&set, groups, &view.fields, time, teller, &|| scene::scene(fact)));
        }
        notices
    }

    /// Matches one record of a log that is no row of ours.
    pub fn observe_raw(&mut self, record: &RawEvent) -> Vec<Notice> {
        self.take_over();
        let set = Arc::clone(&self.set);
        let services: Vec<&str> = record.service.as_deref().into_iter().collect();
        let origin = Origin {
            // Whatever was logged here was logged on Linux.
            product: record.product.as_deref().or(Some("linux")),
            category: record.category.as_deref(),
            services: &services,
            again: false,
        };
        let fields = Fields::of(record);
        let scene = || Scene {
            subject: raw_subject(record),
            evidence: json!({"record": {"log_source": record.source().to_string(), "fields": fields.json()}}),
        };
        let groups = set.route_of(&origin);
        let teller = (services == ["auditd"]).then_some(Teller::Auditd);
        self.look(&set, &groups, &fields, record.time, teller, &scene)
    }

    /// Looks at one event with the rules of some groups.
    fn look(
        &mut self,
        set: &RuleSet,
        groups: &[usize],
        fields: &Fields<'_>,
        time: TimeMicros,
        teller: Option<Teller>,
        scene: &dyn Fn() -> Scene,
    ) -> Vec<Notice> {
        if groups.is_empty() {
            return Vec::new();
        }
        self.seen = self.seen.saturating_add(1);
        let slots = Slots::new(fields, &set.names);
        let mut notices = Vec::new();
        for group in groups.iter().filter_map(|number| set.groups.get(*number)) {
            group
                .index
                .candidates(&slots, group.rules.len(), &mut self.candidates);
            let candidates = std::mem::take(&mut self.candidates.rules);
            for candidate in &candidates {
                let loaded = usize::try_from(*candidate)
                    .ok()
                    .and_then(|candidate| group.rules.get(candidate));
                let Some(loaded) = loaded.filter(|loaded| matching::holds(&loaded.rule.condition, &slots))
                else {
                    continue;
                };
                let key = loaded.rule.meta.key.as_str();
                if teller.is_some_and(|teller| self.twins.is_second(teller, key, fields, time)) {
                    continue;
                }
                self.matched = self.matched.saturating_add(1);
                if !loaded.silent {
                    let matched = matching::matched(&loaded.rule.condition, &slots, &set.names);
                    notices.push(notice(&loaded.rule.meta, scene(), &matched));
                }
                let field = |name: &str| fields.get(name).map(str::to_owned);
                let met = Met {
                    time,
                    scene,
                    depth: 0,
                };
                self.correlate(set, &loaded.feeds, &field, &met, &mut notices);
            }
            self.candidates.rules = candidates;
        }
        notices
    }

    fn correlate(
        &mut self,
        set: &RuleSet,
        feeds: &[(usize, usize)],
        field: &dyn Fn(&str) -> Option<String>,
        met: &Met<'_>,
        notices: &mut Vec<Notice>,
    ) {
        if met.depth >= CORRELATIONS_DEEP_MAX {
            return;
        }
        for (number, position) in feeds {
            let (Some(loaded), Some(window)) = (set.correlations.get(*number), self.windows.get_mut(*number))
            else {
                continue;
            };
            let Some(fired) = loaded.rule.add(window, *position, met.time.0, field) else {
                continue;
            };
            if !fired.again {
                self.matched = self.matched.saturating_add(1);
                if !loaded.silent {
                    notices.push(correlated(&loaded.rule.meta, (met.scene)(), &fired));
                }
            }
            let of_group = |name: &str| {
                let found = fired.group.iter().find(|(group, _)| group == name);
                found.map(|(_, value)| value.clone())
            };
            let above = Met {
                depth: met.depth.saturating_add(1),
                ..*met
            };
            if !fired.again {
                self.correlate(set, &loaded.feeds, &of_group, &above, notices);
                continue;
            }
            let is_temporal = |(number, _): &&(usize, usize)| {
                let fed = set.correlations.get(*number);
                fed.is_some_and(|fed| fed.rule.is_temporal())
            };
            let feeds: Vec<_> = loaded.feeds.iter().filter(is_temporal).copied().collect();
            self.correlate(set, &feeds, &of_group, &above, notices);
        }
    }

    /// Takes the set that a reload made, if there is one.
    fn take_over(&mut self) {
        let Some(set) = self.handover.newer_than(&self.set) else {
            return;
        };
        let mut kept: HashMap<&str, Window> = self
            .set
            .correlations
            .iter()
            .map(|loaded| loaded.rule.digest.as_str())
            .zip(std::mem::take(&mut self.windows))
            .collect();
        self.windows = set
            .correlations
            .iter()
            .map(|loaded| kept.remove(loaded.rule.digest.as_str()).unwrap_or_default())
            .collect();
        self.set = set;
        self.count();
    }

    fn count(&self) {
        for (state, count) in self.counts() {
            metrics::sigma_rules(state, count);
        }
    }

    /// How the rules stand, as a row.
    pub fn status(&self) -> ProbeStatus {
        let mut broken = self
            .set
            .listing
            .iter()
            .filter(|rule| matches!(rule.state, RuleState::Broken(_)));
        let counts = self.counts();
        let counts = counts
            .iter()
            .filter(|(state, count)| *count > 0 || matches!(*state, "loaded" | "unsupported" | "broken"));
        let counts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
        let first = broken.next();
        let shown =
            first.map(|rule| format!("; first broken: {}: {}", rule.path.display(), rule.state.reason()));
        ProbeStatus {
            time: TimeMicros::now(),
            probe: "detect.sigma".to_owned(),
            state: match (first.is_none(), self.set.len()) {
                (_, 0) => ProbeState::Broken,
                (true, _) => ProbeState::Real,
                (false, _) => ProbeState::Degraded,
            },
            reason: format!("rules: {}{}", counts.join(", "), shown.unwrap_or_default()),
            hint: if first.is_none() {
                String::new()
            } else {
                "see: fleetmend-agent rules check".to_owned()
            },
            seen: self.seen,
            delivered: self.matched,
            lost: 0,
        }
    }

    fn counts(&self) -> [(&'static str, usize); 5] {
        ["loaded", "unsupported", "broken", "disabled", "replaced"].map(|state| {
            let same = self
                .set
                .listing
                .iter()
                .filter(|rule| rule.state.as_str() == state);
            (state, same.count())
        })
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
