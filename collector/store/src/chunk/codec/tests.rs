use proptest::prelude::*;

use super::*;
use crate::chunk::row::decode;

fn values_come_back(values: &[f64]) -> usize {
    let bytes = encode_values(values).unwrap();
    let back = decode_values(&bytes, values.len()).unwrap();
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&back), bits(values));
    bytes.len()
}

fn times_come_back(times: &[i64]) -> usize {
    let bytes = encode_times(times).unwrap();
    let ends = (times[0], times[times.len() - 1]);
    assert_eq!(decode_times(&bytes, ends, times.len()).unwrap(), times);
    bytes.len()
}

#[test]
fn special_values_come_back_bit_by_bit() {
    let special = [
        f64::NAN,
        f64::from_bits(0x7ff0_0000_0000_0002),
        -0.0,
        0.0,
        f64::INFINITY,
        f64::MIN_POSITIVE,
        f64::MAX,
        0.1 + 0.2,
        9_007_199_254_740_993.0,
        1e300,
    ];
    for count in [1, 2, 10, PACKED_MIN, 1_000] {
        let values: Vec<f64> = special.iter().cycle().take(count).copied().collect();
        values_come_back(&values);
        for value in special {
            assert_eq!(
                values_come_back(&vec![value; count]),
                9,
                "one value is nine bytes"
            );
        }
    }
}

#[test]
fn counters_pages_and_decimals_are_small() {
    let counter: Vec<f64> = (0..3_600)
        .map(|n| f64::from(1_000_000 + n * 100 + n % 7))
        .collect();
    let pages: Vec<f64> = (0..3_600).map(|n| f64::from(n % 11) * 4_096.0).collect();
    let decimals: Vec<f64> = (0..3_600).map(|n| f64::from(n % 300) / 100.0).collect();
    for values in [counter, pages, decimals] {
        let bytes = values_come_back(&values);
        assert!(bytes < 3_600, "{bytes} bytes");
        values_come_back(&values[..50]);
    }
}

#[test]
fn regular_times_need_no_bytes_and_runs_few() {
    let regular: Vec<i64> = (0..3_600)
        .map(|n| 1_767_225_600_000_000 + n * 1_000_000)
        .collect();
    assert_eq!(times_come_back(&regular), 0);
    assert_eq!(times_come_back(&regular[..1]), 0);
    let mut gap = regular.clone();
    gap.drain(100..200);
    assert!(times_come_back(&gap) < 40);
    // Batches of ten seconds, each of which began some microseconds late.
    let jittered: Vec<i64> = (0..3_600)
        .map(|n| regular[n] + (n as i64 / 10 * 7_919) % 500)
        .collect();
    assert!(times_come_back(&jittered) < 3_600 / 4);
    let same = vec![5, 5, 5, 5];
    assert_eq!(times_come_back(&same), 0);
    times_come_back(&[i64::MIN, i64::MAX]);
    times_come_back(&[i64::MIN, -1, 0, 0, i64::MAX]);
}

#[test]
fn impossible_counts_are_refused_before_memory_is_taken() {
    assert_eq!(decode_times(&[], (0, 0), 0), Err(CodecError::Count));
    assert_eq!(decode_times(&[], (0, 0), usize::MAX), Err(CodecError::Count));
    assert_eq!(
        decode_times(&[], (0, 10), 4),
        Err(CodecError::Times),
        "no whole step"
    );
    assert_eq!(decode_times(&[], (10, 0), 3), Err(CodecError::Times));
    assert_eq!(
        decode_times(&[1, 0xff, 0xff, 0xff, 0xff, 0x0f], (0, 0), 2),
        Err(CodecError::Count)
    );
    assert_eq!(
        decode_values(&[3, 0, 0, 0, 0, 0, 0, 0, 0], 2),
        Err(CodecError::Count)
    );
    assert_eq!(decode_values(&[9], 1), Err(CodecError::Tag { tag: 9 }));
    assert_eq!(decode_values(&[], 1), Err(CodecError::Short));
    // A dictionary of 2^25 numbers, which this store never writes.
    assert_eq!(
        decode_values(&[2, 4, 1, 0xf4, 0xff, 0xff, 0xff, 0xff], 1),
        Err(CodecError::Foreign)
    );
}

fn some_values() -> impl Strategy<Value = Vec<f64>> {
    let any_bits = any::<u64>().prop_map(f64::from_bits);
    let decimal = (-1_000_000_i32..1_000_000).prop_map(|number| f64::from(number) / 100.0);
    let integer = any::<i32>().prop_map(f64::from);
    prop_oneof![
        prop::collection::vec(any_bits, 1..400),
        prop::collection::vec(decimal, 1..400),
        prop::collection::vec(integer, 1..400),
    ]
}

fn some_times() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![
        Just(0_i64),
        Just(1_000_000),
        0..2_000_000_i64,
        any::<i64>().prop_map(|step| step & 0xffff_ffff_ffff)
    ];
    (any::<i32>(), prop::collection::vec(step, 0..400)).prop_map(|(first, steps)| {
        let mut times = vec![i64::from(first)];
        times.extend(steps.iter().scan(i64::from(first), |time, step| {
            *time += step;
            Some(*time)
        }));
        times
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_values_come_back(values in some_values()) {
        values_come_back(&values);
    }

    #[test]
    fn any_times_come_back(times in some_times()) {
        times_come_back(&times);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_the_count_asked_for(
        values in some_values(),
        times in some_times(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let count = values.len().min(times.len());
        let (values, times) = (&values[..count], &times[..count]);
        let ends = (times[0], times[count - 1]);
        let mut bytes = [encode_times(times).unwrap(), encode_values(values).unwrap()];
        for part in &mut bytes {
            for (place, bit) in &flips {
                if !part.is_empty() {
                    let place = place.index(part.len());
                    part[place] ^= 1 << bit;
                }
            }
            let torn = &part[..cut.index(part.len() + 1)];
            if let Ok(back) = decode_values(torn, count) {
                prop_assert_eq!(back.len(), count);
            }
        }
        let back = decode((&bytes[0], &bytes[1]), ends, count);
        if let Ok((times, values)) = back {
            prop_assert_eq!((times.len(), values.len()), (count, count));
            prop_assert!(times.is_sorted());
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_the_count_asked_for(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        count in 0..CHUNK_SAMPLES_MAX * 2,
        from in any::<i64>(),
        to in any::<i64>(),
    ) {
        if let Ok((times, values)) = decode((&bytes, &bytes), (from, to), count) {
            prop_assert_eq!((times.len(), values.len()), (count, count));
        }
    }
}
