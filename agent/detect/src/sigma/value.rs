//! Values of a rule and the modifiers over them.
//!
//! Modifiers are applied in the order in which they stand, each to every value: `wide|base64offset|contains` takes
//! the text, makes it wide, then encodes it three ways, then looks for any of the three within the field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsigma_parser::{Modifier, SigmaValue};

use super::rule::{Comparison, Joint, TimePart};
use super::text::{Piece, pieces};

/// Texts that one value may become, by `windash` and `base64offset`.
const ALTERNATIVES_MAX: usize = 256;
/// Above it whole numbers are not told apart as floating-point numbers.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Dashes of one value that `windash` exchanges.
const DASHES_MAX: usize = 3;
/// What Windows programs take for a dash.
const DASHES: [char; 5] = ['-', '/', '\u{2013}', '\u{2014}', '\u{2015}'];

/// A value on its way through the modifiers.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text {
        pieces: Vec<Piece>,
        cased: bool,
    },
    /// Any of these.
    AnyOf(Vec<Value>),
    Regex(Expression),
    Network(String),
    Number(f64),
    Compare(Comparison, f64),
    Bool(bool),
    Null,
    Exists(bool),
    Field {
        name: String,
        how: Joint,
        cased: bool,
    },
    Time(TimePart, i64),
}

/// A regular expression with its flags.
#[derive(Debug, Clone, Default)]
pub(super) struct Expression {
    pub(super) pattern: String,
    pub(super) ignore_case: bool,
    pub(super) multi_line: bool,
    pub(super) dot_all: bool,
    /// Whether something may stand before and after: `contains`, `startswith` and `endswith` on an expression.
    pub(super) joint: Option<Joint>,
}

/// What the parser reads as a text though the rule writes a list or a map, or cannot hold exactly.
pub(super) fn legible(written: &SigmaValue, field: &str) -> Result<(), String> {
    match written {
        SigmaValue::String(string)
            if ["Mapping {", "Sequence [", "TaggedValue {"]
                .iter()
                .any(|shown| string.original.starts_with(shown)) =>
        {
            Err(format!(
                "a value of '{field}' is a list or a map; values are texts, numbers, true, false or null"
            ))
        }
        SigmaValue::Float(number) if number.abs() >= EXACT_MAX => Err(format!(
            "a number of '{field}' is too large to be told from its neighbours; write it in quotes"
        )),
        _ => Ok(()),
    }
}

/// A value as the parser read it. A number that is not compared is the text that writes it.
pub(super) fn value(written: &SigmaValue, modifiers: &[Modifier]) -> Value {
    let wants_number = |modifier: &Modifier| {
        matches!(
            modifier,
            Modifier::Lt
                | Modifier::Lte
                | Modifier::Gt
                | Modifier::Gte
                | Modifier::Minute
                | Modifier::Hour
                | Modifier::Day
                | Modifier::Week
                | Modifier::Month
                | Modifier::Year
        )
    };
    let is_number = modifiers.iter().any(wants_number);
    let text = |text: String| Value::Text {
        pieces: vec![Piece::Text(text)],
        cased: false,
    };
    match written {
        SigmaValue::String(string) => Value::Text {
            pieces: pieces(string),
            cased: false,
        },
        SigmaValue::Integer(number) if !is_number => text(number.to_string()),
        // With the point that makes it one.
        SigmaValue::Float(number) if !is_number => text(format!("{number:?}")),
        SigmaValue::Integer(number) => Value::Number(*number as f64),
        SigmaValue::Float(number) => Value::Number(*number),
        SigmaValue::Bool(truth) => Value::Bool(*truth),
        SigmaValue::Null => Value::Null,
    }
}

