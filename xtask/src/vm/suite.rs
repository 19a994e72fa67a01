//! The test programs of the matrix, and their run on this machine.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::outcome::{Outcome, Row, Test};
use crate::layout;
use crate::step::{command, output, step};

/// Packages whose library tests belong to the matrix, and which of them.
const SUITES: [(&str, &str); 1] = [("agent-collect", "bpf::tests::")];
/// Longest run of one test here.
const TEST_WITHIN: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A test program.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Package it tests.
    pub(crate) package: String,
    /// Part of the names of its tests that belong to the matrix.
    pub(crate) filter: &'static str,
    /// Where it lies.
    pub(crate) program: PathBuf,
}

/// Builds the test programs, but for the ones that `given` names as `PACKAGE=PATH`.
pub(crate) fn build(given: &[String]) -> Result<Vec<Suite>> {
    let mut suites = Vec::new();
    for (package, filter) in SUITES {
        let path = given
            .iter()
            .find_map(|word| word.strip_prefix(package)?.strip_prefix('='));
        let program = match path {
            Some(path) => PathBuf::from(path),
            None => step(&format!("build the tests of {package}"), || compile(package))?,
        };
        suites.push(Suite {
            package: package.to_owned(),
            filter,
            program,
        });
    }
    Ok(suites)
}

/// Builds the library tests of a package; gives the program.
fn compile(package: &str) -> Result<PathBuf> {
    let mut cargo = command(
        "cargo",
        &["test", "--package", package, "--lib", "--no-run", "--quiet"],
    );
    cargo
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(layout::root())
        .stderr(Stdio::inherit());
    let messages = output(&mut cargo)?;
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .next_back();
    program.with_context(|| format!("find the tests of {package} in what cargo said"))
}

/// Runs the suites on the kernel of this machine.
pub(crate) fn on_this_machine(suites: &[Suite], filter: Option<&str>) -> Result<Row> {
    let version = output(&mut command("uname", &["-r"]))?;
    step(
        &format!("run the sensor's tests on this machine's kernel {version}"),
        || {
            let mut row = Row {
                name: super::OWN.to_owned(),
                version,
                tests: Vec::new(),
            };
            for suite in suites {
                for name in names(suite, filter)? {
                    row.tests.push(one(suite, &name)?);
                }
            }
            if row.tests.is_empty() {
                bail!("no test has a name like that");
            }
            Ok(row)
        },
    )
}

fn names(suite: &Suite, filter: Option<&str>) -> Result<Vec<String>> {
    let listed = output(Command::new(&suite.program).args(["--list", "--format", "terse", suite.filter]))?;
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let wanted = |name: &&str| filter.is_none_or(|filter| name.contains(filter));
    Ok(names.filter(wanted).map(str::to_owned).collect())
}

fn one(suite: &Suite, name: &str) -> Result<Test> {
    let begun = Instant::now();
    let mut program = Command::new(&suite.program);
    program.args(["--exact", "--nocapture", "--test-threads=1", name]);
    let heard = layout::cache()?.join("kernels").join("own.said");
    let file = File::create(&heard).with_context(|| format!("write {}", heard.display()))?;
    program
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the file of a test's words")?)
        .stderr(file);
    let mut child = program
        .spawn()
        .with_context(|| format!("start {}", suite.program.display()))?;
    let outcome = loop {
        if let Some(status) = child.try_wait().context("look at a test")? {
            break if status.success() {
                Outcome::Passed
            } else {
                Outcome::Failed
            };
        }
        if begun.elapsed() > TEST_WITHIN {
            child.kill().context("end a test")?;
            child.wait().context("wait for a test's end")?;
            break Outcome::TimedOut;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let said = std::fs::read(&heard).with_context(|| format!("read {}", heard.display()))?;
    let said = String::from_utf8_lossy(&said)
        .lines()
        .map(str::to_owned)
        .collect();
    Ok(Test::new(
        name.to_owned(),
        outcome,
        begun.elapsed().as_secs_f64(),
        said,
    ))
}
