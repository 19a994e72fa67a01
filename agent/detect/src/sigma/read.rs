//! Reading rule files: each stands alone, is bounded, and says where it is wrong.

use std::fs::File;
use std::io::{Error, Read as _, Result};
use std::path::{Path, PathBuf};

use rsigma_parser::{CorrelationRule, FilterRule, SigmaRule, parse_sigma_yaml};

use super::correlate::NamesOfRules;
use super::document::look_through;

/// Most rule files of one folder that are read.
const FILES_MAX: usize = 10_000;
/// Largest rule file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Folders within folders.
const DEPTH_MAX: usize = 16;

/// A file of rules, or why it is none.
#[derive(Debug, Default)]
pub(crate) struct RuleFile {
    pub(crate) path: PathBuf,
    pub(crate) rules: Vec<SigmaRule>,
    pub(crate) correlations: Vec<CorrelationRule>,
    pub(crate) filters: Vec<FilterRule>,
    /// What of it could not be read.
    pub(crate) faults: Vec<String>,
    /// What of it is odd and hinders nothing.
    pub(crate) remarks: Vec<String>,
    text: String,
}

impl RuleFile {
    /// Reads and parses one file.
    pub(crate) fn read(path: &Path) -> Self {
        match read_bounded(path) {
            Ok(text) => Self::parse(path, text),
            Err(error) => Self::faulty(path, error.to_string()),
        }
    }

    /// What cannot be read.
    pub(crate) fn faulty(path: &Path, fault: String) -> Self {
        Self {
            path: path.to_owned(),
            faults: vec![fault],
            ..Self::default()
        }
    }

    /// Parses the text of a file.
    pub(crate) fn parse(path: &Path, mut text: String) -> Self {
        // Editors of other systems begin a text with the mark of its encoding.
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        let mut file = Self {
            path: path.to_owned(),
            text,
            ..Self::default()
        };
        let others = match look_through(&file.text) {
            Ok(others) => others,
            Err(reason) => {
                let fault = file.located(&reason, "");
                file.faults.push(fault);
                return file;
            }
        };
        match parse_sigma_yaml(&file.text) {
            Ok(collection) => {
                file.rules = collection.rules;
                file.correlations = collection.correlations;
                file.filters = collection.filters;
                for message in collection.errors {
                    // Nothing between two `---`, or after the last, is nothing.
                    let is_empty = others == 0 && message == "Document is not a YAML mapping";
                    if is_empty || is_remark(&message) {
                        file.remarks.push(message);
                    } else {
                        let fault = file.located(&message, "");
                        file.faults.push(fault);
                    }
                }
            }
            Err(error) => {
                let fault = file.located(&error.to_string(), "");
                file.faults.push(fault);
            }
        }
        if file.faults.is_empty()
            && file.rules.is_empty()
            && file.correlations.is_empty()
            && file.filters.is_empty()
        {
            file.faults.push("there is no rule in it".to_owned());
        }
        file
    }

    /// A reason with the line that it concerns, as far as that can be told.
    pub(crate) fn located(&self, reason: &str, title: &str) -> String {
        if let Some(aggregation) = aggregation(reason) {
            return format!(
                "{}: aggregation in a condition is of old Sigma; write a correlation rule",
                self.place_of_condition(aggregation)
            );
        }
        if reason.starts_with("Condition parse error") {
            return format!(
                "{}: {} (and, or, not, of and them are written small; names are letters of a to z, digits, _ and -)",
                self.place(&["condition:".to_owned()]),
                one_line(reason)
            );
        }
        if reason.contains(" line ") || reason.starts_with("line ") {
            return one_line(reason);
        }
        if reason.contains("ondition") {
            let quoted = reason.split('\'').skip(1).step_by(2);
            let line = quoted
                .filter(|quoted| !quoted.is_empty())
                .find_map(|quoted| self.line_of_condition(quoted));
            if let Some(line) = line {
                return format!("line {}: {}", line.saturating_add(1), one_line(reason));
            }
        }
        // What the reason quotes stands in the text; else the rule begins with its title.
        let mut wanted: Vec<String> = reason
            .split('\'')
            .skip(1)
            .step_by(2)
            .filter(|quoted| !quoted.is_empty())
            .map(str::to_owned)
            .collect();
        if reason.contains("ondition") {
            wanted.push("condition:".to_owned());
        }
        if !title.is_empty() {
            wanted.push(title.to_owned());
        }
        format!("{}: {}", self.place(&wanted), one_line(reason))
    }

    /// The line of a condition with `part` in it.
    fn place_of_condition(&self, part: &str) -> String {
        let line = self
            .line_of_condition(part)
            .or_else(|| self.line_with(&[part]))
            .or_else(|| self.line_with(&["condition:"]));
        format!("line {}", line.unwrap_or(0).saturating_add(1))
    }

    fn line_of_condition(&self, part: &str) -> Option<usize> {
        self.line_with(&[part, "condition:"])
    }

    /// The first line with all of these that is no comment.
    fn line_with(&self, wanted: &[&str]) -> Option<usize> {
        self.text.lines().position(|line| {
            !line.trim_start().starts_with('#') && wanted.iter().all(|wanted| line.contains(wanted))
        })
    }

