//! From files to a set: what each says is compiled, filters first; of each id the last that is sound is taken; what is
//! broken goes on with what it said before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rsigma_parser::{CorrelationRule, FilterRule, FilterRuleTarget, SigmaRule, Status};

use super::compile::{Compiler, Refusal, source, usable};
use super::correlate::{Correlation, NamesOfRules};
use super::index::Index;
use super::read::{RuleFile, names_of};
use super::rule::{LogSource, Names};
use super::set::{Group, Loaded, LoadedCorrelation, RuleSet, Sound};
use super::sources::{Kind, feeds};
use super::{RuleListing, RuleOptions, RuleState};

/// Most rules of all files together.
const RULES_MAX: usize = 20_000;

/// Makes a set.
pub(super) struct Builder<'a> {
    options: &'a RuleOptions,
    before: Option<&'a RuleSet>,
    compiler: Compiler,
    names: NamesOfRules,
    listing: Vec<RuleListing>,
    rules: Vec<Loaded>,
    correlations: Vec<LoadedCorrelation>,
    compiled: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(options: &'a RuleOptions, before: Option<&'a RuleSet>) -> Self {
        let names = before.map_or_else(Names::default, |before| before.names.clone());
        Self {
            options,
            before,
            compiler: Compiler::new(names, options.placeholders.clone()),
            names: NamesOfRules::new(),
            listing: Vec::new(),
            rules: Vec::new(),
            correlations: Vec::new(),
            compiled: 0,
        }
    }

    pub(super) fn list(&mut self, path: &Path, id: &str, title: &str, state: RuleState) {
        self.listing.push(RuleListing {
            path: path.to_owned(),
            id: id.to_owned(),
            title: title.to_owned(),
            state,
        });
    }

    pub(super) fn build(mut self, files: &[RuleFile]) -> RuleSet {
        self.names = names_of(files);
        let filters = self.filters(files);
        let mut said = Vec::new();
        for file in files {
            self.hear(file, &filters, &mut said);
        }
        self.take(said);
        self.settle(filters)
    }

    /// The filters that hold. One that is broken is listed, and hinders no rule.
    fn filters(&mut self, files: &[RuleFile]) -> Vec<(Arc<Path>, Arc<FilterRule>)> {
        let mut filters = Vec::new();
        for file in files {
            let path: Arc<Path> = Arc::from(file.path.as_path());
            let mut said = Vec::new();
            for filter in &file.filters {
                let id = filter_id(filter);
                let state = self.filter(file, filter, files);
                if state == RuleState::Loaded {
                    filters.push((Arc::clone(&path), Arc::new(filter.clone())));
                }
                if !matches!(state, RuleState::Broken(_)) {
                    said.push(id.clone());
                }
                self.list(&path, &id, &filter.title, state);
            }
            if file.faults.is_empty() && said.len() == file.filters.len() {
                continue;
            }
            let before = self.before.map_or(&[][..], |before| before.filters.as_slice());
            let kept = before
                .iter()
                .filter(|(at, filter)| at.starts_with(&path) && !said.contains(&filter_id(filter)));
            filters.extend(kept.cloned());
        }
        filters
    }

    fn filter(&mut self, file: &RuleFile, filter: &FilterRule, files: &[RuleFile]) -> RuleState {
        if let Some(state) = self.disabled(&filter_id(filter), &filter.title) {
            return state;
        }
        let wanted = filter.logsource.as_ref().map(source).unwrap_or_default();
        if wanted == LogSource::default() {
            let reason = "a filter needs a 'logsource' with product, category or service: without, it would be one of all rules";
            return RuleState::Broken(file.located(reason, &filter.title));
        }
        match self.compiler.filter(&filter.detection) {
            Ok(()) => {}
            Err(Refusal::Unsupported(reason)) => return RuleState::Unsupported(reason),
            Err(Refusal::Broken(reason)) => {
                return RuleState::Broken(file.located(&reason, &filter.title));
            }
        }
        let mut rules = files.iter().flat_map(|file| &file.rules);
        if rules.any(|rule| concerns(filter, rule)) {
            RuleState::Loaded
        } else {
            RuleState::Unsupported("no rule here is one that it names".to_owned())
        }
    }

    /// What a file says of each of its rules, and what of it goes on from before.
    fn hear(&mut self, file: &RuleFile, filters: &[(Arc<Path>, Arc<FilterRule>)], said: &mut Vec<Said>) {
        let path: Arc<Path> = Arc::from(file.path.as_path());
        let begun = said.len();
        let add = |said: &mut Vec<Said>, key: &str, title: &str, outcome| {
            said.push(Said {
                path: Arc::clone(&path),
                key: key.to_owned(),
                title: title.to_owned(),
                outcome,
            });
        };
        for rule in &file.rules {
            let key = rule.id.as_ref().unwrap_or(&rule.title);
            let outcome = self.rule(file, rule, filters);
            add(said, key, &rule.title, outcome);
        }
        for rule in &file.correlations {
            let key = rule.id.as_ref().unwrap_or(&rule.title);
            let outcome = self.correlation(file, rule);
            add(said, key, &rule.title, outcome);
        }
        let sound: HashSet<String> = said
            .iter()
            .skip(begun)
            .filter(|said| !said.is_broken())
            .map(|said| said.key.clone())
            .collect();
        let broken: HashSet<String> = said
            .iter()
            .skip(begun)
            .filter(|said| said.is_broken())
            .map(|said| said.key.clone())
            .collect();
        if file.faults.is_empty() && broken.is_empty() {
            return;
        }
        // Last, so that of what a file said before only that goes on which it does not say now.
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        for fault in &file.faults {
            add(said, "", &name, Outcome::Left(RuleState::Broken(fault.clone())));
        }
        for (at, kept) in self.before.into_iter().flat_map(RuleSet::sound) {
            let key = &kept.meta().key;
            let is_wanted = broken.contains(key) || !file.faults.is_empty();
            if at.starts_with(&path) && is_wanted && !sound.contains(key) {
                said.push(Said {
                    path: at,
                    key: key.clone(),
                    title: kept.meta().title.clone(),
                    outcome: Outcome::Kept(kept),
                });
            }
        }
    }

    fn rule(
        &mut self,
        file: &RuleFile,
        rule: &SigmaRule,
        filters: &[(Arc<Path>, Arc<FilterRule>)],
    ) -> Outcome {
        let key = rule.id.as_ref().unwrap_or(&rule.title);
        if let Some(state) = self.disabled(key, &rule.title) {
            return Outcome::Left(state);
        }
        if let Err(refusal) = usable(rule.status == Some(Status::Unsupported), rule.taxonomy.as_deref()) {
            return refused(file, refusal, &rule.title);
        }
        if let Err(reason) = feeds(&source(&rule.logsource)) {
            return Outcome::Left(RuleState::Unsupported(reason));
        }
        if self.compiled >= RULES_MAX {
            let reason = format!("there are more than {RULES_MAX} rules");
            return Outcome::Left(RuleState::Unsupported(reason));
        }
        let filters: Vec<_> = filters
            .iter()
            .filter(|(_, filter)| concerns(filter, rule))
            .map(|(_, filter)| &filter.detection)
            .collect();
        match self.compiler.rule(rule, &filters) {
            Ok(rule) => {
                self.compiled = self.compiled.saturating_add(1);
                Outcome::Sound(Sound::Rule(Arc::new(rule)))
            }
            Err(refusal) => refused(file, refusal, &rule.title),
        }
    }

    fn correlation(&self, file: &RuleFile, rule: &CorrelationRule) -> Outcome {
        let key = rule.id.as_ref().unwrap_or(&rule.title);
        if let Some(state) = self.disabled(key, &rule.title) {
            return Outcome::Left(state);
        }
        match Correlation::new(rule, &self.names) {
            Ok(rule) => Outcome::Sound(Sound::Correlation(Arc::new(rule))),
            Err(refusal) => refused(file, refusal, &rule.title),
        }
    }

    /// Whether the configuration switches a rule off.
    fn disabled(&self, key: &str, title: &str) -> Option<RuleState> {
        let mut disabled = self.options.disabled.iter();
        let disabled = disabled.find(|disabled| disabled.rule == key || disabled.rule == title)?;
        Some(RuleState::Disabled(disabled.reason.clone()))
    }

    /// Takes of each id what the last file says that is sound, and lists what became of all.
    fn take(&mut self, said: Vec<Said>) {
        let mut last: HashMap<String, Arc<Path>> = HashMap::new();
        for said in said.iter().filter(|said| said.has_id() && said.counts()) {
            last.insert(said.key.clone(), Arc::clone(&said.path));
        }
        let mut kept: Vec<(Arc<Path>, String)> = Vec::new();
        let mut broken = Vec::new();
        for said in said {
            let by = last
                .get(&said.key)
                .filter(|by| said.has_id() && **by != said.path);
            match (said.outcome, by) {
                (Outcome::Sound(_), Some(by)) => {
                    let state = RuleState::Replaced(format!("by {}", by.display()));
                    self.list(&said.path, &said.key, &said.title, state);
                }
                (Outcome::Kept(_), Some(_)) => {}
                (Outcome::Sound(sound), None) => {
                    if matches!(sound, Sound::Rule(_)) {
                        self.list(&said.path, &said.key, &said.title, RuleState::Loaded);
                    }
                    self.add(said.path, sound);
                }
                (Outcome::Kept(sound), None) => {
                    kept.push((Arc::clone(&said.path), said.key));
                    self.add(said.path, sound);
                }
                (Outcome::Left(RuleState::Broken(reason)), _) => {
                    broken.push((said.path, said.key, said.title, reason));
                }
                (Outcome::Left(state), _) => self.list(&said.path, &said.key, &said.title, state),
            }
        }
        for (path, key, title, reason) in broken {
            let same = |(at, other): &(Arc<Path>, String)| {
                at.starts_with(&path) && (key.is_empty() || *other == key)
            };
            let goes_on = if kept.iter().any(same) {
                "; what it said before goes on"
            } else {
                ""
            };
            self.list(
                &path,
                &key,
                &title,
                RuleState::Broken(format!("{reason}{goes_on}")),
            );
        }
    }

    fn add(&mut self, path: Arc<Path>, sound: Sound) {
        match sound {
            Sound::Rule(rule) => self.rules.push(Loaded {
                rule,
                path,
                silent: false,
                feeds: Vec::new(),
            }),
            Sound::Correlation(rule) => self.correlations.push(LoadedCorrelation {
                rule,
                path,
                silent: false,
                feeds: Vec::new(),
            }),
        }
    }

    /// Ties correlations to their rules, and makes groups and indexes.
    fn settle(mut self, filters: Vec<(Arc<Path>, Arc<FilterRule>)>) -> RuleSet {
        self.drop_untied();
        let correlations = std::mem::take(&mut self.correlations);
        for loaded in &correlations {
            let (key, title) = (loaded.rule.meta.key.clone(), loaded.rule.meta.title.clone());
            if !self
                .listing
                .iter()
                .any(|listed| listed.id == key && *listed.path == *loaded.path)
            {
                self.list(&Arc::clone(&loaded.path), &key, &title, RuleState::Loaded);
            }
        }
        let tied = |key: &str, name: Option<&str>, title: &str| {
            let mut feeds = Vec::new();
            let mut silent = false;
            for (number, correlation) in correlations.iter().enumerate() {
                for (position, reference) in correlation.rule.rules.iter().enumerate() {
                    if reference == key || Some(reference.as_str()) == name || reference == title {
                        feeds.push((number, position));
                        silent |= !correlation.rule.generate;
                    }
                }
            }
            (feeds, silent)
        };
        for loaded in &mut self.rules {
            let meta = &loaded.rule.meta;
            (loaded.feeds, loaded.silent) = tied(&meta.key, meta.name.as_deref(), &meta.title);
        }
        let mut settled = correlations.clone();
        for loaded in &mut settled {
            let meta = &loaded.rule.meta;
            (loaded.feeds, loaded.silent) = tied(&meta.key, meta.name.as_deref(), &meta.title);
        }
        let mut set = RuleSet {
            names: self.compiler.names,
            correlations: settled,
            filters,
            ..RuleSet::default()
        };
        let mut by_source: BTreeMap<LogSource, Vec<Loaded>> = BTreeMap::new();
        for loaded in self.rules {
            by_source
                .entry(loaded.rule.source.clone())
                .or_default()
                .push(loaded);
        }
        for (source, rules) in by_source {
            match Index::new(rules.iter().map(|loaded| &loaded.rule.condition)) {
                Ok(index) => set.groups.push(Group { source, rules, index }),
                Err(reason) => self.listing.push(RuleListing {
                    path: PathBuf::new(),
                    id: String::new(),
                    title: format!("all rules of {source}"),
                    state: RuleState::Broken(reason),
                }),
            }
        }
        set.routes = Kind::ALL
            .iter()
            .map(|kind| set.route_of(&kind.origin()))
            .collect();
        set.listing = self.listing;
        set.listing.sort_by(|left, right| left.path.cmp(&right.path));
        set
    }

    /// Leaves out correlations over rules that are not here, or over themselves.
    fn drop_untied(&mut self) {
        let mut known: HashSet<String> = HashSet::new();
        for loaded in &self.rules {
            let meta = &loaded.rule.meta;
            known.extend([meta.key.clone(), meta.title.clone()]);
            known.extend(meta.name.clone());
        }
        // Each round takes those whose rules are all known, until none is left that can be.
        let mut waiting = std::mem::take(&mut self.correlations);
        loop {
            let (ready, others): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|loaded| loaded.rule.rules.iter().all(|rule| known.contains(rule)));
            waiting = others;
            if ready.is_empty() {
                break;
            }
            for loaded in ready {
                if let Some(reason) = self.wants_too_much(&loaded.rule) {
                    let meta = &loaded.rule.meta;
                    let state = RuleState::Unsupported(reason);
                    self.list(&loaded.path, &meta.key, &meta.title, state);
                    continue;
                }
                let meta = &loaded.rule.meta;
                known.extend([meta.key.clone(), meta.title.clone()]);
                known.extend(meta.name.clone());
                self.correlations.push(loaded);
            }
        }
        for loaded in waiting {
            let missing = loaded.rule.rules.iter().find(|rule| !known.contains(*rule));
            let reason = format!(
                "it looks at '{}', which is no rule that is loaded, or which looks at this one",
                missing.map_or("", String::as_str)
            );
            let meta = &loaded.rule.meta;
            self.list(
                &loaded.path,
                &meta.key,
                &meta.title,
                RuleState::Unsupported(reason),
            );
        }
    }
}

