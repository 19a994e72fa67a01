//! Which rules an event could match at all: one pass over its values instead of one per rule.
//!
//! Of each rule an **anchor** is chosen: literals of which at least one must be within a field whenever the rule
//! matches. Whole values are looked up in a hash table, parts of values by one Aho-Corasick automaton per field. What
//! the index names is a candidate and evaluated exactly; what it does not name cannot match. So the cost of an event
//! grows with its length and with the rules that nearly match it, not with the rules there are. Rules without an
//! anchor, such as those that only say what must not be, are candidates of every event.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};
use regex_syntax::hir::{Hir, HirKind};

use super::event::Slots;
use super::rule::{Expr, FieldId, Matcher, Test};
use super::text::{Pattern, Piece, Shape, fold};

/// Literals of one anchor: as many as a rule may have tests, because without one all of them are tried on every event.
const ANCHOR_MAX: usize = 20_000;

/// Where in a value a literal has to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// It is the whole value.
    Whole,
    Start,
    End,
    Anywhere,
    /// The field only has to be there.
    Present,
}

/// A literal that has to be within a field, or within any value where there is no field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Literal {
    pub(crate) field: Option<FieldId>,
    pub(crate) place: Place,
    /// Folded.
    pub(crate) text: String,
}

/// One of several literals.
type Anchor = Vec<Literal>;

/// Rules by the literals of one field that stand for them.
type Owned = HashMap<(Place, String), Vec<u32>>;

/// How often each literal is named by rules.
type Uses = HashMap<Literal, u32>;

/// The anchors of rules, compiled.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Rules that are candidates always.
    always: Vec<u32>,
    fields: Vec<(Option<FieldId>, FieldIndex)>,
}

#[derive(Debug, Default)]
struct FieldIndex {
    whole: foldhash::HashMap<String, Vec<u32>>,
    present: Vec<u32>,
    parts: Option<AhoCorasick>,
    /// By the automaton's pattern: where it has to stand, and whose it is.
    owners: Vec<(Place, Vec<u32>)>,
}

/// Candidates of one event, kept over events to save the allocation.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    marks: Vec<u64>,
    generation: u64,
    pub(crate) rules: Vec<u32>,
}

impl Candidates {
    fn begin(&mut self, rules: usize) {
        if self.marks.len() < rules {
            self.marks.resize(rules, 0);
        }
        self.generation = self.generation.wrapping_add(1);
        self.rules.clear();
    }

    fn add(&mut self, rules: &[u32]) {
        for rule in rules {
            let mark = usize::try_from(*rule)
                .ok()
                .and_then(|rule| self.marks.get_mut(rule));
            if let Some(mark) = mark.filter(|mark| **mark != self.generation) {
                *mark = self.generation;
                self.rules.push(*rule);
            }
        }
    }
}

impl Index {
    /// The index of these conditions.
    ///
    /// # Errors
    /// When an automaton cannot be built, which takes gigabytes of literals.
    pub(crate) fn new<'a>(conditions: impl Iterator<Item = &'a Expr> + Clone) -> Result<Self, String> {
        let mut uses = Uses::new();
        conditions
            .clone()
            .for_each(|condition| count(condition, &mut uses));
        let mut index = Self::default();
        let mut anchored: HashMap<Option<FieldId>, Owned> = HashMap::new();
        for (number, condition) in conditions.enumerate() {
            let number = u32::try_from(number).map_err(|_| "there are too many rules".to_owned())?;
            match anchor(condition, &uses) {
                None => index.always.push(number),
                Some(literals) => {
                    for literal in literals {
                        let of_field = anchored.entry(literal.field).or_default();
                        let owners = of_field.entry((literal.place, literal.text)).or_default();
                        if owners.last() != Some(&number) {
                            owners.push(number);
                        }
                    }
                }
            }
        }
        for (field, literals) in anchored {
            index.fields.push((field, FieldIndex::new(literals)?));
        }
        Ok(index)
    }

    /// Fills `candidates` with the rules that could match.
    pub(crate) fn candidates(&self, slots: &Slots<'_>, rules: usize, candidates: &mut Candidates) {
        candidates.begin(rules);
        candidates.add(&self.always);
        for (field, index) in &self.fields {
            for slot in &slots.0 {
                if field.is_none() || slot.field == *field {
                    index.look(slot.folded(), candidates);
                }
            }
        }
    }

    /// Rules that no literal stands for.
    pub(crate) fn unanchored(&self) -> usize {
        self.always.len()
    }

    /// Bytes of the automata.
    pub(crate) fn memory_bytes(&self) -> usize {
        let automata = self.fields.iter().filter_map(|(_, field)| field.parts.as_ref());
        automata.map(AhoCorasick::memory_usage).sum()
    }
}

