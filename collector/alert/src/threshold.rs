//! The states of one series under one metric rule. Values in, values out.

use std::time::Duration;

use fleetmend_event::TimeMicros;

/// A pending series that could not be judged for this long is forgotten.
const UNKNOWN_MAX: Duration = Duration::from_secs(600);

/// Whether the condition holds: a fault of ours is neither.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Judged {
    Holds(f64),
    HoldsNot(f64),
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Firing,
}

/// A series that is not inactive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) phase: Phase,
    /// Since when it holds, moved forward by the time it was unknown.
    pub(crate) since: TimeMicros,
    /// When it was last judged, whatever came out.
    pub(crate) judged_at: TimeMicros,
    /// Since when it is unknown, when it is.
    pub(crate) unknown_since: Option<TimeMicros>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// It is inactive, and was.
    Inactive,
    /// It is active as before.
    Stay(Active),
    /// It began to hold.
    Begin(Active),
    /// It held long enough.
    Fire(Active, f64),
    /// It fired and no longer holds.
    Resolve(f64),
    /// It was pending and no longer holds.
    Forget,
    /// It was pending and cannot be judged any more.
    Lose,
}

/// The next state of a series.
pub(crate) fn step(before: Option<Active>, judged: Judged, hold: Duration, now: TimeMicros) -> Step {
    match (before, judged) {
        (None, Judged::Holds(value)) => {
            let active = Active {
                phase: Phase::Pending,
                since: now,
                judged_at: now,
                unknown_since: None,
            };
            rise(active, value, hold, now, Step::Begin(active))
        }
        (None, Judged::HoldsNot(_) | Judged::Unknown) => Step::Inactive,
        (Some(active), Judged::Holds(value)) => {
            // From the last unknown judgement until now nothing is known either.
            let unknown = if active.unknown_since.is_some() {
                now.micros_since(active.judged_at).max(0)
            } else {
                0
            };
            let since = active.since.plus_micros(unknown);
            let active = Active {
                since,
                judged_at: now,
                unknown_since: None,
                ..active
            };
            rise(active, value, hold, now, Step::Stay(active))
        }
        (
            Some(Active {
                phase: Phase::Firing, ..
            }),
            Judged::HoldsNot(value),
        ) => Step::Resolve(value),
        (Some(_), Judged::HoldsNot(_)) => Step::Forget,
        (Some(active), Judged::Unknown) => unknown(active, now),
    }
}

fn rise(active: Active, value: f64, hold: Duration, now: TimeMicros, otherwise: Step) -> Step {
    let held = now.micros_since(active.since).max(0);
    let enough = i64::try_from(hold.as_micros()).unwrap_or(i64::MAX);
    match active.phase {
        Phase::Pending if held >= enough => Step::Fire(
            Active {
                phase: Phase::Firing,
                ..active
            },
            value,
        ),
        Phase::Pending | Phase::Firing => otherwise,
    }
}

fn unknown(active: Active, now: TimeMicros) -> Step {
    let unknown_since = active.unknown_since.unwrap_or(now);
    let lost = now.micros_since(unknown_since) >= i64::try_from(UNKNOWN_MAX.as_micros()).unwrap_or(i64::MAX);
    if active.phase == Phase::Pending && lost {
        return Step::Lose;
    }
    let passed = now.micros_since(active.judged_at).max(0);
    Step::Stay(Active {
        since: active.since.plus_micros(passed),
        judged_at: now,
        unknown_since: Some(unknown_since),
        ..active
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn judged() -> impl Strategy<Value = Judged> {
        prop_oneof![
            Just(Judged::Holds(1.0)),
            Just(Judged::HoldsNot(0.0)),
            Just(Judged::Unknown)
        ]
    }

    /// The states that a list of judgements, one a second, leads to; with what each step said.
    fn run(list: &[Judged], hold: Duration) -> Vec<(Judged, Step)> {
        let mut active = None;
        let mut steps = Vec::new();
        for (index, judged) in (0_i64..).zip(list) {
            let said = step(active, *judged, hold, TimeMicros(index * SECOND));
            active = match said {
                Step::Stay(next) | Step::Begin(next) | Step::Fire(next, _) => Some(next),
                Step::Inactive | Step::Resolve(_) | Step::Forget | Step::Lose => None,
            };
            steps.push((*judged, said));
        }
        steps
    }

    #[test]
    fn it_fires_after_holding_long_enough_and_resolves() {
        let list = [
            Judged::Holds(1.0),
            Judged::Holds(1.0),
            Judged::Holds(1.0),
            Judged::HoldsNot(0.0),
        ];
        let said: Vec<Step> = run(&list, Duration::from_secs(2))
            .into_iter()
            .map(|(_, step)| step)
            .collect();
        assert!(
            matches!(
                said[..],
                [Step::Begin(_), Step::Stay(_), Step::Fire(..), Step::Resolve(_)]
            ),
            "{said:?}"
        );
    }

    #[test]
    fn time_that_is_unknown_does_not_count() {
        let mut list = vec![Judged::Holds(1.0)];
        list.extend([Judged::Unknown; 100]);
        list.push(Judged::Holds(1.0));
        let said = run(&list, Duration::from_secs(2));
        assert!(
            said.iter().all(|(_, step)| !matches!(step, Step::Fire(..))),
            "{said:?}"
        );
    }

    #[test]
    fn a_pending_series_that_stays_unknown_is_lost() {
        let mut list = vec![Judged::Holds(1.0)];
        list.extend([Judged::Unknown; 700]);
        assert!(
            run(&list, Duration::from_secs(3_600))
                .iter()
                .any(|(_, step)| *step == Step::Lose)
        );
    }

    proptest! {
        #[test]
        fn unknown_never_fires_and_never_resolves(list in prop::collection::vec(judged(), 0..200), hold in 0_u64..20) {
            for (judged, said) in run(&list, Duration::from_secs(hold)) {
                match said {
                    Step::Fire(..) | Step::Begin(_) => prop_assert!(matches!(judged, Judged::Holds(_))),
                    Step::Resolve(_) | Step::Forget => prop_assert!(matches!(judged, Judged::HoldsNot(_))),
                    Step::Inactive | Step::Stay(_) | Step::Lose => {}
                }
            }
        }

        #[test]
        fn firing_and_resolving_alternate(list in prop::collection::vec(judged(), 0..200), hold in 0_u64..20) {
            let mut firing = false;
            for (_, said) in run(&list, Duration::from_secs(hold)) {
                match said {
                    Step::Fire(..) => { prop_assert!(!firing); firing = true; }
                    Step::Resolve(_) => { prop_assert!(firing); firing = false; }
                    Step::Forget | Step::Lose => prop_assert!(!firing),
                    Step::Inactive | Step::Stay(_) | Step::Begin(_) => {}
                }
            }
        }

        #[test]
        fn it_fires_only_after_enough_seconds_of_holding(list in prop::collection::vec(judged(), 0..200), hold in 1_u64..20) {
            let mut held = 0;
            let mut before_held = false;
            for (judged, said) in run(&list, Duration::from_secs(hold)) {
                match judged {
                    Judged::Holds(_) if before_held => held += 1,
                    Judged::HoldsNot(_) => held = 0,
                    Judged::Holds(_) | Judged::Unknown => {}
                }
                before_held = matches!(judged, Judged::Holds(_)) ;
                if matches!(said, Step::Fire(..)) {
                    prop_assert!(held >= hold, "held {} of {}", held, hold);
                }
            }
        }
    }
}
