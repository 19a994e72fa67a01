//! What the running agent's detection was told, beside what is shipped.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Prefix of the agent's environment variables; `__` stands between the parts of a key.
const PREFIX: &str = "FLEETMEND_AGENT_";

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its key, such as `detect.limits.process_cpu_for_s`.
    pub(crate) key: String,
    /// Its value, as it was written.
    pub(crate) value: String,
    /// Where it was written: `file` or `environment`.
    pub(crate) by: &'static str,
}

/// Settings of `detect` in the instance's `agent.toml` and the running agent's environment, which counts first. Where
/// files lie is left out: every instance says it.
pub(crate) fn of_detection(state: &Path, agent: i32) -> Result<Vec<Setting>> {
    let path = state.join("agent.toml");
    let file = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let path = format!("/proc/{agent}/environ");
    let environment = std::fs::read(&path).with_context(|| format!("read {path}"))?;
    merged(&file, &String::from_utf8_lossy(&environment))
}

fn merged(file: &str, environment: &str) -> Result<Vec<Setting>> {
    let table: toml::Table = file.parse().context("parse agent.toml")?;
    let mut settings = BTreeMap::new();
    if let Some(detect) = table.get("detect") {
        add("detect", detect, &mut settings);
    }
    for variable in environment.split('\0') {
        let Some((name, value)) = variable
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('='))
        else {
            continue;
        };
        let key = name.to_lowercase().replace("__", ".");
        if key.starts_with("detect.") && !value.starts_with('/') {
            settings.insert(key, (value.to_owned(), "environment"));
        }
    }
    Ok(settings
        .into_iter()
        .map(|(key, (value, by))| Setting { key, value, by })
        .collect())
}

fn add(key: &str, value: &toml::Value, settings: &mut BTreeMap<String, (String, &'static str)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                add(&format!("{key}.{name}"), value, settings);
            }
        }
        value if is_path(value) => (),
        value => {
            settings.insert(key.to_owned(), (value.to_string(), "file"));
        }
    }
}

fn is_path(value: &toml::Value) -> bool {
    match value {
        toml::Value::String(text) => text.starts_with('/'),
        toml::Value::Array(values) => !values.is_empty() && values.iter().all(is_path),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_counts_before_the_file_and_paths_are_left_out() {
        let file = "state_dir = \"/s\"\n[detect]\nrule_dirs = [\"/r\"]\n[detect.limits]\nprocess_cpu_for_s = 10\n\
                    [detect.anomaly]\nmodel_dir = \"/m\"\nwarmup_s = 120\n[spool]\nmetrics_flush = \"2s\"\n";
        let environment =
            "PATH=/bin\0FLEETMEND_AGENT_DETECT__ANOMALY__WARMUP_S=900\0FLEETMEND_AGENT_SPOOL__X=1\0";
        let settings = merged(file, environment).unwrap();
        let told: Vec<_> = settings
            .iter()
            .map(|setting| (setting.key.as_str(), setting.value.as_str(), setting.by))
            .collect();
        assert_eq!(
            told,
            [
                ("detect.anomaly.warmup_s", "900", "environment"),
                ("detect.limits.process_cpu_for_s", "10", "file"),
            ]
        );
        assert!(merged("[detect", "").is_err());
    }
}
