//! What came of a script.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::check::{Outcome, Runner};
use crate::script;

/// Evaluations of one file by their outcome, as lines.
pub(crate) struct Report {
    file: PathBuf,
    pub(crate) passed: Vec<usize>,
    pub(crate) failed: Vec<(usize, String)>,
    pub(crate) native: Vec<usize>,
}

/// The files named, and those ending in `.test` of folders.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = path
                .read_dir()
                .with_context(|| format!("list {}", path.display()))?;
            for entry in entries {
                let path = entry.with_context(|| format!("list {}", path.display()))?.path();
                if path.extension().is_some_and(|extension| extension == "test") {
                    files.push(path);
                }
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    Ok(files)
}

/// Runs one file; what cannot be read of it is a failure of its line.
pub(crate) async fn run(file: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut report = Report {
        file: file.to_owned(),
        passed: Vec::new(),
        failed: Vec::new(),
        native: Vec::new(),
    };
    let mut runner = Runner::default();
    for (line, command) in script::read(&text) {
        let outcome = match command {
            Ok(command) => runner.run(command).await,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        match outcome {
            Outcome::Done => {}
            Outcome::Passed => report.passed.push(line),
            Outcome::Native => report.native.push(line),
            Outcome::Failed(why) => report.failed.push((line, why)),
        }
    }
    Ok(report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, native) = (self.passed.len(), self.failed.len(), self.native.len());
        let file = self.file.display();
        write!(
            f,
            "{file}: {passed} passed, {failed} failed, {native} native histogram cases"
        )?;
        if native > 0 {
            let lines: Vec<String> = self.native.iter().map(usize::to_string).collect();
            write!(f, " (lines {})", lines.join(", "))?;
        }
        writeln!(f)?;
        for (line, why) in &self.failed {
            writeln!(f, "{file}:{line}: {why}")?;
        }
        Ok(())
    }
}
