//! `fleetmend-agent rules check | explain | test`: what becomes of the detection rules, what one needs, and whether
//! it matches events that somebody wrote down.

mod trial;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_detect::sigma::{RuleListing, RuleOptions, RuleState, Sigma, explain};
use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde_json::json;

use crate::command::is_closed_pipe;
use crate::config::AgentConfig;

/// What is asked of the rules.
#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Read every rule and say what became of it; fails when one is broken
    Check(CheckArguments),
    /// Say what a rule needs, what feeds it, and when it matches
    Explain(ExplainArguments),
    /// Try rules on events that are written down; fails when one is not judged as expected
    Test(trial::TestArguments),
}

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Rule files and folders; those of the configuration when there is none
    paths: Vec<PathBuf>,
    #[command(flatten)]
    config: super::ConfigArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    /// Id, title or file of the rule
    rule: String,
    #[command(flatten)]
    config: super::ConfigArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl RulesCommand {
    /// Does it.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let done = match self {
            Self::Check(arguments) => check(arguments),
            Self::Explain(arguments) => explained(arguments),
            Self::Test(arguments) => trial::run(arguments),
        };
        match done {
            Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
            done => done,
        }
    }
}

/// The rules of the configuration, or what is said where there is none to read.
fn options(config: &Path, paths: &[PathBuf]) -> Result<RuleOptions> {
    let mut options = match AgentConfig::load(config) {
        Ok(config) => config.detect.rule_options(),
        // Rules may be looked at where no agent is installed.
        Err(_) if !paths.is_empty() && !config.exists() => RuleOptions::default(),
        Err(faults) => return Err(faults.into()),
    };
    if !paths.is_empty() {
        options.folders = paths.to_vec();
        for path in paths {
            ensure!(path.exists(), "{} does not exist", path.display());
        }
    }
    Ok(options)
}

fn check(arguments: &CheckArguments) -> Result<ExitCode> {
    let sigma = Sigma::with(&options(&arguments.config.config, &arguments.paths)?);
    let mut out = std::io::stdout().lock();
    let broken = sigma
        .listing()
        .iter()
        .any(|rule| matches!(rule.state, RuleState::Broken(_)));
    if arguments.json {
        let rule = |rule: &RuleListing| {
            json!({
                "path": rule.path, "id": rule.id, "title": rule.title,
                "state": rule.state.as_str(), "reason": rule.state.reason(),
            })
        };
        let rules: Vec<_> = sigma.listing().iter().map(rule).collect();
        writeln!(out, "{}", json!({"rules": rules, "sum": sigma.status().reason}))
            .context("print the rules")?;
    } else {
        for rule in sigma.listing() {
            let state = match &rule.state {
                RuleState::Broken(_) => "BROKEN",
                state => state.as_str(),
            };
            let line = format!(
                "{state:<12} {} ({}) {}",
                rule.title,
                rule.path.display(),
                rule.state.reason()
            );
            writeln!(out, "{}", line.trim_end()).context("print a rule")?;
        }
        writeln!(out, "{}", sigma.status().reason).context("print the sum")?;
    }
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn explained(arguments: &ExplainArguments) -> Result<ExitCode> {
    let as_path = PathBuf::from(&arguments.rule);
    let paths: Vec<PathBuf> = as_path.is_file().then_some(as_path).into_iter().collect();
    let sigma = Sigma::with(&options(&arguments.config.config, &paths)?);
    let mut found = explain(&sigma, &arguments.rule);
    if let (true, [path]) = (found.is_empty(), paths.as_slice())
        && let Some(name) = path.file_name()
    {
        found = explain(&sigma, &name.to_string_lossy());
    }
    let mut out = std::io::stdout().lock();
    if found.is_empty() {
        let listed = sigma.listing().iter().find(|rule| {
            rule.id == arguments.rule
                || rule.title.eq_ignore_ascii_case(&arguments.rule)
                || paths.contains(&rule.path)
        });
        match listed {
            Some(rule) => bail!(
                "{} is {}: {}",
                rule.title,
                rule.state.as_str(),
                rule.state.reason()
            ),
            None => bail!(
                "no rule is called {:?}; `fleetmend-agent rules check` lists them all",
                arguments.rule
            ),
        }
    }
    for explanation in found {
        if arguments.json {
            writeln!(out, "{}", explanation.json).context("print the rule")?;
        } else {
            writeln!(out, "{}", explanation.text).context("print the rule")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
