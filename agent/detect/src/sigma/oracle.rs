//! Our verdicts beside those of pySigma and SQLite, over events made from each rule: `cargo xtask sigma-oracle`.
//!
//! The public rules are those of `FLEETMEND_DATA`; a table of odd rules of our own has what they do not use.

mod made;
mod make;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use self::make::{Dice, Made, firing, matches, near_misses, random};
use super::read::RuleFile;
use super::set::RuleSet;
use super::{RuleOptions, RuleState};

/// Python that has pySigma, given by `cargo xtask test`.
const PYTHON: &str = "FLEETMEND_SIGMA_PYTHON";
/// Near misses of one rule that the oracle judges.
const MISSES: usize = 6;
/// Random events of one rule.
const RANDOM: usize = 12;

/// What is known of one rule.
#[derive(Debug, Default)]
struct Proof {
    title: String,
    source: String,
    path: String,
    state: String,
    reason: String,
    fires: bool,
    near_miss: bool,
    events: usize,
    /// Events on which the two differ.
    differences: Vec<String>,
}

impl Proof {
    fn proven(&self) -> bool {
        self.state == "loaded"
            && self.fires
            && self.near_miss
            && self.differences.is_empty()
            && self.reason.is_empty()
    }
}

/// Whether the oracle can be asked. CI has to be able to.
fn python() -> Option<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON) {
        return Some(PathBuf::from(python));
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{PYTHON} is not set: the rules are not compared with the oracle; run `cargo xtask test`"
    );
    println!("did not run: {PYTHON} is not set; `cargo xtask test` sets it");
    None
}

fn ask(python: &Path, cases: &[(String, Vec<Made>)]) -> Vec<Result<Vec<bool>, String>> {
    let cases: Vec<Value> = cases
        .iter()
        .map(|(rule, events)| json!({"rule": rule, "events": events}))
        .collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sigma/oracle/oracle.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the oracle");
    let mut input = child.stdin.take().expect("its input");
    let question = json!({"cases": cases}).to_string();
    let writer = std::thread::spawn(move || input.write_all(question.as_bytes()));
    let output = child.wait_with_output().expect("its answer");
    writer.join().expect("the question").expect("write the question");
    assert!(output.status.success(), "the oracle ended with {}", output.status);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("read its answer");
    let cases = answer["cases"].as_array().expect("its cases");
    let case = |case: &Value| match case["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(case["verdicts"]
            .as_array()
            .expect("verdicts")
            .iter()
            .map(|verdict| verdict == true)
            .collect()),
    };
    cases.iter().map(case).collect()
}

/// Proves every rule of these files, one rule per file.
fn prove(python: &Path, files: Vec<(PathBuf, String)>) -> Vec<Proof> {
    let mut proofs = Vec::new();
    let mut cases = Vec::new();
    let mut asked: Vec<(usize, Vec<bool>)> = Vec::new();
    for (path, text) in files {
        let set = RuleSet::of(
            &RuleOptions::default(),
            vec![RuleFile::parse(&path, text.clone())],
        );
        let listing = set.listing.first().expect("a rule is listed");
        let mut proof = Proof {
            title: listing.title.clone(),
            path: path.display().to_string(),
            state: listing.state.as_str().to_owned(),
            reason: listing.state.reason().to_owned(),
            ..Proof::default()
        };
        if listing.state == RuleState::Loaded {
            let rule = &set.groups[0].rules[0].rule;
            proof.source = rule.source.to_string();
            let mut dice = Dice::new(&rule.meta.key);
            let mut events = Vec::new();
            if let Some(event) = firing(rule, &set.names, &mut dice) {
                proof.fires = true;
                let mut misses = near_misses(rule, &set.names, &event, &mut dice);
                proof.near_miss = !misses.is_empty();
                misses.truncate(MISSES);
                events.push(event);
                events.extend(misses);
                events.extend(firing(rule, &set.names, &mut dice));
            }
            events.extend((0..RANDOM).map(|_| random(rule, &set.names, &mut dice)));
            let ours: Vec<bool> = events
                .iter()
                .map(|event| matches(rule, &set.names, event))
                .collect();
            proof.events = events.len();
            // What the index leads to is what exact evaluation says.
            for (event, ours) in events.iter().zip(&ours) {
                assert_eq!(
                    through_the_index(&set, event),
                    *ours,
                    "{}: {event:?}",
                    proof.title
                );
            }
            asked.push((proofs.len(), ours));
            cases.push((text, events));
        }
        proofs.push(proof);
    }
    let answers = ask(python, &cases);
    for (((number, ours), (_, events)), theirs) in asked.iter().zip(&cases).zip(answers) {
        let proof = &mut proofs[*number];
        match theirs {
            Err(error) => proof.reason = format!("the oracle cannot judge it: {error}"),
            Ok(theirs) => {
                for ((event, ours), theirs) in events.iter().zip(ours).zip(theirs) {
                    if *ours != theirs {
                        proof
                            .differences
                            .push(format!("ours {ours}, theirs {theirs}: {event:?}"));
                    }
                }
            }
        }
    }
    proofs
}