    fn place(&self, wanted: &[String]) -> String {
        // A field with modifiers, then a key, then wherever it stands.
        let begins = |line: &str, wanted: &str, next: &[char]| {
            let line = line.trim_start_matches([' ', '-', '{', '\'', '"']);
            let rest = line.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.starts_with(next))
        };
        let line = wanted.iter().find_map(|wanted| {
            let find = |next: &[char]| self.text.lines().position(|line| begins(line, wanted, next));
            find(&['|'])
                .or_else(|| find(&[':']))
                .or_else(|| self.text.lines().position(|line| line.contains(wanted.as_str())))
        });
        format!("line {}", line.unwrap_or(0).saturating_add(1))
    }
}

/// How an aggregation is written in a condition that a reason shows. The parser shows it behind a number and a bar.
fn aggregation(reason: &str) -> Option<&'static str> {
    let shown = |line: &str| {
        let number = line.trim_start().split_once(" | ");
        number
            .filter(|(number, _)| number.bytes().all(|digit| digit.is_ascii_digit()))
            .map_or(line.to_owned(), |(_, rest)| rest.to_owned())
    };
    let lines: Vec<String> = reason.lines().map(shown).collect();
    let written = ["| count", "|count", "| near"];
    written
        .into_iter()
        .find(|aggregation| lines.iter().any(|line| line.contains(aggregation)))
}

/// What the parser complains of without leaving the rule out.
fn is_remark(message: &str) -> bool {
    let beginnings = [
        "invalid status",
        "invalid level",
        "related[",
        "'related'",
        "invalid sigma-version",
    ];
    beginnings.iter().any(|beginning| message.starts_with(beginning))
}

/// Parsers draw arrows under texts; the last words are the message.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match words.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first, .., last] => format!("{first} {}", last.trim_start_matches(['=', ' '])),
    }
}

fn read_bounded(path: &Path) -> Result<String> {
    // A pipe or a device would never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(FILE_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES_MAX) {
        String::from_utf8(bytes).map_err(|_| Error::other("it is not UTF-8; save it as UTF-8"))
    } else {
        Err(Error::other(format!(
            "longer than the {FILE_BYTES_MAX} bytes that a rule file may have"
        )))
    }
}

/// What is below a folder.
#[derive(Debug, Default)]
pub(crate) struct Below {
    /// Rule files, in order of their paths.
    pub(crate) files: Vec<PathBuf>,
    /// Folders that could not be listed, and why.
    pub(crate) unread: Vec<(PathBuf, String)>,
    /// What is not looked at, and why.
    pub(crate) left_out: Vec<(PathBuf, String)>,
    pub(crate) folders: Vec<PathBuf>,
}

/// What is below a folder. A file is itself.
///
/// # Errors
/// When the folder itself cannot be listed.
pub(crate) fn below(folder: &Path) -> Result<Below> {
    let mut below = Below::default();
    if std::fs::metadata(folder)?.is_file() {
        below.files.push(folder.to_owned());
        return Ok(below);
    }
    walk(folder, 0, &mut below)?;
    below.files.sort();
    if let Some(first) = below.files.get(FILES_MAX) {
        let reason =
            format!("it and all behind it are left out: a folder has at most {FILES_MAX} rule files");
        below.left_out.push((first.clone(), reason));
        below.files.truncate(FILES_MAX);
    }
    Ok(below)
}

/// The rule files below a folder, in order of their paths. A file is itself.
pub(crate) fn rule_files(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(below(folder)?.files)
}

/// Every folder below a folder, itself included.
pub(crate) fn folders(folder: &Path) -> Vec<PathBuf> {
    // What cannot be listed now is listed when it changes.
    let mut folders = below(folder).map_or_else(|_| Vec::new(), |below| below.folders);
    folders.insert(0, folder.to_owned());
    folders
}

fn walk(folder: &Path, depth: usize, below: &mut Below) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_rule = path
            .extension()
            .is_some_and(|extension| extension == "yml" || extension == "yaml");
        if path.is_dir() {
            let reason = if path.is_symlink() {
                "a symbolic link to a folder is not followed; name the folder in detect.rule_dirs".to_owned()
            } else if depth >= DEPTH_MAX {
                format!("it is more than {DEPTH_MAX} folders deep; name it in detect.rule_dirs")
            } else {
                below.folders.push(path.clone());
                // One folder that cannot be listed hinders no other.
                if let Err(error) = walk(&path, depth.saturating_add(1), below) {
                    below.unread.push((path, error.to_string()));
                }
                continue;
            };
            below.left_out.push((path, reason));
        } else if is_rule {
            below.files.push(path);
        }
    }
    Ok(())
}

/// The names of the rules of all files.
pub(super) fn names_of(files: &[RuleFile]) -> NamesOfRules {
    let mut all = NamesOfRules::new();
    for file in files {
        let rules = file.rules.iter().map(|rule| (&rule.id, &rule.name, &rule.title));
        let correlations = file
            .correlations
            .iter()
            .map(|rule| (&rule.id, &rule.name, &rule.title));
        for (id, name, title) in rules.chain(correlations) {
            let names: Vec<String> = id.iter().chain(name).chain([title]).cloned().collect();
            for name in &names {
                all.entry(name.clone()).or_default().extend(names.iter().cloned());
            }
        }
    }
    all
}
