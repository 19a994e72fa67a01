//! What streams keep to make relative frames whole, and what all of them together may keep.
//!
//! Frames are made whole in groups, so that a short message cannot become a large one in memory, and a group counts
//! with the bases until it is durable. When all streams together have reached what they may take, new streams agree
//! on no bases and those that have some are asked to give them up with the next acknowledgement; what they have on
//! the way by then can still be read. A quarter beyond it nothing more is kept: a stream that goes on is sent away
//! and comes back with frames that stand for themselves. Nothing is lost by any of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fleetmend_event::relative::{Bases, Limits, RelativeError, is_relative};
use fleetmend_proto::v1;

use crate::config::MESSAGE_FRAMES_MAX;

/// Bytes of frames made whole after which a group ends; the last frame may go beyond.
const GROUP_BYTES: usize = 128 * 1024;
/// Relative frames of a message that are made whole where they are; more are on a blocking thread.
const RESTORED_HERE: usize = 2;
/// Frames of a message that are looked at where they are: one that stands for itself is decompressed to be kept, and
/// a short one may be as long before compression as any other.
const KEPT_HERE: usize = 4;
/// The least that may be set: some streams at their limits.
pub(crate) const BASES_BYTES_MIN: u32 = 8 << 20;

/// What the bases of all streams take; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct BasesBudget {
    taken: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl BasesBudget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes_max: u32) -> Self {
        Self {
            taken: Arc::default(),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        }
    }

    fn is_used_up(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.bytes_max
    }

    fn is_overdrawn(&self) -> bool {
        let most = self.bytes_max.saturating_add(self.bytes_max / 4);
        self.taken.load(Ordering::Relaxed) >= most
    }

    /// What one stream took before, and takes now.
    fn change(&self, before: usize, now: usize) {
        let all = self.taken.fetch_add(now, Ordering::Relaxed).saturating_add(now);
        self.taken.fetch_sub(before, Ordering::Relaxed);
        crate::metrics::bases(all.saturating_sub(before));
    }
}

/// The bases of one stream.
#[derive(Debug)]
pub(crate) struct StreamBases {
    budget: BasesBudget,
    state: State,
    /// Bytes that are counted in the budget.
    counted: usize,
    asked: bool,
}

#[derive(Debug)]
enum State {
    /// The stream has no relative frames; one that comes is malformed.
    None,
    /// They are kept.
    Kept(Bases),
    /// They were given up.
    Gone,
}

/// Why relative frames were not made whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Relative(#[from] RelativeError),
    #[error("what this stream's frames are relative to is not kept any more")]
    Gone,
    /// It panicked or was cancelled.
    #[error("relative frames could not be made whole")]
    Unfinished,
}

impl StreamBases {
    /// None yet.
    pub(crate) fn new(budget: BasesBudget) -> Self {
        Self {
            budget,
            state: State::None,
            counted: 0,
            asked: false,
        }
    }

    /// What the welcome answers to what the hello offers.
    pub(crate) fn agree(&mut self, offer: Option<v1::BodyBases>) -> Option<v1::BodyBases> {
        let offer = offer.filter(|_| !self.budget.is_used_up())?;
        let both = Limits::OWN.common(offer.into())?;
        self.state = State::Kept(Bases::new(both));
        Some(both.into())
    }

    /// The next frames of a message, made whole, and no more of them than a group may be large. Frames that never were
    /// relative are given back as they are, whatever they are.
    pub(crate) async fn restore(&mut self, rest: &mut VecDeque<Bytes>) -> Result<Vec<Bytes>, RestoreError> {
        let relative = rest.iter().filter(|frame| is_relative(frame)).count();
        let bases = match std::mem::replace(&mut self.state, State::Gone) {
            State::Kept(bases) if rest.len() <= MESSAGE_FRAMES_MAX => bases,
            State::Gone if relative > 0 => return Err(RestoreError::Gone),
            state => {
                self.state = state;
                return Ok(rest.drain(..).collect());
            }
        };
        let frames = std::mem::take(rest);
        let group = if relative <= RESTORED_HERE && frames.len() <= KEPT_HERE {
            Group::restore(bases, frames)
        } else {
            let work = tokio::task::spawn_blocking(move || Group::restore(bases, frames));
            work.await.map_err(|_| RestoreError::Unfinished)?
        };
        let Group {
            bases,
            rest: left,
            whole,
            bytes,
        } = group?;
        *rest = left;
        self.count(bases.bytes().saturating_add(bytes));
        self.state = State::Kept(bases);
        if self.budget.is_overdrawn() {
            self.give_up();
        }
        Ok(whole)
    }

    /// The last group is durable or refused.
    pub(crate) fn settled(&mut self) {
        self.count(match &self.state {
            State::Kept(bases) => bases.bytes(),
            State::None | State::Gone => 0,
        });
    }

    /// Gives up what is kept: the agent said that it refers to nothing any more.
    pub(crate) fn cleared(&mut self) {
        self.asked = true;
        self.give_up();
    }

    fn give_up(&mut self) {
        if matches!(self.state, State::Kept(_)) {
            self.state = State::Gone;
        }
    }

    /// Whether the agent has to be asked to give its bases up; once in a stream.
    pub(crate) fn take_request(&mut self) -> bool {
        let wanted = match &self.state {
            State::None => false,
            State::Kept(_) => self.budget.is_used_up(),
            State::Gone => true,
        };
        let request = wanted && !self.asked;
        self.asked |= request;
        request
    }

    fn count(&mut self, bytes: usize) {
        self.budget.change(self.counted, bytes);
        self.counted = bytes;
    }
}

impl Drop for StreamBases {
    fn drop(&mut self) {
        self.count(0);
    }
}

struct Group {
    bases: Bases,
    rest: VecDeque<Bytes>,
    whole: Vec<Bytes>,
    /// Of those that were made whole.
    bytes: usize,
}

impl Group {
    fn restore(bases: Bases, rest: VecDeque<Bytes>) -> Result<Self, RelativeError> {
        let mut group = Self {
            bases,
            rest,
            whole: Vec::new(),
            bytes: 0,
        };
        while group.bytes < GROUP_BYTES {
            let Some(frame) = group.rest.pop_front() else {
                break;
            };
            let whole = group.bases.restore(&frame)?;
            if is_relative(&frame) {
                group.bytes = group.bytes.saturating_add(whole.len());
                crate::metrics::restored(whole.len().saturating_sub(frame.len()));
            }
            group.whole.push(whole);
        }
        Ok(group)
    }
}

#[cfg(test)]
mod tests;
