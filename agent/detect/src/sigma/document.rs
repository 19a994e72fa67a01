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
    // What documents before it say of a filter's rules: `global` for all that follow, any for one that repeats it.
    let (mut of_all, mut of_last) = (false, false);
    for document in Deserializer::from_str(text) {
        // The parser comes to the same place and says what is wrong there.
        let Ok(document) = Value::deserialize(document) else {
            break;
        };
        match &document {
            Value::Null => {}
            Value::Mapping(mapping) => {
                log_source(mapping)?;
                level(mapping)?;
                let action = mapping.get("action").and_then(Value::as_str).unwrap_or_default();
                if action == "reset" {
                    of_all = false;
                }
                if let Some(Value::Mapping(filter)) = mapping.get("filter") {
                    let own = names_rules(filter)?;
                    let known = own || of_all || (action == "repeat" && of_last);
                    if !known && action != "global" {
                        return Err("a filter needs 'rules': a list of ids or names, or any".to_owned());
                    }
                    of_all |= own && action == "global";
                    of_last = known;
                }
                if let Some(Value::Mapping(correlation)) = mapping.get("correlation") {
                    self::correlation(correlation)?;
                }
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

const LEVELS: [&str; 5] = ["informational", "low", "medium", "high", "critical"];

/// The parser takes any other level for none.
fn level(document: &Mapping) -> Result<(), String> {
    let level = match document.get("level") {
        None | Some(Value::Null) => return Ok(()),
        Some(level) => level.as_str().unwrap_or("which is no text"),
    };
    if LEVELS.contains(&level) {
        return Ok(());
    }
    Err(format!(
        "the level '{level}' is none of {}, which are written small",
        LEVELS.join(", ")
    ))
}

/// Whether a filter says of which rules it is: one that does not would be one of all, and silence them.
fn names_rules(filter: &Mapping) -> Result<bool, String> {
    let sound = match filter.get("rules") {
        None => return Ok(false),
        Some(Value::Sequence(rules)) => !rules.is_empty() && rules.iter().all(Value::is_string),
        Some(rules) => rules.as_str().is_some_and(|rules| !rules.is_empty()),
    };
    if sound {
        return Ok(true);
    }
    Err("'rules' of a filter is a list of ids or names, or any".to_owned())
}

const OF_CORRELATION: [&str; 10] = [
    "type",
    "rules",
    "group-by",
    "timespan",
    "timeframe",
    "condition",
    "aliases",
    "generate",
    "window",
    "gap",
];
const OF_BOUNDS: [&str; 8] = ["lt", "lte", "gt", "gte", "eq", "neq", "field", "percentile"];

/// The parser leaves out of a correlation what it does not know.
fn correlation(correlation: &Mapping) -> Result<(), String> {
    known(correlation, &OF_CORRELATION, "a correlation")?;
    for list in ["rules", "group-by"] {
        let fits = match correlation.get(list) {
            None | Some(Value::Null) => true,
            Some(Value::Sequence(values)) => values.iter().all(Value::is_string),
            Some(value) => value.is_string(),
        };
        if !fits {
            return Err(format!("'{list}' of a correlation is a list of texts"));
        }
    }
    if let Some(Value::Mapping(bounds)) = correlation.get("condition") {
        known(bounds, &OF_BOUNDS, "a correlation's condition")?;
        let is_text = |field: &Value| field.as_str().is_some();
        let fits = bounds.get("field").is_none_or(|field| {
            is_text(field)
                || field
                    .as_sequence()
                    .is_some_and(|fields| fields.iter().all(is_text))
        });
        if !fits {
            return Err("'field' of a correlation's condition is a text, or a list of them".to_owned());
        }
    }
    let aliases = match correlation.get("aliases") {
        None | Some(Value::Null) => return Ok(()),
        Some(aliases) => aliases.as_mapping(),
    };
    let fits = aliases.is_some_and(|aliases| {
        aliases.values().all(|fields| {
            let fields = fields.as_mapping();
            fields.is_some_and(|fields| fields.values().all(Value::is_string))
        })
    });
    if fits {
        return Ok(());
    }
    Err("'aliases' of a correlation has, for each name, the field of each rule".to_owned())
}

fn known(mapping: &Mapping, names: &[&str], of: &str) -> Result<(), String> {
    let other = mapping
        .keys()
        .map(|name| name.as_str().unwrap_or_default())
        .find(|name| !names.contains(name));
    match other {
        None => Ok(()),
        Some(other) => Err(format!(
            "'{other}' is nothing that {of} has; there are {}",
            names.join(", ")
        )),
    }
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
    fn what_the_parser_would_leave_out_is_refused() {
        let of = |text: &str| look_through(text).err().unwrap_or_default();
        assert!(of("title: x\nlevel: High\n").contains("'High'"));
        assert_eq!(of("title: x\nlevel: high\n"), "");
        let filter = |filter: &str| {
            of(&format!(
                "title: x\nlogsource: {{product: linux}}\nfilter: {{{filter}}}\n"
            ))
        };
        assert_eq!(filter("rules: any, sel: {a: b}, condition: sel"), "");
        assert_eq!(filter("rules: [one, two], sel: {a: b}, condition: sel"), "");
        for rules in ["", "rules: ,", "rules: [],", "rules: [12345],", "rule: [base],"] {
            let reason = filter(&format!("{rules} sel: {{a: b}}, condition: sel"));
            assert!(reason.contains("'rules'"), "{rules}: {reason}");
        }
        let shared = |action: &str| {
            of(&format!(
                "action: {action}\nlogsource: {{product: linux}}\nfilter: {{rules: [one]}}\n---\n\
                 title: x\nfilter: {{sel: {{a: b}}, condition: sel}}\n"
            ))
        };
        assert_eq!(shared("global"), "");
        assert!(shared("other").contains("'rules'"));
        let repeated = of(
            "title: x\nfilter: {rules: [one], sel: {a: b}, condition: sel}\n---\n\
                           action: repeat\nfilter: {sel: {a: c}}\n",
        );
        assert_eq!(repeated, "");
        let correlation = |more: &str| {
            of(&format!(
                "title: x\ncorrelation: {{type: event_count, timespan: 1m, {more}}}\n"
            ))
        };
        assert_eq!(
            correlation(
                "rules: [a], group-by: [b], condition: {gte: 1, field: c}, aliases: {b: {a: c}}, generate: true"
            ),
            ""
        );
        for (more, wanted) in [
            ("group_by: [b]", "'group_by'"),
            ("rules: [a, 5]", "'rules'"),
            ("group-by: {a: b}", "'group-by'"),
            ("condition: {gte: 2, ltee: 5}", "'ltee'"),
            ("condition: {gte: 2, field: {a: b}}", "'field'"),
            ("aliases: {b: c}", "'aliases'"),
        ] {
            assert!(
                correlation(more).contains(wanted),
                "{more}: {}",
                correlation(more)
            );
        }
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
