//! Collects the values of one tick and keeps the set of series while it does not change.

use std::collections::BTreeMap;

use fleetmend_event::{SeriesKey, SeriesSet};

/// Most series one host may have; further ones are not recorded and counted as a failing reader would be.
const SERIES_MAX: usize = 2_000;

#[derive(Default)]
pub(super) struct Recorder {
    /// The set of the last tick.
    set: Option<SeriesSet>,
    /// What this tick has recorded when it departs from that set.
    fresh: Option<Vec<SeriesKey>>,
    values: Vec<f64>,
}

impl Recorder {
    pub(super) fn begin(&mut self) {
        self.fresh = if self.set.is_none() {
            Some(Vec::new())
        } else {
            None
        };
        self.values = Vec::with_capacity(self.set.as_ref().map_or(0, |set| set.len()));
    }

    /// Records one value. Series must come in the same order at every tick.
    pub(super) fn record(&mut self, name: &str, unit: &str, labels: &[(&str, &str)], value: f64) {
        let position = self.values.len();
        if position >= SERIES_MAX {
            return;
        }
        if let (None, Some(set)) = (&self.fresh, &self.set)
            && !set.get(position).is_some_and(|key| same(key, name, labels))
        {
            self.fresh = Some(set.iter().take(position).cloned().collect());
        }
        if let Some(fresh) = &mut self.fresh {
            fresh.push(SeriesKey {
                name: name.to_owned(),
                unit: unit.to_owned(),
                labels: labels
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect::<BTreeMap<_, _>>(),
            });
        }
        self.values.push(value);
    }

    pub(super) fn finish(&mut self) -> (SeriesSet, Vec<f64>) {
        let values = std::mem::take(&mut self.values);
        let shorter = self.set.as_ref().is_some_and(|set| set.len() > values.len());
        let keys = match (self.fresh.take(), &self.set) {
            (Some(fresh), _) => Some(fresh),
            (None, Some(set)) if shorter => Some(set.iter().take(values.len()).cloned().collect()),
            _ => None,
        };
        let set = match (keys, self.set.take()) {
            (Some(keys), _) => keys.into(),
            (None, Some(set)) => set,
            (None, None) => Vec::new().into(),
        };
        self.set = Some(set.clone());
        (set, values)
    }

    pub(super) fn len(&self) -> usize {
        self.set.as_ref().map_or(0, |set| set.len())
    }
}

fn same(key: &SeriesKey, name: &str, labels: &[(&str, &str)]) -> bool {
    key.name == name
        && key.labels.len() == labels.len()
        && labels
            .iter()
            .all(|(label, value)| key.labels.get(*label).is_some_and(|known| known == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(recorder: &mut Recorder, names: &[&str]) -> (SeriesSet, Vec<f64>) {
        recorder.begin();
        for (name, value) in names.iter().zip(1_i32..) {
            recorder.record(name, "1", &[("a", "b")], f64::from(value));
        }
        recorder.finish()
    }

    #[test]
    fn set_is_kept_while_nothing_changes_and_replaced_when_something_does() {
        let mut recorder = Recorder::default();
        let (first, _) = tick(&mut recorder, &["x", "y", "z"]);
        let (second, _) = tick(&mut recorder, &["x", "y", "z"]);
        assert!(std::sync::Arc::ptr_eq(&first, &second));
        for names in [&["x", "q", "z"][..], &["x"], &["x", "y", "z", "w"], &[]] {
            let (set, values) = tick(&mut recorder, names);
            assert_eq!(set.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), names);
            assert_eq!(values.len(), names.len());
        }
    }
}
