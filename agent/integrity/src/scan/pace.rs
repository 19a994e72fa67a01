//! How fast the scanner works: so many files or bytes a second, and of what may take hours a share of the processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fleetmend_shutdown::CancellationToken;

/// Longest sleep before the token is looked at again.
const NAP: Duration = Duration::from_millis(100);
/// How far a sleep may be put off: shorter ones would cost more than they save.
const SLACK: Duration = Duration::from_millis(5);
/// Processor time that hashing and searching may take at once, whatever their share is: most of the first baseline.
const CPU_AT_ONCE_S: f64 = 1.0;
/// Turns between two looks at the thread's processor time, which cost a system call.
const CPU_EVERY: u32 = 16;

/// Whether scanning has to wait: the agent is over its budget.
pub type Paused = Arc<dyn Fn() -> bool + Send + Sync>;

/// Whether a scan of everything watched waits for the present order to end: it keeps to no share of the processor then.
pub(crate) type Hurry = Arc<AtomicBool>;

/// Lets only so much happen in a second.
pub(crate) struct Pace {
    began: Instant,
    owed: Duration,
    processor: Option<Processor>,
    hurry: Hurry,
    paused: Paused,
    token: CancellationToken,
}

/// The share of a processor that a thread keeps to.
struct Processor {
    /// Of one core, from 0 to 1.
    share: f64,
    /// Seconds of processor time that may be taken now.
    credit_s: f64,
    /// When that was so, and what the thread had taken by then.
    looked: Instant,
    taken_s: f64,
    turns: u32,
}

impl Processor {
    fn new(share: f64) -> Self {
        Self {
            share,
            credit_s: CPU_AT_ONCE_S,
            looked: Instant::now(),
            taken_s: thread_cpu_s(),
            turns: 0,
        }
    }

    /// How long the thread has to sleep to keep to its share.
    fn owes(&mut self) -> Duration {
        let (now, taken_s) = (Instant::now(), thread_cpu_s());
        let earned_s = now.duration_since(self.looked).as_secs_f64() * self.share;
        self.credit_s = (self.credit_s + earned_s - (taken_s - self.taken_s)).min(CPU_AT_ONCE_S);
        (self.looked, self.taken_s) = (now, taken_s);
        Duration::try_from_secs_f64(-self.credit_s / self.share).unwrap_or_default()
    }
}

/// Processor time of the calling thread, seconds.
fn thread_cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Pace {
    /// Of the calling thread; `cpu_pct` is the share of a core that [`Self::spend_in_share`] keeps to, 0 for any.
    pub(crate) fn new(cpu_pct: f64, hurry: Hurry, paused: Paused, token: CancellationToken) -> Self {
        Self {
            hurry,
            began: Instant::now(),
            owed: Duration::ZERO,
            processor: (cpu_pct > 0.0).then(|| Processor::new(cpu_pct / 100.0)),
            paused,
            token,
        }
    }

    /// What the thread took until now was for something that is not held to the share.
    pub(super) fn begin_share(&mut self) {
        if let Some(processor) = &mut self.processor {
            processor.taken_s = thread_cpu_s();
        }
    }

    /// Whether the agent ends.
    pub(super) fn is_over(&self) -> bool {
        self.token.is_cancelled()
    }

    /// As [`Self::spend`], within the share of the processor.
    pub(super) fn spend_in_share(&mut self, amount: u64, per_s: u64) -> bool {
        if let Some(processor) = &mut self.processor {
            processor.turns = processor.turns.wrapping_add(1);
            if processor.turns % CPU_EVERY == 0 {
                loop {
                    let owed = processor.owes();
                    if self.hurry.load(Ordering::Relaxed) {
                        processor.credit_s = 0.0;
                        break;
                    }
                    if owed <= SLACK {
                        break;
                    }
                    if self.token.is_cancelled() {
                        return false;
                    }
                    std::thread::sleep(owed.min(NAP));
                }
            }
        }
        self.spend(amount, per_s)
    }

    /// Takes so much of what a second allows; `false` when the agent ends.
    pub(super) fn spend(&mut self, amount: u64, per_s: u64) -> bool {
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(per_s.max(1));
        self.owed += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        loop {
            if self.token.is_cancelled() {
                return false;
            }
            if (self.paused)() {
                std::thread::sleep(NAP);
                continue;
            }
            let passed = self.began.elapsed();
            // What was not used of the past is not to be caught up with.
            if passed > self.owed + Duration::from_secs(1) {
                self.began = Instant::now();
                self.owed = Duration::ZERO;
                return true;
            }
            let ahead = self.owed.saturating_sub(passed);
            if ahead <= SLACK {
                return true;
            }
            std::thread::sleep(ahead.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_holds_the_work_to_what_a_second_allows() {
        let mut pace = Pace::new(
            0.0,
            Hurry::default(),
            Arc::new(|| false),
            CancellationToken::new(),
        );
        let began = Instant::now();
        for _ in 0..30 {
            assert!(pace.spend(10, 1_000));
        }
        assert!(
            began.elapsed() >= Duration::from_millis(280),
            "300 of 1,000 a second take a third of one"
        );
    }

    #[test]
    fn pace_holds_the_work_to_its_share_of_the_processor() {
        let mut pace = Pace::new(
            10.0,
            Hurry::default(),
            Arc::new(|| false),
            CancellationToken::new(),
        );
        let processor = pace.processor.as_mut().unwrap();
        processor.credit_s = 0.0;
        let (began, taken_s) = (Instant::now(), thread_cpu_s());
        while thread_cpu_s() - taken_s < 0.02 {
            assert!(pace.spend_in_share(1, u64::MAX));
        }
        let earned_s = began.elapsed().as_secs_f64() * 0.1;
        assert!(
            earned_s >= 0.015,
            "20 ms of a tenth of a processor take 200 ms, not {:?}",
            began.elapsed()
        );
    }

    #[test]
    fn work_that_another_scan_waits_for_keeps_to_no_share_and_owes_nothing_afterwards() {
        let hurry = Hurry::default();
        hurry.store(true, Ordering::Relaxed);
        let mut pace = Pace::new(0.01, hurry, Arc::new(|| false), CancellationToken::new());
        pace.processor.as_mut().unwrap().credit_s = -1.0;
        for _ in 0..10 * CPU_EVERY {
            // At its share it would sleep for hours.
            assert!(pace.spend_in_share(1, u64::MAX));
        }
        let processor = pace.processor.as_mut().unwrap();
        assert!(processor.credit_s > -1.0, "{}", processor.credit_s);
    }

    #[test]
    fn what_a_walk_took_is_not_owed() {
        let mut pace = Pace::new(
            1.0,
            Hurry::default(),
            Arc::new(|| false),
            CancellationToken::new(),
        );
        let taken_s = thread_cpu_s();
        while thread_cpu_s() - taken_s < 0.02 {}
        pace.begin_share();
        let processor = pace.processor.as_mut().unwrap();
        processor.owes();
        assert!(
            processor.credit_s > CPU_AT_ONCE_S - 0.01,
            "{}",
            processor.credit_s
        );
    }

    #[test]
    fn paused_work_goes_on_when_it_may_and_ends_when_it_must() {
        let token = CancellationToken::new();
        let mut pace = Pace::new(0.0, Hurry::default(), Arc::new(|| true), token.clone());
        let working = std::thread::spawn(move || pace.spend(1, 1));
        assert!(!working.is_finished());
        token.cancel();
        assert!(!working.join().unwrap());
    }
}
