//! PromQL: an evaluator over whoever holds series.
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
mod number;
mod source;
mod syntax;

pub use annotations::Annotations;
pub use answer::{Answer, Data, Sample};
pub use config::{Limits, NameRemoval, Options};
pub use engine::Engine;
pub use error::{QueryError, SourceError};
pub use labels::{Label, Labels, METRIC_NAME};
pub use matcher::{LabelMatcher, MatchOp};
pub use source::{STALE_BITS, SelectRequest, Selection, SeriesSamples, SeriesSource, SourceGap};
pub use syntax::QueryTimes;
