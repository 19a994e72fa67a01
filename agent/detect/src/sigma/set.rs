//! The rules that are matched: compiled, grouped by log source, indexed. A set never changes; a reload makes another.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rsigma_parser::{FilterRule, FilterRuleTarget, SigmaRule};

use super::compile::{Compiler, Refusal, source};
use super::correlate::Correlation;
use super::index::Index;
use super::read::{RuleFile, rule_files};
use super::rule::{LogSource, Names, Rule};
use super::sources::{Kind, Origin, feeds};
use super::{RuleListing, RuleOptions, RuleState};

/// Most rules of all files together.
const RULES_MAX: usize = 20_000;

/// Rules of one log source.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) source: LogSource,
    pub(crate) rules: Vec<Loaded>,
    pub(crate) index: Index,
}

/// A rule in its group.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) rule: Arc<Rule>,
    pub(crate) path: Arc<Path>,
    /// Whether it speaks through correlations only.
    pub(crate) silent: bool,
    /// Correlations that look at it, each with the rule's position there.
    pub(crate) feeds: Vec<(usize, usize)>,
}

/// A correlation in its place.
#[derive(Debug, Clone)]
pub(crate) struct LoadedCorrelation {
    pub(crate) rule: Arc<Correlation>,
    pub(crate) path: Arc<Path>,
    pub(crate) silent: bool,
    pub(crate) feeds: Vec<(usize, usize)>,
}

/// All rules.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    pub(crate) names: Names,
    pub(crate) groups: Vec<Group>,
    pub(crate) correlations: Vec<LoadedCorrelation>,
    pub(crate) listing: Vec<RuleListing>,
    /// Groups that look at each kind of view.
    routes: Vec<Vec<usize>>,
}

impl RuleSet {
    /// Reads every rule. What a file said in `before` goes on where it is broken now.
    pub(crate) fn load(options: &RuleOptions, before: Option<&Self>) -> Self {
        let mut files = Vec::new();
        let mut builder = Builder::new(options, before);
        for folder in &options.folders {
            match rule_files(folder) {
                Ok(paths) => files.extend(paths.iter().map(|path| RuleFile::read(path))),
                Err(error) => builder.list(
                    folder,
                    "",
                    &folder.display().to_string(),
                    RuleState::Broken(error.to_string()),
                ),
            }
        }
        builder.build(files)
    }

    /// The set of these files.
    #[cfg(test)]
    pub(crate) fn of(options: &RuleOptions, files: Vec<RuleFile>) -> Self {
        Builder::new(options, None).build(files)
    }

    /// Groups that look at a view.
    pub(crate) fn route(&self, kind: Kind) -> &[usize] {
        self.routes.get(kind.number()).map_or(&[], Vec::as_slice)
    }

    /// Groups that look at an event of this origin.
    pub(crate) fn route_of(&self, origin: &Origin<'_>) -> Vec<usize> {
        let groups = self.groups.iter().enumerate();
        groups
            .filter(|(_, group)| origin.is(&group.source))
            .map(|(number, _)| number)
            .collect()
    }

    /// Rules that are matched.
    pub(crate) fn len(&self) -> usize {
        let rules: usize = self.groups.iter().map(|group| group.rules.len()).sum();
        rules.saturating_add(self.correlations.len())
    }

    /// Rules that are evaluated for every event of their source.
    pub(crate) fn unanchored(&self) -> usize {
        self.groups.iter().map(|group| group.index.unanchored()).sum()
    }

    /// Bytes of all automata.
    pub(crate) fn index_bytes(&self) -> usize {
        self.groups.iter().map(|group| group.index.memory_bytes()).sum()
    }

    fn rules(&self) -> impl Iterator<Item = &Loaded> {
        self.groups.iter().flat_map(|group| &group.rules)
    }
}

/// Makes a set.
struct Builder<'a> {
    options: &'a RuleOptions,
    before: Option<&'a RuleSet>,
    compiler: Compiler,
    listing: Vec<RuleListing>,
    rules: Vec<Loaded>,
    correlations: Vec<LoadedCorrelation>,
}

impl<'a> Builder<'a> {
    fn new(options: &'a RuleOptions, before: Option<&'a RuleSet>) -> Self {
        let names = before.map_or_else(Names::default, |before| before.names.clone());
        Self {
            options,
            before,
            compiler: Compiler::new(names, options.placeholders.clone()),
            listing: Vec::new(),
            rules: Vec::new(),
            correlations: Vec::new(),
        }
    }

    fn list(&mut self, path: &Path, id: &str, title: &str, state: RuleState) {
        self.listing.push(RuleListing {
            path: path.to_owned(),
            id: id.to_owned(),
            title: title.to_owned(),
            state,
        });
    }

    fn build(mut self, files: Vec<RuleFile>) -> RuleSet {
        let replaced = replaced(&files);
        let filters: Vec<&FilterRule> = files.iter().flat_map(|file| &file.filters).collect();
        for file in &files {
            let path: Arc<Path> = Arc::from(file.path.as_path());
            for rule in &file.rules {
                self.rule(file, &path, rule, &filters, &replaced);
            }
            for filter in &file.filters {
                self.filter(file, filter, &files);
            }
        }
        for file in &files {
            let path: Arc<Path> = Arc::from(file.path.as_path());
            for rule in &file.correlations {
                let key = rule.id.clone().unwrap_or_else(|| rule.title.clone());
                if let Some(state) = self.left_out(&key, &rule.title, &path, &replaced) {
                    self.list(&path, &key, &rule.title, state);
                    continue;
                }
                match Correlation::new(rule) {
                    Ok(rule) => self.correlations.push(LoadedCorrelation {
                        rule: Arc::new(rule),
                        path: Arc::clone(&path),
                        silent: false,
                        feeds: Vec::new(),
                    }),
                    Err(Refusal::Unsupported(reason)) => {
                        self.list(&path, &key, &rule.title, RuleState::Unsupported(reason));
                    }
                    Err(Refusal::Broken(reason)) => {
                        self.broken(&path, &key, &rule.title, &file.located(&reason, &rule.title));
                    }
                }
            }
        }
        // Last, so that of what a file said before only that goes on which it does not say now.
        for file in &files {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            for fault in &file.faults {
                self.broken(&Arc::from(file.path.as_path()), "", &name, fault);
            }
        }
        self.settle()
    }

