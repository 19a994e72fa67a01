//! What the model has learnt, as bytes that outlive the process.
//!
//! ```text
//! magic "FMHA" | version u8 = 1 | schema digest, 64 hexadecimal digits | body | SHA-256 of all before, 64 digits
//! ```
//! The body is a fixed sequence of little-endian numbers and of arrays, each a `u32` count and its items. It is
//! read only when magic, version, schema and digest are right, and every array must have the length that the
//! model's shape gives it, so that no file can ask for memory. Parameters and tails are not stored: they are
//! fitted again from the sums and histories.

use fleetmend_event::TimeMicros;
use fleetmend_models::sha256_hex;

use super::learn::Residuals;
use super::model::{HostAnomaly, Learnt};
use super::score::{Judge, Smoother};
use super::sums::Sums;
use super::tail::History;

const MAGIC: &[u8; 4] = b"FMHA";
const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 64;

/// No state is larger: 512 features make 30 MB.
pub(super) const STATE_BYTES_MAX: usize = 64 << 20;

/// Why a state was refused. The model then starts from nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is not a state at all, or a part is missing.
    #[error("model state is cut short or not a model state")]
    Torn,
    /// Another version of the format.
    #[error("model state has version {found}, this build reads {VERSION}")]
    Version {
        /// Version in the file.
        found: u8,
    },
    /// It was learnt with another feature schema.
    #[error("model state was learnt with feature schema {found}, the model has {wanted}")]
    Schema {
        /// Digest of this model's schema.
        wanted: String,
        /// Digest in the state.
        found: String,
    },
    /// The bytes are not those that were written.
    #[error("model state does not match its own digest")]
    Digest,
    /// A number or a length that this model cannot have.
    #[error("model state holds {what} that does not fit the model")]
    Shape {
        /// Which part.
        what: &'static str,
    },
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn f64s(&mut self, values: &[f64]) {
        self.u64(values.len() as u64);
        values.iter().for_each(|value| self.f64(*value));
    }

    fn f32s<'a>(&mut self, values: impl ExactSizeIterator<Item = &'a f32>) {
        self.u64(values.len() as u64);
        values.for_each(|value| self.0.extend_from_slice(&value.to_le_bytes()));
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(StateError::Torn)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn f64(&mut self) -> Result<f64, StateError> {
        let value = f64::from_le_bytes(self.take()?);
        if value.is_finite() {
            Ok(value)
        } else {
            Err(StateError::Shape { what: "a number" })
        }
    }

    fn count(&mut self, most: usize, what: &'static str) -> Result<usize, StateError> {
        let count = usize::try_from(self.u64()?).map_err(|_| StateError::Shape { what })?;
        if count > most {
            Err(StateError::Shape { what })
        } else {
            Ok(count)
        }
    }

    fn exactly(&mut self, length: usize, what: &'static str) -> Result<(), StateError> {
        if self.count(length, what)? == length {
            Ok(())
        } else {
            Err(StateError::Shape { what })
        }
    }

    fn f64s(&mut self, length: usize, what: &'static str) -> Result<Vec<f64>, StateError> {
        self.exactly(length, what)?;
        (0..length).map(|_| self.f64()).collect()
    }

    fn f32s(&mut self, length: usize, what: &'static str) -> Result<Vec<f32>, StateError> {
        self.exactly(length, what)?;
        (0..length).map(|_| self.f32()).collect()
    }

    fn f32(&mut self) -> Result<f32, StateError> {
        let value = f32::from_le_bytes(self.take()?);
        if value.is_finite() {
            Ok(value)
        } else {
            Err(StateError::Shape { what: "a number" })
        }
    }

    fn history(&mut self, most: usize) -> Result<History, StateError> {
        let count = self.count(most, "a score history")?;
        let mut history = History::new(most);
        for _ in 0..count {
            history.push(self.f32()?);
        }
        Ok(history)
    }
}

