//! From what the parser read to a compiled rule.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use rsigma_parser::{
    ConditionExpr, Detection, DetectionItem, Detections, Modifier, Quantifier, SelectorPattern, SigmaRule,
    SigmaValue,
};

use super::dialect;
use super::meta::Meta;
use super::rule::{Expr, FieldId, Joint, LogSource, Matcher, Names, Network, Rule, Test};
use super::text::{Pattern, Piece, Shape, pieces, placeholder, plain_percents};
use super::value::{Expression, Value, apply, legible, value};

/// Tests of one rule; more would be a rule that was made to hurt.
const TESTS_MAX: usize = 20_000;
/// Compiled size of one regular expression.
const REGEX_BYTES_MAX: usize = 256 << 10;
/// Regular expressions of all rules; at their usual size this is some tens of MiB.
const REGEXES_MAX: usize = 4_096;
/// Percent signs of one value with placeholders.
const PERCENTS_MAX: usize = 64;

/// Why a rule was not compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is sound, and something here is missing.
    Unsupported(String),
    /// It says what cannot be.
    Broken(String),
}

impl Refusal {
    /// The same with the field that it is about, which tells the line.
    fn of(self, item: &DetectionItem) -> Self {
        match (self, &item.field.name) {
            (Self::Broken(reason), Some(name)) => Self::Broken(format!("{reason} (in '{name}')")),
            (refusal, _) => refusal,
        }
    }
}

type Compiled<T> = Result<T, Refusal>;

fn broken<T>(reason: impl Into<String>) -> Compiled<T> {
    Err(Refusal::Broken(reason.into()))
}

/// Compiles rules that share names and regular expressions.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    pub(crate) names: Names,
    /// What `%name%` stands for, of values with `expand`.
    pub(crate) placeholders: BTreeMap<String, Vec<String>>,
    regexes: HashMap<String, Arc<Regex>>,
    tests: usize,
}

impl Compiler {
    /// Goes on with the names of an earlier set of rules.
    pub(crate) fn new(names: Names, placeholders: BTreeMap<String, Vec<String>>) -> Self {
        Self {
            names,
            placeholders,
            ..Self::default()
        }
    }

    /// Compiles a rule; `filters` are conditions that have to hold as well.
    pub(crate) fn rule(&mut self, rule: &SigmaRule, filters: &[&Detections]) -> Compiled<Rule> {
        self.tests = 0;
        let mut all = vec![self.detections(&rule.detection)?];
        for filter in filters {
            self.tests = 0;
            all.push(self.detections(filter)?);
        }
        Ok(Rule {
            meta: Meta::of_rule(rule),
            source: source(&rule.logsource),
            condition: one_or(all, Expr::And),
            written: written(&rule.detection, filters),
        })
    }

    /// Whether a filter can be compiled.
    pub(crate) fn filter(&mut self, filter: &Detections) -> Compiled<()> {
        self.tests = 0;
        self.detections(filter).map(|_condition| ())
    }

    fn detections(&mut self, detections: &Detections) -> Compiled<Expr> {
        if detections.timeframe.is_some() {
            return broken("timeframe belongs into a correlation rule");
        }
        let mut conditions = Vec::new();
        for condition in &detections.conditions {
            conditions.push(self.condition(condition, &detections.named)?);
        }
        if conditions.is_empty() {
            return broken("it has no condition");
        }
        Ok(one_or(conditions, Expr::Or))
    }

