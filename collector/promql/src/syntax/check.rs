//! The plain copy of a query that the grammar is given, and the bounds it is held to.

use super::scan::{Kind, Token, fault};
use super::text::unquote;
use crate::error::QueryError;

/// Operators, parentheses, calls: each may be a level of the tree, which is walked by recursion.
const NODES_MAX: usize = 200;

/// Likewise for what stands inside of one another.
const DEPTH_MAX: usize = 100;

/// Conditions on labels in one query.
const MATCHERS_MAX: usize = 500;

/// Patterns in one query: each is compiled, to four megabytes at its worst.
const PATTERNS_MAX: usize = 50;

/// Copies the query: what stands in brackets, after `offset` and after `@` becomes a harmless literal of the same
/// shape, and the words that the grammar does not know go.
pub(crate) fn plain(query: &str, tokens: &[Token<'_>]) -> Result<String, QueryError> {
    bounds(query, tokens)?;
    let mut out = String::with_capacity(query.len() + 16);
    let mut position = 0;
    let mut in_braces = false;
    while let Some(token) = tokens.get(position) {
        match token.text {
            "{" => in_braces = true,
            "}" => in_braces = false,
            _ => {}
        }
        let taken = match token.kind {
            // What a condition says is looked at later: the grammar need only know that there is one.
            Kind::Sign if in_braces && matches!(token.text, "!=" | "=~" | "!~") => {
                out.push_str("= ");
                1
            }
            Kind::Text if in_braces && follows_matching(tokens, position) && token.text.len() == 2 => {
                out.push_str("\"_\" ");
                1
            }
            Kind::Sign if token.text == "[" => bracket(query, tokens, position, &mut out)?,
            Kind::Sign if token.text == "@" => at(tokens, position, &mut out),
            Kind::Word if token.is_word("offset") && after_operand(tokens, position) => {
                offset(tokens, position, &mut out)
            }
            Kind::Word if is_edge(token) && after_operand(tokens, position) => 1,
            Kind::Text => {
                text(query, token, &mut out)?;
                1
            }
            // Read from the tokens later: the grammar need only know that there is one.
            Kind::Number | Kind::Duration if in_value(tokens, position) => {
                out.push_str("1 ");
                1
            }
            _ => {
                out.push_str(token.text);
                out.push(' ');
                1
            }
        };
        position += taken;
    }
    Ok(out)
}

pub(crate) fn is_edge(token: &Token<'_>) -> bool {
    token.is_word("anchored") || token.is_word("smoothed")
}

fn bounds(query: &str, tokens: &[Token<'_>]) -> Result<(), QueryError> {
    let (mut depth, mut nodes, mut matchers, mut patterns) = (0_usize, 0_usize, 0_usize, 0_usize);
    for token in tokens {
        let operator_word = token.kind == Kind::Word && super::ast::Op::parse(token.text).is_some();
        if token.kind == Kind::Sign || operator_word {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            patterns += usize::from(matches!(token.text, "=~" | "!~"));
            matchers += usize::from(matches!(token.text, "=~" | "!~" | "=" | "!="));
            nodes += usize::from(!matches!(
                token.text,
                "," | "=" | "=~" | "!~" | ")" | "}" | "]" | "{"
            ));
        }
        if depth > DEPTH_MAX || nodes > NODES_MAX {
            return Err(fault(
                query,
                token.start,
                "the query is nested too deeply or has too many operators",
            ));
        }
        if matchers > MATCHERS_MAX || patterns > PATTERNS_MAX {
            let text = format!(
                "the query has too many label matchers: {MATCHERS_MAX} are allowed, {PATTERNS_MAX} of them with patterns"
            );
            return Err(fault(query, token.start, &text));
        }
    }
    Ok(())
}

/// A number that is a value, not a name: `inf` and `nan` may name a label.
fn in_value(tokens: &[Token<'_>], position: usize) -> bool {
    let Some(token) = tokens.get(position) else {
        return false;
    };
    let named = token.text.eq_ignore_ascii_case("inf") || token.text.eq_ignore_ascii_case("nan");
    !named
        || !tokens
            .get(position + 1)
            .is_some_and(|next| matches!(next.text, "=" | "=~" | "!~" | "!="))
}

/// Whether what stands before is the operator of a condition on a label.
fn follows_matching(tokens: &[Token<'_>], position: usize) -> bool {
    let before = position.checked_sub(1).and_then(|at| tokens.get(at));
    before.is_some_and(|token| matches!(token.text, "=" | "!=" | "=~" | "!~"))
}

/// Whether what stands before can be modified: a name, a string in braces, or something that was closed.
fn after_operand(tokens: &[Token<'_>], position: usize) -> bool {
    let Some(before) = position.checked_sub(1).and_then(|at| tokens.get(at)) else {
        return false;
    };
    let follows_list = tokens
        .get(position + 1)
        .is_some_and(|next| matches!(next.text, "," | "=" | "=~" | "!~"));
    match before.kind {
        Kind::Sign => matches!(before.text, ")" | "]" | "}"),
        Kind::Number | Kind::Duration => true,
        Kind::Word => {
            super::ast::Op::parse(before.text).is_none() && !before.is_word("bool") && !follows_list
        }
        Kind::Text => false,
    }
}

fn bracket(
    query: &str,
    tokens: &[Token<'_>],
    position: usize,
    out: &mut String,
) -> Result<usize, QueryError> {
    let inside = tokens.get(position + 1..).unwrap_or_default();
    let mut depth = 0_usize;
    let mut colon = None;
    for (count, token) in inside.iter().enumerate() {
        match token.text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            ":" if depth == 0 => colon = Some(count),
            "]" => {
                out.push_str(match colon {
                    _ if count == 0 || colon == Some(0) => {
                        return Err(fault(query, token.start, "missing duration in range or subquery"));
                    }
                    None => "[1s] ",
                    Some(colon) if colon + 1 == count => "[1s:] ",
                    Some(_) => "[1s:1s] ",
                });
                return Ok(count + 2);
            }
            _ => {}
        }
    }
    let at = tokens.get(position).map_or(0, |token| token.start);
    Err(fault(query, at, "unclosed left bracket"))
}

fn at(tokens: &[Token<'_>], position: usize, out: &mut String) -> usize {
    let words = tokens.get(position + 1..).unwrap_or_default();
    let signs = words
        .iter()
        .take_while(|token| token.is("+") || token.is("-"))
        .count();
    match words.get(signs) {
        Some(token) if matches!(token.kind, Kind::Number | Kind::Duration) && signs <= 1 => {
            out.push_str("@ 0 ");
            signs + 2
        }
        _ => {
            out.push_str("@ ");
            1
        }
    }
}

fn offset(tokens: &[Token<'_>], position: usize, out: &mut String) -> usize {
    let words = tokens.get(position + 1..).unwrap_or_default();
    match super::postfix::offset_tokens(words) {
        Some(count) => {
            out.push_str("offset 1s ");
            count + 1
        }
        None => {
            out.push_str("offset ");
            1
        }
    }
}

fn text(query: &str, token: &Token<'_>, out: &mut String) -> Result<(), QueryError> {
    let literal =
        unquote(token.text).ok_or_else(|| fault(query, token.start, "invalid escape in quoted string"))?;
    // The grammar compiles patterns with an engine that takes fewer of Go's; ours is tried later. Different strings
    // stay different, for it compares labels.
    out.push('"');
    for letter in literal.value.chars() {
        if letter.is_ascii_alphanumeric() || letter == '_' {
            out.push(letter);
        } else {
            out.push_str(&format!("_{:x}_", u32::from(letter)));
        }
    }
    out.push_str("\" ");
    Ok(())
}