impl Builder<'_> {
    /// Why a correlation over others could never fire: what these fire has the fields of their groups only.
    fn wants_too_much(&self, rule: &Correlation) -> Option<String> {
        rule.rules.iter().enumerate().find_map(|(position, reference)| {
            let inner = self.correlations.iter().find(|inner| {
                let meta = &inner.rule.meta;
                meta.key == *reference || meta.name.as_ref() == Some(reference) || meta.title == *reference
            })?;
            let field = rule.wants_more_than(position, &inner.rule)?;
            Some(format!(
                "it looks at '{field}' of the correlation '{reference}', which does not group by it: add it to the \
                 group-by there"
            ))
        })
    }
}

/// What a file says of one rule.
#[derive(Debug)]
struct Said {
    path: Arc<Path>,
    /// Its id, or its title where it has none; empty for a fault of the file.
    key: String,
    title: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Sound(Sound),
    /// It is broken now, and this is what the file said before.
    Kept(Sound),
    Left(RuleState),
}

impl Said {
    fn is_broken(&self) -> bool {
        matches!(self.outcome, Outcome::Left(RuleState::Broken(_)))
    }

    fn has_id(&self) -> bool {
        self.key != self.title
    }

    /// Whether it stands for its id: what is broken or unsupported replaces nothing.
    fn counts(&self) -> bool {
        !matches!(
            self.outcome,
            Outcome::Left(RuleState::Broken(_) | RuleState::Unsupported(_))
        )
    }
}

fn refused(file: &RuleFile, refusal: Refusal, title: &str) -> Outcome {
    Outcome::Left(match refusal {
        Refusal::Unsupported(reason) => RuleState::Unsupported(reason),
        Refusal::Broken(reason) => RuleState::Broken(file.located(&reason, title)),
    })
}

fn filter_id(filter: &FilterRule) -> String {
    filter.id.clone().unwrap_or_else(|| filter.title.clone())
}

/// Whether a filter is for a rule.
fn concerns(filter: &FilterRule, rule: &SigmaRule) -> bool {
    let of = source(&rule.logsource);
    let fits = filter.logsource.as_ref().is_none_or(|wanted| {
        let wanted = source(wanted);
        let part = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        part(&wanted.product, &of.product)
            && part(&wanted.category, &of.category)
            && part(&wanted.service, &of.service)
    });
    fits && match &filter.rules {
        FilterRuleTarget::Any => true,
        FilterRuleTarget::Specific(names) => names.iter().any(|name| {
            rule.id.as_ref() == Some(name) || rule.name.as_ref() == Some(name) || rule.title == *name
        }),
    }
}
