//! Name patterns of policies: `*` is any run of characters, `?` is any one; neither matches `/` unless the run
//! is `**`.

/// Whether `text` matches `pattern` as a whole. Linear in memory, at most quadratic in time.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<Token> = tokens(pattern);
    // reach[i]: the first i tokens match what was read so far.
    let mut reach = vec![false; pattern.len() + 1];
    set(&mut reach, 0);
    spread(&pattern, &mut reach);
    for character in text.chars() {
        let mut next = vec![false; pattern.len() + 1];
        for (index, token) in pattern.iter().enumerate() {
            if !reach.get(index).copied().unwrap_or(false) {
                continue;
            }
            match token {
                Token::One(wanted) if *wanted == character => set(&mut next, index + 1),
                Token::Any if character != '/' => set(&mut next, index + 1),
                Token::Run if character != '/' => set(&mut next, index),
                Token::Deep => set(&mut next, index),
                _ => {}
            }
        }
        spread(&pattern, &mut next);
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}

#[derive(Debug, PartialEq)]
enum Token {
    One(char),
    Any,
    Run,
    Deep,
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for character in pattern.chars() {
        match (character, tokens.last()) {
            ('*', Some(Token::Run)) => {
                tokens.pop();
                tokens.push(Token::Deep);
            }
            ('*', Some(Token::Deep)) => {}
            ('*', _) => tokens.push(Token::Run),
            ('?', _) => tokens.push(Token::Any),
            (one, _) => tokens.push(Token::One(one)),
        }
    }
    tokens
}

/// A run may be empty: what stands before it reaches what stands after it.
fn spread(pattern: &[Token], reach: &mut [bool]) {
    for (index, token) in pattern.iter().enumerate() {
        if matches!(token, Token::Run | Token::Deep) && reach.get(index).copied().unwrap_or(false) {
            set(reach, index + 1);
        }
    }
}

fn set(reach: &mut [bool], index: usize) {
    if let Some(slot) = reach.get_mut(index) {
        *slot = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        assert!(matches("*.log", "app.log"));
        assert!(matches("*", ""));
        assert!(!matches("*.log", "a/app.log"));
        assert!(matches("/opt/**", "/opt/a/b"));
        assert!(!matches("/opt/*", "/opt/a/b"));
        assert!(matches("core.?", "core.1"));
        assert!(!matches("core.?", "core.12"));
        assert!(!matches("", "x"));
        assert!(!matches("demo-*", "x-demo-1"));
    }

    proptest! {
        #[test]
        fn a_text_without_wildcards_matches_itself_only(a in "[a-z/.]{0,12}", b in "[a-z/.]{0,12}") {
            prop_assert!(matches(&a, &a));
            prop_assert_eq!(matches(&a, &b), a == b);
        }

        #[test]
        fn a_double_star_matches_everything_behind_its_prefix(prefix in "[a-z]{0,6}", rest in "[a-z/]{0,12}") {
            let pattern = format!("{prefix}**");
            let text = format!("{prefix}{rest}");
            prop_assert!(matches(&pattern, &text));
        }

        #[test]
        fn any_pattern_ends(pattern in "[*?a/]{0,40}", text in "[a/]{0,60}") {
            let _: bool = matches(&pattern, &text);
        }
    }
}
