use std::sync::Arc;

use fleetmend_event::HostId;
use proptest::prelude::*;

use super::*;
use crate::chunk::row::decode;
use crate::clock::ClockAhead;

fn key(name: &str) -> Arc<SeriesKey> {
    Arc::new(SeriesKey {
        name: name.to_owned(),
        labels: "{}".to_owned(),
        host: HostId::from_bytes([1; 16]),
        unit: "1".to_owned(),
    })
}

fn span(key: &Arc<SeriesKey>, taken: i64, clock: Option<i64>, times: Vec<i64>) -> Span {
    let values = times
        .iter()
        .map(|time| (*time as f64) + taken as f64 / 1_000.0)
        .collect();
    Span {
        key: key.clone(),
        ingested_at: taken,
        clock: ClockSpan::of(ClockAhead::from_micros(clock)),
        times,
        values,
    }
}

fn joined(spans: Vec<Span>) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut joiner = Joiner::default();
    let mut emit = |chunk| {
        chunks.push(chunk);
        Ok::<(), CodecError>(())
    };
    for span in spans {
        joiner.push(span, &mut emit).unwrap();
    }
    joiner.finish(&mut emit).unwrap();
    chunks
}

/// All samples of chunks: series, time, bits.
fn samples(chunks: &[Chunk]) -> Vec<(String, i64, u64)> {
    let of = |chunk: &Chunk| {
        let (times, values) =
            decode((&chunk.times, &chunk.values), (chunk.from, chunk.to), chunk.count).unwrap();
        let name = chunk.key.name.clone();
        let sample = move |(time, value): (i64, f64)| (name.clone(), time, value.to_bits());
        times.into_iter().zip(values).map(sample).collect::<Vec<_>>()
    };
    chunks.iter().flat_map(of).collect()
}

#[test]
fn batches_of_ten_seconds_become_chunks_of_an_hour() {
    let one = key("one");
    let spans = (0..1_000)
        .map(|n| span(&one, n, Some(n % 100), (n * 10..n * 10 + 10).collect()))
        .collect();
    let chunks = joined(spans);
    let counts: Vec<usize> = chunks.iter().map(|chunk| chunk.count).collect();
    assert_eq!(counts, [3_600, 3_600, 2_800]);
    assert_eq!(
        (chunks[0].from, chunks[0].to, chunks[0].ingested_at),
        (0, 3_599, 359)
    );
    let little = joined(
        (0..390)
            .map(|n| span(&one, n, None, (n * 10..n * 10 + 10).collect()))
            .collect(),
    );
    assert_eq!(little.len(), 1, "no short chunk is left over");
}

#[test]
fn chunk_ends_where_series_or_clock_change() {
    let (one, two) = (key("one"), key("two"));
    let second = 1_000_000;
    let chunks = joined(vec![
        span(&one, 1, Some(0), vec![0, 1]),
        span(&one, 2, Some(second), vec![2, 3]),
        span(&one, 3, Some(second + 1), vec![4]),
        span(&one, 4, None, vec![5]),
        span(&two, 5, None, vec![6]),
        span(&two, 6, None, vec![7]),
    ]);
    let told: Vec<(usize, Option<i64>, i32)> = chunks
        .iter()
        .map(|chunk| (chunk.count, chunk.clock.least(), chunk.clock.range()))
        .collect();
    assert_eq!(
        told,
        [
            (4, Some(0), 1_000_000),
            (1, Some(second + 1), 0),
            (1, None, 0),
            (2, None, 0)
        ]
    );
}

#[test]
fn samples_of_one_time_stay_in_the_order_they_were_taken() {
    let one = key("one");
    let chunks = joined(vec![
        span(&one, 7, None, vec![1, 2, 3]),
        span(&one, 5, None, vec![2, 3, 4]),
        span(&one, 6, None, vec![3]),
    ]);
    let told: Vec<(i64, u64)> = samples(&chunks)
        .into_iter()
        .map(|(_, time, bits)| (time, bits))
        .collect();
    let wanted = [(1, 7), (2, 5), (2, 7), (3, 5), (3, 6), (3, 7), (4, 5)];
    let wanted: Vec<(i64, u64)> = wanted
        .iter()
        .map(|(time, taken)| (*time, (*time as f64 + f64::from(*taken) / 1_000.0).to_bits()))
        .collect();
    assert_eq!(told, wanted);
    assert_eq!(chunks[0].ingested_at, 7);
}

#[test]
fn endless_overlap_is_bounded_and_loses_nothing() {
    let one = key("one");
    let spans: Vec<Span> = (0..20)
        .map(|n| span(&one, n, None, (0..3_000).map(|t| t * 10 + n).collect()))
        .collect();
    let chunks = joined(spans);
    assert_eq!(samples(&chunks).len(), 60_000);
    assert!(chunks.iter().all(|chunk| chunk.count <= CHUNK_SAMPLES_MAX));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_whatever_order_every_sample_is_kept(
        spans in prop::collection::vec(
            (0..2_usize, 0..5_i64, prop::option::of(0..3_000_000_i64), prop::collection::vec(0..100_i64, 0..20)),
            0..30,
        ),
    ) {
        let keys = [key("one"), key("two")];
        let spans: Vec<Span> = spans
            .into_iter()
            .map(|(series, taken, clock, times)| span(&keys[series], taken, clock, times))
            .collect();
        let mut wanted: Vec<(String, i64, u64)> = spans
            .iter()
            .flat_map(|span| {
                let name = span.key.name.clone();
                span.times.iter().zip(&span.values).map(move |(time, value)| (name.clone(), *time, value.to_bits()))
            })
            .collect();
        let mut found = samples(&joined(spans));
        wanted.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, wanted);
    }
}