    fn condition(&mut self, condition: &ConditionExpr, named: &HashMap<String, Detection>) -> Compiled<Expr> {
        let mut each = |conditions: &[ConditionExpr]| -> Compiled<Vec<Expr>> {
            conditions
                .iter()
                .map(|condition| self.condition(condition, named))
                .collect()
        };
        match condition {
            ConditionExpr::And(conditions) => Ok(one_or(each(conditions)?, Expr::And)),
            ConditionExpr::Or(conditions) => Ok(one_or(each(conditions)?, Expr::Or)),
            ConditionExpr::Not(condition) => Ok(Expr::Not(Box::new(self.condition(condition, named)?))),
            ConditionExpr::Identifier(name) => match named.get(name) {
                Some(detection) => self.detection(detection),
                None => broken(format!("the condition names '{name}', which is not defined")),
            },
            ConditionExpr::Selector { quantifier, pattern } => {
                let chosen = chosen(pattern, named);
                if chosen.is_empty() {
                    return broken(format!(
                        "'{quantifier} of {pattern}' in the condition fits no name"
                    ));
                }
                let chosen: Compiled<Vec<Expr>> = chosen
                    .into_iter()
                    .map(|detection| self.detection(detection))
                    .collect();
                let chosen = chosen?;
                Ok(match quantifier {
                    Quantifier::Any | Quantifier::Count(1) => one_or(chosen, Expr::Or),
                    Quantifier::All => one_or(chosen, Expr::And),
                    Quantifier::Count(0) => return broken("'0 of' in the condition always holds"),
                    Quantifier::Count(count) if *count > chosen.len() as u64 => {
                        return broken(format!(
                            "'{quantifier} of {pattern}' in the condition fits only {} names",
                            chosen.len()
                        ));
                    }
                    Quantifier::Count(count) => Expr::AtLeast(*count, chosen),
                })
            }
        }
    }

    fn detection(&mut self, detection: &Detection) -> Compiled<Expr> {
        match detection {
            Detection::AllOf(items) => {
                let items: Compiled<Vec<Expr>> = items.iter().map(|item| self.item(item)).collect();
                let items = items?;
                if items.is_empty() {
                    return broken("a selection is empty");
                }
                Ok(one_or(items, Expr::And))
            }
            Detection::AnyOf(parts) | Detection::And(parts) => {
                let joined: Compiled<Vec<Expr>> = parts.iter().map(|part| self.detection(part)).collect();
                let join = if matches!(detection, Detection::And(_)) {
                    Expr::And
                } else {
                    Expr::Or
                };
                Ok(one_or(joined?, join))
            }
            Detection::Keywords(values) if values.is_empty() => broken("a list of keywords is empty"),
            Detection::Keywords(values) => {
                let mut tests = Vec::new();
                for written in values {
                    legible(written, "|").map_err(Refusal::Broken)?;
                    tests.push(self.test(None, value(written, &[]))?);
                }
                Ok(one_or(tests, Expr::Or))
            }
            Detection::ArrayMatch { .. } | Detection::Conditional { .. } => Err(Refusal::Unsupported(
                "quantifiers over arrays (field[any]) are not matched: the events here have no arrays"
                    .to_owned(),
            )),
        }
    }

    fn item(&mut self, item: &DetectionItem) -> Compiled<Expr> {
        let field = item
            .field
            .name
            .as_deref()
            .map(|name| self.names.number(&unescaped(name)));
        let modifiers = &item.field.modifiers;
        if field.is_none() && modifiers.is_empty() {
            return broken("the name of a field is no text; write it in quotes");
        }
        if field.is_none()
            && modifiers
                .iter()
                .any(|modifier| matches!(modifier, Modifier::StartsWith | Modifier::EndsWith))
        {
            return Err(Refusal::Unsupported(
                "startswith and endswith say nothing of a keyword, which is looked for anywhere in an event; name a field"
                    .to_owned(),
            ));
        }
        let mut tests = Vec::new();
        for written in self.expanded(&item.values, modifiers)? {
            legible(&written, item.field.name.as_deref().unwrap_or("|")).map_err(Refusal::Broken)?;
            let mut changed = value(&written, modifiers);
            for modifier in modifiers {
                if !matches!(modifier, Modifier::All | Modifier::Neq) {
                    let applied = apply(*modifier, changed).map_err(Refusal::Broken);
                    changed = applied.map_err(|refusal| refusal.of(item))?;
                }
            }
            let test = self.test(field, changed);
            tests.push(test.map_err(|refusal| refusal.of(item))?);
        }
        if tests.is_empty() {
            return broken(format!(
                "'{}' has an empty list of values",
                item.field.name.as_deref().unwrap_or("|")
            ));
        }
        let all = modifiers.contains(&Modifier::All);
        let joined = one_or(tests, if all { Expr::And } else { Expr::Or });
        Ok(if modifiers.contains(&Modifier::Neq) {
            Expr::Not(Box::new(joined))
        } else {
            joined
        })
    }

