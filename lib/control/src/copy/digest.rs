//! The digest of a table's rows: the sum of theirs, so that it is the same in whatever order an engine sorts text.

use aws_lc_rs::digest;

use crate::row::Cell;
use crate::run::REPLACEMENT;

/// Rows so far.
#[derive(Debug)]
pub(super) struct Digest {
    /// Whether text is taken as PostgreSQL can hold it.
    plain: bool,
    rows: u64,
    replaced: u64,
    /// 256 bits in four parts, added each for itself.
    sum: [u64; 4],
}

impl Digest {
    pub(super) fn new(plain: bool) -> Self {
        Self {
            plain,
            rows: 0,
            replaced: 0,
            sum: [0; 4],
        }
    }

    pub(super) fn add(&mut self, row: &[Cell]) {
        let mut context = digest::Context::new(&digest::SHA256);
        for cell in row {
            let (kind, bytes) = match cell {
                Cell::Null => (b'n', Vec::new()),
                Cell::Integer(value) => (b'i', value.to_be_bytes().to_vec()),
                Cell::Real(value) => (b'r', value.to_bits().to_be_bytes().to_vec()),
                Cell::Text(text) if self.plain && text.contains('\0') => {
                    self.replaced = self.replaced.saturating_add(1);
                    (b't', text.replace('\0', REPLACEMENT).into_bytes())
                }
                Cell::Text(text) => (b't', text.clone().into_bytes()),
                Cell::Bytes(bytes) => (b'b', bytes.clone()),
            };
            context.update(&[kind]);
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(&bytes);
        }
        let row = context.finish();
        for (part, bytes) in self.sum.iter_mut().zip(row.as_ref().chunks_exact(8)) {
            let number = bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte));
            *part = part.wrapping_add(number);
        }
        self.rows = self.rows.saturating_add(1);
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        (self.rows, self.sum) == (other.rows, other.sum)
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Texts that are not what they were.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    pub(super) fn shown(&self) -> String {
        hex::encode(self.sum.map(u64::to_be_bytes).concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[Vec<Cell>]) -> Digest {
        let mut digest = Digest::new(true);
        rows.iter().for_each(|row| digest.add(row));
        digest
    }

    #[test]
    fn the_order_of_rows_does_not_matter_and_everything_else_does() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let one = vec![Cell::Integer(1), text("a"), Cell::Null];
        let two = vec![Cell::Integer(2), text(""), Cell::Bytes(vec![0])];
        let both = of(&[one.clone(), two.clone()]);
        assert!(both.same(&of(&[two.clone(), one.clone()])));
        for other in [
            vec![one.clone()],
            vec![one.clone(), one.clone()],
            vec![
                one.clone(),
                vec![Cell::Integer(2), text(""), Cell::Bytes(vec![1])],
            ],
            vec![
                one.clone(),
                vec![Cell::Integer(2), Cell::Null, Cell::Bytes(vec![0])],
            ],
            vec![vec![text("a"), Cell::Integer(1), Cell::Null], two.clone()],
        ] {
            assert!(!both.same(&of(&other)), "{other:?}");
        }
        let replaced = of(&[vec![text("a\0b")]]);
        assert!(replaced.same(&of(&[vec![text("a\u{FFFD}b")]])));
        assert_eq!(replaced.replaced(), 1);
    }
}
