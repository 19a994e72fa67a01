//! What a rule needs, in words.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Sigma;
use super::index::{Literal, Place, anchor_among};
use super::matching::in_words;
use super::rule::{Expr, Names};
use super::sources::feeds;

/// What a rule needs and does.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// As JSON.
    pub json: Value,
    /// As text for a person.
    pub text: String,
}

/// Explains the rule with this id, title or path; every one when several have it.
pub fn explain(sigma: &Sigma, wanted: &str) -> Vec<Explanation> {
    let set = &sigma.set;
    let is = |key: &str, title: &str, path: &std::path::Path| {
        key == wanted || title.eq_ignore_ascii_case(wanted) || path.ends_with(wanted)
    };
    let mut found = Vec::new();
    for group in &set.groups {
        for loaded in &group.rules {
            let meta = &loaded.rule.meta;
            if !is(&meta.key, &meta.title, &loaded.path) {
                continue;
            }
            let mut condition = String::new();
            write_condition(&loaded.rule.condition, &set.names, 1, &mut condition);
            let fed = feeds(&group.source).unwrap_or_default();
            let mut fields = Vec::new();
            fields_of(&loaded.rule.condition, &set.names, &mut fields);
            fields.sort_unstable();
            fields.dedup();
            let conditions = group.rules.iter().map(|loaded| &loaded.rule.condition);
            let anchor = anchor_among(&loaded.rule.condition, conditions);
            let literals: Option<Vec<String>> = anchor.as_ref().map(|anchor| {
                anchor
                    .iter()
                    .map(|literal| literal_words(literal, &set.names))
                    .collect()
            });
            let correlations: Vec<&str> = loaded
                .feeds
                .iter()
                .filter_map(|(number, _)| set.correlations.get(*number))
                .map(|correlation| correlation.rule.meta.title.as_str())
                .collect();
            let json = json!({
                "id": meta.key, "title": meta.title, "path": loaded.path.display().to_string(),
                "severity": meta.severity.as_str(), "techniques": meta.techniques, "tactics": meta.tactics,
                "log_source": group.source.to_string(), "fed_by": fed, "fields": fields,
                "condition": loaded.rule.written, "condition_in_words": condition.trim_end(),
                "index_literals": literals, "fires_on_its_own": !loaded.silent, "correlations": correlations,
            });
            found.push(Explanation {
                text: text(&json, &condition),
                json,
            });
        }
    }
    for loaded in &set.correlations {
        let meta = &loaded.rule.meta;
        if is(&meta.key, &meta.title, &loaded.path) {
            let json = json!({
                "id": meta.key, "title": meta.title, "path": loaded.path.display().to_string(),
                "severity": meta.severity.as_str(), "techniques": meta.techniques, "tactics": meta.tactics,
                "correlation_over": loaded.rule.rules, "condition_in_words": loaded.rule.in_words(),
                "fires_on_its_own": !loaded.silent,
            });
            let text = format!(
                "{}\n  id        {}\n  file      {}\n  severity  {}\n  fires     {}\n  over      {}\n",
                meta.title,
                meta.key,
                loaded.path.display(),
                meta.severity.as_str(),
                loaded.rule.in_words(),
                loaded.rule.rules.join(", ")
            );
            found.push(Explanation { json, text });
        }
    }
    found
}

fn text(json: &Value, condition: &str) -> String {
    let word = |key: &str| {
        json.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let words = |key: &str| {
        let list = json
            .get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let list: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
        list
    };
    let mut text = format!(
        "{}\n  id        {}\n  file      {}\n  severity  {}\n  attack    {}\n  source    {}\n",
        word("title"),
        word("id"),
        word("path"),
        word("severity"),
        words("techniques").join(", "),
        word("log_source"),
    );
    let mut line = |name: &str, value: &str| {
        // Writing into a text cannot fail.
        let _written = writeln!(text, "  {name:<9} {value}");
    };
    for fed in words("fed_by") {
        line("fed by", fed);
    }
    line("fields", &words("fields").join(", "));
    match json.get("index_literals").and_then(Value::as_array) {
        None => line("index", "none: it is evaluated for every event of its source"),
        Some(_) => {
            let literals = words("index_literals");
            line(
                "index",
                &format!(
                    "evaluated only where one of {} literals is found:",
                    literals.len()
                ),
            );
            for literal in literals.iter().take(20) {
                line("", literal);
            }
        }
    }
    if json.get("fires_on_its_own") == Some(&Value::Bool(false)) {
        line(
            "silent",
            &format!("it speaks through {}", words("correlations").join(", ")),
        );
    }
    line("written", &word("condition"));
    text.push_str("  matches when\n");
    text.push_str(condition);
    text
}

fn literal_words(literal: &Literal, names: &Names) -> String {
    let field = literal.field.map_or("any field", |field| names.name(field));
    match literal.place {
        Place::Whole => format!("{field} is {:?}", literal.text),
        Place::Start => format!("{field} begins with {:?}", literal.text),
        Place::End => format!("{field} ends with {:?}", literal.text),
        Place::Anywhere => format!("{field} contains {:?}", literal.text),
        Place::Present => format!("{field} is there"),
    }
}

fn write_condition(expr: &Expr, names: &Names, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth.saturating_add(1));
    let (head, parts): (String, &[Expr]) = match expr {
        Expr::And(parts) => ("all of:".to_owned(), parts),
        Expr::Or(parts) => ("any of:".to_owned(), parts),
        Expr::AtLeast(count, parts) => (format!("at least {count} of:"), parts),
        Expr::Not(part) => ("not:".to_owned(), std::slice::from_ref(part.as_ref())),
        Expr::Test(test) => {
            let field = test.field.map_or("any field", |field| names.name(field));
            (format!("{field} {}", in_words(&test.matcher, names)), &[])
        }
    };
    out.push_str(&indent);
    out.push_str(&head);
    out.push('\n');
    for part in parts {
        write_condition(part, names, depth.saturating_add(1), out);
    }
}

fn fields_of(expr: &Expr, names: &Names, fields: &mut Vec<String>) {
    match expr {
        Expr::And(parts) | Expr::Or(parts) | Expr::AtLeast(_, parts) => {
            parts.iter().for_each(|part| fields_of(part, names, fields));
        }
        Expr::Not(part) => fields_of(part, names, fields),
        Expr::Test(test) => {
            fields.push(test.field.map_or_else(
                || "any (keywords)".to_owned(),
                |field| names.name(field).to_owned(),
            ));
        }
    }
}