    /// The values with what their placeholders stand for.
    fn expanded(&self, values: &[SigmaValue], modifiers: &[Modifier]) -> Compiled<Vec<SigmaValue>> {
        if !modifiers.contains(&Modifier::Expand) {
            return Ok(values.to_vec());
        }
        let is_regex = modifiers.contains(&Modifier::Re);
        let mut expanded = Vec::new();
        for written in values {
            let SigmaValue::String(string) = written else {
                expanded.push(written.clone());
                continue;
            };
            if string.original.matches('%').count() > PERCENTS_MAX {
                return broken("a value with expand has too many percent signs");
            }
            for text in self.filled(&string.original, is_regex)? {
                expanded.push(if is_regex {
                    SigmaValue::from_raw_string(&text)
                } else {
                    SigmaValue::String(rsigma_parser::SigmaString::new(&text))
                });
            }
        }
        Ok(expanded)
    }

    /// Every text that comes of filling the placeholders in.
    fn filled(&self, text: &str, is_regex: bool) -> Compiled<Vec<String>> {
        let Some((before, name, after)) = placeholder(text) else {
            return Ok(vec![plain_percents(text)]);
        };
        let before = plain_percents(before);
        let Some(values) = self.placeholders.get(name) else {
            return Err(Refusal::Unsupported(format!(
                "the placeholder %{name}% stands for nothing here; set detect.placeholders.{name}"
            )));
        };
        let mut texts = Vec::new();
        for rest in self.filled(after, is_regex)? {
            for value in values {
                let value = if is_regex {
                    regex::escape(value)
                } else {
                    value.clone()
                };
                texts.push(format!("{before}{value}{rest}"));
            }
        }
        if texts.len() > TESTS_MAX {
            return broken("its placeholders stand for too many values");
        }
        Ok(texts)
    }

    fn test(&mut self, field: Option<FieldId>, value: Value) -> Compiled<Expr> {
        self.tests = self.tests.saturating_add(1);
        if self.tests > TESTS_MAX {
            return broken(format!("it has more than {TESTS_MAX} tests"));
        }
        let matcher = match value {
            Value::AnyOf(values) => {
                let tests: Compiled<Vec<Expr>> =
                    values.into_iter().map(|value| self.test(field, value)).collect();
                return Ok(one_or(tests?, Expr::Or));
            }
            Value::Text { pieces, cased } => Matcher::Text(text(field, pieces, cased)),
            Value::Number(number) => {
                let written = vec![Piece::Text(number.to_string())];
                Matcher::Text(text(field, written, false))
            }
            Value::Bool(truth) => {
                // A digit would be within nearly every event.
                let words: &[&str] = match (truth, field) {
                    (true, None) => &["true"],
                    (false, None) => &["false"],
                    (true, Some(_)) => &["true", "1"],
                    (false, Some(_)) => &["false", "0"],
                };
                let test = |word: &&str| {
                    let pattern = text(field, vec![Piece::Text((*word).to_owned())], false);
                    Expr::Test(Test {
                        field,
                        matcher: Matcher::Text(pattern),
                    })
                };
                return Ok(one_or(words.iter().map(test).collect(), Expr::Or));
            }
            Value::Null if field.is_none() => return broken("a keyword cannot be null"),
            Value::Null => Matcher::Exists(false),
            Value::Exists(_) if field.is_none() => return broken("exists needs a field"),
            Value::Exists(wanted) => Matcher::Exists(wanted),
            Value::Regex(expression) => Matcher::Regex(self.regex(&expression)?),
            Value::Network(text) => Matcher::Network(Network::parse(&text).map_err(Refusal::Broken)?),
            Value::Compare(comparison, number) => Matcher::Compare(comparison, number),
            Value::Time(part, number) => Matcher::Time(part, number),
            Value::Field { .. } if field.is_none() => return broken("fieldref needs a field"),
            Value::Field { name, how, cased } => Matcher::Field {
                other: self.names.number(&name),
                how,
                cased,
            },
        };
        Ok(Expr::Test(Test { field, matcher }))
    }

