//! Texts as Sigma compares them: without regard to case unless a rule says so, with `*` and `?`.
//!
//! Case is folded letter by letter, so that a text that holds a pattern still holds it when both are folded: the
//! index looks for folded literals in folded texts.

use std::borrow::Cow;

use rsigma_parser::{SigmaString, SpecialChar, StringPart};

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Piece {
    /// These letters.
    Text(String),
    /// `?`: one letter, whichever.
    One,
    /// `*`: any number of letters, none included.
    Many,
}

/// The pieces of a value as a rule writes it.
pub(crate) fn pieces(value: &SigmaString) -> Vec<Piece> {
    let piece = |part: &StringPart| match part {
        StringPart::Plain(text) => Piece::Text(text.clone()),
        StringPart::Special(SpecialChar::WildcardMulti) => Piece::Many,
        StringPart::Special(SpecialChar::WildcardSingle) => Piece::One,
    };
    value.parts.iter().map(piece).collect()
}

/// The first `%name%` of a text, with what stands around it. What lies between two other percent signs is text, and so
/// is a sign behind a backslash.
pub(crate) fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut escaped = false;
    let mut signs = Vec::new();
    for (at, letter) in text.char_indices() {
        if letter == '%' && !escaped {
            signs.push(at);
        }
        escaped = letter == '\\' && !escaped;
    }
    signs.windows(2).find_map(|pair| {
        let [begin, end] = pair else { return None };
        let name = text.get(begin.saturating_add(1)..*end)?;
        let is_name = !name.is_empty()
            && name
                .chars()
                .all(|letter| letter.is_alphanumeric() || "_-".contains(letter));
        let after = text.get(end.saturating_add(1)..)?;
        is_name.then_some((text.get(..*begin)?, name, after))
    })
}

/// A text whose escaped percent signs are percent signs.
pub(crate) fn plain_percents(text: &str) -> String {
    let mut plain = String::new();
    let mut escaped = false;
    for letter in text.chars() {
        if letter == '%' && escaped {
            plain.pop();
        }
        plain.push(letter);
        escaped = letter == '\\' && !escaped;
    }
    plain
}

/// Small letters for large ones, one by one.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(text.to_ascii_lowercase());
        }
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().flat_map(char::to_lowercase).collect())
}

/// A pattern, in the cheapest form that says the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    /// Whether case counts; otherwise the texts here are folded.
    pub(crate) cased: bool,
    pub(crate) shape: Shape,
}

/// What a text has to look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// Anything at all.
    Any,
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// Anything else.
    Glob(Vec<Piece>),
}

impl Pattern {
    /// The pattern of these pieces.
    pub(crate) fn new(pieces: Vec<Piece>, cased: bool) -> Self {
        let fold = |piece| match piece {
            Piece::Text(text) if !cased => Piece::Text(fold(&text).into_owned()),
            other => other,
        };
        Self {
            cased,
            shape: shape(joined(pieces.into_iter().map(fold))),
        }
    }

