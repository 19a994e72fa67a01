//! Rules made at random, and the same in every run.

use std::path::PathBuf;

use super::make::Dice;

const FIELDS: [&str; 5] = ["Image", "CommandLine", "ParentImage", "User", "CurrentDirectory"];
const TEXTS: [&str; 18] = [
    "/bin/sh",
    "bash",
    "curl",
    " -c ",
    "http://",
    "*.sh",
    "/tmp/*/x",
    "a?c",
    "root",
    "/usr/bin/",
    "-e",
    "100%",
    "a_b",
    "it''s",
    "(x|y)",
    "[abc]",
    "$HOME",
    "x",
];
const MODIFIERS: [&str; 8] = [
    "",
    "",
    "|contains",
    "|startswith",
    "|endswith",
    "|contains|all",
    "|contains|cased",
    "|cased",
];

/// So many rules.
pub(super) fn rules(count: usize) -> Vec<(PathBuf, String)> {
    let mut dice = Dice::new("rules made at random");
    (0..count)
        .map(|number| {
            (
                PathBuf::from(format!("made-{number}.yml")),
                rule(number, &mut dice),
            )
        })
        .collect()
}

fn rule(number: usize, dice: &mut Dice) -> String {
    let mut text = format!(
        "title: Made {number}\nid: 00000000-0000-4000-8000-{number:012}\nstatus: test\n\
        logsource:\n  product: linux\n  category: process_creation\ndetection:\n"
    );
    let selections = 1 + dice.below(4);
    for selection in 0..selections {
        text.push_str(&format!("  sel_{selection}:\n"));
        let mut fields = FIELDS.to_vec();
        for _ in 0..=dice.below(2) {
            let field = fields.remove(dice.below(fields.len()));
            let modifier = MODIFIERS[dice.below(MODIFIERS.len())];
            text.push_str(&format!("    {field}{modifier}:\n"));
            for _ in 0..=dice.below(3) {
                text.push_str(&format!("      - '{}'\n", TEXTS[dice.below(TEXTS.len())]));
            }
        }
    }
    text.push_str(&format!("  condition: {}\n", condition(selections, 3, dice)));
    text
}

fn condition(selections: usize, depth: usize, dice: &mut Dice) -> String {
    let name = |dice: &mut Dice| format!("sel_{}", dice.below(selections));
    if depth == 0 {
        return name(dice);
    }
    match dice.below(8) {
        0 => format!(
            "({} and {})",
            condition(selections, depth - 1, dice),
            condition(selections, depth - 1, dice)
        ),
        1 | 2 => format!(
            "({} or {})",
            condition(selections, depth - 1, dice),
            condition(selections, depth - 1, dice)
        ),
        3 => format!(
            "{} and not {}",
            name(dice),
            condition(selections, depth - 1, dice)
        ),
        4 => "1 of sel_*".to_owned(),
        5 => "all of them".to_owned(),
        _ => name(dice),
    }
}
