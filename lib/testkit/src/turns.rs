//! Futures that are given up on their way, as when a caller goes away.

use std::pin::Pin;
use std::task::{Context, Poll};

/// Gives its future up after so many turns that did not finish it; then it yields `None`. Tried with one number of turns
/// after the other, a future is dropped at every place where it waits.
#[derive(Debug)]
pub struct Turns<F> {
    future: Pin<Box<F>>,
    left: usize,
}

impl<F> Turns<F> {
    /// At most so many turns of `future`.
    pub fn of(future: F, left: usize) -> Self {
        Self {
            future: Box::pin(future),
            left,
        }
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.future.as_mut().poll(context).map(Some)
    }
}
