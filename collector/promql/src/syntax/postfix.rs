//! A walk over the tokens: durations with arithmetic, and what follows a selector.

use super::ast::{Edge, Shift};
use super::duration::{DURATION_MS_MAX, literal_ms, number};
use super::scan::{Kind, Token, fault};
use super::{QueryTimes, check};
use crate::error::QueryError;
use crate::number::to_i64;

/// Where the walk is.
pub(crate) struct Cursor<'a> {
    pub(crate) query: &'a str,
    pub(crate) tokens: &'a [Token<'a>],
    pub(crate) position: usize,
    pub(crate) times: QueryTimes,
}

/// How many tokens make the duration of an `offset`: a literal, something in parentheses or a call, with signs.
pub(crate) fn offset_tokens(words: &[Token<'_>]) -> Option<usize> {
    let signs = words
        .iter()
        .take_while(|token| token.is("+") || token.is("-"))
        .count();
    let first = words.get(signs)?;
    if matches!(first.kind, Kind::Number | Kind::Duration) {
        return (signs <= 1).then_some(signs + 1);
    }
    let call = usize::from(
        ["step", "range", "min", "max", "min_of", "max_of"]
            .iter()
            .any(|name| first.is_word(name)),
    );
    let mut depth = 0_usize;
    for (count, token) in words.iter().enumerate().skip(signs + call) {
        match token.text {
            "(" => depth += 1,
            ")" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(count + 1);
                }
            }
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

impl<'a> Cursor<'a> {
    pub(crate) fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.position)
    }

    pub(crate) fn next(&mut self) -> Option<&'a Token<'a>> {
        let token = self.tokens.get(self.position)?;
        self.position += 1;
        Some(token)
    }

    pub(crate) fn fault(&self, what: &str) -> QueryError {
        let at = self.peek().map_or(self.query.len(), |token| token.start);
        fault(self.query, at, what)
    }

    pub(crate) fn unexpected(&self, context: &str) -> QueryError {
        let found = self
            .peek()
            .map_or("end of input".to_owned(), |token| format!("{:?}", token.text));
        self.fault(&format!("unexpected {found} in {context}"))
    }

    pub(crate) fn take(&mut self, sign: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is(sign));
        self.position += usize::from(found);
        found
    }

    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_word(word));
        self.position += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, sign: &str, context: &str) -> Result<(), QueryError> {
        if self.take(sign) {
            Ok(())
        } else {
            Err(self.unexpected(context))
        }
    }

    /// `@`, `offset`, `anchored` and `smoothed`, in any order, each once.
    pub(crate) fn shift(&mut self) -> Result<Shift, QueryError> {
        let mut shift = Shift::default();
        let (mut seen_at, mut seen_offset) = (false, false);
        while let Some(token) = self.peek() {
            if token.is("@") && !seen_at {
                self.position += 1;
                let (at_ms, at_word) = self.at()?;
                (shift.at_ms, shift.at_word) = (Some(at_ms), at_word);
                seen_at = true;
            } else if token.is_word("offset") && !seen_offset {
                self.position += 1;
                shift.offset_ms = self.offset()?;
                seen_offset = true;
            } else if check::is_edge(token) && shift.edge == Edge::Plain {
                self.position += 1;
                shift.edge = if token.is_word("anchored") {
                    Edge::Anchored
                } else {
                    Edge::Smoothed
                };
            } else {
                break;
            }
        }
        Ok(shift)
    }

    fn at(&mut self) -> Result<(i64, Option<&'static str>), QueryError> {
        for (word, at) in [("start", self.times.start_ms), ("end", self.times.end_ms)] {
            if self.take_word(word) {
                self.expect("(", "@ modifier")?;
                self.expect(")", "@ modifier")?;
                return Ok((at, Some(word)));
            }
        }
        let seconds = self.signed_seconds("@ modifier")?;
        let milliseconds = (seconds * 1000.0).round();
        if !milliseconds.is_finite() || milliseconds.abs() > DURATION_MS_MAX as f64 {
            return Err(self.fault("timestamp out of bounds for @ modifier"));
        }
        Ok((to_i64(milliseconds), None))
    }

    fn signed_seconds(&mut self, context: &str) -> Result<f64, QueryError> {
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        let seconds = self.literal_seconds().ok_or_else(|| self.unexpected(context))?;
        Ok(if negative { -seconds } else { seconds })
    }

    fn literal_seconds(&mut self) -> Option<f64> {
        let token = self.peek()?;
        let seconds = match token.kind {
            Kind::Number => number(token.text)?,
            Kind::Duration => literal_ms(token.text)? as f64 / 1000.0,
            Kind::Word | Kind::Text | Kind::Sign => return None,
        };
        self.position += 1;
        Some(seconds)
    }

    fn offset(&mut self) -> Result<i64, QueryError> {
        let words = self.tokens.get(self.position..).unwrap_or_default();
        if offset_tokens(words).is_none() {
            return Err(self.unexpected("offset, expected a duration"));
        }
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        let seconds = self.factor()?;
        self.milliseconds(if negative { -seconds } else { seconds })
    }

    /// A duration that must be positive.
    pub(crate) fn range(&mut self) -> Result<i64, QueryError> {
        const TOO_SHORT: &str = "duration must be greater than 0";
        let from = self.position;
        let seconds = self.sum()?;
        let milliseconds = self.milliseconds(seconds)?;
        if milliseconds > 0 {
            return Ok(milliseconds);
        }
        let literal = self.position == from + 1;
        Err(if literal {
            self.fault(TOO_SHORT)
        } else {
            self.computed_fault(from, TOO_SHORT)
        })
    }

    /// What is wrong with a duration that was computed, in Prometheus' words: with its first and last byte, for it is
    /// found after parsing.
    fn computed_fault(&self, from: usize, what: &str) -> QueryError {
        let start = self.tokens.get(from).map_or(0, |token| token.start);
        let last = self.position.checked_sub(1).and_then(|at| self.tokens.get(at));
        let end = last.map_or(start, |token| token.start + token.text.len());
        QueryError::bad_data(format!("{start}:{end}: {what}"))
    }

    /// Parts of a millisecond go, but for errors of the product.
    fn milliseconds(&self, seconds: f64) -> Result<i64, QueryError> {
        let milliseconds = ((seconds * 1e9).round() / 1e6).trunc();
        if !milliseconds.is_finite() || milliseconds.abs() > DURATION_MS_MAX as f64 {
            return Err(self.fault("duration out of range"));
        }
        Ok(to_i64(milliseconds))
    }

    fn sum(&mut self) -> Result<f64, QueryError> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") {
                value -= self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64, QueryError> {
        let from = self.position;
        let mut value = self.power()?;
        loop {
            let sign = ["*", "/", "%"].into_iter().find(|sign| self.take(sign));
            let Some(sign) = sign else { return Ok(value) };
            let other = self.power()?;
            if other == 0.0 && sign != "*" {
                let what = if sign == "/" {
                    "division by zero"
                } else {
                    "modulo by zero"
                };
                return Err(self.computed_fault(from, what));
            }
            match sign {
                "*" => value *= other,
                "/" => value /= other,
                _ => value %= other,
            }
        }
    }

    fn power(&mut self) -> Result<f64, QueryError> {
        if self.take("-") {
            return Ok(-self.power()?);
        }
        if self.take("+") {
            return self.power();
        }
        let value = self.factor()?;
        if self.take("^") {
            Ok(value.powf(self.power()?))
        } else {
            Ok(value)
        }
    }

    fn factor(&mut self) -> Result<f64, QueryError> {
        const CONTEXT: &str = "duration, expected a duration";
        if let Some(seconds) = self.literal_seconds() {
            return Ok(seconds);
        }
        if self.take("(") {
            let value = self.sum()?;
            self.expect(")", CONTEXT)?;
            return Ok(value);
        }
        for (word, ms) in [
            ("step", self.times.step_ms),
            ("range", self.times.end_ms.saturating_sub(self.times.start_ms)),
        ] {
            if self.take_word(word) {
                self.expect("(", CONTEXT)?;
                self.expect(")", CONTEXT)?;
                return Ok(ms as f64 / 1000.0);
            }
        }
        for word in ["min", "max", "min_of", "max_of"] {
            if self.take_word(word) {
                self.expect("(", CONTEXT)?;
                let left = self.sum()?;
                self.expect(",", CONTEXT)?;
                let right = self.sum()?;
                self.expect(")", CONTEXT)?;
                return Ok(if word.starts_with("min") {
                    left.min(right)
                } else {
                    left.max(right)
                });
            }
        }
        Err(self.unexpected(CONTEXT))
    }
}
