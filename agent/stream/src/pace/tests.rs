use super::*;

/// Sends what may be sent for a while; bytes sent, and whether the critical lane ever waited.
async fn flow(pace: &mut Pace, seconds: u64, message: usize) -> u64 {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut sent = 0;
    while Instant::now() < end {
        let wait = pace.wait();
        if wait.is_zero() {
            let size = message.min(pace.room());
            sent += pace.charge(size);
        } else {
            tokio::time::sleep(wait).await;
        }
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_cap_is_kept_over_a_long_time_and_used_up() {
    for (rate, burst, message) in [
        (64 * 1024, 1 << 20, 4 << 20),
        (4096, 4096, 256 << 10),
        (1 << 20, 8192, 500),
    ] {
        let mut pace = Pace::new(Some(rate), burst);
        let seconds = 600;
        let sent = flow(&mut pace, seconds, message).await;
        let most = rate * seconds + burst + 1024;
        assert!(sent <= most, "{sent} of {most} at {rate}");
        assert!(sent * 100 >= rate * seconds * 99, "only {sent} at {rate}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_go_is_charged_and_the_rest_waits_for_it() {
    let mut pace = Pace::new(Some(1_000_000), 1_000_000);
    pace.charge(5_000_000);
    let wait = pace.wait();
    assert!(
        wait > Duration::from_secs(4) && wait < Duration::from_secs(5),
        "{wait:?}"
    );
    assert_eq!(pace.room(), 1);
    tokio::time::sleep(wait).await;
    assert!(pace.wait().is_zero());
}

#[tokio::test(start_paused = true)]
async fn without_a_cap_nothing_waits() {
    let mut pace = Pace::new(None, 1);
    for _ in 0..100 {
        pace.charge(1 << 30);
        assert!(pace.wait().is_zero());
    }
    assert_eq!(pace.room(), usize::MAX);
}
