//! Texts of rules: the part of Go's templates that rules commonly use.
//!
//! `{{ $labels.name }}`, `{{ .Labels.name }}`, `{{ $value }}`, `{{ .Value }}`, each also through `humanize`, `humanize1024`,
//! `humanizePercentage`, `humanizeDuration`, `printf "%.2f"` (also `%f %g %v %d %s` with a precision), `title`, `toUpper`,
//! `toLower`, written `{{ humanize $value }}` or `{{ $value | humanize }}`. What is none of these stays as it is written.

use crate::promql::PromLabels;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(f64),
}

/// The text with everything in it filled in.
pub(crate) fn expand(template: &str, labels: &PromLabels, value: f64) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((action, after)) = after.split_once("}}") else {
            out.push_str("{{");
            rest = after;
            continue;
        };
        match action_value(action.trim().trim_matches('-').trim(), labels, value) {
            Some(filled) => out.push_str(&filled),
            None => {
                out.push_str("{{");
                out.push_str(action);
                out.push_str("}}");
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn action_value(action: &str, labels: &PromLabels, value: f64) -> Option<String> {
    let mut parts = action.split('|').map(str::trim);
    let mut current = call(&words(parts.next()?)?, None, labels, value)?;
    for part in parts {
        current = call(&words(part)?, Some(current), labels, value)?;
    }
    Some(shown(&current))
}

/// A function of what follows it and of what is piped into it, or a value alone.
fn call(words: &[String], piped: Option<Value>, labels: &PromLabels, value: f64) -> Option<Value> {
    let (first, rest) = words.split_first()?;
    let mut arguments: Vec<Value> = rest
        .iter()
        .map(|word| operand(word, labels, value))
        .collect::<Option<_>>()?;
    let is_function = !first.starts_with(['$', '.', '"']);
    if !is_function {
        return match (arguments.is_empty(), piped) {
            (true, None) => operand(first, labels, value),
            _ => None,
        };
    }
    arguments.extend(piped);
    function(first, &arguments)
}

fn function(name: &str, arguments: &[Value]) -> Option<Value> {
    let text = match (name, arguments) {
        ("humanize", [one]) => humanize(
            number(one)?,
            1_000.0,
            &["", "k", "M", "G", "T", "P", "E", "Z", "Y"],
        ),
        ("humanize1024", [one]) => humanize(
            number(one)?,
            1_024.0,
            &["", "ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"],
        ),
        ("humanizePercentage", [one]) => format!("{}%", general(number(one)? * 100.0)),
        ("humanizeDuration", [one]) => duration(number(one)?),
        ("title", [one]) => {
            let text = shown(one);
            let mut letters = text.chars();
            letters
                .next()
                .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        }
        ("toUpper", [one]) => shown(one).to_uppercase(),
        ("toLower", [one]) => shown(one).to_lowercase(),
        ("printf", [Value::Text(format), one]) => printf(format, one)?,
        _ => return None,
    };
    Some(Value::Text(text))
}

fn printf(format: &str, value: &Value) -> Option<String> {
    let (before, after) = format.split_once('%')?;
    let end = after.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (precision, rest) = after.split_at(end);
    let (verb, rest) = rest.split_at(1);
    if rest.replace("%%", "").contains('%') {
        return None;
    }
    let digits: Option<usize> = match precision {
        "" => None,
        precision => Some(
            precision
                .strip_prefix('.')?
                .parse()
                .ok()
                .filter(|digits| *digits <= 20)?,
        ),
    };
    let text = match (verb, value) {
        ("f", value) => format!("{:.*}", digits.unwrap_or(6), number(value)?),
        ("d", value) => format!("{:.0}", number(value)?),
        ("g" | "v", Value::Number(number)) => general(*number),
        ("s" | "v", value) => shown(value),
        _ => return None,
    };
    Some(format!("{before}{text}{}", rest.replace("%%", "%")))
}

/// The words of an action; what is in quotes is one.
fn words(action: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = action.trim();
    while !rest.is_empty() {
        let length = if let Some(quoted) = rest.strip_prefix('"') {
            quoted.find('"')? + 2
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at_checked(length)?;
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

fn operand(word: &str, labels: &PromLabels, value: f64) -> Option<Value> {
    if let Some(text) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        return Some(Value::Text(text.to_owned()));
    }
    if matches!(word, "$value" | ".Value") {
        return Some(Value::Number(value));
    }
    let label = word
        .strip_prefix("$labels.")
        .or_else(|| word.strip_prefix(".Labels."))
        .or_else(|| word.strip_prefix("$.Labels."))?;
    Some(Value::Text(labels.get(label).cloned().unwrap_or_default()))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Text(text) => text.parse().ok(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Number(number) if number.is_nan() => "NaN".to_owned(),
        Value::Number(number) if number.is_infinite() => {
            if *number > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
        }
        Value::Number(number) => number.to_string(),
    }
}

/// Four significant digits, as `%.4g`.
fn general(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return shown(&Value::Number(value));
    }
    let text = format!("{value:.3e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..4).contains(&exponent) {
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let places = usize::try_from(3 - exponent).unwrap_or(0);
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn humanize(value: f64, base: f64, prefixes: &[&str]) -> String {
    if !value.is_finite() || value == 0.0 || (value.abs() < 1.0 && base > 1_000.0) {
        return general(value);
    }
    if value.abs() < 1.0 {
        let mut scaled = value;
        for prefix in ["m", "u", "n", "p", "f", "a", "z", "y"] {
            scaled *= base;
            if scaled.abs() >= 1.0 {
                return format!("{}{prefix}", general(scaled));
            }
        }
        return format!("{}y", general(scaled));
    }
    let mut scaled = value;
    let mut last = "";
    for prefix in prefixes {
        last = prefix;
        if scaled.abs() < base {
            break;
        }
        if Some(prefix) != prefixes.last() {
            scaled /= base;
        }
    }
    format!("{}{last}", general(scaled))
}

fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return shown(&Value::Number(seconds));
    }
    let (sign, magnitude) = (if seconds < 0.0 { "-" } else { "" }, seconds.abs());
    if magnitude < 1.0 {
        return if magnitude == 0.0 {
            "0s".to_owned()
        } else {
            format!("{sign}{}s", humanize(magnitude, 1_000.0, &[""]))
        };
    }
    let whole = magnitude.floor();
    let (days, hours) = ((whole / 86_400.0).floor(), (whole / 3_600.0).floor() % 24.0);
    let (minutes, rest) = ((whole / 60.0).floor() % 60.0, magnitude % 60.0);
    if days > 0.0 {
        format!("{sign}{days}d {hours}h {minutes}m {}s", rest.floor())
    } else if hours > 0.0 {
        format!("{sign}{hours}h {minutes}m {}s", rest.floor())
    } else if minutes > 0.0 {
        format!("{sign}{minutes}m {}s", rest.floor())
    } else {
        format!("{sign}{}s", general(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_templates_are_filled_in() {
        let labels = PromLabels::from([("instance".to_owned(), "web-1".to_owned())]);
        let filled = |template: &str, value: f64| expand(template, &labels, value);
        for (template, value, text) in [
            (
                "{{ $labels.instance }} is at {{ $value }}",
                0.25,
                "web-1 is at 0.25",
            ),
            ("{{.Labels.instance}}: {{.Value}}", 3.0, "web-1: 3"),
            ("{{ $labels.none }}|", 1.0, "|"),
            ("{{ humanize $value }}B", 1_234_567.0, "1.235MB"),
            ("{{ $value | humanize }}", 0.0021, "2.1m"),
            ("{{ $value | humanize1024 }}B", 2_147_483_648.0, "2GiB"),
            ("{{ $value | humanizePercentage }}", 0.954_321, "95.43%"),
            ("{{ humanizeDuration $value }}", 93_784.0, "1d 2h 3m 4s"),
            ("{{ humanizeDuration $value }}", 61.5, "1m 1s"),
            ("{{ printf \"%.2f\" $value }}", 2.0 / 3.0, "0.67"),
            ("{{ $value | printf \"%.1f%%\" }}", 99.95, "100.0%"),
            ("{{ printf \"%s!\" $labels.instance | toUpper }}", 0.0, "WEB-1!"),
        ] {
            assert_eq!(filled(template, value), text, "{template}");
        }
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        for template in [
            "{{ range query \"up\" }}x{{ end }}",
            "{{ $labels.a $value }}",
            "no end {{ $value",
            "{{ printf \"%d%d\" $value }}",
            "}} {{}}",
        ] {
            assert_eq!(expand(template, &PromLabels::new(), 1.0), template);
        }
    }
}
