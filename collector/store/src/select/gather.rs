//! Samples are gathered from hot frames and files.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use fleetmend_event::{HostId, TimeMicros};

use super::coarse::{Plan, Resolved, TierPlan, WINDOW_SAMPLES};
use super::merge::{Piece, merge};
use super::{Deadline, SeriesKey, SeriesSelect, StoredSeries, Wish};
use crate::chunk::{FileError, OpenFile, SampleRows, Wanted, read_rows};
use crate::commit::chain;
use crate::error::{QueryError, ReadError};
use crate::inner::Inner;
use crate::shape::{Chunks, Origin, SqlTable, sql_tables};
use crate::tier::{Window, read_windows};
use crate::view::{ParquetFile, TableView};

/// Series as they are found.
pub(crate) struct Gather {
    select: SeriesSelect,
    wish: Wish,
    /// What is read; without tiers when nobody said so.
    plan: Plan,
    series: HashMap<Arc<SeriesKey>, Vec<Piece>>,
    /// By series and by tier, in the order of the plan.
    windows: HashMap<Arc<SeriesKey>, Vec<Vec<Window>>>,
    /// The latest window that nobody needs, with its tier's place.
    passed: Option<(Arc<SeriesKey>, usize, Window)>,
    samples: usize,
}

/// Why gathering ends early.
pub(crate) enum Halt {
    /// A limit was met.
    Refused(QueryError),
    /// Something could not be read.
    Broken(String),
}

impl From<QueryError> for Halt {
    fn from(error: QueryError) -> Self {
        Halt::Refused(error)
    }
}

impl From<FileError> for Halt {
    fn from(error: FileError) -> Self {
        Halt::Broken(chain(&error))
    }
}

/// Reads everything that `select` wants. A file that turns out to be damaged is set aside, and all is read again
/// without it.
pub(crate) fn all(
    inner: &Arc<Inner>,
    index: usize,
    select: &SeriesSelect,
    wish: Wish,
    deadline: &Deadline,
) -> Result<Gather, QueryError> {
    let Some(table) = sql_tables().get(index) else {
        return Err(QueryError::Closed);
    };
    let mut retried = false;
    loop {
        let view = inner.view.table(index);
        let mut gather = Gather::new(select, wish);
        if wish == Wish::Samples {
            gather.plan = Plan::of(inner, select, &view.files);
        }
        let plan = gather.plan.clone();
        let tiers = plan
            .tiers
            .iter()
            .map(|tier| (tier, inner.view.table(tier.table).files));
        let tiers: Vec<(&TierPlan, Vec<Arc<ParquetFile>>)> = tiers.collect();
        let gathered = gather
            .view(inner, (index, table), &view, deadline)
            .and_then(|()| gather.tiers(inner, &tiers, deadline));
        let broken = match gathered {
            Ok(()) => return Ok(gather),
            Err(Halt::Refused(error)) => return Err(error),
            Err(Halt::Broken(reason)) => reason,
        };
        let files = view.files.iter().chain(tiers.iter().flat_map(|(_, files)| files));
        let damaged = files.filter(|file| is_damaged(inner, file, deadline)).count();
        if damaged == 0 || retried {
            return Err(QueryError::Failed { reason: broken });
        }
        retried = true;
    }
}

/// Whether a file's bytes are not what was written; it is set aside then.
pub(crate) fn is_damaged(inner: &Inner, file: &Arc<ParquetFile>, deadline: &Deadline) -> bool {
    match file.deep_fault_until(deadline) {
        Ok(None) => false,
        Ok(Some(reason)) => {
            inner.set_aside(file, &reason);
            true
        }
        Err(error) => {
            tracing::warn!(path = %file.path.display(), %error, "cannot check a Parquet file now");
            false
        }
    }
}

impl Gather {
    /// Nothing yet.
    pub(crate) fn new(select: &SeriesSelect, wish: Wish) -> Self {
        Self {
            select: select.clone(),
            wish,
            plan: Plan::samples(select.span()),
            series: HashMap::new(),
            windows: HashMap::new(),
            passed: None,
            samples: 0,
        }
    }

    /// The series, sorted.
    pub(crate) fn into_keys(self) -> Vec<SeriesKey> {
        let mut keys: Vec<SeriesKey> = self.series.into_keys().map(Arc::unwrap_or_clone).collect();
        keys.sort_unstable();
        keys
    }

    /// The series with their samples, sorted.
    pub(crate) fn into_series(mut self) -> Vec<StoredSeries> {
        let span = self.select.span();
        let mut found: Vec<(Arc<SeriesKey>, Vec<Piece>)> = self.series.into_iter().collect();
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let series = found.into_iter().map(|(key, pieces)| {
            let (times, values) = merge(pieces);
            let mut resolved = Resolved {
                times,
                values,
                windows: Vec::new(),
            };
            let windows = self.windows.remove(&key).unwrap_or_default();
            for (tier, windows) in self.plan.tiers.iter().zip(windows) {
                resolved.put(tier, windows);
            }
            if !self.plan.tiers.is_empty() {
                resolved.cut(span);
            }
            StoredSeries {
                key,
                times: resolved.times.into_iter().map(TimeMicros).collect(),
                values: resolved.values,
                windows: resolved.windows,
            }
        });
        series
            .filter(|series| !series.times.is_empty() || !series.windows.is_empty())
            .collect()
    }

