//! The little linear algebra that a fit needs: Cholesky, and the leading directions of a covariance.
//!
//! Plain loops over slices in 64 bits. A general library would do the same and add minutes to every build; a full
//! eigendecomposition would take seconds of a host's time where the leading directions take a tenth of one.

/// Rounds of subspace iteration. The subspace is what matters, not its single vectors: ten are plenty.
const ROUNDS: usize = 10;

/// Most sweeps of the Jacobi rotations; eight suffice for a hundred rows.
const SWEEPS_MAX: usize = 30;

/// A dense matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) columns: usize,
    pub(super) data: Vec<f64>,
}

impl Matrix {
    pub(super) fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let mut data = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            data.extend((0..columns).map(|column| value(row, column)));
        }
        Self {
            columns: columns.max(1),
            data,
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.data.chunks_exact(self.columns)
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        self.data
            .get(row * self.columns..(row + 1) * self.columns)
            .unwrap_or_default()
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        self.data
            .get_mut(row * self.columns..(row + 1) * self.columns)
            .unwrap_or_default()
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.row(row).get(column).copied().unwrap_or_default()
    }

    fn set(&mut self, row: usize, column: usize, value: f64) {
        if let Some(slot) = self.row_mut(row).get_mut(column) {
            *slot = value;
        }
    }
}

/// Scalar product in eight lanes, which the compiler turns into vector instructions.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a_whole, b_whole) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_whole
        .remainder()
        .iter()
        .zip(b_whole.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_whole.zip(b_whole) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// `y += by * x`.
fn add_scaled(y: &mut [f64], by: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += by * x);
}

/// Solves `a x = b` for every row `b` of `right`, with `a` symmetric and positive definite; the answers replace
/// the rows. `None` when `a` is not.
pub(super) fn solve(mut a: Matrix, mut right: Matrix) -> Option<Matrix> {
    let n = a.columns;
    // In place: the lower triangle becomes the factor.
    for row in 0..n {
        let (above, rest) = a.data.split_at_mut(row * n);
        let line = rest.get_mut(..n)?;
        for (column, other) in above.chunks_exact(n).enumerate() {
            let (head, tail) = line.split_at_mut(column);
            let pivot = other.get(column)?;
            let entry = tail.first_mut()?;
            *entry = (*entry - dot(head, other.get(..column)?)) / pivot;
        }
        let (head, tail) = line.split_at_mut(row);
        let pivot = tail.first_mut()?;
        let square = *pivot - dot(head, head);
        if !square.is_finite() || square <= 0.0 {
            return None;
        }
        *pivot = square.sqrt();
    }
    for x in right.data.chunks_exact_mut(n) {
        for (row, line) in a.rows().enumerate() {
            let known = dot(line.get(..row)?, x.get(..row)?);
            let slot = x.get_mut(row)?;
            *slot = (*slot - known) / line.get(row)?;
        }
        for row in (0..n).rev() {
            let line = a.row(row);
            let (head, tail) = x.split_at_mut(row);
            let slot = tail.first_mut()?;
            *slot /= line.get(row)?;
            add_scaled(head, -*slot, line.get(..row)?);
        }
    }
    Some(right)
}

/// The `most` leading eigenvectors of a symmetric matrix, one per row, with their eigenvalues, largest first.
pub(super) fn leading(a: &Matrix, most: usize) -> (Vec<f64>, Matrix) {
    let n = a.columns;
    let kept = most.min(n);
    // A fixed start that is orthogonal to nothing in particular.
    let mut q = Matrix::from_fn(kept, n, |row, column| {
        let mixed =
            (row as u64 * 0x9E37_79B9 + column as u64 * 0x85EB_CA6B + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    });
    orthonormalise(&mut q);
    for _ in 0..ROUNDS {
        q = times(a, &q);
        orthonormalise(&mut q);
    }
    // Rayleigh and Ritz: the eigenvectors within the subspace.
    let image = times(a, &q);
    let small = Matrix::from_fn(kept, kept, |row, column| dot(q.row(row), image.row(column)));
    let (values, vectors) = jacobi(small);
    let mut order: Vec<usize> = (0..kept).collect();
    let value = |index: usize| values.get(index).copied().unwrap_or_default();
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)));
    let mut out = Matrix {
        columns: n,
        data: vec![0.0; kept * n],
    };
    for (row, index) in order.iter().enumerate() {
        for (source, weight) in q.rows().zip(vectors.row(*index)) {
            add_scaled(out.row_mut(row), *weight, source);
        }
    }
    (order.into_iter().map(value).collect(), out)
}

/// Each row of `q` multiplied by the symmetric `a`.
fn times(a: &Matrix, q: &Matrix) -> Matrix {
    let mut out = Matrix {
        columns: q.columns,
        data: vec![0.0; q.data.len()],
    };
    for (index, line) in a.rows().enumerate() {
        for (target, source) in out.data.chunks_exact_mut(q.columns).zip(q.rows()) {
            if let Some(slot) = target.get_mut(index) {
                *slot = dot(line, source);
            }
        }
    }
    out
}

