//! Short lives in which something was once missing without a word.

use super::*;

/// The collector stores all that was sent, and says so.
fn store_all(world: &mut World) {
    for id in world.known.sent.keys() {
        let mark = world.known.marks.entry((id.epoch, id.lane)).or_default();
        *mark = (*mark).max(id.sequence.0);
    }
    world.known.stored.append(&mut world.known.sent);
    let marks = world.marks();
    let handle = world.spool.as_ref().expect("open").handle();
    handle.shared.index.lock().acknowledge(&marks, world.now);
    world.tell();
}

#[test]
fn numbers_missing_before_staged_ticks_are_said_before_they_are_tombstones() {
    let mut world = World::new(1);
    world.open(true);
    // Two records of metrics, and a tick that waits for its batch.
    for _ in 0..2 {
        world.append(4);
        assert!(world.flush());
    }
    world.check();
    world.append(4);
    world.round(Duration::ZERO);
    let metrics = world.disk.files(Path::new(FOLDER)).into_iter().find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("metrics-"))
    });
    world
        .disk
        .corrupt(&metrics.expect("a segment"), |bytes| bytes.fill(0));
    // The start after the damage is killed before its first round.
    world.down(false);
    world.open(false);
    world.down(false);
    world.check();
}

#[test]
fn ticks_behind_frames_that_wait_for_the_disk_leave_no_hole() {
    let mut world = World::new(1);
    world.open(true);
    world.append(4);
    assert!(world.flush());
    world.read_some(100);
    store_all(&mut world);
    // Deleted: nothing on disk says any more where the lane ends.
    world.round(Duration::from_secs(40));
    world.disk.limit(Some(world.disk.used()));
    world.append(4);
    assert!(!world.flush());
    world.disk.limit(None);
    world.append(4);
    let spool = world.spool.as_mut().expect("open");
    let taken = spool.handle().shared.intake.take(Instant::now(), usize::MAX);
    for fact in taken
        .facts
        .into_iter()
        .filter(|fact| fact.lane() == Lane::Metrics)
    {
        spool.writer.take_in(fact, world.now);
    }
    world.down(false);
    world.check();
}

#[test]
fn shed_records_in_flight_are_counted_when_the_collector_lacks_them() {
    let mut world = World::new(1);
    world.is_calm = true;
    world.open(true);
    // More events than their quota, all sent and none acknowledged.
    let mut shed = 0;
    for _ in 0..60 {
        world.append(8);
        assert!(world.flush());
        world.read_some(100);
        world.round(Duration::from_secs(2));
        let index = world.spool.as_ref().expect("open").handle();
        let index = index.shared.index.lock();
        shed = index.epochs[0].lanes.get(Lane::Events).unsure.len();
    }
    assert!(shed > 2, "nothing in flight was shed");
    let sent = std::mem::take(&mut world.known.sent);
    world.check();
    let events = |facts: &&Vec<u64>| facts.iter().any(|fact| lane_of(*fact) == Lane::Events);
    let facts: usize = sent.values().filter(events).map(Vec::len).sum();
    let there: usize = world.known.sent.values().filter(events).map(Vec::len).sum();
    let counted = world.spool.as_ref().expect("open").handle().reader();
    let counted: u64 = gaps(&counted.read_here(ALL).expect("frames"), "spool_quota")
        .iter()
        .filter(|gap| gap.lane == Lane::Events)
        .map(|gap| gap.count)
        .sum();
    assert_eq!(facts as u64, there as u64 + counted);
}

#[test]
fn what_waits_in_memory_when_the_agent_stops_is_counted() {
    let mut world = World::new(1);
    world.open(true);
    world.disk.limit(Some(world.disk.used()));
    let handle = world.spool.as_ref().expect("open").handle();
    for fact in (0..100).filter(|fact| lane_of(*fact) == Lane::Events) {
        let event = Fact::from(unit(fact));
        world.known.times.insert(fact, event.time());
        world.known.waiting.insert(fact);
        handle.append(event);
    }
    world.known.facts = 100;
    assert!(!world.flush());
    let waits = |spool: &Spool| -> (u64, usize) {
        let events = spool.writer.unwritten.get(Lane::Events).iter();
        let sizes = events.map(|frame| (u64::from(frame.rows), frame.encoded_len()));
        sizes.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    };
    let (waiting, bytes) = waits(world.spool.as_ref().expect("open"));
    assert_eq!(waiting, 50);
    // The gap row is smaller than what it counts.
    world.disk.limit(Some(world.disk.used() + bytes - 1));
    world.drop_waiting();
    world.spool.take().expect("open").writer.finish(world.now);
    world.disk.kill();
    world.open(true);
    let reader = world.spool.as_ref().expect("open").handle().reader();
    let found = gaps(&reader.read_here(ALL).expect("frames"), "disk_full");
    let counted: u64 = found
        .iter()
        .filter(|gap| gap.lane == Lane::Events)
        .map(|gap| gap.count)
        .sum();
    assert_eq!(counted, waiting);
    world.check();
}
