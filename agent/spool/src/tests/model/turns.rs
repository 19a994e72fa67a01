//! One short life that fails at every operation in turn.

use super::super::sim::Fault;
use super::*;

/// More operations than the life below has.
const OPERATIONS_MAX: u64 = 2_000;

/// Writes in all lanes, fills and empties segments, goes over a quota, stops and starts.
fn live(world: &mut World) {
    world.open(true);
    for round in 0..4 {
        world.append(8);
        world.flush();
        if round % 2 == 1 {
            world.read_some(100);
            let mut random = Random::new(round);
            world.store(&mut random, true);
            world.round(Duration::from_secs(40));
        }
        if world.disk.is_dead() {
            return;
        }
    }
    world.stop();
    world.open(false);
    world.append(3);
    world.flush();
    world.round(Duration::from_secs(1));
}

fn at_every_operation(fault: Fault, power: bool) {
    for number in 0..OPERATIONS_MAX {
        let mut world = World::new(number);
        world.disk.fail_at(number, fault);
        world.known.unreadable = fault == Fault::Io;
        world.known.rough = true;
        live(&mut world);
        let reached = world.disk.operations() > number;
        world.down(power);
        println!("{fault:?} at operation {number}, power cut: {power}");
        world.check();
        // Once more, so that what recovery did is recovered.
        world.down(power);
        world.check();
        if !reached {
            assert!(number > 50, "a life of {number} operations tests little");
            return;
        }
    }
    panic!("the life has more operations than {OPERATIONS_MAX}");
}

#[test]
fn power_cut_at_any_operation_loses_nothing_without_a_word() {
    at_every_operation(Fault::Crash, true);
}

#[test]
fn full_disk_at_any_operation_loses_nothing_without_a_word() {
    at_every_operation(Fault::NoSpace, false);
    at_every_operation(Fault::NoSpace, true);
}

#[test]
fn failed_operation_of_any_number_loses_nothing_without_a_word() {
    at_every_operation(Fault::Io, false);
    at_every_operation(Fault::Io, true);
}
