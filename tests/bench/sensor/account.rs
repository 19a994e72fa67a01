//! What the agent says became of every event, family by family.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::instance::Instance;

/// How long the counters may take to stand still after a storm.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// Time between two looks at the counters: they are refreshed every second.
const LOOK_EVERY: Duration = Duration::from_millis(2_500);
/// What becomes of an event that was seen.
const ENDS: [&str; 3] = ["filtered", "aggregated", "delivered"];
/// How one is lost.
const LOSSES: [&str; 3] = ["ring_full", "map_full", "shed"];

/// Counters of one family, or of all together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Account {
    pub(crate) seen: f64,
    /// Handed over to the agent by the kernel.
    pub(crate) delivered: f64,
    /// Rows that the agent made of them and that its queues took.
    pub(crate) rows: f64,
    /// Left out, or counted in another row, by design.
    pub(crate) kept_in_kernel: f64,
    /// Lost, and counted as such.
    pub(crate) lost: f64,
    /// Of those, by reason, in the order of [`LOSSES`].
    losses: [f64; LOSSES.len()],
    /// Entries of bounded maps that made room for others.
    pub(crate) evicted: f64,
}

impl Account {
    /// Of a family's `total`, or of the row of a probe, which knows less.
    fn read(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_f64);
        let sum = |keys: &[&str]| keys.iter().filter_map(|key| number(key)).sum::<f64>();
        let [filtered, aggregated, delivered] = ENDS;
        Some(Self {
            seen: number("seen")?,
            delivered: number(delivered)?,
            rows: number(delivered)?,
            kept_in_kernel: sum(&[filtered, aggregated]),
            lost: number("lost").unwrap_or_else(|| sum(&LOSSES)),
            losses: LOSSES.map(|reason| number(reason).unwrap_or_default()),
            evicted: number("evicted").unwrap_or_default(),
        })
    }

    fn with(self, other: Account, sign: f64) -> Account {
        let mut losses = self.losses;
        for (one, other) in losses.iter_mut().zip(other.losses) {
            *one += sign * other;
        }
        Account {
            losses,
            seen: self.seen + sign * other.seen,
            delivered: self.delivered + sign * other.delivered,
            rows: self.rows + sign * other.rows,
            kept_in_kernel: self.kept_in_kernel + sign * other.kept_in_kernel,
            lost: self.lost + sign * other.lost,
            evicted: self.evicted + sign * other.evicted,
        }
    }

    /// Events that are neither delivered, nor left out by design, nor counted as lost.
    fn unaccounted(self) -> f64 {
        self.seen - self.delivered - self.kept_in_kernel - self.lost
    }

    pub(crate) fn condition(self) -> Value {
        let losses = LOSSES.iter().zip(self.losses).filter(|(_, count)| *count != 0.0);
        let losses: serde_json::Map<String, Value> = losses
            .map(|(reason, count)| ((*reason).to_owned(), json!(count)))
            .collect();
        json!({
            "seen": self.seen, "delivered": self.delivered, "rows": self.rows, "kept_in_kernel": self.kept_in_kernel,
            "lost": losses, "evicted": self.evicted,
        })
    }
}

/// Counters of every family.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Accounts(BTreeMap<String, Account>);

impl Accounts {
    /// As the agent tells them now.
    pub(crate) fn now(instance: &Instance) -> Result<Self> {
        let accounts = Self::of(&instance.status()?);
        ensure!(
            !accounts.0.is_empty(),
            "the agent's status tells of no family of probes"
        );
        Ok(accounts)
    }

    /// Out of the agent's status.
    pub(crate) fn of(status: &Value) -> Self {
        let rows = |key: &str| status.get(key).and_then(Value::as_array).into_iter().flatten();
        let families = rows("sensor").filter_map(|row| {
            let mut account = Account::read(row.get("total").unwrap_or(row))?;
            account.rows = row.get("facts").and_then(Value::as_f64).unwrap_or(account.rows);
            Some((row.get("family")?.as_str()?.to_owned(), account))
        });
        let families: BTreeMap<String, Account> = families.collect();
        if !families.is_empty() {
            return Self(families);
        }
        let probes = rows("probes").filter_map(|row| {
            let family = row.get("probe")?.as_str()?.strip_prefix("bpf.")?;
            Some((family.to_owned(), Account::read(row)?))
        });
        Self(probes.collect())
    }

    /// The counters once everything that was seen is accounted for, or once time is up.
    pub(crate) fn settled(instance: &Instance) -> Result<Self> {
        let begun = Instant::now();
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = Self::now(instance)?;
            if now.unaccounted() == 0.0 || begun.elapsed() > SETTLE_WITHIN {
                return Ok(now);
            }
        }
    }

    /// All families together.
    pub(crate) fn total(&self) -> Account {
        self.0
            .values()
            .fold(Account::default(), |sum, account| sum.with(*account, 1.0))
    }

    /// Events of which nobody knows what became of them: too many of one family do not make up for too few of another.
    pub(crate) fn unaccounted(&self) -> f64 {
        self.0.values().map(|account| account.unaccounted().abs()).sum()
    }

    /// What came since `before`.
    pub(crate) fn since(&self, before: &Accounts) -> Accounts {
        let families = self.0.iter().map(|(family, now)| {
            let then = before.0.get(family).copied().unwrap_or_default();
            (family.clone(), now.with(then, -1.0))
        });
        Accounts(families.collect())
    }

    /// Families that are unlike zero, for the conditions.
    pub(crate) fn condition(&self) -> Value {
        let families = self.0.iter().filter(|(_, account)| account.seen != 0.0);
        let families = families.map(|(family, account)| (family.clone(), account.condition()));
        Value::Object(families.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_apart_from_what_was_left_out_on_purpose() {
        let status = json!({"sensor": [
            {"family": "file", "total": {"seen": 100, "filtered": 60, "aggregated": 10, "delivered": 25, "ring_full": 3,
                "map_full": 1, "shed": 1, "evicted": 7}},
            {"family": "process", "total": {"seen": 5, "delivered": 4}, "facts": 3},
            {"family": "signal", "total": {"seen": 5, "delivered": 6}},
        ]});
        let accounts = Accounts::of(&status);
        assert_eq!(accounts.unaccounted(), 2.0);
        let total = accounts.total();
        assert_eq!((total.seen, total.delivered, total.lost), (110.0, 35.0, 5.0));
        assert_eq!(
            (total.kept_in_kernel, total.evicted, total.rows),
            (70.0, 7.0, 34.0)
        );
    }

    #[test]
    fn without_accounts_the_rows_of_the_probes_serve() {
        let status = json!({"probes": [
            {"probe": "bpf.process", "seen": 10, "delivered": 8, "lost": 2},
            {"probe": "host.metrics", "seen": 7, "delivered": 7, "lost": 0},
        ]});
        let accounts = Accounts::of(&status);
        assert_eq!(accounts.total().seen, 10.0);
        assert_eq!(accounts.unaccounted(), 0.0);
    }
}