/// Applies one modifier. `all` and `neq` concern the whole list and are not for here.
pub(super) fn apply(modifier: Modifier, value: Value) -> Result<Value, String> {
    if let Value::AnyOf(values) = value {
        let values: Result<Vec<Value>, String> =
            values.into_iter().map(|value| apply(modifier, value)).collect();
        return Ok(Value::AnyOf(values?));
    }
    match (modifier, value) {
        (Modifier::Contains | Modifier::StartsWith | Modifier::EndsWith, value) => part(modifier, value),
        (Modifier::Base64, Value::Text { pieces, cased }) => {
            let encoded = STANDARD.encode(bytes(&pieces)?);
            Ok(plain(encoded, cased))
        }
        (Modifier::Base64Offset, Value::Text { pieces, cased }) => {
            let bytes = bytes(&pieces)?;
            let encoded = (0..3).map(|offset| encode_at(&bytes, offset));
            // Of one letter no whole sign may be left, and nothing is within everything.
            let encoded = encoded.filter(|encoded| !encoded.is_empty());
            let encoded: Vec<Value> = encoded.map(|encoded| plain(encoded, cased)).collect();
            if encoded.is_empty() {
                return Err("an empty text cannot be looked for as Base64".to_owned());
            }
            Ok(Value::AnyOf(encoded))
        }
        (Modifier::Wide, Value::Text { pieces, cased }) => wide(pieces, cased, u16::to_le_bytes, ""),
        (Modifier::Utf16be, Value::Text { pieces, cased }) => wide(pieces, cased, u16::to_be_bytes, ""),
        (Modifier::Utf16, Value::Text { pieces, cased }) => wide(pieces, cased, u16::to_le_bytes, "\u{feff}"),
        (Modifier::WindAsh, Value::Text { pieces, cased }) => dashes(&pieces, cased),
        (Modifier::Cased, Value::Text { pieces, .. }) => Ok(Value::Text { pieces, cased: true }),
        (Modifier::Cased, Value::Field { name, how, .. }) => Ok(Value::Field {
            name,
            how,
            cased: true,
        }),
        (Modifier::Cased, value @ Value::Regex(_)) => Ok(value),
        (Modifier::Re, Value::Text { pieces, .. }) => Ok(Value::Regex(Expression {
            pattern: raw(&pieces),
            ..Expression::default()
        })),
        (Modifier::IgnoreCase, Value::Regex(expression)) => Ok(Value::Regex(Expression {
            ignore_case: true,
            ..expression
        })),
        (Modifier::Multiline, Value::Regex(expression)) => Ok(Value::Regex(Expression {
            multi_line: true,
            ..expression
        })),
        (Modifier::DotAll, Value::Regex(expression)) => Ok(Value::Regex(Expression {
            dot_all: true,
            ..expression
        })),
        (Modifier::Cidr, Value::Text { pieces, .. }) => Ok(Value::Network(raw(&pieces))),
        (Modifier::Exists, Value::Bool(wanted)) => Ok(Value::Exists(wanted)),
        (Modifier::FieldRef, Value::Text { pieces, cased }) => match pieces.as_slice() {
            [Piece::Text(name)] => Ok(Value::Field {
                name: name.clone(),
                how: Joint::Equal,
                cased,
            }),
            _ => Err("a field that is referred to has a name without wildcards".to_owned()),
        },
        // What is left of a placeholder has been put in by the compiler.
        (Modifier::Expand, value) => Ok(value),
        (modifier, value) => typed(modifier, &value),
    }
}

fn plain(text: String, cased: bool) -> Value {
    Value::Text {
        pieces: vec![Piece::Text(text)],
        cased,
    }
}

/// Modifiers of numbers and times.
fn typed(modifier: Modifier, value: &Value) -> Result<Value, String> {
    let number = match value {
        Value::Number(number) => Some(*number),
        Value::Text { pieces, .. } => raw(pieces)
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite()),
        _ => None,
    };
    let wrong = || format!("{} cannot be applied to {}", word(modifier), kind(value));
    let number = number.ok_or_else(wrong)?;
    let compare = |comparison| Ok(Value::Compare(comparison, number));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "parts of a time are small whole numbers"
    )]
    let time = |part, least: f64, most: f64| {
        if (least..=most).contains(&number) && number.fract() == 0.0 {
            return Ok(Value::Time(part, number as i64));
        }
        Err(format!(
            "{} takes a whole number from {least} to {most}, not {number}",
            word(modifier)
        ))
    };
    match modifier {
        Modifier::Lt => compare(Comparison::Less),
        Modifier::Lte => compare(Comparison::LessOrEqual),
        Modifier::Gt => compare(Comparison::Greater),
        Modifier::Gte => compare(Comparison::GreaterOrEqual),
        Modifier::Minute => time(TimePart::Minute, 0.0, 59.0),
        Modifier::Hour => time(TimePart::Hour, 0.0, 23.0),
        Modifier::Day => time(TimePart::Day, 1.0, 31.0),
        Modifier::Week => time(TimePart::Week, 0.0, 53.0),
        Modifier::Month => time(TimePart::Month, 1.0, 12.0),
        Modifier::Year => time(TimePart::Year, 0.0, 9999.0),
        _ => Err(wrong()),
    }
}

fn part(modifier: Modifier, value: Value) -> Result<Value, String> {
    let (before, after, joint) = match modifier {
        Modifier::StartsWith => (false, true, Joint::StartsWith),
        Modifier::EndsWith => (true, false, Joint::EndsWith),
        _ => (true, true, Joint::Contains),
    };
    match value {
        Value::Text { mut pieces, cased } => {
            if before {
                pieces.insert(0, Piece::Many);
            }
            if after {
                pieces.push(Piece::Many);
            }
            Ok(Value::Text { pieces, cased })
        }
        Value::Regex(expression) => Ok(Value::Regex(Expression {
            joint: Some(joint),
            ..expression
        })),
        Value::Field { name, cased, .. } => Ok(Value::Field {
            name,
            how: joint,
            cased,
        }),
        other => Err(format!(
            "{} cannot be applied to {}",
            word(modifier),
            kind(&other)
        )),
    }
}

