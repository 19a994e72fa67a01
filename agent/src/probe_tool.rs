//! `fleetmend-agent probe`: what the probes would do on a kernel, and what they do on this one.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use agent_collect::bpf::{Forecast, forecast};
use anyhow::{Context, Result};
use serde_json::Value;

/// What is asked about the probes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ProbeCommand {
    /// Say which probes would load, and what the kernel lacks for the others
    Kernel(KernelArguments),
}

/// Which kernel.
#[derive(Debug, clap::Args)]
pub(crate) struct KernelArguments {
    /// Types of another kernel: its /sys/kernel/btf/vmlinux
    #[arg(long)]
    btf: Option<PathBuf>,
}

impl ProbeCommand {
    /// Prints the answer; fails when a duty cannot be kept.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Self::Kernel(arguments) = self;
        let forecasts = forecast(arguments.btf.as_deref()).context("judge the kernel")?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{:<12} {:<14} WAY", "FAMILY", "DUTY").context("print")?;
        for Forecast {
            family,
            duty,
            way,
            missing,
        } in &forecasts
        {
            writeln!(out, "{family:<12} {duty:<14} {}", way.unwrap_or("NONE")).context("print")?;
            for what in missing {
                writeln!(out, "{:<27} without {what}", "").context("print")?;
            }
        }
        writeln!(
            out,
            "\nBy the kernel's types alone; what the verifier, lockdown or a missing capability refuses shows when it is loaded."
        )
        .context("print")?;
        let all_kept = forecasts.iter().all(|forecast| forecast.way.is_some());
        Ok(if all_kept {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What the sensor says of itself in the agent's status, as tables.
pub(crate) fn tables(sensor: &Value) -> String {
    let families = || sensor.as_array().into_iter().flatten();
    let text = |value: &Value, key: &str| match value.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64).unwrap_or_default();
    let mut lines = format!(
        "  {:<11} {:<14} {:>12} {:>9} {:>9}  WAY",
        "FAMILY", "DUTY", "RUNS", "MEAN NS", "CORE %"
    );
    for family in families() {
        for duty in family
            .get("duties")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            lines.push_str(&format!(
                "\n  {:<11} {:<14} {:>12} {:>9.0} {:>9.3}  {}",
                text(family, "family"),
                text(duty, "duty"),
                text(duty, "runs"),
                number(duty, "mean_ns"),
                number(duty, "cpu_core_pct"),
                text(duty, "way")
            ));
        }
    }
    lines.push_str(&format!(
        "\n\n  {:<11} {:<4} {:>12} {:>12} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "FAMILY",
        "CPU",
        "SEEN",
        "FILTERED",
        "AGGREGATED",
        "DELIVERED",
        "RING FULL",
        "MAP FULL",
        "SHED",
        "EVICTED"
    ));
    for family in families() {
        let cpus = family.get("cpus").and_then(Value::as_array).into_iter().flatten();
        for account in cpus.chain(family.get("total")) {
            let cpu = match account.get("cpu").and_then(Value::as_u64) {
                Some(cpu) => cpu.to_string(),
                None => "all".to_owned(),
            };
            lines.push_str(&format!(
                "\n  {:<11} {cpu:<4} {:>12} {:>12} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
                text(family, "family"),
                text(account, "seen"),
                text(account, "filtered"),
                text(account, "aggregated"),
                text(account, "delivered"),
                text(account, "ring_full"),
                text(account, "map_full"),
                text(account, "shed"),
                text(account, "evicted")
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn accounts_are_shown_for_each_processor_and_for_all() {
        let account = |cpu: Option<u32>, seen: u64| {
            json!({"cpu": cpu, "seen": seen, "filtered": 1, "aggregated": 2, "delivered": seen, "ring_full": 0,
                   "map_full": 0, "shed": 0, "evicted": 0})
        };
        let sensor = json!([{
            "family": "file", "total": account(None, 30), "cpus": [account(Some(0), 10), account(Some(1), 20)],
            "duties": [{"duty": "open", "way": "return of the call", "runs": 640, "mean_ns": 512.4, "cpu_core_pct": 0.25}],
        }]);
        let shown = tables(&sensor);
        let rows: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[1][..5], ["file", "open", "640", "512", "0.250"]);
        assert_eq!(rows[4][..3], ["file", "0", "10"]);
        assert_eq!(rows[6][..3], ["file", "all", "30"]);
    }
}
