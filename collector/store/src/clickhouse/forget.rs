//! When the ledger forgets; what goes, and why that may go, stands in `ledger/forget.rs`.

use fleetmend_control::ControlError;
use fleetmend_event::{HostId, TimeMicros};

use super::Shared;
use super::ledger::CLAIMS_KEPT;
use crate::config::StoreConfig;
use crate::mark::StreamKey;
use crate::shape::sql_tables;

/// Looks between two times that old claims of streams that move are forgotten.
const TRIM_EVERY_LOOKS: u64 = 6;
/// Looks between two rounds over all hosts: an hour, by default.
const ROUND_EVERY_LOOKS: u64 = 720;
/// Hosts that a round takes at one look.
const HOSTS_PER_LOOK: usize = 100;
/// Days after which a table has dropped what its retention ended, and by which collectors' clocks may differ.
const MARGIN_DAYS: i64 = 2;
const DAY_MILLIS: i64 = 86_400_000;

/// How far the forgetting is.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    looks: u64,
    round: Round,
}

/// A round over all hosts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Round {
    #[default]
    First,
    After(HostId),
    Done,
}

impl Forgetting {
    /// Forgets what is due at this look. What fails is tried again.
    pub(super) async fn step(&mut self, shared: &Shared) -> Result<(), ControlError> {
        if self.looks.is_multiple_of(ROUND_EVERY_LOOKS) {
            self.round = Round::First;
        }
        let is_trimmed = self.looks.is_multiple_of(TRIM_EVERY_LOOKS);
        self.looks = self.looks.wrapping_add(1);
        if is_trimmed {
            trim(shared).await?;
        }
        let after = match self.round {
            Round::First => None,
            Round::After(host) => Some(host),
            Round::Done => return Ok(()),
        };
        let hosts = shared.ledger.hosts_after(after, HOSTS_PER_LOOK).await?;
        let before = oldest_rows(&shared.config, TimeMicros::now());
        shared.ledger.forget_taken_before(&hosts, before).await?;
        shared.ledger.forget_epochs(&hosts).await?;
        self.round = match hosts.last() {
            Some(last) if hosts.len() == HOSTS_PER_LOOK => Round::After(*last),
            _ => Round::Done,
        };
        Ok(())
    }
}

/// When the oldest rows that any table may still have were taken.
fn oldest_rows(config: &StoreConfig, now: TimeMicros) -> TimeMicros {
    let tables = sql_tables().iter().filter(|table| table.kept_days.is_none());
    let days = tables.map(|table| i64::from(config.retention.of_table(table.info.name).0));
    let days = days.max().unwrap_or(0).saturating_add(MARGIN_DAYS);
    now.plus_millis(-days.saturating_mul(DAY_MILLIS))
}

async fn trim(shared: &Shared) -> Result<(), ControlError> {
    let due: Vec<(StreamKey, u64)> = std::mem::take(&mut *shared.trims.lock()).into_iter().collect();
    let forgotten = shared.ledger.forget_claims(&due).await;
    if forgotten.is_err() {
        let mut trims = shared.trims.lock();
        for (key, before) in due {
            let held = trims.entry(key).or_default();
            *held = before.max(*held);
        }
    }
    forgotten
}

impl Shared {
    /// Notes the marks of streams, so that claims far below them are forgotten.
    pub(super) fn trim(&self, marks: &[(StreamKey, u64)]) {
        let mut trims = self.trims.lock();
        for (key, mark) in marks {
            let before = mark.saturating_sub(CLAIMS_KEPT);
            if before > 0 {
                trims.insert(*key, before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableRetention;

    #[test]
    fn claims_outlive_the_rows_of_the_table_that_keeps_them_longest() {
        let mut config = StoreConfig::default();
        config.retention.age_days = 30;
        let of_a_year = TableRetention {
            age_days: Some(365),
            bytes_max: None,
        };
        config.retention.tables.insert("findings".to_owned(), of_a_year);
        let now = TimeMicros(400 * DAY_MILLIS * 1_000);
        assert_eq!(oldest_rows(&config, now).0, 33 * DAY_MILLIS * 1_000);
    }
}
