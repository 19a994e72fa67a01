//! The labels of a series: sorted, without empty values, cheap to clone.

use std::fmt;
use std::sync::Arc;

use twox_hash::XxHash64;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

const METADATA: [&str; 3] = [METRIC_NAME, "__type__", "__unit__"];

/// A name and its value.
pub type Label = (Arc<str>, Arc<str>);

/// The labels of one series, the metric's name among them. Names are unique and sorted, values not empty.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[Label]>);

impl Labels {
    /// Sorts, drops empty values, keeps the last of equal names.
    pub fn new<N: Into<Arc<str>>, V: Into<Arc<str>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut sorted = std::collections::BTreeMap::<Arc<str>, Arc<str>>::new();
        for (name, value) in pairs {
            sorted.insert(name.into(), value.into());
        }
        Self(
            sorted
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        )
    }

    /// The value of a label, or the empty string, which in PromQL is the same as not having it.
    pub fn get(&self, name: &str) -> &str {
        self.0
            .binary_search_by(|(own, _)| own.as_ref().cmp(name))
            .ok()
            .and_then(|at| self.0.get(at))
            .map_or("", |(_, value)| value.as_ref())
    }

    /// The metric's name, or the empty string.
    pub fn name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// Pairs in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    /// Only the labels named.
    pub fn keep(&self, names: &[String]) -> Self {
        self.filtered(|own| names.iter().any(|name| name == own))
    }

    /// Without the labels named.
    pub fn without(&self, names: &[String]) -> Self {
        self.filtered(|own| !names.iter().any(|name| name == own))
    }

    /// Without the metric's name, and without its type and unit where they are labels: what is computed from a metric
    /// has none of them.
    pub fn without_name(&self) -> Self {
        self.filtered(|own| !METADATA.contains(&own))
    }

    /// What two series of a binary operation are matched by: the labels of `on`, or all but those of `ignoring` and
    /// the metric's name.
    pub fn matching(&self, on: bool, names: &[String]) -> Self {
        if on {
            self.keep(names)
        } else {
            self.filtered(|own| own != METRIC_NAME && !names.iter().any(|name| name == own))
        }
    }

    /// With one label set; an empty value removes it.
    pub fn with(&self, name: &str, value: &str) -> Self {
        if self.get(name) == value {
            return self.clone();
        }
        let others = self.0.iter().filter(|(own, _)| own.as_ref() != name).cloned();
        Self::new(others.chain(std::iter::once((Arc::from(name), Arc::from(value)))))
    }

    /// xxHash64 over length-prefixed names and values, as Prometheus hashes labels: `limit_ratio` chooses by it.
    pub(crate) fn xxhash(&self) -> u64 {
        let mut bytes = Vec::with_capacity(64);
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            match u8::try_from(text.len()) {
                Ok(short) if short < u8::MAX => bytes.push(short),
                _ => {
                    bytes.push(u8::MAX);
                    bytes.extend(text.len().to_le_bytes().iter().take(3));
                }
            }
            bytes.extend_from_slice(text.as_bytes());
        }
        XxHash64::oneshot(0, &bytes)
    }
}

impl fmt::Display for Labels {
    /// As Prometheus prints labels in messages: `{__name__="up", job="node"}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (position, (name, value)) in self.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            if is_legacy_label(name) {
                write!(f, "{comma}{name}={value:?}")?;
            } else {
                write!(f, "{comma}{name:?}={value:?}")?;
            }
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a label name can be written without quotes.
pub(crate) fn is_legacy_label(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}
