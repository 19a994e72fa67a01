//! Pieces of one series become one.

/// Samples of a series that were read together, in rising time or nearly so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Piece {
    /// When the store took them: of two samples of one time the later wins.
    pub(crate) ingested_at: i64,
    /// Microseconds.
    pub(crate) times: Vec<i64>,
    /// One for each time.
    pub(crate) values: Vec<f64>,
}

impl Piece {
    fn is_rising(&self) -> bool {
        self.times.is_sorted_by(|one, next| one < next)
    }
}

/// The samples of all pieces in rising time, each time once. Of several samples of one time that of the piece that
/// was taken latest stays, among these that of the later piece, in it the later sample.
pub(crate) fn merge(mut pieces: Vec<Piece>) -> (Vec<i64>, Vec<f64>) {
    pieces.retain(|piece| !piece.times.is_empty());
    pieces.sort_by_key(|piece| piece.times.first().copied());
    let in_order = pieces.iter().all(Piece::is_rising)
        && pieces.is_sorted_by(|one, next| one.times.last() < next.times.first());
    if in_order {
        return append(pieces);
    }
    // Pieces that were taken at one time keep the order they came in.
    let mut samples: Vec<(i64, i64, f64)> =
        Vec::with_capacity(pieces.iter().map(|piece| piece.times.len()).sum());
    for piece in pieces {
        let timed = piece.times.into_iter().zip(piece.values);
        samples.extend(timed.map(|(time, value)| (time, piece.ingested_at, value)));
    }
    samples.sort_by_key(|(time, ingested_at, _)| (*time, *ingested_at));
    let mut times = Vec::with_capacity(samples.len());
    let mut values: Vec<f64> = Vec::with_capacity(samples.len());
    for (time, _, value) in samples {
        if times.last() == Some(&time) {
            times.pop();
            values.pop();
        }
        times.push(time);
        values.push(value);
    }
    (times, values)
}

fn append(pieces: Vec<Piece>) -> (Vec<i64>, Vec<f64>) {
    let count = pieces.iter().map(|piece| piece.times.len()).sum();
    let mut pieces = pieces.into_iter();
    let Some(first) = pieces.next() else {
        return (Vec::new(), Vec::new());
    };
    let (mut times, mut values) = (first.times, first.values);
    times.reserve_exact(usize::saturating_sub(count, times.len()));
    values.reserve_exact(usize::saturating_sub(count, values.len()));
    for piece in pieces {
        times.extend(piece.times);
        values.extend(piece.values);
    }
    (times, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(ingested_at: i64, times: &[i64], value: f64) -> Piece {
        Piece {
            ingested_at,
            times: times.to_vec(),
            values: vec![value; times.len()],
        }
    }

    #[test]
    fn pieces_in_any_order_become_one_rising_series() {
        let (times, values) = merge(vec![
            piece(1, &[4, 5], 2.0),
            piece(1, &[], 0.0),
            piece(1, &[1, 2], 1.0),
        ]);
        assert_eq!((times, values), (vec![1, 2, 4, 5], vec![1.0, 1.0, 2.0, 2.0]));
    }

    #[test]
    fn the_sample_taken_later_wins_whatever_the_order() {
        let (early, late) = (piece(1, &[1, 2, 3], 1.0), piece(2, &[2, 3, 4], 2.0));
        for pieces in [vec![early.clone(), late.clone()], vec![late, early]] {
            let (times, values) = merge(pieces);
            assert_eq!((times, values), (vec![1, 2, 3, 4], vec![1.0, 2.0, 2.0, 2.0]));
        }
    }

    #[test]
    fn a_piece_that_is_not_rising_is_put_in_order() {
        let piece = Piece {
            ingested_at: 1,
            times: vec![3, 1, 1],
            values: vec![3.0, 1.0, 2.0],
        };
        assert_eq!(merge(vec![piece]), (vec![1, 3], vec![2.0, 3.0]));
    }
}
