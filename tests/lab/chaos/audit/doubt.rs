//! Whether the count would have noticed: it is made again over answers of the store that were falsified.

use super::super::fleet::Fleet;
use super::super::journal::TABLES;
use super::store::Store;
use super::{Count, Told};
use crate::timeline::Timeline;

/// Takes away, doubles and miscounts, and notes whether each is noticed.
pub(super) fn check(told: &Told<'_>, store: &Store, count: &Count, timeline: &mut Timeline) {
    let again = |falsify: &dyn Fn(&mut Store)| {
        let mut other = store.clone();
        falsify(&mut other);
        Count::of(told, &other)
    };
    for (table, name) in TABLES.iter().enumerate() {
        // The host that nothing was done to on purpose, but what was done to all.
        let cloned = |index: usize| told.scene.clones.iter().any(|clone| clone.of == index);
        let hosts = told.scene.fleet.hosts.iter().enumerate();
        let mut plain = hosts
            .rev()
            .filter(|(index, _)| !cloned(*index) && *index != Fleet::WIPED);
        let Some(host) = plain.next().map(|(_, host)| host.id.to_string()) else {
            continue;
        };
        let less = again(&|store: &mut Store| {
            if let Some(runs) = store.runs.get_mut(table) {
                runs.remove(&host);
            }
        });
        timeline.check(
            format!("the count notices rows of {name} that are gone"),
            less.total().lost > count.total().lost,
        );
        let more = again(&|store: &mut Store| {
            if let Some(doubled) = store.doubled.get_mut(table) {
                *doubled.entry(host.clone()).or_default() += 1;
            }
        });
        timeline.check(
            format!("the count notices a row of {name} that is doubled"),
            more.total().doubled == count.total().doubled + 1,
        );
    }
    let without = again(&|store: &mut Store| store.gaps.clear());
    let total = count.total();
    timeline.check(
        "the count notices that gap rows are missing",
        without.total().lost == total.missing && (without.unclean_recorded, without.wipes_recorded) == (0, 0),
    );
    if total.exact > 0 {
        let scaled = |by: fn(u64) -> u64| {
            again(&|store: &mut Store| {
                for gap in store.gaps.values_mut().flatten().filter(|gap| gap.exact) {
                    gap.count = by(gap.count);
                }
            })
        };
        timeline.check(
            "the count notices gap rows that count too much",
            scaled(|count| count * 1_000 + 1_000).wrong.len() > count.wrong.len(),
        );
        timeline.check(
            "the count notices gap rows that count too little",
            total.named == 0 || !scaled(|_| 0).wrong.is_empty(),
        );
    }
}