    fn regex(&mut self, expression: &Expression) -> Compiled<Arc<Regex>> {
        let shown = &expression.pattern;
        let pattern = dialect::ours(shown);
        let whole = match expression.joint {
            None | Some(Joint::Contains | Joint::Equal) => pattern,
            Some(Joint::StartsWith) => format!("^(?:{pattern})"),
            Some(Joint::EndsWith) => format!("(?:{pattern})$"),
        };
        let flags = [
            (expression.ignore_case, 'i'),
            (expression.multi_line, 'm'),
            (expression.dot_all, 's'),
        ];
        let flags: String = flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, flag)| *flag)
            .collect();
        let whole = if flags.is_empty() {
            whole
        } else {
            format!("(?{flags}){whole}")
        };
        if let Some(regex) = self.regexes.get(&whole) {
            return Ok(Arc::clone(regex));
        }
        if self.regexes.len() >= REGEXES_MAX {
            return broken(format!(
                "all rules together have more than {REGEXES_MAX} regular expressions"
            ));
        }
        let compiled = RegexBuilder::new(&whole)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build();
        let regex = match compiled {
            Ok(regex) => Arc::new(regex),
            Err(regex::Error::CompiledTooBig(limit)) => {
                return broken(format!(
                    "the expression '{shown}' compiles to more than {limit} bytes; write [A-Za-z0-9_] for \\w and \
                     [0-9] for \\d, which are the letters of all languages, or repeat less"
                ));
            }
            Err(error) => {
                // The message shows the expression over several lines; its last says what is wrong.
                let words = error.to_string();
                let last = words.lines().last().unwrap_or_default().trim();
                let why = if ["look-around", "backreferences"]
                    .iter()
                    .any(|word| last.contains(word))
                {
                    " (they would let a rule take for ever)"
                } else {
                    ""
                };
                return broken(format!(
                    "the expression '{shown}' cannot be compiled: {last}{why}"
                ));
            }
        };
        self.regexes.insert(whole, Arc::clone(&regex));
        Ok(regex)
    }
}

/// The pattern of a text: keywords are looked for within.
fn text(field: Option<FieldId>, mut pieces: Vec<Piece>, cased: bool) -> Pattern {
    if field.is_none() {
        pieces.insert(0, Piece::Many);
        pieces.push(Piece::Many);
    }
    Pattern::new(pieces, cased)
}

/// One expression alone needs no join.
fn one_or(mut expressions: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match (expressions.len(), expressions.pop()) {
        (1, Some(only)) => only,
        (_, Some(last)) => {
            expressions.push(last);
            join(expressions)
        }
        (_, None) => join(expressions),
    }
}

/// The definitions that a selector takes, in order of their names.
fn chosen<'a>(pattern: &SelectorPattern, named: &'a HashMap<String, Detection>) -> Vec<&'a Detection> {
    let wanted = match pattern {
        SelectorPattern::Them => "*",
        SelectorPattern::Pattern(pattern) => pattern.as_str(),
    };
    let glob = Pattern::new(pieces(&rsigma_parser::SigmaString::new(wanted)), true);
    let fits = |name: &str| {
        let shown = wanted.starts_with('_') || !name.starts_with('_');
        shown && (glob.shape == Shape::Any || glob.matches(name, name))
    };
    let mut chosen: Vec<(&String, &Detection)> = named.iter().filter(|(name, _)| fits(name)).collect();
    chosen.sort_by_key(|(name, _)| *name);
    chosen.into_iter().map(|(_, detection)| detection).collect()
}

/// The parser escapes brackets in names of fields.
fn unescaped(name: &str) -> String {
    name.replace("\\[", "[").replace("\\]", "]")
}

fn written(detections: &Detections, filters: &[&Detections]) -> String {
    let of = |detections: &Detections| detections.condition_strings.join(" or ");
    let mut written = of(detections);
    for filter in filters {
        written = format!("({written}) and ({})", of(filter));
    }
    written
}

pub(crate) fn source(source: &rsigma_parser::LogSource) -> LogSource {
    let lower = |word: &Option<String>| word.as_ref().map(|word| word.trim().to_lowercase());
    LogSource {
        product: lower(&source.product),
        category: lower(&source.category),
        service: lower(&source.service),
    }
}

/// Whether a rule is meant to be used, with the names of fields that are used here.
pub(crate) fn usable(is_unsupported: bool, taxonomy: Option<&str>) -> Compiled<()> {
    if is_unsupported {
        return Err(Refusal::Unsupported(
            "its status says that it cannot be used as it is".to_owned(),
        ));
    }
    match taxonomy.map(str::trim) {
        None | Some("" | "sigma") => Ok(()),
        Some(other) => Err(Refusal::Unsupported(format!(
            "its fields are named by the taxonomy '{other}'; those of 'sigma' are known here"
        ))),
    }
}