fn through_the_index(set: &RuleSet, event: &Made) -> bool {
    use super::event::{Fields, Slots};
    use super::index::Candidates;
    let mut fields = Fields::default();
    for (name, value) in event {
        fields.add(name.as_str(), value.as_str());
    }
    let slots = Slots::new(&fields, &set.names);
    let group = &set.groups[0];
    let mut candidates = Candidates::default();
    group.index.candidates(&slots, group.rules.len(), &mut candidates);
    candidates
        .rules
        .iter()
        .any(|rule| super::matching::holds(&group.rules[*rule as usize].rule.condition, &slots))
}

fn failures(proofs: &[Proof]) -> String {
    let mut text = String::new();
    for proof in proofs.iter().filter(|proof| !proof.proven()) {
        writeln!(
            text,
            "{} ({}): {}, fires {}, near miss {}: {} {}",
            proof.title,
            proof.path,
            proof.state,
            proof.fires,
            proof.near_miss,
            proof.reason,
            proof.differences.join("\n      ")
        )
        .unwrap();
    }
    text
}

#[test]
fn odd_rules_match_what_the_oracle_says() {
    let Some(python) = python() else { return };
    // Each document is a file of its own.
    let documents = include_str!("oracle/odd.yml").split("---\n").skip(1);
    let files: Vec<(PathBuf, String)> = (1..)
        .zip(documents)
        .map(|(number, text)| (PathBuf::from(format!("odd-{number}.yml")), text.to_owned()))
        .collect();
    assert!(files.len() >= 90, "{}", files.len());
    let proofs = prove(&python, files);
    assert!(proofs.iter().all(Proof::proven), "{}", failures(&proofs));
}

#[test]
fn made_up_rules_match_what_the_oracle_says() {
    let Some(python) = python() else { return };
    let proofs = prove(&python, made::rules(150));
    let differing: Vec<_> = proofs
        .iter()
        .filter(|proof| proof.state != "loaded" || !proof.differences.is_empty() || !proof.reason.is_empty())
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    // A made-up condition may be one that nothing meets, but not often.
    let firing = proofs.iter().filter(|proof| proof.fires).count();
    assert!(
        firing * 10 >= proofs.len() * 8,
        "{firing} of {} fire",
        proofs.len()
    );
}

#[test]
fn public_rules_are_loaded_and_proven() {
    let Some(data) = std::env::var_os("FLEETMEND_DATA") else {
        println!("did not run: FLEETMEND_DATA is not set");
        return;
    };
    let Some(python) = python() else { return };
    let root = PathBuf::from(data).join("sigma");
    let paths = super::read::rule_files(&root).expect("list the public rules");
    let files: Vec<(PathBuf, String)> = paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("read a rule");
            (path.strip_prefix(&root).expect("below the root").to_owned(), text)
        })
        .collect();
    let proofs = prove(&python, files);
    let loaded = proofs.iter().filter(|proof| proof.state == "loaded").count();
    let proven = proofs.iter().filter(|proof| proof.proven()).count();
    println!("{loaded} of {} loaded, {proven} proven", proofs.len());
    let differing: Vec<_> = proofs
        .iter()
        .filter(|proof| !proof.differences.is_empty())
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(
        loaded * 100 >= proofs.len() * 95 && proven * 100 >= proofs.len() * 95,
        "{}",
        failures(&proofs)
    );
    check_page(&coverage(&proofs));
}

fn coverage(proofs: &[Proof]) -> String {
    let count = |of: fn(&&Proof) -> bool| proofs.iter().filter(of).count();
    let mut page = format!(
        "# Coverage of public Sigma rules\n\n\
        A test writes this page (`FLEETMEND_WRITE_DOCS=1 cargo xtask sigma-oracle`) and fails while it differs.\n\n\
        Of {} public rules for Linux and web servers **{} are loaded and {} proven**: an event made from the rule fires, \
        near misses made from that event stay silent, and pySigma's SQLite backend says the same of each of them and of \
        {RANDOM} random events. The backend does not know keywords; they are looked for in every column, from pySigma's \
        own tree of conditions. In all {} verdicts were compared, {} differ.\n\n\
        That a rule is proven says that it is matched as it is written. Whether its source has events on a host is \
        another question: docs/specs/rules.md says what feeds which log source and field.\n\n\
        | rule | log source | state | fires | near miss silent | events compared |\n|---|---|---|---|---|---|\n",
        proofs.len(),
        count(|proof| proof.state == "loaded"),
        count(|proof| proof.proven()),
        proofs.iter().map(|proof| proof.events).sum::<usize>(),
        proofs.iter().map(|proof| proof.differences.len()).sum::<usize>(),
    );
    let yes = |truth: bool| if truth { "yes" } else { "no" };
    for proof in proofs {
        let state = if proof.reason.is_empty() {
            proof.state.clone()
        } else {
            format!("{}: {}", proof.state, proof.reason)
        };
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            proof.title.replace('|', "\\|"),
            proof.source,
            state.replace('|', "\\|"),
            yes(proof.fires),
            yes(proof.near_miss),
            proof.events
        )
        .unwrap();
    }
    page
}

fn check_page(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/specs/sigma-coverage.md");
    if std::env::var_os("FLEETMEND_WRITE_DOCS").is_some() {
        std::fs::write(&path, page).expect("write the page");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/specs/sigma-coverage.md is out of date; write it with FLEETMEND_WRITE_DOCS=1 cargo xtask sigma-oracle"
    );
}