impl FieldIndex {
    fn new(literals: Owned) -> Result<Self, String> {
        let mut index = Self::default();
        let mut texts = Vec::new();
        let mut sorted: Vec<_> = literals.into_iter().collect();
        sorted.sort();
        for ((place, text), owners) in sorted {
            match place {
                Place::Whole => {
                    index.whole.insert(text, owners);
                }
                Place::Present => index.present.extend(owners),
                Place::Start | Place::End | Place::Anywhere => {
                    texts.push(text);
                    index.owners.push((place, owners));
                }
            }
        }
        if !texts.is_empty() {
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .build(&texts)
                .map_err(|error| format!("the literals of the rules form no automaton: {error}"))?;
            index.parts = Some(automaton);
        }
        Ok(index)
    }

    fn look(&self, text: &str, candidates: &mut Candidates) {
        candidates.add(&self.present);
        if let Some(rules) = self.whole.get(text) {
            candidates.add(rules);
        }
        let Some(parts) = &self.parts else { return };
        for hit in parts.find_overlapping_iter(text) {
            let Some((place, rules)) = self.owners.get(hit.pattern().as_usize()) else {
                continue;
            };
            let stands = match place {
                Place::Start => hit.start() == 0,
                Place::End => hit.end() == text.len(),
                _ => true,
            };
            if stands {
                candidates.add(rules);
            }
        }
    }
}

/// The anchor by which one of these conditions is found, or `None` when any event could match it.
pub(crate) fn anchor_among<'a>(
    condition: &Expr,
    conditions: impl Iterator<Item = &'a Expr>,
) -> Option<Vec<Literal>> {
    let mut uses = Uses::new();
    conditions.for_each(|condition| count(condition, &mut uses));
    anchor(condition, &uses)
}

fn anchor(condition: &Expr, uses: &Uses) -> Option<Anchor> {
    let anchor = match condition {
        Expr::Test(test) => of_test(test)?,
        Expr::Not(_) => return None,
        Expr::And(parts) => {
            let anchors = parts.iter().filter_map(|part| anchor(part, uses));
            anchors.min_by(|left, right| cost(left, uses).total_cmp(&cost(right, uses)))?
        }
        Expr::Or(parts) => union(parts, uses)?,
        Expr::AtLeast(0, _) => return None,
        Expr::AtLeast(_, parts) => union(parts, uses)?,
    };
    (anchor.len() <= ANCHOR_MAX).then_some(anchor)
}

fn union(parts: &[Expr], uses: &Uses) -> Option<Anchor> {
    let mut all = Vec::new();
    for part in parts {
        all.extend(anchor(part, uses)?);
    }
    all.sort();
    all.dedup();
    Some(all)
}

fn count(condition: &Expr, uses: &mut Uses) {
    match condition {
        Expr::Test(test) => {
            for literal in of_test(test).unwrap_or_default() {
                let used = uses.entry(literal).or_insert(0);
                *used = used.saturating_add(1);
            }
        }
        Expr::Not(_) => {}
        Expr::And(parts) | Expr::Or(parts) | Expr::AtLeast(_, parts) => {
            parts.iter().for_each(|part| count(part, uses));
        }
    }
}

/// How many events an anchor is guessed to let through: short literals and those that many rules name are common.
fn cost(anchor: &Anchor, uses: &Uses) -> f64 {
    let of = |literal: &Literal| {
        let length = literal.text.len() as f64;
        let rarity = match literal.place {
            Place::Whole => 1.0 / (1.0 + length),
            Place::Start | Place::End => 2.0 / (1.0 + length),
            Place::Anywhere => 4.0 / (1.0 + length).powf(1.5),
            Place::Present => 4.0,
        };
        rarity * f64::from(uses.get(literal).copied().unwrap_or(1))
    };
    anchor.iter().map(of).sum()
}

