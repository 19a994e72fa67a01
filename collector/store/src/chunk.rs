//! Files of metrics: their footers, and the samples in them.

mod footer;
mod prune;
mod rows;

pub(crate) use footer::{FileError, Footers};
pub(crate) use prune::Wanted;
pub(crate) use rows::{SampleRows, read_rows};
