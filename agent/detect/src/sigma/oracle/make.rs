//! Events made from a rule's own structure: one that it matches, near misses, and random ones.

use std::collections::BTreeMap;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::super::event::{Fields, Slots};
use super::super::matching::holds;
use super::super::rule::{Comparison, Expr, FieldId, Joint, Matcher, Names, Rule, TimePart};
use super::super::text::{Piece, Shape};

pub(super) type Made = BTreeMap<String, String>;

/// Numbers that are the same in every run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: &str) -> Self {
        let seed = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap_or(0)
    }
}

/// Whether a rule matches an event, by exact evaluation.
pub(super) fn matches(rule: &Rule, names: &Names, event: &Made) -> bool {
    let mut fields = Fields::default();
    for (name, value) in event {
        fields.add(name.as_str(), value.as_str());
    }
    holds(&rule.condition, &Slots::new(&fields, names))
}

/// An event that the rule matches.
pub(super) fn firing(rule: &Rule, names: &Names, dice: &mut Dice) -> Option<Made> {
    (0..400).find_map(|attempt| {
        let mut wanted = Vec::new();
        choose(&rule.condition, true, dice, &mut wanted);
        let event = event_of(rule, &wanted, names, dice, attempt % 4 == 3);
        matches(rule, names, &event).then_some(event)
    })
}

/// Events that differ from one that matches by little and do not match.
pub(super) fn near_misses(rule: &Rule, names: &Names, event: &Made, dice: &mut Dice) -> Vec<Made> {
    let mut tests = Vec::new();
    all_tests(&rule.condition, &mut tests);
    let mut changed_events = Vec::new();
    for (name, value) in event {
        let is_typed = tests.iter().any(|(field, matcher)| {
            field.is_some_and(|field| names.name(field) == name)
                && matches!(
                    matcher,
                    Matcher::Network(_) | Matcher::Compare(..) | Matcher::Time(..)
                )
        });
        // SQLite compares what is no number, and pySigma takes addresses for texts.
        let changed = if is_typed {
            typed_changes(value)
        } else {
            text_changes(value)
        };
        for value in changed {
            let mut other = event.clone();
            other.insert(name.clone(), value);
            changed_events.push(other);
        }
        let mut without = event.clone();
        without.remove(name);
        without
            .entry("Unrelated".to_owned())
            .or_insert_with(|| "x".to_owned());
        changed_events.push(without);
    }
    let mut excluded = Vec::new();
    negated(&rule.condition, &mut excluded);
    for part in excluded {
        let mut wanted = Vec::new();
        choose(part, true, dice, &mut wanted);
        let mut other = event.clone();
        other.extend(event_of(rule, &wanted, names, dice, false));
        changed_events.push(other);
    }
    changed_events.retain(|other| !matches(rule, names, other));
    changed_events
}

fn text_changes(value: &str) -> Vec<String> {
    let mut shorter = value.to_owned();
    shorter.pop();
    let mut changed = vec![format!("{value}~"), format!("~{value}"), shorter];
    if let Some((at, _)) = value.char_indices().nth(value.chars().count() / 2) {
        let (before, after) = value.split_at(at);
        changed.push(format!("{before}~{after}"));
    }
    changed
}

fn typed_changes(value: &str) -> Vec<String> {
    match (value.parse::<f64>(), value.parse::<std::net::IpAddr>()) {
        (Ok(number), _) => vec![
            (number - 1.0).to_string(),
            (number + 1.0).to_string(),
            "1e6".to_owned(),
        ],
        (_, Ok(_)) => vec!["198.51.100.77".to_owned(), "255.255.255.255".to_owned()],
        _ => vec!["1999-12-31T22:57:01Z".to_owned()],
    }
}

/// What a condition says must not be.
fn negated<'a>(expr: &'a Expr, parts: &mut Vec<&'a Expr>) {
    match expr {
        Expr::And(of) | Expr::Or(of) | Expr::AtLeast(_, of) => {
            of.iter().for_each(|part| negated(part, parts))
        }
        Expr::Not(part) => parts.push(part),
        Expr::Test(_) => {}
    }
}

/// Any event of the rule's fields and literals.
pub(super) fn random(rule: &Rule, names: &Names, dice: &mut Dice) -> Made {
    let mut tests = Vec::new();
    all_tests(&rule.condition, &mut tests);
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    for _ in 0..=dice.below(5) {
        if let Some(test) = tests.get(dice.below(tests.len())) {
            wanted.push(*test);
        }
    }
    let mixed = dice.below(2) == 0;
    event_of(rule, &wanted, names, dice, mixed)
}

