//! Futures that are given up on their way, as when a caller goes away.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::coop;

/// Gives its future up after so many turns that did not finish it; then it yields `None`. Tried with one number of turns
/// after the other, a future is dropped at every place where it waits.
///
/// A turn ends at the second step at the latest that takes of the task's cooperative budget, such as a statement of the control
/// database, even where its outcome is there already: how many turns a future takes at least is not the machine's affair.
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
        leave_one_step(context);
        self.future.as_mut().poll(context).map(Some)
    }
}

/// Takes all of the task's cooperative budget but one unit. Outside of a task of tokio there is no budget.
fn leave_one_step(context: &mut Context<'_>) {
    // The whole budget is 128; without one it never ends.
    for _ in 0..1_024 {
        let Poll::Ready(taken) = coop::poll_proceed(context) else {
            return;
        };
        if !coop::has_budget_remaining() {
            // Dropped, it gives the last one back.
            return;
        }
        taken.made_progress();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_step_that_is_ready_at_once_is_a_turn() {
        let steps = || async {
            for _ in 0..10 {
                tokio::task::consume_budget().await;
            }
        };
        assert_eq!(Turns::of(steps(), 9).await, None);
        assert_eq!(Turns::of(steps(), 10).await, Some(()));
    }
}
