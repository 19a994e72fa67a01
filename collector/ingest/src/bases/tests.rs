use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Table as _, TableInfo, UnitState};
use fleetmend_event::{Frame, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};

use super::*;

/// A frame of one row, some kilobytes of which zstd cannot make smaller by itself.
fn frame(sequence: u64, bytes: usize) -> Bytes {
    let mut state = 7_u64;
    let noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + (state >> 58) as u8)
    };
    let rows = [UnitState {
        time: TimeMicros(1),
        unit: format!("{sequence}.service"),
        description: std::iter::repeat_with(noise).take(bytes).collect(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        sub_state: "running".to_owned(),
        main_pid: 1,
        restart_count: 0,
        result: "success".to_owned(),
    }];
    let id = RecordId {
        epoch: SpoolEpoch::from_bytes([1; 16]),
        lane: Lane::Events,
        sequence: Sequence(sequence),
    };
    let stamp = Stamp {
        wall: TimeMicros(1),
        boot_us: 1,
    };
    let (table, span) = (TableInfo::of::<UnitState>(), (TimeMicros(1), TimeMicros(1)));
    let batch = UnitState::to_batch(&rows).unwrap();
    Frame::of_batch(id, &table, &batch, stamp, span).unwrap().encode()
}

/// Frames as an agent sends them.
fn sent(frames: &[Bytes]) -> VecDeque<Bytes> {
    let mut sender = Bases::new(Limits::OWN);
    frames.iter().map(|frame| sender.shorten(frame)).collect()
}

fn stream(budget: &BasesBudget) -> StreamBases {
    let mut bases = StreamBases::new(budget.clone());
    assert_eq!(bases.agree(Some(Limits::OWN.into())), Some(Limits::OWN.into()));
    bases
}

async fn all(bases: &mut StreamBases, mut rest: VecDeque<Bytes>) -> (Vec<Bytes>, usize) {
    let (mut whole, mut groups) = (Vec::new(), 0);
    while !rest.is_empty() {
        let group = bases.restore(&mut rest).await.unwrap();
        let bytes: usize = group.iter().skip(1).map(Bytes::len).sum();
        assert!(bytes <= GROUP_BYTES + Limits::OWN.plain_bytes);
        whole.extend(group);
        groups += 1;
    }
    bases.settled();
    (whole, groups)
}

