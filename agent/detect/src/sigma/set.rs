//! The rules that are matched: compiled, grouped by log source, indexed. A set never changes; a reload makes another.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rsigma_parser::FilterRule;

use super::builder::Builder;
use super::correlate::Correlation;
use super::index::Index;
use super::meta::Meta;
use super::read::{Below, RuleFile, below};
use super::rule::{LogSource, Names, Rule};
use super::sources::{Kind, Origin};
use super::{RuleListing, RuleOptions, RuleState};

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
    /// Filters that hold, with the file that says each.
    pub(super) filters: Vec<(Arc<Path>, Arc<FilterRule>)>,
    /// Groups that look at each kind of view.
    pub(super) routes: Vec<Vec<usize>>,
}

impl RuleSet {
    /// Reads every rule. What a file said in `before` goes on where it is broken now.
    pub(crate) fn load(options: &RuleOptions, before: Option<&Self>) -> Self {
        let mut files = Vec::new();
        // A file that two of the folders have is read once.
        let mut seen = HashSet::new();
        let mut builder = Builder::new(options, before);
        for folder in &options.folders {
            let found = match below(folder) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let state = RuleState::Broken(error.to_string());
                    builder.list(folder, "", &folder.display().to_string(), state);
                    continue;
                }
                Err(error) => Below {
                    unread: vec![(folder.clone(), error.to_string())],
                    ..Below::default()
                },
            };
            for (path, reason) in found.left_out {
                let state = RuleState::Unsupported(reason);
                builder.list(&path, "", &path.display().to_string(), state);
            }
            let unread = found.unread.iter().map(|(path, reason)| {
                RuleFile::faulty(path, format!("the folder cannot be listed: {reason}"))
            });
            files.extend(unread);
            let new = found.files.iter().filter(|path| seen.insert((*path).clone()));
            files.extend(new.map(|path| RuleFile::read(path)));
        }
        builder.build(&files)
    }

    /// The set of these files.
    #[cfg(test)]
    pub(crate) fn of(options: &RuleOptions, files: Vec<RuleFile>) -> Self {
        Builder::new(options, None).build(&files)
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

    /// Everything that is matched, with the file that says it.
    pub(super) fn sound(&self) -> impl Iterator<Item = (Arc<Path>, Sound)> {
        let rules = self.groups.iter().flat_map(|group| &group.rules);
        let rules = rules.map(|loaded| (Arc::clone(&loaded.path), Sound::Rule(Arc::clone(&loaded.rule))));
        let correlations = self.correlations.iter().map(|loaded| {
            let rule = Sound::Correlation(Arc::clone(&loaded.rule));
            (Arc::clone(&loaded.path), rule)
        });
        rules.chain(correlations)
    }
}

/// A rule that can be matched.
#[derive(Debug)]
pub(super) enum Sound {
    Rule(Arc<Rule>),
    Correlation(Arc<Correlation>),
}

impl Sound {
    pub(super) fn meta(&self) -> &Meta {
        match self {
            Self::Rule(rule) => &rule.meta,
            Self::Correlation(rule) => &rule.meta,
        }
    }
}