    /// Whether a text looks like this. `folded` is the same text, folded.
    pub(crate) fn matches(&self, text: &str, folded: &str) -> bool {
        let text = if self.cased { text } else { folded };
        match &self.shape {
            Shape::Any => true,
            Shape::Exact(wanted) => text == wanted,
            Shape::Prefix(wanted) => text.starts_with(wanted.as_str()),
            Shape::Suffix(wanted) => text.ends_with(wanted.as_str()),
            Shape::Contains(wanted) => text.contains(wanted.as_str()),
            Shape::Glob(pieces) => glob(pieces, text),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('*', "\\*").replace('?', "\\?");
        match &self.shape {
            Shape::Any => formatter.write_str("*"),
            Shape::Exact(text) => write!(formatter, "{}", escaped(text)),
            Shape::Prefix(text) => write!(formatter, "{}*", escaped(text)),
            Shape::Suffix(text) => write!(formatter, "*{}", escaped(text)),
            Shape::Contains(text) => write!(formatter, "*{}*", escaped(text)),
            Shape::Glob(pieces) => pieces.iter().try_for_each(|piece| match piece {
                Piece::Text(text) => formatter.write_str(&escaped(text)),
                Piece::One => formatter.write_str("?"),
                Piece::Many => formatter.write_str("*"),
            }),
        }
    }
}

/// Neighbouring texts as one, and `**` as `*`.
fn joined(pieces: impl Iterator<Item = Piece>) -> Vec<Piece> {
    let mut whole: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (whole.last_mut(), piece) {
            (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
            (Some(Piece::Many), Piece::Many) => {}
            (_, Piece::Text(text)) if text.is_empty() => {}
            (_, piece) => whole.push(piece),
        }
    }
    whole
}

fn shape(pieces: Vec<Piece>) -> Shape {
    match pieces.as_slice() {
        [] => Shape::Exact(String::new()),
        [Piece::Many] => Shape::Any,
        [Piece::Text(text)] => Shape::Exact(text.clone()),
        [Piece::Text(text), Piece::Many] => Shape::Prefix(text.clone()),
        [Piece::Many, Piece::Text(text)] => Shape::Suffix(text.clone()),
        [Piece::Many, Piece::Text(text), Piece::Many] => Shape::Contains(text.clone()),
        _ => Shape::Glob(pieces),
    }
}

/// Matches by going back to the last `*` only: at most the product of both lengths.
fn glob(pieces: &[Piece], text: &str) -> bool {
    let (mut rest, mut left) = (pieces, text);
    let mut back: Option<(&[Piece], &str)> = None;
    loop {
        let stepped = match rest.split_first() {
            None if left.is_empty() => return true,
            None => None,
            Some((Piece::Many, [])) => return true,
            Some((Piece::Many, after)) => {
                back = Some((after, left));
                Some((after, left))
            }
            Some((Piece::One, after)) => {
                let mut letters = left.chars();
                letters.next().map(|_| (after, letters.as_str()))
            }
            Some((Piece::Text(wanted), after)) => {
                left.strip_prefix(wanted.as_str()).map(|left| (after, left))
            }
        };
        if let Some(step) = stepped {
            (rest, left) = step;
            continue;
        }
        // One letter more for the last `*`.
        let Some((after, from)) = back else { return false };
        let mut letters = from.chars();
        if letters.next().is_none() {
            return false;
        }
        back = Some((after, letters.as_str()));
        (rest, left) = (after, letters.as_str());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str, cased: bool) -> Pattern {
        Pattern::new(pieces(&SigmaString::new(text)), cased)
    }

    fn matches(wanted: &str, text: &str) -> bool {
        pattern(wanted, false).matches(text, &fold(text))
    }

    #[test]
    fn wildcards_escapes_and_case() {
        let cases = [
            ("a*c", "aXXc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("a?c", "ac", false),
            ("a?c", "aéc", true),
            (r"a\*c", "a*c", true),
            (r"a\*c", "abc", false),
            (r"a\?c", "a?c", true),
            (r"C:\\x", r"c:\x", true),
            (r"C:\x", r"c:\x", true),
            (r"\\\*", r"\*", true),
            ("*.d/*", "/etc/x.d/y", true),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxb", false),
            ("*ab?d", "ababcd", true),
            ("", "", true),
            ("", "x", false),
            ("ÄB", "äb", true),
            ("Σ*", "σx", true),
        ];
        for (wanted, text, expected) in cases {
            assert_eq!(matches(wanted, text), expected, "{wanted:?} on {text:?}");
        }
        assert!(!pattern("Ab", true).matches("ab", "ab"));
        assert!(pattern("Ab*", true).matches("Abc", "abc"));
    }

    #[test]
    fn many_stars_stay_polynomial() {
        let wanted = "*a".repeat(200) + "*b";
        assert!(!matches(&wanted, &"a".repeat(20_000)));
    }

    proptest! {
        #[test]
        fn pattern_says_what_the_expression_says(wanted in "[ab*?]{0,8}", text in "[abAB]{0,10}") {
            let expression: String = wanted.chars().map(|letter| match letter {
                '*' => ".*".to_owned(),
                '?' => ".".to_owned(),
                letter => letter.to_string(),
            }).collect();
            let expression = regex::Regex::new(&format!("(?is)^(?:{expression})$")).unwrap();
            prop_assert_eq!(matches(&wanted, &text), expression.is_match(&text));
        }

        #[test]
        fn folding_keeps_what_is_within(before in "\\PC{0,6}", within in "\\PC{0,6}", after in "\\PC{0,6}") {
            let whole = format!("{before}{within}{after}");
            prop_assert!(fold(&whole).contains(fold(&within).as_ref()));
        }
    }
}
