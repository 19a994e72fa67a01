//! Label matchers of a selector.

use regex::{Regex, RegexBuilder};

use crate::error::QueryError;

/// Largest compiled pattern: an alternative of a thousand host names takes two thirds of it.
const PATTERN_BYTES_MAX: usize = 4 << 20;

/// How a label is compared.
#[derive(Clone, Debug)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, fully anchored
    Regex(Regex),
    /// `!~`, fully anchored
    NotRegex(Regex),
}

/// One condition on a label. A label that a series does not have counts as empty.
#[derive(Clone, Debug)]
pub struct LabelMatcher {
    /// The label's name; `__name__` for the metric's.
    pub name: String,
    /// How it is compared.
    pub op: MatchOp,
    /// What it is compared with; a pattern as it was written for the two with regular expressions.
    pub value: String,
}

impl LabelMatcher {
    /// `name="value"`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            op: MatchOp::Equal,
            value: value.into(),
        }
    }

    /// From the operator as it is written.
    pub(crate) fn parse(name: &str, op: &str, value: &str) -> Result<Self, QueryError> {
        let op = match op {
            "=" => MatchOp::Equal,
            "!=" => MatchOp::NotEqual,
            "=~" => MatchOp::Regex(anchored(value)?),
            "!~" => MatchOp::NotRegex(anchored(value)?),
            other => {
                return Err(QueryError::bad_data(format!(
                    "{other:?} is not a label matching operator"
                )));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            op,
            value: value.to_owned(),
        })
    }

    /// Whether a label's value meets the condition.
    pub fn matches(&self, value: &str) -> bool {
        match &self.op {
            MatchOp::Equal => self.value == value,
            MatchOp::NotEqual => self.value != value,
            MatchOp::Regex(pattern) => pattern.is_match(value),
            MatchOp::NotRegex(pattern) => !pattern.is_match(value),
        }
    }

    /// The same condition, whatever was compiled for it.
    pub(crate) fn key(&self) -> (&str, u8, &str) {
        let op = match self.op {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex(_) => 2,
            MatchOp::NotRegex(_) => 3,
        };
        (&self.name, op, &self.value)
    }
}

/// A pattern as Prometheus reads it: anchored at both ends, `.` matches a line feed too.
///
/// Go takes a `{` that begins no repetition literally, this engine must be told.
pub(crate) fn anchored(pattern: &str) -> Result<Regex, QueryError> {
    let compile = |pattern: &str| {
        RegexBuilder::new(&format!("^(?s:{pattern})$"))
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX)
            .build()
    };
    compile(pattern)
        .or_else(|fault| match fault {
            regex::Error::CompiledTooBig(_) => Err(fault),
            _ => compile(&escape_lone_braces(pattern)),
        })
        .map_err(|error| QueryError::bad_data(format!("error parsing regexp: {error}")))
}

fn escape_lone_braces(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 4);
    let mut rest = pattern.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => {
                out.push(letter);
                // A class such as \p{Greek} keeps its brace.
                if let Some(escaped) = rest.next() {
                    out.push(escaped);
                    if matches!(escaped, 'p' | 'P' | 'x') && rest.as_str().starts_with('{') {
                        out.extend(rest.next());
                    }
                }
            }
            '{' if !begins_repetition(rest.as_str()) => out.push_str("\\{"),
            other => out.push(other),
        }
    }
    out
}

fn begins_repetition(rest: &str) -> bool {
    let Some((inner, _)) = rest.split_once('}') else {
        return false;
    };
    let (low, high) = inner.split_once(',').unwrap_or((inner, "0"));
    !low.is_empty()
        && low.bytes().all(|byte| byte.is_ascii_digit())
        && high.bytes().all(|byte| byte.is_ascii_digit())
}
