//! Samples of a series that come in pieces become chunks of a good length.

use std::sync::Arc;

use super::codec::CodecError;
use super::row::{Chunk, ClockSpan};
use super::{CHUNK_SAMPLES, CHUNK_SAMPLES_MAX};
use crate::select::SeriesKey;

/// Samples that wait because later pieces might overlap them; with more, the first go all the same, and chunks overlap.
const PENDING_MAX: usize = 4 * CHUNK_SAMPLES_MAX;

/// Samples that the last chunk of a series may have more.
const LAST_MORE: usize = CHUNK_SAMPLES / 3;

/// Samples of one series that were taken together.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) key: Arc<SeriesKey>,
    pub(crate) ingested_at: i64,
    pub(crate) clock: ClockSpan,
    pub(crate) times: Vec<i64>,
    pub(crate) values: Vec<f64>,
}

/// Joins spans that come sorted by series and first time. What is not in that order is joined less, never lost.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    series: Option<(Arc<SeriesKey>, ClockSpan)>,
    times: Vec<i64>,
    values: Vec<f64>,
    /// When each was taken.
    taken: Vec<i64>,
}

impl Joiner {
    /// Adds samples; gives `emit` the chunks that are complete.
    pub(crate) fn push<E: From<CodecError>>(
        &mut self,
        span: Span,
        emit: &mut impl FnMut(Chunk) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(first) = span.times.iter().min().copied() else {
            return Ok(());
        };
        let joined = self.series.as_ref().and_then(|(key, clock)| {
            let is_same = Arc::ptr_eq(key, &span.key) || *key == span.key;
            is_same.then(|| clock.join(span.clock)).flatten()
        });
        match (joined, &mut self.series) {
            (Some(joined), Some((_, clock))) => {
                // The estimate of what goes now is not widened by what comes.
                let former = *clock;
                // As much is kept back as makes the last chunk no short one.
                while self.times.len() > CHUNK_SAMPLES.saturating_add(LAST_MORE)
                    && self
                        .times
                        .get(CHUNK_SAMPLES.saturating_sub(1))
                        .is_some_and(|last| *last < first)
                {
                    self.emit(CHUNK_SAMPLES, former, emit)?;
                }
                if let Some((_, clock)) = &mut self.series {
                    *clock = joined;
                }
            }
            _ => {
                self.finish(emit)?;
                self.series = Some((span.key.clone(), span.clock));
            }
        }
        self.append(span);
        while self.times.len() > PENDING_MAX {
            let clock = self.series.as_ref().map(|(_, clock)| *clock);
            self.emit(CHUNK_SAMPLES, clock.unwrap_or(ClockSpan::UNKNOWN), emit)?;
        }
        Ok(())
    }

    /// Gives `emit` what is left.
    pub(crate) fn finish<E: From<CodecError>>(
        &mut self,
        emit: &mut impl FnMut(Chunk) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((_, clock)) = self.series else {
            return Ok(());
        };
        while !self.times.is_empty() {
            // The last two share what is left, so that none is short.
            let left = self.times.len();
            let length = if left <= CHUNK_SAMPLES.saturating_add(LAST_MORE) {
                left
            } else if left < CHUNK_SAMPLES.saturating_mul(2) {
                left.div_ceil(2)
            } else {
                CHUNK_SAMPLES
            };
            self.emit(length, clock, emit)?;
        }
        self.series = None;
        Ok(())
    }

    /// Emits the first samples.
    fn emit<E: From<CodecError>>(
        &mut self,
        length: usize,
        clock: ClockSpan,
        emit: &mut impl FnMut(Chunk) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((key, _)) = &self.series else {
            return Ok(());
        };
        let key = key.clone();
        let times: Vec<i64> = self.times.drain(..length.min(self.times.len())).collect();
        let values: Vec<f64> = self.values.drain(..length.min(self.values.len())).collect();
        let taken = self.taken.drain(..length.min(self.taken.len())).max();
        emit(Chunk::encode(
            &key,
            (&times, &values),
            (taken.unwrap_or(0), clock),
        )?)
    }

    /// Puts samples where they belong: by time, those of one time in the order they were taken.
    fn append(&mut self, span: Span) {
        let Some(first) = span.times.iter().min() else {
            return;
        };
        let at = self.times.partition_point(|time| time < first);
        let is_after = at == self.times.len() && span.times.is_sorted();
        self.taken
            .extend(std::iter::repeat_n(span.ingested_at, span.times.len()));
        self.times.extend(span.times);
        self.values.extend(span.values);
        if is_after {
            return;
        }
        let tail = self
            .times
            .drain(at..)
            .zip(self.taken.drain(at..))
            .zip(self.values.drain(at..));
        let mut tail: Vec<(i64, i64, f64)> =
            tail.map(|((time, taken), value)| (time, taken, value)).collect();
        tail.sort_by_key(|(time, taken, _)| (*time, *taken));
        self.times.extend(tail.iter().map(|(time, ..)| *time));
        self.taken.extend(tail.iter().map(|(_, taken, _)| *taken));
        self.values.extend(tail.iter().map(|(.., value)| *value));
    }
}

#[cfg(test)]
mod tests;
