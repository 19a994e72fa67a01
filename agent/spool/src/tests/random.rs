//! A model of the spool against the real one: random appends, acknowledgements, stops, kills and torn tails.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append { rows: u8 },
    Read,
    Acknowledge { share: u8 },
    Stop,
    Kill,
    Tear { bytes: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..20_u8).prop_map(|rows| Step::Append { rows }),
        3 => Just(Step::Read),
        2 => (0..=100_u8).prop_map(|share| Step::Acknowledge { share }),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        1 => (1..400_u16).prop_map(|bytes| Step::Tear { bytes }),
    ]
}

/// What must be true of every read: nothing twice, nothing in between missing, order kept.
#[derive(Default)]
struct Model {
    appended: u64,
    /// Rows whose bytes were torn away, or may have been.
    torn: bool,
    seen: std::collections::BTreeSet<u64>,
    marks: std::collections::HashMap<SpoolEpoch, u64>,
}

impl Model {
    fn check(&mut self, frames: &[SpooledFrame]) {
        assert_numbered(frames);
        let mut numbers = units(frames);
        let sorted = numbers.is_sorted();
        numbers.dedup();
        assert!(sorted, "rows come in order: {numbers:?}");
        self.seen.extend(numbers.iter().copied());
        for frame in frames.iter().filter(|frame| frame.id.lane == Lane::Events) {
            self.marks.insert(frame.id.epoch, frame.id.sequence.0);
        }
    }
}

async fn restart(running: Running, folder: &Path, how: &Step) -> Running {
    match how {
        Step::Stop => running.stop().await,
        Step::Kill => running.kill(folder).await,
        _ => {
            running.kill(folder).await;
            let Step::Tear { bytes } = how else { unreachable!() };
            if let Some(path) = files(folder, "events-")
                .into_iter()
                .rfind(|path| path.extension().is_some_and(|e| e == "frames"))
            {
                let length = std::fs::metadata(&path).unwrap().len();
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(length.saturating_sub(u64::from(*bytes))).unwrap();
            }
        }
    }
    start(SpoolConfig {
        segment_size: ByteSize(2_000),
        ..config(folder)
    })
}

async fn run(steps: Vec<Step>) {
    let folder = folder();
    let mut running = start(SpoolConfig {
        segment_size: ByteSize(2_000),
        ..config(folder.path())
    });
    let mut model = Model::default();
    for step in steps {
        match &step {
            Step::Append { rows } => {
                for _ in 0..*rows {
                    running.handle.append(unit(model.appended));
                    model.appended += 1;
                }
                running.flush().await;
            }
            Step::Read => {
                let frames = read_new(&running).await;
                model.check(&frames);
            }
            Step::Acknowledge { share } => {
                let marks: Vec<Mark> = model
                    .marks
                    .iter()
                    .map(|(epoch, number)| mark(*epoch, Lane::Events, number * u64::from(*share) / 100))
                    .collect();
                running.handle.acknowledge(&marks);
            }
            Step::Stop | Step::Kill | Step::Tear { .. } => {
                // What was durable is read before the files are hurt.
                let frames = read_new(&running).await;
                model.check(&frames);
                model.torn |= matches!(step, Step::Tear { .. });
                running = restart(running, folder.path(), &step).await;
            }
        }
    }
    let frames = read_new(&running).await;
    model.check(&frames);
    assert_eq!(
        model.seen.len() as u64,
        model.appended,
        "every flushed row was readable once"
    );
    running.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spool_keeps_every_row_once_and_in_order(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

/// What may happen to a file that nobody is writing.
#[derive(Debug, Clone)]
enum Harm {
    Flip { at: u16, with: u8 },
    Cut { at: u16 },
    Insert { at: u16, bytes: Vec<u8> },
    Swap { at: u16, length: u8 },
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (any::<u16>(), 1..=u8::MAX).prop_map(|(at, with)| Harm::Flip { at, with }),
        any::<u16>().prop_map(|at| Harm::Cut { at }),
        (any::<u16>(), prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Harm::Insert { at, bytes }),
        (any::<u16>(), any::<u8>()).prop_map(|(at, length)| Harm::Swap { at, length }),
    ]
}

fn hurt(bytes: &mut Vec<u8>, harm: &Harm) {
    let place = |at: u16| usize::from(at) % bytes.len().max(1);
    match harm {
        _ if bytes.is_empty() => {}
        Harm::Flip { at, with } => {
            let at = place(*at);
            bytes[at] ^= with;
        }
        Harm::Cut { at } => bytes.truncate(place(*at)),
        Harm::Insert { at, bytes: more } => {
            let at = place(*at);
            bytes.splice(at..at, more.iter().copied());
        }
        Harm::Swap { at, length } => {
            let at = place(*at);
            let end = (at + usize::from(*length)).min(bytes.len());
            bytes[at..end].reverse();
        }
    }
}

async fn survive(harms: Vec<(u8, Harm)>) {
    let folder = folder();
    let running = start(SpoolConfig {
        segment_size: ByteSize(3_000),
        ..config(folder.path())
    });
    for number in 0..12 {
        running.handle.append(unit(number));
        running.flush().await;
    }
    running.kill(folder.path()).await;
    let segments = files(folder.path(), "events-");
    for (index, harm) in harms {
        let path = &segments[usize::from(index) % segments.len()];
        let mut bytes = std::fs::read(path).unwrap();
        hurt(&mut bytes, &harm);
        std::fs::write(path, bytes).unwrap();
    }
    let running = start(config(folder.path()));
    running.handle.append(unit(100));
    running.flush().await;
    let frames = read_new(&running).await;
    assert_numbered(&frames);
    let found = units(&frames);
    assert!(
        found.windows(2).all(|pair| pair[0] < pair[1]),
        "in order and once: {found:?}"
    );
    assert_eq!(found.last(), Some(&100), "the spool goes on");
    running.kill(folder.path()).await;
    // Damage is repaired once: the same rows are found again, and nothing more is set aside.
    let again = start(config(folder.path()));
    assert_eq!(
        (again.recovered.corrupt_bytes, again.recovered.torn_bytes),
        (0, 0)
    );
    assert_eq!(units(&read_new(&again).await), found);
    again.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spool_survives_any_harm_to_its_segments(harms in prop::collection::vec((any::<u8>(), harm()), 1..5)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(survive(harms));
    }
}
