//! Regular expressions as others write them, in the words of the `regex` crate: what both would read, but differently,
//! and what only PCRE and Python take for the letter itself. Everything else is left to the crate, which refuses what it
//! does not know.
//!
//! | theirs | here | otherwise it would be |
//! |---|---|---|
//! | `\<`, `\>` | `<`, `>` | the beginning and the end of a word |
//! | `\e`, `\Z` | `\x1B`, `\z` | refused |
//! | `{` that begins no `{2}`, `{2,}`, `{2,3}` | `\{` | refused |
//! | `[` within brackets, but for `[:alpha:]` | `\[` | brackets within brackets |
//! | `]` first within brackets | `\]` | the same |
//! | `&&`, `--`, `~~` within brackets | each escaped | intersection and differences |

/// An expression, so that the crate reads it as it is meant.
pub(super) fn ours(theirs: &str) -> String {
    let letters: Vec<char> = theirs.chars().collect();
    let at = |at: usize| letters.get(at).copied();
    let mut ours = String::with_capacity(theirs.len());
    let (mut here, mut within) = (0_usize, false);
    while let Some(letter) = at(here) {
        let next = at(here.saturating_add(1));
        let mut taken = 1_usize;
        match (letter, next) {
            ('\\', Some(escaped)) => {
                taken = 2;
                match escaped {
                    '<' | '>' => ours.push(escaped),
                    'e' => ours.push_str(r"\x1B"),
                    'Z' if !within => ours.push_str(r"\z"),
                    'p' | 'P' | 'x' | 'u' | 'U' | 'b' if at(here.saturating_add(2)) == Some('{') => {
                        // Braces that belong to the escape.
                        let rest = letters.get(here..).unwrap_or_default();
                        let end = rest.iter().position(|letter| *letter == '}');
                        taken = end.map_or(rest.len(), |end| end.saturating_add(1));
                        ours.extend(rest.iter().take(taken));
                    }
                    _ => ours.extend([letter, escaped]),
                }
            }
            ('[', _) if !within => {
                within = true;
                ours.push(letter);
                if next == Some('^') {
                    taken = 2;
                    ours.push('^');
                }
                if at(here.saturating_add(taken)) == Some(']') {
                    taken = taken.saturating_add(1);
                    ours.push_str(r"\]");
                }
            }
            ('[', Some(':')) => {
                let rest = letters.get(here..).unwrap_or_default();
                let end = rest.windows(2).position(|pair| *pair == [':', ']']);
                let is_class = |end: &usize| {
                    let name = rest.get(2..*end);
                    name.is_some_and(|name| {
                        name.iter().all(|letter| letter.is_alphabetic() || *letter == '^')
                    })
                };
                match end.filter(is_class) {
                    Some(end) => {
                        taken = end.saturating_add(2);
                        ours.extend(rest.iter().take(taken));
                    }
                    None => ours.push_str(r"\["),
                }
            }
            ('[', _) => ours.push_str(r"\["),
            (']', _) => {
                within = false;
                ours.push(letter);
            }
            ('&' | '-' | '~', Some(same)) if within && same == letter => {
                taken = 2;
                ours.extend(['\\', letter, '\\', letter]);
            }
            ('{', _) if !within && !is_count(letters.get(here..).unwrap_or_default()) => {
                ours.push_str(r"\{");
            }
            _ => ours.push(letter),
        }
        here = here.saturating_add(taken);
    }
    ours
}

/// Whether letters begin with `{2}`, `{2,}` or `{2,3}`.
fn is_count(letters: &[char]) -> bool {
    let Some(end) = letters.iter().position(|letter| *letter == '}') else {
        return false;
    };
    let within: String = letters.iter().take(end).skip(1).collect();
    let (least, most) = within.split_once(',').unwrap_or((within.as_str(), "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number(least) && (most.is_empty() || is_number(most))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_others_mean_is_what_matches() {
        let cases = [
            (r"\<script\>", "x <script> y", true),
            (r"\<script\>", "x script y", false),
            (r"a[;&&|]b", "a&b", true),
            (r"a[;&&|]b", "a;b", true),
            (r"a[;&&|]b", "acb", false),
            (r"a[[(]b", "a[b", true),
            (r"a[^[(]b", "a[b", false),
            (r"a[^[(]b", "axb", true),
            (r"[]x]y", "]y", true),
            (r"[^]x]y", "]y", false),
            (r"[[:digit:]x]+!", "1x2!", true),
            (r"[[:digit:]x]+!", ":!", false),
            (r"a[[:]b", "a[b", true),
            (r"a[[:;]b[:]", "a;b:", true),
            (r"a[b--]c", "a-c", true),
            (r"a[b--]c", "abc", true),
            (r"${jndi:(ldap|rmi)", "x${jndi:rmi", false),
            (r"\${jndi:(ldap|rmi)", "x${jndi:rmi", true),
            (r"a{2}b{1,}c{1,2}", "aabccc", true),
            (r"^a{2}$", "a{2}", false),
            (r"a{x}", "a{x}", true),
            (r"\p{Greek}\x{41}", "ωA", true),
            (r"\[x\]\{y\}", "[x]{y}", true),
            (r"a\Z", "ba", true),
            (r"\\<", r"\<", true),
            (r"a-z", "a-z", true),
            (r"[a-f\d.]+!", "7.c!", true),
        ];
        for (theirs, text, expected) in cases {
            let expression =
                regex::Regex::new(&ours(theirs)).unwrap_or_else(|error| panic!("{theirs}: {error}"));
            assert_eq!(expression.is_match(text), expected, "{theirs} on {text:?}");
        }
    }

    proptest! {
        #[test]
        fn plain_expressions_stay_as_they_are(text in "[a-z0-9 .*+?()|^$/:=,]{0,24}") {
            prop_assert_eq!(ours(&text), text);
        }

        #[test]
        fn anything_is_survived(text in "[\\\\<>\\[\\]{}&~:^a1,-]{0,24}") {
            let _ours = ours(&text);
        }
    }
}
