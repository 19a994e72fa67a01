//! Secrets in command lines are masked here, before anything leaves the room.
//!
//! Three passes over the arguments of one process, each driven by a table in `rules`:
//! 1. options and assignments whose *name* says secret (`--password=x`, `--token x`, `DB_PASSWORD=x`);
//! 2. options that are secret for *one program* (`mysql -px`, `sshpass -p x`, `curl -u user:x`);
//! 3. *text* that looks like a secret wherever it stands, also inside `sh -c "…"` (credentials in URLs,
//!    `Authorization:` headers, well-known token formats, private keys).
//!
//! Invariants: masking never fails and never panics, whatever the bytes were; masking what is masked changes
//! nothing; what cannot be told apart from a secret is masked. It is best effort by nature: a secret in a
//! place that no rule names stays readable.

mod rules;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use rules::{ARGUMENT_RULES, ArgumentShape, is_secret_name, text_rules};

/// What stands in the place of a secret.
pub const MASK: &str = "[masked]";

/// Rounds of the text rules: one replacement may make room for another, and two have always sufficed.
const ROUNDS_MAX: usize = 8;

/// Masks the secrets among the arguments of one process; the first argument is the program.
pub fn mask_args(args: &mut [String]) {
    mask_named(args);
    mask_for_program(args);
    for arg in args.iter_mut() {
        if let Cow::Owned(masked) = mask_text(arg) {
            *arg = masked;
        }
    }
}

/// Masks the secrets in one piece of text, such as a command line that was already joined.
pub fn mask_text(text: &str) -> Cow<'_, str> {
    let rules = text_rules();
    if !rules.hints.is_match(text) {
        return Cow::Borrowed(text);
    }
    let mut current = Cow::Borrowed(text);
    for _ in 0..ROUNDS_MAX {
        let before = current.clone().into_owned();
        for rule in &rules.each {
            if let Cow::Owned(replaced) = rule.pattern.replace_all(&current, rule.replacement) {
                current = Cow::Owned(replaced);
            }
        }
        if *current == before {
            return current;
        }
    }
    // Text that keeps changing is not worth its risk.
    Cow::Borrowed(MASK)
}

/// Pass 1: names that say secret.
fn mask_named(args: &mut [String]) {
    let mut value_follows = false;
    for arg in args.iter_mut().skip(1) {
        if std::mem::take(&mut value_follows) && !arg.starts_with('-') {
            MASK.clone_into(arg);
            continue;
        }
        let option = arg.trim_start_matches('-');
        let dashes = arg.len() - option.len();
        match option.split_once('=') {
            Some((name, value)) if is_name(name) && is_secret_name(name) && !value.is_empty() => {
                let kept = dashes + name.len() + 1;
                let masked = format!("{}{MASK}", arg.get(..kept).unwrap_or_default());
                *arg = masked;
            }
            None => value_follows = dashes == 2 && is_name(option) && is_secret_name(option),
            Some(_) => {}
        }
    }
}

/// Pass 2: options that are secret for one program.
fn mask_for_program(args: &mut [String]) {
    let Some((program, rest)) = args.split_first_mut() else {
        return;
    };
    let program = base_name(program);
    for rule in ARGUMENT_RULES
        .iter()
        .filter(|rule| rule.programs.contains(&program))
    {
        let mut value_follows = false;
        for arg in rest.iter_mut() {
            if std::mem::take(&mut value_follows) {
                mask_value(arg, 0, rule.shape);
            } else if arg == rule.option {
                value_follows = rule.separate;
            } else if rule.joined && arg.starts_with(rule.option) && !arg.starts_with("--") {
                mask_value(arg, rule.option.len(), rule.shape);
            } else if rule.option.starts_with("--") && arg.starts_with(rule.option) {
                let at = rule.option.len();
                if arg.get(at..).is_some_and(|value| value.starts_with('=')) {
                    mask_value(arg, at + 1, rule.shape);
                }
            }
        }
    }
}

/// Masks what stands at byte `from` of `arg`.
fn mask_value(arg: &mut String, from: usize, shape: ArgumentShape) {
    let (kept, value) = match (arg.get(..from), arg.get(from..)) {
        (Some(kept), Some(value)) => (kept, value),
        _ => return,
    };
    let masked = match shape {
        ArgumentShape::Whole => format!("{kept}{MASK}"),
        ArgumentShape::After(separator) => match value.split_once(separator) {
            Some((user, _)) => format!("{kept}{user}{separator}{MASK}"),
            None => return,
        },
    };
    *arg = masked;
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether this could be the name of an option or a variable at all.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
