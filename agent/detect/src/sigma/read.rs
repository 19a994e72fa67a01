//! Reading rule files: each stands alone, is bounded, and says where it is wrong.

use std::path::{Path, PathBuf};

use rsigma_parser::{CorrelationRule, FilterRule, SigmaRule, parse_sigma_yaml};

/// Most rule files that are read.
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
            Err(error) => Self {
                path: path.to_owned(),
                faults: vec![error.to_string()],
                ..Self::default()
            },
        }
    }

    /// Parses the text of a file.
    pub(crate) fn parse(path: &Path, text: String) -> Self {
        let mut file = Self {
            path: path.to_owned(),
            text,
            ..Self::default()
        };
        match parse_sigma_yaml(&file.text) {
            Ok(collection) => {
                file.rules = collection.rules;
                file.correlations = collection.correlations;
                file.filters = collection.filters;
                for message in collection.errors {
                    if is_remark(&message) {
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
        if reason.contains("| count") || reason.contains("|count") || reason.contains("| near") {
            return format!(
                "{}: aggregation in a condition is of old Sigma; write a correlation rule",
                self.place(&["condition:".to_owned()])
            );
        }
        if reason.contains(" line ") || reason.starts_with("line ") {
            return one_line(reason);
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

    fn place(&self, wanted: &[String]) -> String {
        let line = wanted
            .iter()
            .find_map(|wanted| self.text.lines().position(|line| line.contains(wanted.as_str())));
        format!("line {}", line.unwrap_or(0).saturating_add(1))
    }
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

fn read_bounded(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "longer than the {FILE_BYTES_MAX} bytes that a rule file may have"
        )));
    }
    std::fs::read_to_string(path)
}

/// The rule files below a folder, in order of their paths. A file is itself.
pub(crate) fn rule_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    if std::fs::metadata(folder)?.is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut files = Vec::new();
    let mut folders = Vec::new();
    walk(folder, 0, &mut files, &mut folders)?;
    files.sort();
    Ok(files)
}

/// Every folder below a folder, itself included.
pub(crate) fn folders(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    // What cannot be listed now is listed when it changes.
    drop(walk(folder, 0, &mut files, &mut folders));
    folders
}

fn walk(
    folder: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
    folders: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_rule = path
            .extension()
            .is_some_and(|extension| extension == "yml" || extension == "yaml");
        if path.is_dir() && !path.is_symlink() {
            if depth < DEPTH_MAX {
                folders.push(path.clone());
                walk(&path, depth.saturating_add(1), files, folders)?;
            }
        } else if is_rule && files.len() < FILES_MAX {
            files.push(path);
        }
    }
    Ok(())
}
