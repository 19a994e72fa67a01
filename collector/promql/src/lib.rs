//! PromQL: queries over series that somebody else holds, with the values that Prometheus gives.
//!
//! [`Engine`] parses a query, asks a [`SeriesSource`] once for each different selector of it, and computes the answer for
//! all steps together: ranges slide over the samples that were read, so that no step selects anything again. The crate
//! owns that trait and knows neither the store nor its query engine.
//!
//! # Invariants
//! - Values are purely Prometheus': lost samples never change one. Gaps that a source tells come back in
//!   [`Answer::gaps`] and as infos, for whoever has to treat the answer as unknown.
//! - A range query gives at each step what an instant query gives at that time.
//! - Where a source has windows in the place of samples, answers are as near as these allow (`function/coarse.rs`), and an
//!   info says so. Without windows none of that has any part in a value.
//! - No query panics or runs for ever: its text, nesting, steps, series, samples and time are bounded ([`Limits`]), and
//!   what is computed ends soon after its future is dropped or its token cancelled.
//! - Errors are of the kinds of Prometheus' HTTP API, in its words where it has some ([`QueryError`]).
//!
//! # Tasks and memory
//! No tasks, no channels, no state between queries. Parsing and computing run on the runtime's blocking threads; whoever
//! calls bounds how many queries run at a time. One query holds its samples (16 bytes each) and a few intermediate results
//! of at most [`Limits::samples_max`] values.
//!
//! # What is there
//! PromQL of Prometheus 3: selectors with `@` and `offset`, ranges and subqueries, all aggregations, binary operators with
//! matching and `fill`, all functions on floats, classic histograms, `info`, arithmetic in durations, `anchored` and `smoothed`,
//! start timestamps where the source has them. Ranges and the lookback are open at their beginning. The experimental parts
//! need no flag.
//!
//! # Limits of today
//! - No native histograms: a source cannot give any, and functions that look at nothing else give nothing.
//! - `integral` is refused.
//! - `info` looks at info series at the time of the step, whatever `@` and `offset` its argument has.
//! - `sort`, `topk` and `bottomk` order an instant answer; equal values keep the order of their labels.
//! - A part of a query that does not depend on the step, because of `@`, is nevertheless computed for each.
//! - Parse errors that only the grammar finds have no place; `syntax.rs` says what else is done around `promql-parser`.
//!
//! Formulas: Prometheus' documentation of functions and operators, and the behaviour of its engine. Its own test scripts
//! run with `cargo xtask promqltest PATH…`; ours are in `tests/own`.

mod annotations;
mod answer;
mod config;
mod engine;
mod error;
mod eval;
mod fetch;
mod function;
mod labels;
mod matcher;
mod notation;
mod number;
mod source;
mod syntax;
mod tree;

pub use annotations::Annotations;
pub use answer::{Answer, Data, Sample};
pub use config::{Limits, NameRemoval, Options};
pub use engine::Engine;
pub use error::{QueryError, SourceError};
pub use labels::{Label, Labels, METRIC_NAME};
pub use matcher::{LabelMatcher, MatchOp};
pub use notation::{format_query, format_value, parse_duration_ms, parse_selector};
pub use source::{
    STALE_BITS, SelectRequest, Selection, SeriesSamples, SeriesSource, SeriesWindow, SourceGap, Windows,
};
pub use syntax::QueryTimes;
pub use tree::query_tree;
