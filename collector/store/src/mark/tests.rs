use super::*;

const A: Digest = [1; 16];
const B: Digest = [2; 16];

fn id(sequence: u64) -> RecordId {
    RecordId {
        epoch: SpoolEpoch::from_bytes([3; 16]),
        lane: Lane::Events,
        sequence: Sequence(sequence),
    }
}

fn host() -> HostId {
    HostId::from_bytes([4; 16])
}

fn with(count: u64) -> Marks {
    let mut marks = Marks::default();
    for number in 1..=count {
        marks.raise(
            (host(), id(1).epoch, Lane::Events),
            number,
            Some(A),
            TimeMicros(1),
        );
    }
    marks
}

fn judge(marks: &Marks, sequence: u64, digest: Digest) -> Verdict {
    marks.judge(&Pending::default(), host(), id(sequence), Candidate::Rows(digest))
}

#[test]
fn next_number_is_new_and_a_later_one_is_out_of_order() {
    let marks = with(5);
    assert_eq!(judge(&marks, 6, A), Verdict::New { missing: 0 });
    assert_eq!(judge(&marks, 8, A), Verdict::OutOfOrder { expected: 6 });
    assert_eq!(judge(&marks, 0, A), Verdict::OutOfOrder { expected: 6 });
}

#[test]
fn stored_number_is_a_repetition_or_a_conflict() {
    let marks = with(5);
    assert_eq!(judge(&marks, 3, A), Verdict::Duplicate);
    assert_eq!(judge(&marks, 3, B), Verdict::Conflict);
    let shed = marks.judge(&Pending::default(), host(), id(3), Candidate::Tombstone);
    assert_eq!(shed, Verdict::Duplicate);
}

#[test]
fn number_whose_digest_is_forgotten_is_a_repetition() {
    let marks = with(DIGESTS_MAX as u64 + 10);
    assert_eq!(judge(&marks, 10, B), Verdict::Duplicate);
    assert_eq!(judge(&marks, 11, B), Verdict::Conflict);
}

#[test]
fn unknown_stream_may_begin_anywhere() {
    assert_eq!(judge(&Marks::default(), 40, A), Verdict::New { missing: 39 });
}

#[test]
fn records_of_the_same_group_count_before_they_are_durable() {
    let marks = with(5);
    let mut pending = Pending::default();
    pending.accept(host(), id(6), Some(A));
    let judge = |sequence, digest| marks.judge(&pending, host(), id(sequence), Candidate::Rows(digest));
    assert_eq!(judge(6, A), Verdict::Duplicate);
    assert_eq!(judge(6, B), Verdict::Conflict);
    assert_eq!(judge(5, B), Verdict::Conflict);
    assert_eq!(judge(7, A), Verdict::New { missing: 0 });
    pending.take_back(host(), &[id(6)]);
    assert_eq!(
        marks.judge(&pending, host(), id(6), Candidate::Rows(B)),
        Verdict::New { missing: 0 }
    );
}

#[test]
fn loss_that_was_declared_is_skipped_once() {
    let mut marks = with(5);
    marks.declare_lost(host(), id(9));
    assert_eq!(judge(&marks, 9, A), Verdict::New { missing: 3 });
    assert_eq!(judge(&marks, 10, A), Verdict::OutOfOrder { expected: 6 });
    let mut pending = Pending::default();
    pending.accept(host(), id(9), Some(A));
    marks.apply(&pending, TimeMicros(2));
    assert_eq!(judge(&marks, 12, A), Verdict::OutOfOrder { expected: 10 });
    assert_eq!(judge(&marks, 7, B), Verdict::Duplicate, "its digest is not known");
}

#[test]
fn streams_not_heard_of_are_forgotten() {
    let mut marks = with(5);
    assert_eq!(marks.forget_before(TimeMicros(1)), 0);
    assert_eq!(marks.forget_before(TimeMicros(2)), 1);
}

#[test]
fn host_with_too_many_epochs_loses_its_stalest_and_nobody_elses() {
    let mut marks = with(5);
    let own = SpoolEpoch::from_bytes(*b"FMSTORE\x0012345678");
    let other = HostId::from_bytes([5; 16]);
    marks.raise((host(), own, Lane::Critical), 1, None, TimeMicros(1));
    marks.raise((other, id(1).epoch, Lane::Events), 7, None, TimeMicros(1));
    let epochs: Vec<SpoolEpoch> = (0..1_000).map(|_| SpoolEpoch::random()).collect();
    for epoch in &epochs {
        marks.raise((host(), *epoch, Lane::Events), 1, None, TimeMicros(2));
        marks.raise((host(), *epoch, Lane::Metrics), 1, None, TimeMicros(2));
    }
    assert_eq!(marks.of_host(host()).len(), 2 * EPOCHS_PER_HOST_MAX + 1);
    let newest = &epochs[epochs.len() - EPOCHS_PER_HOST_MAX..];
    assert!(
        newest
            .iter()
            .all(|epoch| marks.of_stream((host(), *epoch, Lane::Events)).sequence.0 == 1)
    );
    assert_eq!(marks.of_stream((host(), own, Lane::Critical)).sequence.0, 1);
    assert_eq!(marks.of_host(other)[0].sequence.0, 7);
}
