//! Quantiles and fractions of the buckets of a classic histogram.

use crate::number::almost_equal;

/// Differences between counts that are rounding errors of what computed them.
const ROUNDING: f64 = 1e-12;

/// How many observations were at most `upper`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) upper: f64,
    pub(crate) count: f64,
}

/// Where counts fell although they cannot, and by how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forced {
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) difference: f64,
}

/// The value of a label `le`.
pub(crate) fn bound(label: &str) -> Option<f64> {
    crate::syntax::float(label)
}

/// The value below which a part of the observations lies: interpolated within its bucket, whose lower end is 0 for
/// the first one. The last bucket, which has no end, counts as its lower end.
pub(crate) fn histogram_quantile(rank: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Forced>) {
    if rank.is_nan() {
        return (f64::NAN, None);
    }
    if rank < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if rank > 1.0 {
        return (f64::INFINITY, None);
    }
    if !tidy(buckets) {
        return (f64::NAN, None);
    }
    let forced = make_monotonic(buckets);
    let [below @ .., before_last, last] = buckets.as_slice() else {
        return (f64::NAN, None);
    };
    let observations = last.count;
    if observations == 0.0 {
        return (f64::NAN, None);
    }
    let wanted = rank * observations;
    let at = buckets.get(..=below.len()).map_or(0, |finite| {
        finite.partition_point(|bucket| bucket.count < wanted || bucket.count.is_nan())
    });
    if at == below.len() + 1 {
        return (before_last.upper, forced);
    }
    let Some(bucket) = buckets.get(at) else {
        return (f64::NAN, forced);
    };
    let before = at.checked_sub(1).and_then(|before| buckets.get(before));
    let value = match before {
        None if bucket.upper <= 0.0 => bucket.upper,
        None => bucket.upper * (wanted / bucket.count),
        Some(before) => {
            before.upper
                + (bucket.upper - before.upper) * ((wanted - before.count) / (bucket.count - before.count))
        }
    };
    (value, forced)
}

/// The part of the observations between two values.
pub(crate) fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !tidy(buckets) {
        return f64::NAN;
    }
    let count = buckets.last().map_or(0.0, |last| last.count);
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, buckets, count) - rank_of(lower, buckets, count)) / count
}

/// How many observations lie below a value.
fn rank_of(value: f64, buckets: &[Bucket], count: f64) -> f64 {
    let mut below = 0.0;
    let mut start = if buckets.first().is_some_and(|first| first.upper > 0.0) {
        0.0
    } else {
        f64::NEG_INFINITY
    };
    for bucket in buckets {
        if start >= value {
            return below;
        }
        if bucket.upper > value {
            // Nothing can be said of where in a bucket without a lower end: all of it counts.
            let rank = if start.is_infinite() {
                bucket.count
            } else {
                below + (bucket.count - below) * ((value - start) / (bucket.upper - start))
            };
            return rank.min(count);
        }
        below = bucket.count;
        start = bucket.upper;
    }
    count
}

/// Sorts, joins buckets with the same bound, and says whether there is one without a bound.
fn tidy(buckets: &mut Vec<Bucket>) -> bool {
    buckets.sort_by(|left, right| left.upper.total_cmp(&right.upper));
    if buckets.last().is_none_or(|last| last.upper != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, kept| {
        let same = next.upper == kept.upper;
        if same {
            kept.count += next.count;
        }
        same
    });
    true
}

fn make_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut before = buckets.first()?.count;
    for bucket in buckets.iter_mut().skip(1) {
        if bucket.count == before {
            continue;
        }
        if almost_equal(before, bucket.count, ROUNDING) {
            bucket.count = before;
        } else if bucket.count < before {
            let difference = before - bucket.count;
            let known = forced.get_or_insert(Forced {
                lowest: bucket.upper,
                highest: bucket.upper,
                difference,
            });
            known.highest = bucket.upper;
            known.difference = known.difference.max(difference);
            bucket.count = before;
        } else {
            before = bucket.count;
        }
    }
    forced
}