    fn rule(
        &mut self,
        file: &RuleFile,
        path: &Arc<Path>,
        rule: &SigmaRule,
        filters: &[&FilterRule],
        replaced: &HashMap<String, PathBuf>,
    ) {
        let key = rule.id.clone().unwrap_or_else(|| rule.title.clone());
        if let Some(state) = self.left_out(&key, &rule.title, path, replaced) {
            return self.list(path, &key, &rule.title, state);
        }
        if let Err(reason) = feeds(&source(&rule.logsource)) {
            return self.list(path, &key, &rule.title, RuleState::Unsupported(reason));
        }
        if self.rules.len() >= RULES_MAX {
            let reason = format!("there are more than {RULES_MAX} rules");
            return self.list(path, &key, &rule.title, RuleState::Unsupported(reason));
        }
        let filters: Vec<_> = filters
            .iter()
            .filter(|filter| concerns(filter, rule))
            .map(|filter| &filter.detection)
            .collect();
        match self.compiler.rule(rule, &filters) {
            Ok(rule) => {
                self.list(path, &key, &rule.meta.title, RuleState::Loaded);
                self.rules.push(Loaded {
                    rule: Arc::new(rule),
                    path: Arc::clone(path),
                    silent: false,
                    feeds: Vec::new(),
                });
            }
            Err(Refusal::Unsupported(reason)) => {
                self.list(path, &key, &rule.title, RuleState::Unsupported(reason))
            }
            Err(Refusal::Broken(reason)) => {
                self.broken(path, &key, &rule.title, &file.located(&reason, &rule.title));
            }
        }
    }

    /// Why a sound rule is not taken.
    fn left_out(
        &self,
        key: &str,
        title: &str,
        path: &Path,
        replaced: &HashMap<String, PathBuf>,
    ) -> Option<RuleState> {
        let disabled = self
            .options
            .disabled
            .iter()
            .find(|disabled| disabled.rule == key || disabled.rule == title);
        if let Some(disabled) = disabled {
            return Some(RuleState::Disabled(disabled.reason.clone()));
        }
        let by = replaced.get(key).filter(|by| by.as_path() != path)?;
        Some(RuleState::Replaced(format!("by {}", by.display())))
    }

    fn filter(&mut self, file: &RuleFile, filter: &FilterRule, files: &[RuleFile]) {
        let id = filter.id.clone().unwrap_or_else(|| filter.title.clone());
        let concerned = files
            .iter()
            .flat_map(|file| &file.rules)
            .any(|rule| concerns(filter, rule));
        let state = if concerned {
            RuleState::Loaded
        } else {
            RuleState::Unsupported("no rule here is one that it names".to_owned())
        };
        self.list(&file.path, &id, &filter.title, state);
    }

    /// Lists what is broken, and goes on with what the same file said before.
    fn broken(&mut self, path: &Arc<Path>, key: &str, title: &str, reason: &str) {
        let same = |at: &Path, other: &str| *at == **path && (key.is_empty() || other == key);
        let rules: Vec<Loaded> = self.before.map_or_else(Vec::new, |before| {
            let kept = before
                .rules()
                .filter(|loaded| same(&loaded.path, &loaded.rule.meta.key));
            kept.cloned().collect()
        });
        let correlations: Vec<LoadedCorrelation> = self.before.map_or_else(Vec::new, |before| {
            let kept = before
                .correlations
                .iter()
                .filter(|loaded| same(&loaded.path, &loaded.rule.meta.key));
            kept.cloned().collect()
        });
        let goes_on = if rules.is_empty() && correlations.is_empty() {
            ""
        } else {
            "; what it said before goes on"
        };
        self.list(path, key, title, RuleState::Broken(format!("{reason}{goes_on}")));
        let mut known: HashSet<String> = self
            .rules
            .iter()
            .map(|loaded| loaded.rule.meta.key.clone())
            .collect();
        known.extend(
            self.correlations
                .iter()
                .map(|loaded| loaded.rule.meta.key.clone()),
        );
        let new = |key: &String| !known.contains(key);
        self.rules
            .extend(rules.into_iter().filter(|loaded| new(&loaded.rule.meta.key)));
        self.correlations.extend(
            correlations
                .into_iter()
                .filter(|loaded| new(&loaded.rule.meta.key)),
        );
    }

    /// Ties correlations to their rules, and makes groups and indexes.
    fn settle(mut self) -> RuleSet {
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

/// The last file of each id.
fn replaced(files: &[RuleFile]) -> HashMap<String, PathBuf> {
    let mut last = HashMap::new();
    for file in files {
        let ids = file.rules.iter().filter_map(|rule| rule.id.clone());
        let correlations = file.correlations.iter().filter_map(|rule| rule.id.clone());
        for id in ids.chain(correlations) {
            last.insert(id, file.path.clone());
        }
    }
    last
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