type Wanted<'a> = (Option<FieldId>, &'a Matcher);

fn all_tests<'a>(expr: &'a Expr, tests: &mut Vec<Wanted<'a>>) {
    match expr {
        Expr::And(parts) | Expr::Or(parts) | Expr::AtLeast(_, parts) => {
            parts.iter().for_each(|part| all_tests(part, tests));
        }
        Expr::Not(part) => all_tests(part, tests),
        Expr::Test(test) => tests.push((test.field, &test.matcher)),
    }
}

/// Tests that have to be met, one way through the condition.
fn choose<'a>(expr: &'a Expr, wanted: bool, dice: &mut Dice, tests: &mut Vec<Wanted<'a>>) {
    match (expr, wanted) {
        (Expr::Not(part), _) => choose(part, !wanted, dice, tests),
        (Expr::And(parts), true) => parts.iter().for_each(|part| choose(part, true, dice, tests)),
        (Expr::Or(parts), true) => {
            if let Some(part) = parts.get(dice.below(parts.len())) {
                choose(part, true, dice, tests);
            }
        }
        (Expr::AtLeast(count, parts), true) => {
            let first = dice.below(parts.len());
            for part in parts
                .iter()
                .cycle()
                .skip(first)
                .take(usize::try_from(*count).unwrap_or(0))
            {
                choose(part, true, dice, tests);
            }
        }
        (Expr::Test(test), true) => tests.push((test.field, &test.matcher)),
        // What must not be is mostly left out; where it is about absence, it has to be there.
        (Expr::Test(test), false) if matches!(test.matcher, Matcher::Exists(false)) => {
            tests.push((test.field, &Matcher::Exists(true)));
        }
        (Expr::And(parts), false) => {
            if let Some(part) = parts.get(dice.below(parts.len())) {
                choose(part, false, dice, tests);
            }
        }
        (Expr::Or(parts), false) => parts.iter().for_each(|part| choose(part, false, dice, tests)),
        (Expr::Test(_) | Expr::AtLeast(..), false) => {}
    }
}

fn event_of(rule: &Rule, wanted: &[Wanted<'_>], names: &Names, dice: &mut Dice, mixed: bool) -> Made {
    let mut by_field: BTreeMap<Option<FieldId>, Vec<&Matcher>> = BTreeMap::new();
    for (field, matcher) in wanted {
        by_field.entry(*field).or_default().push(matcher);
    }
    let mut event = Made::new();
    for (field, matchers) in &by_field {
        let Some(value) = value_of(matchers, dice, mixed) else {
            continue;
        };
        let name = match field {
            Some(field) => names.name(*field).to_owned(),
            // Where people look for keywords; beside what else the rule wants there.
            None => free_field(rule).to_owned(),
        };
        let value = match event.get(&name) {
            Some(before) => format!("{before} {value}"),
            None => value,
        };
        event.insert(name, value);
    }
    for (field, matchers) in &by_field {
        for matcher in matchers {
            if let (Some(field), Matcher::Field { other, how, .. }) = (field, matcher) {
                let same = format!("same{}", dice.below(9));
                event.insert(names.name(*other).to_owned(), same.clone());
                let value = match how {
                    Joint::Equal => same,
                    Joint::StartsWith => format!("{same} after"),
                    Joint::EndsWith => format!("before {same}"),
                    Joint::Contains => format!("before {same} after"),
                };
                event.insert(names.name(*field).to_owned(), value);
            }
        }
    }
    if event.is_empty() {
        event.insert(free_field(rule).to_owned(), "nothing".to_owned());
    }
    event
}

fn free_field(rule: &Rule) -> &'static str {
    match (rule.source.category.as_deref(), rule.source.service.as_deref()) {
        (Some("webserver"), _) => "cs-uri-query",
        (Some(_), _) => "CommandLine",
        (None, Some("auditd")) => "a9",
        (None, _) => "message",
    }
}