#[tokio::test]
async fn short_message_is_made_whole_in_groups_and_all_is_given_back_at_the_end() {
    let budget = BasesBudget::new(BASES_BYTES_MIN);
    let frames: Vec<Bytes> = (1..=16).map(|number| frame(number, 100_000)).collect();
    let sent = sent(&frames);
    let on_the_wire: usize = sent.iter().skip(1).map(Bytes::len).sum();
    assert!(on_the_wire < 16_000, "{on_the_wire} bytes");
    let mut bases = stream(&budget);
    let (whole, groups) = all(&mut bases, sent).await;
    assert_eq!(whole, frames);
    assert!(groups >= 8, "{groups}");
    let kept = budget.taken.load(Ordering::Relaxed);
    assert!((100_000..150_000).contains(&kept), "{kept}");
    drop(bases);
    assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn stream_that_agreed_on_nothing_passes_frames_on_as_they_are() {
    let budget = BasesBudget::new(BASES_BYTES_MIN);
    let mut bases = StreamBases::new(budget.clone());
    assert_eq!(bases.agree(None), None);
    let sent = sent(&[frame(1, 1_000), frame(2, 1_000)]);
    let (whole, _) = all(&mut bases, sent.clone()).await;
    assert_eq!(
        VecDeque::from(whole),
        sent,
        "what it refuses is for the check of frames to say"
    );
}

#[tokio::test]
async fn streams_give_their_bases_up_when_all_together_have_too_many() {
    let budget = BasesBudget::new(BASES_BYTES_MIN);
    let frames = [frame(1, 100_000), frame(2, 100_000), frame(3, 100_000)];
    let mut first = stream(&budget);
    let mut sent = sent(&frames);
    let last = sent.split_off(2);
    all(&mut first, sent).await;
    assert!(!first.take_request());
    // Others take all there is.
    budget.change(0, BASES_BYTES_MIN as usize);
    assert!(first.take_request() && !first.take_request());
    assert_eq!(
        StreamBases::new(budget.clone()).agree(Some(Limits::OWN.into())),
        None
    );
    // What was on the way can still be read, until the agent has given its own up.
    let (whole, _) = all(&mut first, last.clone()).await;
    assert_eq!(whole, &frames[2..]);
    first.cleared();
    first.settled();
    assert_eq!(budget.taken.load(Ordering::Relaxed), BASES_BYTES_MIN as usize);
    let (whole, _) = all(&mut first, frames.to_vec().into()).await;
    assert_eq!(whole, frames);
    assert_eq!(first.restore(&mut last.clone()).await, Err(RestoreError::Gone));
}

#[tokio::test]
async fn nothing_is_kept_beyond_the_last_quarter() {
    let budget = BasesBudget::new(BASES_BYTES_MIN);
    let frames = [frame(1, 100_000), frame(2, 100_000)];
    let mut bases = stream(&budget);
    budget.change(0, BASES_BYTES_MIN as usize / 4 * 5);
    let mut sent = sent(&frames);
    let last = sent.split_off(1);
    let (whole, _) = all(&mut bases, sent).await;
    assert_eq!(whole, &frames[..1]);
    assert!(bases.take_request() && !bases.take_request());
    assert_eq!(bases.restore(&mut last.clone()).await, Err(RestoreError::Gone));
    // The same agent, as it is told to.
    let (whole, _) = all(&mut bases, frames.to_vec().into()).await;
    assert_eq!(whole, frames);
}

#[tokio::test]
async fn thousand_streams_keep_no_more_than_they_may() {
    let budget = BasesBudget::new(BASES_BYTES_MIN);
    let frames = [frame(1, 100_000), frame(2, 100_000)];
    let mut streams: Vec<StreamBases> = std::iter::repeat_with(|| stream(&budget)).take(1_000).collect();
    for bases in &mut streams {
        let (whole, _) = all(bases, frames[..1].to_vec().into()).await;
        assert_eq!(whole, &frames[..1]);
    }
    let most = BASES_BYTES_MIN as usize / 4 * 5;
    let kept = budget.taken.load(Ordering::Relaxed);
    assert!((most - 150_000..=most).contains(&kept), "{kept} of {most}");
    let asked = streams
        .iter_mut()
        .filter_map(|bases| bases.take_request().then_some(()));
    assert_eq!(asked.count(), 1_000);
    // Hosts that do as they are asked are read on, and give all of it back.
    for bases in &mut streams {
        bases.cleared();
        let (whole, _) = all(bases, frames[1..].to_vec().into()).await;
        assert_eq!(whole, &frames[1..]);
    }
    assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
}

#[test]
fn many_frames_are_not_decompressed_on_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv());
        let mut bases = stream(&BasesBudget::new(BASES_BYTES_MIN));
        let frames: Vec<Bytes> = (1..=100).map(|number| frame(number, 10)).collect();
        let mut rest = VecDeque::from(frames.clone());
        {
            let mut restoring = Box::pin(bases.restore(&mut rest));
            let poll = futures::poll!(restoring.as_mut());
            assert!(poll.is_pending(), "they were decompressed on the runtime");
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            assert_eq!(restoring.await.unwrap(), frames);
        }
        let few = VecDeque::from(frames[..2].to_vec());
        assert_eq!(bases.restore(&mut few.clone()).await.unwrap(), frames[..2]);
    });
}

#[tokio::test]
async fn frame_without_its_base_is_named() {
    let budget = BasesBudget::new(BASES_BYTES_MIN);
    let mut bases = stream(&budget);
    let mut sent = sent(&[frame(1, 1_000), frame(2, 1_000)]);
    sent.pop_front();
    let error = bases.restore(&mut sent).await.unwrap_err();
    assert_eq!(error.to_string(), "frame 2 refers to frame 1, which is not kept");
}
