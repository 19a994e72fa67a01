//! What of a file the parser would not survive, or would read as something else without a word. It is looked for in
//! the documents before the parser sees them.

use serde::Deserialize as _;
use yaml_serde::{Deserializer, Mapping, Value};

/// Brackets that are open at once; reading YAML takes time with the square of their number.
const BRACKETS_MAX: usize = 4_096;
/// `not` one after the other; the parser and every walk over a condition go a call deeper for each, and they may
/// stand in each of the 64 parentheses that a condition may have open.
const NOTS_MAX: usize = 8;

/// Looks through the documents of a file; returns how many are neither a mapping nor empty.
///
/// # Errors
/// Why the file has to be left alone.
pub(super) fn look_through(text: &str) -> Result<usize, String> {
    let (mut open, mut most) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open = open.saturating_add(1),
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    if most > BRACKETS_MAX {
        return Err(format!(
            "more than {BRACKETS_MAX} brackets are open at once; no rule needs lists within lists"
        ));
    }
    let mut others = 0_usize;
    for document in Deserializer::from_str(text) {
        // The parser comes to the same place and says what is wrong there.
        let Ok(document) = Value::deserialize(document) else {
            break;
        };
        match &document {
            Value::Null => {}
            Value::Mapping(mapping) => {
                log_source(mapping)?;
                conditions(&document)?;
            }
            _ => others = others.saturating_add(1),
        }
    }
    Ok(others)
}

/// The parser takes a list for nothing at all, and so the rule for one of every log source.
fn log_source(document: &Mapping) -> Result<(), String> {
    let Some(Value::Mapping(source)) = document.get("logsource") else {
        return Ok(());
    };
    for name in ["product", "category", "service"] {
        match source.get(name) {
            None | Some(Value::Null) => {}
            Some(value) if value.as_str().is_some() => {}
            Some(_) => {
                return Err(format!(
                    "the log source's '{name}' is not one text; write a rule for each, or leave '{name}' out"
                ));
            }
        }
    }
    Ok(())
}

/// Every condition within a value. YAML itself is read 128 deep at most.
fn conditions(value: &Value) -> Result<(), String> {
    match value {
        Value::Mapping(mapping) => mapping.iter().try_for_each(|(name, value)| {
            if name.as_str() == Some("condition") {
                let mut texts = value.as_str().into_iter().chain(
                    value
                        .as_sequence()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str),
                );
                texts.try_for_each(condition)?;
            }
            conditions(value)
        }),
        Value::Sequence(values) => values.iter().try_for_each(conditions),
        Value::Tagged(tagged) => conditions(&tagged.value),
        _ => Ok(()),
    }
}

fn condition(text: &str) -> Result<(), String> {
    let words = text.split(|letter: char| letter.is_whitespace() || letter == '(');
    let mut nots = 0_usize;
    for word in words.filter(|word| !word.is_empty()) {
        nots = if word == "not" { nots.saturating_add(1) } else { 0 };
        if nots > NOTS_MAX {
            return Err(format!(
                "the condition has more than {NOTS_MAX} 'not' one after the other; two of them say nothing"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(condition: &str) -> String {
        format!("title: x\ndetection:\n  sel: {{Image: /x}}\n  condition: {condition}\n")
    }

    #[test]
    fn what_the_parser_would_not_survive_is_refused() {
        for text in [
            rule(&format!("{}sel", "not ".repeat(15_000))),
            rule(&format!("\"{}sel\"", "n\\x6ft ".repeat(15_000))),
            rule(&format!("[sel, {}sel]", "not ".repeat(15_000))),
            format!("a: &a '{}sel'\n{}", "not ".repeat(15_000), rule("*a")),
            format!("x: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)),
            format!("x: {}1{}\n", "{a: ".repeat(100_000), "}".repeat(100_000)),
        ] {
            assert!(look_through(&text).is_err(), "{}", text.get(..80).unwrap());
        }
    }

    #[test]
    fn what_rules_say_is_let_through() {
        assert_eq!(look_through(&rule("not (not sel) and not sel")), Ok(0));
        assert_eq!(look_through(&format!("---\n{}---\n", rule("sel"))), Ok(0));
        assert_eq!(look_through("title: [broken"), Ok(0), "the parser says why");
        assert_eq!(look_through("- a\n- b\n"), Ok(1));
        let brackets = format!("{}x: [{}]\n", rule("sel"), "'[', ".repeat(1_000));
        assert_eq!(look_through(&brackets), Ok(0));
    }

    #[test]
    fn log_source_is_of_texts() {
        let of = |source: &str| look_through(&format!("{}logsource: {source}\n", rule("sel")));
        assert_eq!(of("{product: linux, service: }"), Ok(0));
        assert!(
            of("{product: linux, category: [file_event, file_delete]}")
                .unwrap_err()
                .contains("'category'")
        );
        assert!(
            of("{product: linux, service: 7}")
                .unwrap_err()
                .contains("'service'")
        );
    }
}
