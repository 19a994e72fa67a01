//! Templates: lines that differ only in their variable parts are one template.
//!
//! Online, after Drain (He and others, 2017): what looks variable (numbers, addresses, ids, paths) is replaced at
//! once; then a line is compared with the templates of the same program that have as many words, and joins the
//! one with which it shares enough of them; words in which they differ become variable too.
//!
//! A template's number is the hash of its program and of its words when it was first seen. It stays when words
//! become variable later, and over restarts, because templates are kept. Their number is bounded; the one that
//! was not seen for longest makes room.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Stands for what differs.
const VARIABLE: &str = "<*>";
/// Words of a line that are looked at; lines that differ only later are one template.
const WORDS_MAX: usize = 40;
/// Bytes of a word that are looked at.
const WORD_BYTES_MAX: usize = 48;
/// Most templates.
pub(crate) const TEMPLATES_MAX: usize = 1_024;
/// Most templates of one program and length that a line is compared with.
const ALIKE_MAX: usize = 32;
/// Share of equal words from which two lines are one template, in percent.
const ALIKE_PCT: usize = 60;

/// A template as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    pub(crate) id: u64,
    identifier: String,
    words: Vec<String>,
    #[serde(default)]
    used: u64,
}

/// Finds the template of a line.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    /// By program and number of words.
    groups: HashMap<(String, usize), Vec<Template>>,
    count: usize,
    clock: u64,
    evicted: u64,
    changed: bool,
}

impl Templates {
    /// Goes on from what was kept.
    pub(crate) fn restore(kept: Vec<Template>) -> Self {
        let mut templates = Self::default();
        for template in kept.into_iter().take(TEMPLATES_MAX) {
            let sane = template.words.len() <= WORDS_MAX
                && template.words.iter().all(|word| word.len() <= WORD_BYTES_MAX)
                && template.identifier.len() <= 256;
            if sane {
                templates.clock = templates.clock.max(template.used);
                templates.add(template);
            }
        }
        templates
    }

    /// All of them, when there is something new to keep since this was asked last.
    pub(crate) fn take_changed(&mut self) -> Option<Vec<Template>> {
        std::mem::take(&mut self.changed).then(|| self.groups.values().flatten().cloned().collect())
    }

    /// Templates that made room for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The number of the line's template; never 0.
    pub(crate) fn of(&mut self, identifier: &str, message: &str) -> u64 {
        self.clock += 1;
        let words = words(message);
        let key = (identifier.to_owned(), words.len());
        if let Some(group) = self.groups.get_mut(&key) {
            let best = group
                .iter_mut()
                .map(|template| (alike(&template.words, &words), template))
                .max_by_key(|(alike, _)| *alike);
            if let Some((alike, template)) = best
                && alike * 100 >= ALIKE_PCT * words.len().max(1)
            {
                template.used = self.clock;
                for (known, word) in template.words.iter_mut().zip(&words) {
                    if known != word && known != VARIABLE {
                        VARIABLE.clone_into(known);
                        self.changed = true;
                    }
                }
                return template.id;
            }
        }
        let id = id_of(identifier, &words);
        self.make_room(&key);
        self.add(Template {
            id,
            identifier: key.0,
            words,
            used: self.clock,
        });
        self.changed = true;
        id
    }

    fn add(&mut self, template: Template) {
        let key = (template.identifier.clone(), template.words.len());
        self.groups.entry(key).or_default().push(template);
        self.count += 1;
    }

    fn make_room(&mut self, key: &(String, usize)) {
        let crowded = self.groups.get(key).is_some_and(|group| group.len() >= ALIKE_MAX);
        let from = if crowded {
            Some(key.clone())
        } else if self.count >= TEMPLATES_MAX {
            let oldest = |group: &Vec<Template>| group.iter().map(|template| template.used).min();
            self.groups
                .iter()
                .min_by_key(|(_, group)| oldest(group))
                .map(|(key, _)| key.clone())
        } else {
            None
        };
        let Some(from) = from else { return };
        if let Some(group) = self.groups.get_mut(&from) {
            let oldest = group
                .iter()
                .enumerate()
                .min_by_key(|(_, template)| template.used)
                .map(|(at, _)| at);
            if let Some(at) = oldest {
                group.swap_remove(at);
                self.count -= 1;
                self.evicted += 1;
            }
            if group.is_empty() {
                self.groups.remove(&from);
            }
        }
    }
}

