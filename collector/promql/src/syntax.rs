//! From the text of a query to the tree that is evaluated.
//!
//! `promql-parser` decides structure, precedence and types. Around it (`check.rs`, `lower.rs`) stands what it leaves
//! open: it repairs some faulty queries instead of refusing them, panics on durations that are infinite or negative,
//! recurses without a bound, gives no positions, reads escapes above `\x7f` as characters, and knows neither arithmetic
//! on durations nor `anchored` and `smoothed`. It is therefore given a plain copy of the query, and every literal,
//! duration and matcher is read here from the tokens, which must be used up exactly by the tree that it made.

pub(crate) mod ast;
mod check;
mod duration;
mod lower;
mod postfix;
mod scan;
mod selector;
mod text;

pub(crate) use duration::{float, literal_ms};

use crate::error::QueryError;
use ast::Query;

/// Longer queries are refused: dashboards have a few kilobytes.
pub(crate) const QUERY_BYTES_MAX: usize = 64 * 1024;

/// Start, end and step of a query: `@ end()`, `step()` in a duration and the like depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryTimes {
    /// First step, milliseconds since 1970.
    pub start_ms: i64,
    /// Last step at the latest.
    pub end_ms: i64,
    /// Zero for an instant query.
    pub step_ms: i64,
}

/// Parses and checks.
pub(crate) fn parse(text: &str, times: &QueryTimes) -> Result<Query, QueryError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(QueryError::bad_data(format!(
            "the query has {} bytes, {QUERY_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    let tokens = scan::scan(text)?;
    let plain = check::plain(text, &tokens)?;
    // Whatever it still finds to panic over is a query that is refused.
    let parsed = std::panic::catch_unwind(|| promql_parser::parser::parse(&plain))
        .unwrap_or_else(|_| Err("the query cannot be parsed".to_owned()))
        .map_err(|message| QueryError::bad_data(format!("parse error: {message}")))?;
    lower::lower(&parsed, text, &tokens, times)
}