fn value_of(matchers: &[&Matcher], dice: &mut Dice, mixed: bool) -> Option<String> {
    let (mut before, mut within, mut after) = (String::new(), Vec::new(), String::new());
    for matcher in matchers {
        match matcher {
            Matcher::Text(pattern) => {
                let text = |text: &str, dice: &mut Dice| {
                    if mixed && !pattern.cased && !matches!(text, "true" | "false") {
                        mixed_case(text, dice)
                    } else {
                        text.to_owned()
                    }
                };
                match &pattern.shape {
                    Shape::Any => within.push("any".to_owned()),
                    Shape::Exact(exact) => return Some(text(exact, dice)),
                    Shape::Prefix(prefix) => before = longer(before, text(prefix, dice)),
                    Shape::Suffix(suffix) => after = longer(after, text(suffix, dice)),
                    Shape::Contains(part) => within.push(text(part, dice)),
                    Shape::Glob(pieces) => {
                        let whole: String = pieces
                            .iter()
                            .map(|piece| match piece {
                                Piece::Text(part) => text(part, dice),
                                Piece::One => "x".to_owned(),
                                Piece::Many => ["", "y", " z "]
                                    .get(dice.below(3))
                                    .copied()
                                    .unwrap_or("")
                                    .to_owned(),
                            })
                            .collect();
                        let open = |piece: Option<&Piece>| piece == Some(&Piece::Many);
                        match (open(pieces.first()), open(pieces.last())) {
                            (true, true) => within.push(whole),
                            (true, false) => after = longer(after, whole),
                            (false, true) => before = longer(before, whole),
                            (false, false) => return Some(whole),
                        }
                    }
                }
            }
            Matcher::Regex(regex) => {
                let hir = regex_syntax::parse(regex.as_str()).ok()?;
                let mut sample = String::new();
                sampled(&hir, dice, &mut sample);
                within.push(sample);
            }
            Matcher::Network(network) => return Some(network.first().to_string()),
            Matcher::Compare(comparison, number) => {
                let number = match comparison {
                    Comparison::Less => number - 1.0,
                    Comparison::Greater => number + 1.0,
                    _ => *number,
                };
                return Some(number.to_string());
            }
            Matcher::Exists(true) => within.push("there".to_owned()),
            Matcher::Exists(false) => return None,
            Matcher::Field { .. } => {}
            Matcher::Time(part, number) => return Some(time_with(*part, *number)),
        }
    }
    let joint = if matches!(matchers, [Matcher::Regex(_)]) {
        ""
    } else {
        [" ", "", "/"].get(dice.below(3)).copied().unwrap_or("")
    };
    Some([before, within.join(joint), after].concat())
}

fn longer(left: String, right: String) -> String {
    if left.len() > right.len() { left } else { right }
}

fn mixed_case(text: &str, dice: &mut Dice) -> String {
    let upper = |letter: char| {
        if dice.below(2) == 0 {
            letter.to_ascii_uppercase()
        } else {
            letter
        }
    };
    text.chars().map(upper).collect()
}

fn time_with(part: TimePart, number: i64) -> String {
    let (mut year, mut month, mut day, mut hour, mut minute) = (2024, 5, 6, 7, 8);
    match part {
        TimePart::Minute => minute = number,
        TimePart::Hour => hour = number,
        TimePart::Day => day = number,
        TimePart::Month => month = number,
        TimePart::Year => year = number,
        // 2024 began on a Monday.
        TimePart::Week => {
            month = 1;
            day = 1 + (number - 1) * 7;
        }
    }
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:09Z")
}

fn sampled(hir: &Hir, dice: &mut Dice, out: &mut String) {
    match hir.kind() {
        HirKind::Literal(literal) => out.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(Class::Unicode(class)) => {
            let printable: Vec<char> = (' '..='~')
                .filter(|letter| {
                    class
                        .ranges()
                        .iter()
                        .any(|range| range.start() <= *letter && *letter <= range.end())
                })
                .collect();
            let first = class.ranges().first().map(|range| range.start());
            out.extend(printable.get(dice.below(printable.len())).copied().or(first));
        }
        HirKind::Capture(capture) => sampled(&capture.sub, dice, out),
        HirKind::Repetition(repetition) => {
            let most = repetition
                .max
                .unwrap_or(repetition.min + 2)
                .min(repetition.min + 2);
            let times =
                repetition.min + u32::try_from(dice.below((most - repetition.min + 1) as usize)).unwrap_or(0);
            (0..times).for_each(|_| sampled(&repetition.sub, dice, out));
        }
        HirKind::Concat(parts) => parts.iter().for_each(|part| sampled(part, dice, out)),
        HirKind::Alternation(parts) => {
            if let Some(part) = parts.get(dice.below(parts.len())) {
                sampled(part, dice, out);
            }
        }
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(Class::Bytes(_)) => {}
    }
}