/// Words that are equal.
fn alike(known: &[String], words: &[String]) -> usize {
    let equal = known.iter().zip(words).filter(|(known, word)| known == word);
    equal.count()
}

fn id_of(identifier: &str, words: &[String]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(identifier.as_bytes());
    for word in words {
        hash.update([0]);
        hash.update(word.as_bytes());
    }
    let digest = hash.finalize();
    let first = digest.first_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(first).max(1)
}

fn words(message: &str) -> Vec<String> {
    message.split_whitespace().take(WORDS_MAX).map(word).collect()
}

/// A word, or what stands for one that is different every time. `key=value` keeps its key, quotes and brackets go.
fn word(word: &str) -> String {
    let bare =
        word.trim_matches(|letter: char| letter.is_ascii_punctuation() && letter != '/' && letter != '*');
    if let Some((key, value)) = word.split_once('=')
        && !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || b"_-.".contains(&byte))
    {
        return if value.is_empty() {
            cut(word)
        } else {
            cut(&format!("{key}={VARIABLE}"))
        };
    }
    if is_variable(bare) {
        VARIABLE.to_owned()
    } else {
        cut(bare)
    }
}

fn is_variable(word: &str) -> bool {
    let digits = word.bytes().any(|byte| byte.is_ascii_digit());
    let hex = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits || hex || word.starts_with('/') || word.contains("://") || word.contains('@')
}

fn cut(word: &str) -> String {
    let mut end = word.len().min(WORD_BYTES_MAX);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    word.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_in_their_variable_parts_are_one_template() {
        let mut templates = Templates::default();
        let groups = [
            [
                "Failed password for root from 192.0.2.1 port 22 ssh2",
                "Failed password for bob from 2001:db8::1 port 9 ssh2",
            ],
            [
                "session 12 of user alice closed",
                "session 999 of user bob closed",
            ],
            ["GET /index.html took 12ms", "GET /other took 7ms"],
            ["job id=0af3 state=done", "job id=77 state=failed"],
        ];
        let ids: Vec<[u64; 2]> = groups
            .iter()
            .map(|lines| lines.map(|line| templates.of("app", line)))
            .collect();
        assert!(
            ids.iter().all(|[one, other]| one == other && *one != 0),
            "{ids:?}"
        );
        let distinct: std::collections::BTreeSet<u64> = ids.iter().map(|[one, _]| *one).collect();
        assert_eq!(distinct.len(), groups.len());
        assert_ne!(
            templates.of("other", groups[0][0]),
            ids[0][0],
            "each program has its own"
        );
        assert_ne!(
            templates.of("app", "Accepted publickey from nowhere at all today friend"),
            ids[0][0]
        );
    }

    #[test]
    fn number_stays_over_a_restart_and_when_words_become_variable() {
        let mut templates = Templates::default();
        let first = templates.of("app", "user alice has logged in from home");
        assert_eq!(templates.of("app", "user bob has logged in from home"), first);
        let kept = serde_json::to_string(&templates.take_changed().unwrap()).unwrap();
        assert!(templates.take_changed().is_none());
        let mut again = Templates::restore(serde_json::from_str(&kept).unwrap());
        assert_eq!(again.of("app", "user carol has logged in from home"), first);
        // Another host that never saw these lines gives the same number to the same first line.
        assert_eq!(
            Templates::default().of("app", "user alice has logged in from home"),
            first
        );
    }

    #[test]
    fn templates_are_bounded_and_the_oldest_makes_room() {
        let mut templates = Templates::default();
        let often = templates.of("cron", "the same every minute");
        for number in 0..5_000_u32 {
            let name = |number: u32| char::from(b'a' + u8::try_from(number % 26).unwrap());
            let unlike: String = (0..4)
                .map(|at| format!("{}{} ", name(number), name(number / 26 + at * 7)))
                .collect();
            templates.of(&format!("app{}", number % 997), &unlike);
            assert_eq!(templates.of("cron", "the same every minute"), often);
        }
        assert!(templates.count <= TEMPLATES_MAX && templates.evicted() > 0);
        assert_eq!(
            templates.groups.values().map(Vec::len).sum::<usize>(),
            templates.count
        );
    }

    #[test]
    fn odd_lines_do_no_harm() {
        let mut templates = Templates::default();
        for line in [
            "",
            "   ",
            "ä",
            "\u{0}",
            "=",
            "a=",
            "((((",
            &"x".repeat(100_000),
            &"y ".repeat(10_000),
        ] {
            assert_ne!(templates.of("", line), 0);
        }
    }
}
