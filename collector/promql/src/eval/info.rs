//! `info`: labels of info metrics, such as `target_info`, put on the series of the same instance and job.

use std::collections::{BTreeMap, HashMap};

use super::names::merge;
use super::select::Look;
use super::{ABSENT, Evaluator, Grid, Row, is_present};
use crate::error::QueryError;
use crate::labels::{Labels, METRIC_NAME};
use crate::syntax::ast::Info;

/// What says which info series belong to a series.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// Info series of one target by the name of their metric.
type Target = BTreeMap<String, Vec<usize>>;

impl Evaluator<'_> {
    pub(crate) fn info(&self, info: &Info, grid: Grid) -> Result<Vec<Row>, QueryError> {
        let rows = self.rows(&info.base, grid)?;
        let _held = self.hold(&rows);
        // The newest of several info series counts, so that their times are looked at.
        let infos = self.instant(&info.selector, grid, Look::Time)?;
        let _held_too = self.hold(&infos);
        let mut targets: HashMap<Labels, Target> = HashMap::new();
        for (index, row) in infos.iter().enumerate() {
            let target = targets.entry(identity(&row.labels)).or_default();
            target
                .entry(row.labels.name().to_owned())
                .or_default()
                .push(index);
        }
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            self.meter.tick(grid.steps)?;
            if info.keeps(&row.labels) {
                out.push(row);
                continue;
            }
            let target = targets
                .get(&identity(&row.labels))
                .filter(|_| !identity(&row.labels).is_empty());
            self.enrich(info, &row, target, &infos, (grid, &mut out))?;
        }
        merge(out)
    }

    /// One row for each set of info series that a row has at some step.
    fn enrich(
        &self,
        info: &Info,
        row: &Row,
        target: Option<&Target>,
        infos: &[Row],
        (grid, out): (Grid, &mut Vec<Row>),
    ) -> Result<(), QueryError> {
        let mut parts: BTreeMap<Vec<usize>, Row> = BTreeMap::new();
        for (step, value) in row
            .values
            .iter()
            .enumerate()
            .filter(|(_, value)| is_present(**value))
        {
            let mut chosen = Vec::new();
            for members in target.into_iter().flat_map(BTreeMap::values) {
                self.meter.tick(members.len())?;
                chosen.extend(newest(members, infos, step)?);
            }
            if chosen.is_empty() && !info.data_matchers().all(|matcher| matcher.matches("")) {
                continue;
            }
            if !parts.contains_key(&chosen) {
                self.admit_one_more(out.len() + parts.len(), grid)?;
                let labels = enriched(info, &row.labels, &chosen, infos)?;
                let values = vec![ABSENT; row.values.len()];
                let drop_name = row.drop_name;
                parts.insert(
                    chosen.clone(),
                    Row {
                        labels,
                        drop_name,
                        values,
                    },
                );
            }
            if let Some(slot) = parts.get_mut(&chosen).and_then(|part| part.values.get_mut(step)) {
                *slot = *value;
            }
        }
        out.extend(parts.into_values());
        Ok(())
    }
}

fn identity(labels: &Labels) -> Labels {
    labels.keep(&IDENTIFYING.map(str::to_owned))
}

fn newest(members: &[usize], infos: &[Row], step: usize) -> Result<Option<usize>, QueryError> {
    let mut best: Option<(usize, &Row, f64)> = None;
    for index in members {
        let Some(row) = infos.get(*index) else { continue };
        let Some(time) = row.values.get(step).copied().filter(|time| is_present(*time)) else {
            continue;
        };
        match best {
            Some((_, _, known)) if known > time => {}
            Some((_, known_row, known)) if known == time => {
                let milliseconds = time * 1000.0;
                return Err(QueryError::execution(format!(
                    "found duplicate series for info metric: existing {} @ {milliseconds}, new {} @ {milliseconds}",
                    known_row.labels, row.labels
                )));
            }
            _ => best = Some((*index, row, time)),
        }
    }
    Ok(best.map(|(index, _, _)| index))
}

/// Labels of the series itself stay as they are.
fn enriched(info: &Info, base: &Labels, chosen: &[usize], infos: &[Row]) -> Result<Labels, QueryError> {
    let mut labels = base.clone();
    for row in chosen.iter().filter_map(|index| infos.get(*index)) {
        for (name, value) in row.labels.iter() {
            let wanted = info.data_matchers().next().is_none()
                || info.data_matchers().any(|matcher| matcher.name == name);
            if name == METRIC_NAME || !wanted || !base.get(name).is_empty() {
                continue;
            }
            let known = labels.get(name);
            if !known.is_empty() && known != value {
                return Err(QueryError::execution(format!("conflicting label: {name}")));
            }
            labels = labels.with(name, value);
        }
    }
    Ok(labels)
}