    /// Reads the windows of tiers.
    fn tiers(
        &mut self,
        inner: &Arc<Inner>,
        tiers: &[(&TierPlan, Vec<Arc<ParquetFile>>)],
        deadline: &Deadline,
    ) -> Result<(), Halt> {
        let select = self.select.clone();
        if !tiers.is_empty() {
            // Samples in order, so that those of a window can be counted.
            for pieces in self.series.values_mut() {
                deadline.check()?;
                let (times, values) = merge(std::mem::take(pieces));
                pieces.push(Piece {
                    ingested_at: 0,
                    times,
                    values,
                });
            }
        }
        for (place, (tier, files)) in tiers.iter().enumerate() {
            let wanted = tier.wanted(&select);
            for file in files.iter().filter(|file| wanted.touches(file.from.0, file.to.0)) {
                let open = inner.footers.open(file)?;
                let look = || deadline.check().map_err(Halt::from);
                read_windows(
                    &open,
                    &wanted,
                    |key| select.keeps(key),
                    look,
                    |key, window| self.pass_window(key, (place, tier, tiers.len()), window),
                )?;
            }
        }
        Ok(())
    }

    /// Adds a window, unless it is needless.
    fn pass_window(
        &mut self,
        key: &Arc<SeriesKey>,
        (place, tier, tiers): (usize, &TierPlan, usize),
        window: Window,
    ) -> Result<(), Halt> {
        let pieces = self.series.get(key).map_or(&[][..], Vec::as_slice);
        if tier.is_needless(&window, pieces) {
            self.passed = Some((key.clone(), place, window));
            return Ok(());
        }
        // The one before says what this one grew from.
        if let Some((_, _, before)) = self.passed.take_if(|(of, at, _)| of == key && *at == place) {
            self.add_window(key, (place, tiers), before)?;
        }
        self.add_window(key, (place, tiers), window)
    }

    fn add_window(
        &mut self,
        key: &Arc<SeriesKey>,
        (place, tiers): (usize, usize),
        window: Window,
    ) -> Result<(), Halt> {
        self.know(key)?;
        self.count(WINDOW_SAMPLES)?;
        let of_series = self.windows.entry(key.clone());
        let of_series = of_series.or_insert_with(|| vec![Vec::new(); tiers]);
        if let Some(windows) = of_series.get_mut(place) {
            windows.push(window);
        }
        Ok(())
    }