impl HostAnomaly {
    /// What was learnt, to be given to [`HostAnomaly::restore`]; `None` before the warm-up is over.
    pub fn save(&self) -> Option<Vec<u8>> {
        let learnt = &self.learnt;
        if !learnt.ready {
            return None;
        }
        let mut out = Writer::default();
        out.0.extend_from_slice(MAGIC);
        out.0.push(VERSION);
        out.0.extend_from_slice(self.subject.schema_sha256.as_bytes());
        out.f32s(learnt.center.iter());
        out.f32s(learnt.inv_scale.iter());
        out.f64s(&learnt.sums.square);
        out.f64s(&learnt.sums.cross);
        out.f64(learnt.sums.weight);
        out.f64(learnt.sums.growth);
        out.u64(learnt.sums.windows);
        learnt.residuals.square.iter().for_each(|square| out.f64s(square));
        out.f64s(&learnt.residuals.weight);
        learnt
            .judge
            .histories
            .iter()
            .for_each(|history| out.f32s(history.scores.iter()));
        out.f32s(learnt.judge.combined.scores.iter());
        let digest = sha256_hex(&out.0);
        out.0.extend_from_slice(digest.as_bytes());
        Some(out.0)
    }

    /// Takes over what an earlier run learnt. After an error nothing has changed.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let body = self.checked(bytes)?;
        let learnt = self.parse(Reader(body))?;
        self.learnt = learnt;
        self.refit();
        self.learnt.inverse = self.learnt.residuals.inverse(self.scale_floor);
        self.learnt.judge.refit();
        // The ring starts empty: what was learnt must not give way to the first minutes after a restart.
        self.learn_at = usize::MAX;
        Ok(())
    }

    fn checked<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], StateError> {
        if bytes.len() > STATE_BYTES_MAX {
            return Err(StateError::Shape {
                what: "more bytes than any state",
            });
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Torn)?;
        let (version, rest) = rest.split_first().ok_or(StateError::Torn)?;
        if *version != VERSION {
            return Err(StateError::Version { found: *version });
        }
        let content = bytes.len().checked_sub(DIGEST_BYTES).ok_or(StateError::Torn)?;
        let (content, digest) = bytes.split_at_checked(content).ok_or(StateError::Torn)?;
        if sha256_hex(content).as_bytes() != digest {
            return Err(StateError::Digest);
        }
        let (schema, rest) = rest.split_at_checked(DIGEST_BYTES).ok_or(StateError::Torn)?;
        if schema != self.subject.schema_sha256.as_bytes() {
            return Err(StateError::Schema {
                wanted: self.subject.schema_sha256.clone(),
                found: String::from_utf8_lossy(schema).into_owned(),
            });
        }
        rest.len()
            .checked_sub(DIGEST_BYTES)
            .and_then(|end| rest.get(..end))
            .ok_or(StateError::Torn)
    }

    fn parse(&self, mut input: Reader<'_>) -> Result<Learnt, StateError> {
        let d = self.shape.metrics;
        let mut sums = Sums::new(d, self.shape.features(), self.shape.older());
        let center = input.f32s(d, "the means")?;
        let inv_scale = input.f32s(d, "the scales")?;
        sums.square = input.f64s(sums.square.len(), "the sums")?;
        sums.cross = input.f64s(sums.cross.len(), "the lagged sums")?;
        sums.weight = input.f64()?;
        sums.growth = input.f64()?;
        sums.windows = input.u64()?;
        if sums.weight <= 0.0 || sums.growth <= 0.0 || inv_scale.iter().any(|scale| *scale <= 0.0) {
            return Err(StateError::Shape {
                what: "a weight or scale",
            });
        }
        let mut residuals = Residuals::new(d);
        for square in &mut residuals.square {
            *square = input.f64s(d, "the residuals")?;
        }
        residuals.weight = input.f64s(d, "the residuals' weights")?;
        let most = self.history_windows();
        let mut judge = Judge::new(self.config.window_s, most, self.config.alerts_per_day);
        for history in &mut judge.histories {
            *history = input.history(most)?;
        }
        judge.combined = input.history(most)?;
        if !input.0.is_empty() {
            return Err(StateError::Shape {
                what: "more than its parts",
            });
        }
        Ok(Learnt {
            ready: true,
            center,
            inv_scale,
            sums,
            residuals,
            fitted: self.learnt.fitted.clone(),
            inverse: self.learnt.inverse.clone(),
            judge,
            smoother: Smoother::default(),
            window: vec![0.0; self.learnt.window.len()],
            primed: false,
            last: TimeMicros(0),
        })
    }
}
