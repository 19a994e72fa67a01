//! Waiting for a state instead of for a time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How soon the state is looked at again.
const AGAIN: Duration = Duration::from_millis(5);

/// Looks at `state` until `wanted` holds of it and returns it; after `deadline` an error that shows the last
/// state seen.
pub async fn wait_for<S: Debug>(
    deadline: Duration,
    mut state: impl AsyncFnMut() -> S,
    wanted: impl Fn(&S) -> bool,
) -> anyhow::Result<S> {
    let begun = Instant::now();
    loop {
        let seen = state().await;
        if wanted(&seen) {
            return Ok(seen);
        }
        if begun.elapsed() >= deadline {
            anyhow::bail!("the awaited state was not reached within {deadline:?}; last seen: {seen:?}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_state_is_shown_when_the_deadline_passes() {
        let mut count = 0;
        let mut step = async || {
            count += 1;
            count
        };
        assert_eq!(
            wait_for(Duration::from_secs(10), &mut step, |seen| *seen == 3)
                .await
                .unwrap(),
            3
        );
        let error = wait_for(Duration::from_millis(1), async || "down", |seen| *seen == "up")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("last seen: \"down\""), "{error}");
    }
}
