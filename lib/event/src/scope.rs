//! Which hosts somebody may see.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::HostId;

/// The hosts whose facts somebody may see. Whoever reads facts for a person hands it to the reader; the reader
/// enforces it on the rows, whatever the question says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostScope {
    /// Every host, those that nobody knows yet included, and the collector's own facts.
    #[default]
    All,
    /// These hosts and no other; none at all when the set is empty.
    Only(Arc<BTreeSet<HostId>>),
}

impl HostScope {
    /// Only these hosts.
    pub fn only(hosts: impl IntoIterator<Item = HostId>) -> Self {
        Self::Only(Arc::new(hosts.into_iter().collect()))
    }

    /// Whether facts of this host may be seen.
    pub fn sees(&self, host: HostId) -> bool {
        self.hosts().is_none_or(|hosts| hosts.contains(&host))
    }

    /// Whether nothing is hidden.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// The hosts, when not all may be seen.
    pub fn hosts(&self) -> Option<&BTreeSet<HostId>> {
        match self {
            Self::All => None,
            Self::Only(hosts) => Some(hosts),
        }
    }

    /// What is left of a wish for some hosts (all, when `None`) within this scope, in the same form.
    pub fn narrow(&self, wanted: Option<BTreeSet<HostId>>) -> Option<BTreeSet<HostId>> {
        match (self.hosts(), wanted) {
            (None, wanted) => wanted,
            (Some(seen), None) => Some(seen.clone()),
            (Some(seen), Some(wanted)) => Some(wanted.intersection(seen).copied().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_narrows_every_wish_and_an_empty_one_sees_nothing() {
        let (one, two) = (HostId::from_bytes([1; 16]), HostId::from_bytes([2; 16]));
        let scope = HostScope::only([one]);
        assert!(scope.sees(one) && !scope.sees(two));
        assert_eq!(scope.narrow(None), Some(BTreeSet::from([one])));
        assert_eq!(
            scope.narrow(Some(BTreeSet::from([one, two]))),
            Some(BTreeSet::from([one]))
        );
        assert_eq!(scope.narrow(Some(BTreeSet::from([two]))), Some(BTreeSet::new()));
        assert!(!HostScope::only([]).sees(one));
        assert_eq!(HostScope::All.narrow(None), None);
        assert!(HostScope::All.sees(two));
    }
}
