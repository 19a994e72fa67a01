//! Tokens of a query, with their places.

use crate::annotations::Place;
use crate::error::QueryError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or a keyword.
    Word,
    /// A number, `Inf` and `NaN` among them.
    Number,
    /// `1h30m`.
    Duration,
    /// With its quotes.
    Text,
    /// Anything else.
    Sign,
}

/// A token: bytes of the query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'q> {
    pub(crate) kind: Kind,
    pub(crate) text: &'q str,
    pub(crate) start: usize,
}

impl Token<'_> {
    pub(crate) fn is(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }

    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }
}

pub(crate) fn fault(query: &str, at: usize, what: &str) -> QueryError {
    QueryError::bad_data(format!("{}: parse error: {what}", Place::of(query, at).text()))
}

const DOUBLE_SIGNS: &[&str] = &["!=", "=~", "!~", "==", ">=", "<="];
const SIGNS: &str = "(){}[],:=<>+-*/%^@";

/// Splits a query; comments and blanks go.
pub(crate) fn scan(query: &str) -> Result<Vec<Token<'_>>, QueryError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut brackets = 0_usize;
    while let Some(rest) = query.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(first) = rest.chars().next() else { break };
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if first == '#' {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (kind, length) = token(query, at, rest, first, brackets > 0)?;
        let text = rest.get(..length).unwrap_or(rest);
        match text {
            "[" => brackets += 1,
            "]" => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        tokens.push(Token {
            kind,
            text,
            start: at,
        });
        at += length;
    }
    Ok(tokens)
}

fn token(
    query: &str,
    at: usize,
    rest: &str,
    first: char,
    bracketed: bool,
) -> Result<(Kind, usize), QueryError> {
    if matches!(first, '"' | '\'' | '`') {
        return string(rest, first)
            .map(|length| (Kind::Text, length))
            .ok_or_else(|| fault(query, at, "unterminated quoted string"));
    }
    let digit_follows = rest
        .get(1..)
        .is_some_and(|tail| tail.starts_with(|next: char| next.is_ascii_digit()));
    if first.is_ascii_digit() || first == '.' && digit_follows {
        return number(rest).ok_or_else(|| {
            let word: String = rest
                .chars()
                .take_while(|letter| letter.is_alphanumeric())
                .collect();
            fault(query, at, &format!("bad number or duration syntax: {word:?}"))
        });
    }
    let in_word =
        |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':' && !bracketed;
    if in_word(first) {
        let length = rest.find(|letter: char| !in_word(letter)).unwrap_or(rest.len());
        let word = rest.get(..length).unwrap_or(rest);
        let number = word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("nan");
        return Ok((if number { Kind::Number } else { Kind::Word }, length));
    }
    if let Some(sign) = DOUBLE_SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        return Ok((Kind::Sign, sign.len()));
    }
    if SIGNS.contains(first) {
        return Ok((Kind::Sign, 1));
    }
    Err(fault(query, at, &format!("unexpected character: {first:?}")))
}

/// Bytes up to and with the closing quote.
fn string(rest: &str, quote: char) -> Option<usize> {
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return Some(at + 1);
        }
        if quote == '`' {
            continue;
        }
        if letter == '\n' {
            return None;
        }
        if letter == '\\' {
            letters.next()?;
        }
    }
    None
}

fn number(rest: &str) -> Option<(Kind, usize)> {
    let hexadecimal = rest
        .get(..2)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"));
    let mut previous = ' ';
    let mut length = 0;
    for letter in rest.chars() {
        let exponent_sign = !hexadecimal && matches!(letter, '+' | '-') && matches!(previous, 'e' | 'E');
        // A duration never holds an `e`, so that a sign after one belongs to an exponent.
        if !(letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_') || exponent_sign) {
            break;
        }
        previous = letter;
        length += letter.len_utf8();
    }
    let text = rest.get(..length)?;
    if super::duration::number(text).is_some() {
        return Some((Kind::Number, length));
    }
    super::duration::literal_ms(text).map(|_| (Kind::Duration, length))
}