/// The text as it was written, wildcards included.
pub(super) fn raw(pieces: &[Piece]) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::One => "?".to_owned(),
        Piece::Many => "*".to_owned(),
    };
    pieces.iter().map(piece).collect()
}

fn bytes(pieces: &[Piece]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            Piece::One | Piece::Many => {
                return Err("a text with wildcards cannot be encoded as Base64".to_owned());
            }
        }
    }
    // What `utf16` put before is U+FEFF; encoded it is the mark's two bytes.
    if let Some(rest) = bytes.strip_prefix("\u{feff}".as_bytes()) {
        bytes = [[0xff, 0xfe].as_slice(), rest].concat();
    }
    Ok(bytes)
}

/// What of the Base64 of `bytes`, `offset` bytes into a longer text, does not depend on its neighbours.
fn encode_at(bytes: &[u8], offset: usize) -> String {
    const SKIPPED: [usize; 3] = [0, 2, 3];
    let shifted = [vec![b' '; offset], bytes.to_vec()].concat();
    let encoded = STANDARD.encode(&shifted);
    let cut = match shifted.len() % 3 {
        0 => 0,
        1 => 3,
        _ => 2,
    };
    let skipped = SKIPPED.get(offset).copied().unwrap_or(0);
    let end = encoded.len().saturating_sub(cut);
    encoded.get(skipped..end).unwrap_or_default().to_owned()
}

fn wide(pieces: Vec<Piece>, cased: bool, order: fn(u16) -> [u8; 2], before: &str) -> Result<Value, String> {
    let mut wide = Vec::new();
    if !before.is_empty() {
        wide.push(Piece::Text(before.to_owned()));
    }
    for piece in pieces {
        wide.push(match piece {
            Piece::Text(text) => {
                let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
                let text = String::from_utf8(bytes)
                    .map_err(|_| format!("only ASCII can be made wide, and {text:?} is not"))?;
                Piece::Text(text)
            }
            other => other,
        });
    }
    Ok(Value::Text { pieces: wide, cased })
}

/// Every way to write the dashes at the beginning of words.
fn dashes(pieces: &[Piece], cased: bool) -> Result<Value, String> {
    let mut ways: Vec<Vec<Piece>> = vec![Vec::new()];
    let mut exchanged = 0_usize;
    for piece in pieces {
        let Piece::Text(text) = piece else {
            ways.iter_mut().for_each(|way| way.push(piece.clone()));
            continue;
        };
        let letters: Vec<char> = text.chars().collect();
        ways.iter_mut()
            .for_each(|way| way.push(Piece::Text(String::new())));
        for (at, letter) in letters.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| letters.get(at));
            let after = letters.get(at.saturating_add(1));
            if matches!(letter, '-' | '/') && !before.is_some_and(is_word) && after.is_some_and(is_word) {
                exchanged = exchanged.saturating_add(1);
                let each = |way: Vec<Piece>| DASHES.map(|dash| with(&way, dash));
                ways = ways.into_iter().flat_map(each).collect();
            } else {
                ways = ways.into_iter().map(|way| with(&way, *letter)).collect();
            }
            if exchanged > DASHES_MAX || ways.len() > ALTERNATIVES_MAX {
                return Err(format!(
                    "windash exchanges at most {DASHES_MAX} dashes of one value; write several values"
                ));
            }
        }
    }
    let text = |pieces| Value::Text { pieces, cased };
    Ok(Value::AnyOf(ways.into_iter().map(text).collect()))
}

fn is_word(letter: &char) -> bool {
    letter.is_alphanumeric() || *letter == '_'
}

fn with(way: &[Piece], letter: char) -> Vec<Piece> {
    let mut way = way.to_vec();
    if let Some(Piece::Text(text)) = way.last_mut() {
        text.push(letter);
    }
    way
}

fn word(modifier: Modifier) -> String {
    format!("the modifier {modifier:?}").to_lowercase()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text { .. } => "a text",
        Value::AnyOf(_) => "alternatives",
        Value::Regex(_) => "a regular expression",
        Value::Network(_) => "a network",
        Value::Number(_) | Value::Compare(..) => "a number",
        Value::Bool(_) => "true or false",
        Value::Null => "null",
        Value::Exists(_) => "exists",
        Value::Field { .. } => "a field",
        Value::Time(..) => "a part of a time",
    }
}
