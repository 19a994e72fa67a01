//! Folders of labelled series: `NAME_train.npy.gz`, `NAME_test.npy.gz`, `NAME_label.npy.gz`, and who was named by
//! experts in `NAME_interpretation.txt.gz` (`from-to:metric,metric`, windows from 0, metrics from 1).

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::npy::{self, Array};

const TRAIN: &str = "_train.npy.gz";

/// Most text an interpretation has.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Events of a series with the metrics that experts named, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) metrics: Vec<usize>,
}

/// One labelled series.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) train: Array,
    pub(crate) test: Array,
    pub(crate) label: Vec<bool>,
    pub(crate) named: Vec<Named>,
}

/// A folder of series.
pub(crate) struct Dataset {
    pub(crate) name: String,
    folder: PathBuf,
    pub(crate) series: Vec<String>,
}

/// The folder itself if it holds series, else those of its folders that do.
pub(crate) fn find(path: &Path) -> anyhow::Result<Vec<Dataset>> {
    let here = dataset(path)?;
    let mut found: Vec<Dataset> = here.into_iter().collect();
    if found.is_empty() {
        for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            let path = entry.context("list the data")?.path();
            if path.is_dir() {
                found.extend(dataset(&path)?);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(
        !found.is_empty(),
        "no folder with NAME{TRAIN} under {}",
        path.display()
    );
    Ok(found)
}

fn dataset(folder: &Path) -> anyhow::Result<Option<Dataset>> {
    let mut series = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let name = entry.context("list the data")?.file_name();
        series.extend(name.to_string_lossy().strip_suffix(TRAIN).map(str::to_owned));
    }
    series.sort();
    let canonical = folder
        .canonicalize()
        .with_context(|| format!("find {}", folder.display()))?;
    let name = canonical
        .file_name()
        .map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((!series.is_empty()).then(|| Dataset {
        name,
        folder: folder.to_owned(),
        series,
    }))
}

impl Dataset {
    pub(crate) fn read(&self, name: &str) -> anyhow::Result<Series> {
        let file = |kind: &str| self.folder.join(format!("{name}_{kind}"));
        let train = npy::read(&file("train.npy.gz"))?;
        let test = npy::read(&file("test.npy.gz"))?;
        let label: Vec<bool> = npy::read(&file("label.npy.gz"))?
            .data
            .iter()
            .map(|label| *label > 0.5)
            .collect();
        ensure!(
            train.columns == test.columns,
            "{name}: train and test have different metrics"
        );
        ensure!(
            test.len() == label.len(),
            "{name}: {} windows and {} labels",
            test.len(),
            label.len()
        );
        ensure!(label.contains(&true), "{name}: nothing is labelled");
        let path = file("interpretation.txt.gz");
        let named = if path.exists() {
            interpretation(&text(&path)?)?
        } else {
            Vec::new()
        };
        Ok(Series {
            name: name.to_owned(),
            train,
            test,
            label,
            named,
        })
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut text = String::new();
    let unpacked = flate2::read::GzDecoder::new(file)
        .take(TEXT_BYTES_MAX)
        .read_to_string(&mut text);
    unpacked.with_context(|| format!("unpack {}", path.display()))?;
    Ok(text)
}

fn interpretation(text: &str) -> anyhow::Result<Vec<Named>> {
    let line = |line: &str| -> anyhow::Result<Named> {
        let (range, metrics) = line.split_once(':').context("no colon")?;
        let (from, to) = range.split_once('-').context("no range")?;
        let metrics = metrics
            .split(',')
            .map(|metric| metric.trim().parse())
            .collect::<Result<_, _>>()?;
        Ok(Named {
            from: from.trim().parse()?,
            to: to.trim().parse()?,
            metrics,
        })
    };
    let lines = text.lines().filter(|text| !text.trim().is_empty());
    lines
        .map(|text| line(text).with_context(|| format!("read interpretation {text:?}")))
        .collect()
}

/// Runs of labelled windows, first and last included.
pub(crate) fn events(label: &[bool]) -> Vec<(usize, usize)> {
    let mut events = Vec::new();
    let mut start = None;
    for (index, labelled) in label.iter().chain([&false]).enumerate() {
        match (labelled, start) {
            (true, None) => start = Some(index),
            (false, Some(from)) => {
                events.push((from, index - 1));
                start = None;
            }
            _ => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_runs_of_labels() {
        let label = [true, true, false, true, false, false, true];
        assert_eq!(events(&label), [(0, 1), (3, 3), (6, 6)]);
        assert_eq!(events(&[false]), []);
    }

    #[test]
    fn interpretation_is_read_or_refused() {
        let named = interpretation("760-765:4,5\n\n10-11:1").unwrap();
        assert_eq!(
            named[0],
            Named {
                from: 760,
                to: 765,
                metrics: vec![4, 5]
            }
        );
        assert!(interpretation("nonsense").is_err());
    }
}