    fn view(
        &mut self,
        inner: &Arc<Inner>,
        (index, table): (usize, &SqlTable),
        view: &TableView,
        deadline: &Deadline,
    ) -> Result<(), Halt> {
        let wanted = self.wanted();
        for frame in &view.hot {
            let touches = wanted.touches(frame.from.0, frame.to.0) && wanted.wants_host(frame.host);
            if !touches || frame.is_lost() {
                continue;
            }
            deadline.check()?;
            match frame.batch(table) {
                Ok(batch) => self.record(&frame.origin(), &batch)?,
                Err(error @ ReadError::Io { .. }) => return Err(unreadable(error)),
                Err(error) => inner.lose_frame(frame, index, &error),
            }
        }
        for file in view
            .files
            .iter()
            .filter(|file| wanted.touches(file.from.0, file.to.0))
        {
            deadline.check()?;
            let open = inner.footers.open(file)?;
            if open.holds_chunks()? {
                for group in open.groups(&wanted)? {
                    deadline.check()?;
                    self.chunks(&open, group, &wanted, deadline)?;
                }
            } else {
                read_rows(&open, &wanted, |rows| {
                    deadline.check()?;
                    self.rows(rows, &wanted)
                })?;
            }
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        let (from, to) = self.plan.samples;
        Wanted {
            names: self.select.names.clone(),
            hosts: self.select.hosts.clone(),
            from,
            to,
        }
    }

    /// Adds what is wanted of the chunks of one record.
    pub(crate) fn record(&mut self, origin: &Origin, batch: &RecordBatch) -> Result<(), Halt> {
        let chunks = Chunks::of(batch).map_err(unreadable)?;
        let (from, to) = self.plan.samples;
        for row in 0..chunks.len() {
            if !self.select.wants(chunks.name(row), origin.host) {
                continue;
            }
            let sample = chunks.sample_of(row, "");
            let key = SeriesKey {
                name: sample.name.to_owned(),
                labels: sample.labels.to_owned(),
                host: origin.host,
                unit: sample.unit.to_owned(),
            };
            let samples = chunks.samples(row).filter(|(time, _)| (from..=to).contains(time));
            self.add(key, origin.ingested_at.0, samples)?;
        }
        Ok(())
    }

    /// Reads the chunks of a row group that are wanted.
    fn chunks(
        &mut self,
        file: &OpenFile,
        group: usize,
        wanted: &Wanted,
        deadline: &Deadline,
    ) -> Result<(), Halt> {
        let heads = file.heads(group)?;
        let mut rows: Vec<(usize, Arc<SeriesKey>)> = Vec::new();
        // Chunks of one series follow each other.
        let mut last: Option<(Arc<SeriesKey>, bool)> = None;
        for row in 0..heads.len() {
            let head = heads.get(row)?;
            if !wanted.touches(head.from, head.to) || !wanted.wants(head.name, head.host) {
                continue;
            }
            let (key, keeps) = match last.take() {
                Some((key, keeps)) if head.is_of(&key) => (key, keeps),
                _ => {
                    let key = Arc::new(head.key());
                    let keeps = self.select.keeps(&key);
                    (key, keeps)
                }
            };
            if keeps {
                self.know(&key)?;
                rows.push((row, key.clone()));
            }
            last = Some((key, keeps));
        }
        if self.wish == Wish::Keys || rows.is_empty() {
            return Ok(());
        }
        let mut chosen = vec![false; heads.len()];
        for (row, _) in &rows {
            if let Some(chosen) = chosen.get_mut(*row) {
                *chosen = true;
            }
        }
        let mut bytes = file.bytes(group, &BooleanArray::from(chosen))?;
        for (row, key) in rows {
            deadline.check()?;
            let head = heads.get(row)?;
            let (times, values) = bytes.next(|times, values| head.decode((times, values)))?;
            let (times, values) = wanted.cut(times, values);
            let piece = Piece {
                ingested_at: head.ingested_at,
                times,
                values,
            };
            self.add_piece(&key, piece)?;
        }
        Ok(())
    }

    fn rows(&mut self, rows: &SampleRows<'_>, wanted: &Wanted) -> Result<(), Halt> {
        for (first, end) in rows.runs() {
            let host: Result<HostId, _> = rows.hosts.value(first).parse();
            let host = host.map_err(|_| FileError::shape("a host that is none"))?;
            if !wanted.wants(rows.names.value(first), host) {
                continue;
            }
            let key = SeriesKey {
                name: rows.names.value(first).to_owned(),
                labels: rows.labels.value(first).to_owned(),
                host,
                unit: rows.units.value(first).to_owned(),
            };
            let mut at = first;
            while at < end {
                // Samples that were taken together make a piece.
                let taken = rows.ingested.value(at);
                let next = (at..end)
                    .find(|row| rows.ingested.value(*row) != taken)
                    .unwrap_or(end);
                let samples = (at..next).map(|row| (rows.times.value(row), rows.value(row)));
                let samples = samples.filter(|(time, _)| wanted.touches(*time, *time));
                self.add(key.clone(), taken, samples)?;
                at = next;
            }
        }
        Ok(())
    }

    /// Adds samples of a series, unless it is not wanted or has none.
    fn add(
        &mut self,
        key: SeriesKey,
        ingested_at: i64,
        samples: impl Iterator<Item = (i64, f64)>,
    ) -> Result<(), Halt> {
        if !self.select.keeps(&key) {
            return Ok(());
        }
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let key = Arc::new(key);
        self.know(&key)?;
        if self.wish == Wish::Keys {
            return Ok(());
        }
        let left = self.select.samples_max.saturating_sub(self.samples);
        let (times, values) = samples.take(left.saturating_add(1)).unzip();
        let piece = Piece {
            ingested_at,
            times,
            values,
        };
        self.add_piece(&key, piece)
    }

    /// Notes that a series is there.
    fn know(&mut self, key: &Arc<SeriesKey>) -> Result<(), Halt> {
        if self.series.contains_key(key) {
            return Ok(());
        }
        if self.series.len() >= self.select.series_max {
            return Err(Halt::Refused(QueryError::TooMuch {
                what: "series",
                most: self.select.series_max,
            }));
        }
        self.series.insert(key.clone(), Vec::new());
        Ok(())
    }

    fn add_piece(&mut self, key: &Arc<SeriesKey>, piece: Piece) -> Result<(), Halt> {
        self.count(piece.times.len())?;
        self.series.entry(key.clone()).or_default().push(piece);
        Ok(())
    }

    /// Counts samples, or what takes as many bytes.
    fn count(&mut self, samples: usize) -> Result<(), Halt> {
        self.samples = self.samples.saturating_add(samples);
        if self.samples > self.select.samples_max {
            return Err(Halt::Refused(QueryError::TooMuch {
                what: "samples",
                most: self.select.samples_max,
            }));
        }
        Ok(())
    }
}

impl From<Halt> for QueryError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Refused(error) => error,
            Halt::Broken(reason) => QueryError::Failed { reason },
        }
    }
}

fn unreadable(error: ReadError) -> Halt {
    Halt::Broken(chain(&error))
}