fn of_test(test: &Test) -> Option<Anchor> {
    let literal = |place, text: &str| Literal {
        field: test.field,
        place,
        text: fold(text).into_owned(),
    };
    let present = || test.field.map(|_| vec![literal(Place::Present, "")]);
    match &test.matcher {
        Matcher::Text(pattern) => match of_pattern(pattern) {
            Some((place, text)) if place == Place::Whole || !text.is_empty() => {
                Some(vec![literal(place, text)])
            }
            _ => present(),
        },
        Matcher::Regex(regex) => match of_regex(regex.as_str()) {
            Some(texts) => Some(texts.iter().map(|text| literal(Place::Anywhere, text)).collect()),
            None => present(),
        },
        Matcher::Exists(false) => None,
        Matcher::Network(_)
        | Matcher::Compare(..)
        | Matcher::Exists(true)
        | Matcher::Field { .. }
        | Matcher::Time(..) => present(),
    }
}

/// The longest literal of a pattern, and where it has to stand.
fn of_pattern(pattern: &Pattern) -> Option<(Place, &str)> {
    match &pattern.shape {
        Shape::Any => None,
        Shape::Exact(text) => Some((Place::Whole, text)),
        Shape::Prefix(text) => Some((Place::Start, text)),
        Shape::Suffix(text) => Some((Place::End, text)),
        Shape::Contains(text) => Some((Place::Anywhere, text)),
        Shape::Glob(pieces) => {
            let texts = pieces.iter().enumerate().filter_map(|(at, piece)| match piece {
                Piece::Text(text) => Some((at, text)),
                Piece::One | Piece::Many => None,
            });
            let (at, text) = texts.max_by_key(|(_, text)| text.len())?;
            let place = if at == 0 {
                Place::Start
            } else if at.saturating_add(1) == pieces.len() {
                Place::End
            } else {
                Place::Anywhere
            };
            Some((place, text))
        }
    }
}

/// Texts of which one is within whatever an expression matches, folded.
fn of_regex(expression: &str) -> Option<Vec<String>> {
    let hir = regex_syntax::parse(expression).ok()?;
    let mut texts = required(&hir)?;
    texts.iter_mut().for_each(|text| *text = fold(text).into_owned());
    texts.sort();
    texts.dedup();
    (texts.len() <= ANCHOR_MAX && texts.iter().all(|text| !text.is_empty())).then_some(texts)
}

fn required(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Alternation(parts) => {
            let parts: Option<Vec<Vec<String>>> = parts.iter().map(required).collect();
            Some(parts?.concat())
        }
        HirKind::Concat(parts) => {
            let mut sets = Vec::new();
            let mut run = String::new();
            for part in parts {
                match letters(part) {
                    Some(text) => run.push_str(&text),
                    None => {
                        sets.push(vec![std::mem::take(&mut run)]);
                        sets.extend(required(part));
                    }
                }
            }
            sets.push(vec![run]);
            let shortest = |set: &Vec<String>| set.iter().map(String::len).min().unwrap_or(0);
            let best = sets.into_iter().max_by_key(shortest)?;
            (shortest(&best) > 0).then_some(best)
        }
        _ => letters(hir).map(|text| vec![text]),
    }
}

/// The one text, but for case, that an expression stands for.
fn letters(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0).ok().map(str::to_owned),
        HirKind::Capture(capture) => letters(&capture.sub),
        HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            let mut one: Option<String> = None;
            for range in class.ranges() {
                if u32::from(range.end()).saturating_sub(u32::from(range.start())) > 1 {
                    return None;
                }
                for letter in range.start()..=range.end() {
                    let folded: String = letter.to_lowercase().collect();
                    if one.as_ref().is_some_and(|one| *one != folded) {
                        return None;
                    }
                    one = Some(folded);
                }
            }
            one
        }
        HirKind::Concat(parts) => parts.iter().map(letters).collect(),
        _ => None,
    }
}
