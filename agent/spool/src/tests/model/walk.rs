//! Random steps, and one short life that fails at every operation in turn.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::sim::Fault;
use super::*;

/// Lives of each of the two tests, and the steps of each.
const LIVES: u64 = 170;
const STEPS: usize = 300;
const SEED: &str = "FLEETMEND_SPOOL_SEED";

impl World {
    fn step(&mut self, random: &mut Random) {
        let chance = random.below(100);
        let step = match chance {
            0..30 => {
                let rows = if random.one_in(40) {
                    90
                } else {
                    1 + random.below(4)
                };
                self.append(rows);
                format!("append {rows}")
            }
            30..52 => {
                self.round(Duration::from_millis(random.below(400) as u64));
                "round".to_owned()
            }
            52..66 => format!("flush {}", self.flush()),
            66..74 => {
                self.read_some(1 + random.below(20));
                "read".to_owned()
            }
            74..79 => {
                let heard = !random.one_in(3);
                self.store(random, heard);
                format!("store, heard: {heard}")
            }
            79 if random.one_in(2) => {
                self.restore(random);
                "restore".to_owned()
            }
            79 => {
                self.reader = None;
                "disconnect".to_owned()
            }
            80..83 => {
                self.round(Duration::from_secs(40));
                "later".to_owned()
            }
            83..91 if !self.is_calm => self.trouble(random),
            91..93 if !self.is_calm => {
                self.corrupt(random);
                "corrupt".to_owned()
            }
            93..98 => self.turn(random),
            83..93 => {
                self.append(1 + random.below(8));
                "append".to_owned()
            }
            _ => {
                self.check();
                "check".to_owned()
            }
        };
        self.trace.push(step);
        if self.disk.is_dead() || self.spool.is_none() {
            self.down(self.disk.is_dead() || random.one_in(2));
            self.open(random.one_in(2));
        }
    }

    fn trouble(&mut self, random: &mut Random) -> String {
        match random.below(8) {
            0 => {
                self.known.rough = true;
                self.disk.limit(Some(self.disk.used() + random.below(3_000)));
                "full".to_owned()
            }
            1 | 2 => {
                self.known.rough = true;
                let at = random.below(40) as u64;
                self.disk.fail_at(at, Fault::Crash);
                format!("crash in {at}")
            }
            3 => {
                let (rate, reads) = (2 + random.below(30), random.one_in(3));
                self.known.rough = true;
                self.known.unreadable |= reads;
                self.disk.fail_one_in(rate, reads);
                format!("one in {rate} fails, reads too: {reads}")
            }
            _ => {
                self.disk.fail_one_in(0, false);
                self.disk.limit(None);
                "no trouble".to_owned()
            }
        }
    }

    fn turn(&mut self, random: &mut Random) -> String {
        let how = match random.below(if self.is_calm { 2 } else { 3 }) {
            0 => {
                self.stop();
                "stop"
            }
            1 => {
                self.down(false);
                "kill"
            }
            _ => {
                self.down(true);
                "power"
            }
        };
        self.open(random.one_in(2));
        how.to_owned()
    }
}

/// The same lives each time; another seed makes others.
fn seed() -> u64 {
    std::env::var(SEED).map_or(1, |seed| seed.parse().expect("a number"))
}

fn live(seed: u64, is_calm: bool) {
    let mut random = Random::new(seed);
    let mut world = World::new(random.next());
    world.is_calm = is_calm;
    world.open(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            world.step(&mut random);
        }
        world.check();
    }));
    if let Err(fault) = outcome {
        let from = world.trace.len().saturating_sub(120);
        eprintln!(
            "{SEED}={seed}: failed after {} steps, the last: {:?}",
            world.trace.len(),
            &world.trace[from..]
        );
        resume_unwind(fault);
    }
}

fn live_all(first: u64) {
    println!("{SEED}={first}");
    for life in 0..LIVES {
        live(first.wrapping_add(life), false);
    }
}

#[test]
fn spool_keeps_its_promises_on_a_disk_that_fails() {
    live_all(seed());
}

/// The other half, so that two cores do it in half the time.
#[test]
fn spool_keeps_its_promises_on_another_disk_that_fails() {
    live_all(seed().wrapping_add(LIVES));
}

#[test]
fn what_the_spool_counts_as_lost_is_what_is_missing() {
    println!("{SEED}={}", seed());
    for life in 0..LIVES / 2 {
        live(seed().wrapping_add(life), true);
    }
}
