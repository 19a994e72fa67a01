//! No source dies silently: one whose task ends unasked says so with its last row.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_shutdown::CancellationToken;

use crate::FactSink;

/// Held by a source's task while it runs. Dropped before the end was asked for, by an error or a panic, it writes that
/// the source's probes are BROKEN.
pub(crate) struct Vigil {
    sink: FactSink,
    token: CancellationToken,
    probes: Vec<String>,
}

impl Vigil {
    pub(crate) fn keep(sink: FactSink, token: CancellationToken, probes: Vec<String>) -> Self {
        Self { sink, token, probes }
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if self.token.is_cancelled() {
            return;
        }
        for probe in std::mem::take(&mut self.probes) {
            let row = ProbeStatus {
                time: TimeMicros::now(),
                probe,
                state: ProbeState::Broken,
                reason: "its task ended by itself; the agent's log says why".to_owned(),
                hint:
                    "it is started again, or the agent is: journalctl -u fleetmend-agent tells what happened"
                        .to_owned(),
                seen: 0,
                delivered: 0,
                lost: 0,
            };
            self.sink.offer(row.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::Fact;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn end_that_nobody_asked_for_is_told() {
        let (sender, mut receiver) = mpsc::channel(4);
        let token = CancellationToken::new();
        let vigil = || {
            Vigil::keep(
                FactSink::new(sender.clone()),
                token.clone(),
                vec!["test.probe".to_owned()],
            )
        };
        let held = vigil();
        let died = std::thread::spawn(move || {
            let _held = held;
            panic!("the source breaks");
        });
        assert!(died.join().is_err());
        let Ok(Fact::ProbeStatus(row)) = receiver.try_recv() else {
            panic!("no row")
        };
        assert_eq!(
            (row.probe.as_str(), row.state),
            ("test.probe", ProbeState::Broken)
        );
        assert!(!row.hint.is_empty());
        let held = vigil();
        token.cancel();
        drop(held);
        assert!(receiver.try_recv().is_err(), "an ordered end is none to tell");
    }
}