/// Gram and Schmidt, twice, over the rows; a row that vanishes becomes zero.
fn orthonormalise(q: &mut Matrix) {
    let n = q.columns;
    for row in 0..q.data.len() / n {
        let (above, rest) = q.data.split_at_mut(row * n);
        let Some(line) = rest.get_mut(..n) else { return };
        let before = dot(line, line).sqrt();
        for _ in 0..2 {
            for other in above.chunks_exact(n) {
                let along = dot(line, other);
                add_scaled(line, -along, other);
            }
        }
        let length = dot(line, line).sqrt();
        let by = if length > 1e-12 * before.max(f64::MIN_POSITIVE) {
            1.0 / length
        } else {
            0.0
        };
        line.iter_mut().for_each(|value| *value *= by);
    }
}

/// All eigenvalues of a small symmetric matrix and its eigenvectors, one per row.
fn jacobi(mut a: Matrix) -> (Vec<f64>, Matrix) {
    let n = a.columns;
    let mut vectors = Matrix::from_fn(n, n, |row, column| if row == column { 1.0 } else { 0.0 });
    for _ in 0..SWEEPS_MAX {
        let total = dot(&a.data, &a.data);
        let diagonal: f64 = (0..n).map(|index| a.at(index, index) * a.at(index, index)).sum();
        if total - diagonal <= 1e-22 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, p, q);
            }
        }
    }
    ((0..n).map(|index| a.at(index, index)).collect(), vectors)
}

/// One rotation that makes `a[p][q]` zero.
fn rotate(a: &mut Matrix, vectors: &mut Matrix, p: usize, q: usize) {
    let off = a.at(p, q);
    if off == 0.0 || !off.is_finite() {
        return;
    }
    let theta = (a.at(q, q) - a.at(p, p)) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = 1.0 / t.hypot(1.0);
    let sine = t * cosine;
    for index in 0..a.columns {
        let (x, y) = (a.at(index, p), a.at(index, q));
        a.set(index, p, cosine * x - sine * y);
        a.set(index, q, sine * x + cosine * y);
    }
    for matrix in [a, vectors] {
        for index in 0..matrix.columns {
            let (x, y) = (matrix.at(p, index), matrix.at(q, index));
            matrix.set(p, index, cosine * x - sine * y);
            matrix.set(q, index, sine * x + cosine * y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covariance(n: usize) -> Matrix {
        Matrix::from_fn(n, n, |row, column| {
            let distance = row.abs_diff(column) as f64;
            (-distance / 5.0).exp() * (1.0 + ((row + 1) * (column + 1)) as f64 / (n * n) as f64)
                + if row == column { 0.01 } else { 0.0 }
        })
    }

    #[test]
    fn solution_satisfies_the_equations() {
        let a = covariance(37);
        let wanted = Matrix::from_fn(3, 37, |row, column| (row * 7 + column) as f64 * 0.1 - 1.0);
        let right = times(&a, &wanted);
        let found = solve(a, right).unwrap();
        for (found, wanted) in found.data.iter().zip(&wanted.data) {
            assert!((found - wanted).abs() < 1e-8, "{found} {wanted}");
        }
    }

    #[test]
    fn indefinite_matrix_is_refused() {
        let a = Matrix::from_fn(2, 2, |row, column| if row == column { 1.0 } else { 2.0 });
        assert_eq!(solve(a, Matrix::from_fn(1, 2, |_, _| 1.0)), None);
    }

    #[test]
    fn leading_vectors_are_eigenvectors() {
        let a = covariance(60);
        let (values, vectors) = leading(&a, 12);
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
        for (index, value) in values.iter().take(4).enumerate() {
            let vector = vectors.row(index);
            assert!((dot(vector, vector) - 1.0).abs() < 1e-9);
            for (row, component) in a.rows().zip(vector) {
                assert!(
                    (dot(row, vector) - value * component).abs() < 1e-3 * value,
                    "eigenvector {index}"
                );
            }
        }
    }

    #[test]
    fn jacobi_diagonalises() {
        let a = covariance(20);
        let trace: f64 = (0..20).map(|index| a.at(index, index)).sum();
        let (values, vectors) = jacobi(a.clone());
        assert!((values.iter().sum::<f64>() - trace).abs() < 1e-9);
        for (value, vector) in values.iter().zip(vectors.rows()) {
            let image: Vec<f64> = a.rows().map(|row| dot(row, vector)).collect();
            for (image, component) in image.iter().zip(vector) {
                assert!((image - value * component).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn zero_matrix_has_no_directions_and_no_panic() {
        let (values, vectors) = leading(&Matrix::from_fn(5, 5, |_, _| 0.0), 3);
        assert!(values.iter().chain(&vectors.data).all(|value| *value == 0.0));
    }
}
