//! Messages on their way, cut and joined as HTTP/2 may.

use std::collections::VecDeque;

use futures::FutureExt as _;

use super::*;
use crate::budget::BUDGET_BYTES_MIN;

/// Hands out pieces, then nothing for ever.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}

fn limits(budget: &Budget) -> MessageLimits {
    MessageLimits {
        budget: budget.clone(),
        bytes_max: 4 << 20,
        transfer_timeout: Duration::from_secs(30),
        room_timeout: Duration::from_secs(5),
    }
}

fn metered(pieces: impl IntoIterator<Item = Bytes>, budget: &Budget) -> (MeteredBody, Meter) {
    let meter = Meter::default();
    let body = MeteredBody {
        body: Body::new(Pieces(pieces.into_iter().collect())),
        meter: meter.clone(),
        limits: limits(budget),
        held: Bytes::new(),
        at: At::after(0, 0),
        deadline: Box::pin(sleep_until(Instant::now())),
    };
    (body, meter)
}

fn message(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
    bytes.extend((0..=250_u8).cycle().take(length));
    bytes
}

async fn next(body: &mut MeteredBody) -> Option<Result<Bytes, Status>> {
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

#[tokio::test]
async fn messages_come_out_as_they_went_in_however_they_are_cut() {
    let lengths = [0, 1, 5, 1_025, 0, 3, 70_000];
    let whole: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
    for cut in [1, 2, 3, 4, 5, 6, 7, 1_000, 16_384, whole.len()] {
        let budget = Budget::new(BUDGET_BYTES_MIN);
        let pieces = whole.chunks(cut).map(Bytes::copy_from_slice);
        let (mut body, meter) = metered(pieces, &budget);
        meter.welcome();
        let (mut out, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
        for length in lengths {
            end += PREFIX_BYTES + length;
            ends.push(end);
        }
        while let Some(Some(piece)) = next(&mut body).now_or_never() {
            let before = out.len();
            out.extend_from_slice(&piece.unwrap());
            let crossed = ends.iter().any(|end| before < *end && *end < out.len());
            assert!(!crossed, "bytes of two messages came together, cut {cut}");
        }
        assert_eq!(out, whole, "cut {cut}");
        assert!(budget.most_taken() <= 70_000, "one message at a time");
        assert!(meter.take_room().is_some() && meter.fault().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn message_without_room_is_not_read_and_sent_away_in_time() {
    let budget = Budget::new(BUDGET_BYTES_MIN);
    let mut taken = Vec::new();
    while let Some(room) = budget.room(1 << 20).now_or_never() {
        taken.push(room);
    }
    let (mut body, meter) = metered([Bytes::from(message(1 << 20))], &budget);
    meter.welcome();
    assert!(next(&mut body).now_or_never().is_none());
    assert!(meter.take_room().is_none());
    // Room in time: it goes on.
    taken.pop();
    assert_eq!(next(&mut body).await.unwrap().unwrap().len(), PREFIX_BYTES);
    assert!(next(&mut body).await.unwrap().is_ok());
    // None in time.
    let (mut body, meter) = metered([Bytes::from(message(1 << 20))], &budget);
    meter.welcome();
    assert!(next(&mut body).await.unwrap().is_err());
    assert_eq!(meter.fault(), Some(Fault::NoRoom { bytes: 1 << 20 }));
    assert!(next(&mut body).await.is_none(), "asking again breaks nothing");
}

#[tokio::test]
async fn stated_length_is_refused_before_anything_is_taken_for_it() {
    let budget = Budget::new(BUDGET_BYTES_MIN);
    let prefix = |length: u32| Bytes::from([&[0][..], &length.to_be_bytes()].concat());
    let (mut body, meter) = metered([prefix(u32::try_from(HELLO_BYTES_MAX).unwrap() + 1)], &budget);
    assert!(
        next(&mut body).await.unwrap().is_err(),
        "nobody is welcomed with so much"
    );
    assert!(matches!(meter.fault(), Some(Fault::TooLong { .. })));
    for length in [(4 << 20) + 1, u32::MAX] {
        let (mut body, meter) = metered([prefix(length)], &budget);
        meter.welcome();
        assert!(next(&mut body).await.unwrap().is_err());
        let bytes = length as usize;
        let expected = Fault::TooLong {
            bytes,
            bytes_max: 4 << 20,
        };
        assert_eq!(meter.fault(), Some(expected));
    }
    assert_eq!(budget.most_taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn message_that_does_not_come_is_given_up_and_silence_is_not() {
    let budget = Budget::new(BUDGET_BYTES_MIN);
    let begun = Instant::now();
    let (mut body, meter) = metered([Bytes::from(message(100_000)).slice(..50_005)], &budget);
    meter.welcome();
    assert!(next(&mut body).await.unwrap().is_ok() && next(&mut body).await.unwrap().is_ok());
    assert!(next(&mut body).await.unwrap().is_err());
    assert!(begun.elapsed() >= Duration::from_secs(30));
    let expected = Fault::TooSlow {
        bytes: 100_000,
        missing: 50_000,
    };
    assert_eq!(meter.fault(), Some(expected));
    let (mut body, meter) = metered([Bytes::from_static(&[0, 0])], &budget);
    assert!(next(&mut body).await.unwrap().is_err(), "half a prefix");
    assert!(matches!(meter.fault(), Some(Fault::TooSlow { .. })));
    let (mut quiet, _) = metered([], &budget);
    let waited = timeout(Duration::from_secs(3_600), next(&mut quiet)).await;
    assert!(waited.is_err(), "between messages there is no hurry");
}
