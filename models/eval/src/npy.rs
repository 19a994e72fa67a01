//! Gzipped NumPy arrays of one or two axes.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// No array is larger: an hour at 1 Hz with 500 metrics is 14 MB.
const BYTES_MAX: u64 = 1 << 30;

/// Rows of equal length; a one-dimensional array has rows of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) columns: usize,
    pub(crate) data: Vec<f64>,
}

impl Array {
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.data.chunks_exact(self.columns.max(1))
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.columns.max(1)
    }

    pub(crate) fn column(&self, column: usize) -> Vec<f64> {
        self.rows().filter_map(|row| row.get(column).copied()).collect()
    }
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Array> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    let unpacked = flate2::read::GzDecoder::new(file)
        .take(BYTES_MAX)
        .read_to_end(&mut bytes);
    unpacked.with_context(|| format!("unpack {}", path.display()))?;
    parse(&bytes).with_context(|| format!("parse {}", path.display()))
}

fn parse(bytes: &[u8]) -> anyhow::Result<Array> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").context("not a NumPy array")?;
    let (version, rest) = rest.split_first_chunk::<2>().context("cut short")?;
    let (length, rest) = if version[0] == 1 {
        let (length, rest) = rest.split_first_chunk::<2>().context("cut short")?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<4>().context("cut short")?;
        (u32::from_le_bytes(*length) as usize, rest)
    };
    let (header, body) = rest.split_at_checked(length).context("cut short")?;
    let header = std::str::from_utf8(header).context("read the header")?;
    let kind = between(header, "'descr': '", "'").context("no descr")?;
    ensure!(
        header.contains("'fortran_order': False"),
        "column order is not supported"
    );
    let shape = between(header, "'shape': (", ")").context("no shape")?;
    let axes: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|axis| !axis.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("read the shape")?;
    let (rows, columns) = match axes.as_slice() {
        [rows] => (*rows, 1),
        [rows, columns] => (*rows, *columns),
        _ => bail!("{} axes where one or two were expected", axes.len()),
    };
    let data: Vec<f64> = match kind {
        "<f8" => numbers(body, f64::from_le_bytes),
        "<f4" => numbers(body, |bytes: [u8; 4]| f64::from(f32::from_le_bytes(bytes))),
        "<i8" => numbers(body, |bytes: [u8; 8]| i64::from_le_bytes(bytes) as f64),
        "<i4" => numbers(body, |bytes: [u8; 4]| f64::from(i32::from_le_bytes(bytes))),
        "|u1" | "|b1" => numbers(body, |bytes: [u8; 1]| f64::from(bytes[0])),
        "|i1" => numbers(body, |bytes: [u8; 1]| f64::from(i8::from_le_bytes(bytes))),
        other => bail!("numbers of kind {other} are not supported"),
    };
    ensure!(
        data.len() == rows * columns,
        "{} numbers where {} were expected",
        data.len(),
        rows * columns
    );
    Ok(Array { columns, data })
}

fn numbers<const N: usize>(body: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    body.chunks_exact(N)
        .filter_map(|chunk| chunk.try_into().ok())
        .map(read)
        .collect()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let rest = text.get(start..)?;
    rest.get(..rest.find(after)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn array_is_read_row_by_row() {
        let body: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let parsed = parse(&array("<f4", "(2, 2)", &body)).unwrap();
        assert_eq!(
            parsed,
            Array {
                columns: 2,
                data: vec![1.0, 2.0, 3.0, 4.0]
            }
        );
        assert_eq!(parsed.column(1), [2.0, 4.0]);
        assert_eq!(
            parse(&array("|u1", "(3,)", &[0, 1, 0])).unwrap().data,
            [0.0, 1.0, 0.0]
        );
    }

    #[test]
    fn cut_or_foreign_array_is_an_error() {
        let body = [0u8; 7];
        assert!(parse(&array("<f8", "(1,)", &body)).is_err());
        assert!(parse(&array("<c16", "(1,)", &[0; 16])).is_err());
        assert!(parse(b"nonsense").is_err());
    }
}
