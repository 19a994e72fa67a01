//! `fleetmend-agent spool`: what waits on disk, whether it is whole, and what is in it. Reads only.

mod dump;
mod shape;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_spool::inspect::{self, EpochReport, Fault, LaneReport, SpoolReport};
use anyhow::{Context, Result};
use clap::Subcommand;
use fleetmend_event::Lane;
use serde_json::{Value, json};

use self::dump::DumpArguments;
use self::shape::{bytes, counted, plain, print_table, second};
use crate::command::{ask, is_closed_pipe, tell};
use crate::config::AgentConfig;

/// Which spool.
#[derive(Debug, clap::Args)]
pub(crate) struct SpoolArguments {
    #[command(flatten)]
    config: super::ConfigArguments,
    /// Look at this folder instead of the configured one: a copy, or that of another host
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is to be done with it.
#[derive(Debug, Subcommand)]
pub(crate) enum SpoolCommand {
    /// Say what waits in each lane: of the running agent, or else of the folder
    Stat(SpoolArguments),
    /// Read every segment and say what is damaged or missing; exit status 1 when anything is
    Verify(SpoolArguments),
    /// List frames, oldest epoch first
    Dump(DumpArguments),
}

impl SpoolCommand {
    /// Does it. A reader that goes away, as `head` does, is no failure.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let done = match self {
            SpoolCommand::Stat(arguments) => stat(arguments, &mut out),
            SpoolCommand::Verify(arguments) => verify(arguments, &mut out),
            SpoolCommand::Dump(arguments) => dump::dump(arguments, &mut out),
        };
        let done = done.and_then(|code| {
            out.flush().context("print")?;
            Ok(code)
        });
        match done {
            Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                tell(&format!("{error:#}"));
                Ok(ExitCode::FAILURE)
            }
            done => done,
        }
    }
}

impl SpoolArguments {
    /// The folder, and the configuration where that named it.
    fn folder(&self) -> Result<(PathBuf, Option<AgentConfig>)> {
        if let Some(folder) = &self.folder {
            return Ok((folder.clone(), None));
        }
        let config = AgentConfig::load(&self.config.config)
            .context("read the configuration; --folder looks at a spool without one")?;
        Ok((config.spool.folder.clone(), Some(config)))
    }
}

fn stat(arguments: &SpoolArguments, out: &mut impl Write) -> Result<ExitCode> {
    let (folder, config) = arguments.folder()?;
    let running = config.and_then(|config| ask(&config.admin_socket, "/status").ok());
    let spool = running
        .and_then(|body| serde_json::from_str::<Value>(&body).ok())
        .and_then(|mut status| status.get_mut("spool").map(Value::take));
    if let Some(spool) = spool {
        return print_running(&folder, &spool, arguments.json, out);
    }
    let report = inspect::inspect(&folder)?;
    if arguments.json {
        writeln!(out, "{}", json!({ "source": "folder", "spool": report })).context("print")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "spool {}, read from the folder because no agent answers{}",
        folder.display(),
        if report.stopped_cleanly {
            ": the last one stopped in order"
        } else {
            ""
        }
    )
    .context("print")?;
    print_lanes(&report, out)?;
    tell("what the collector has of it already is known to a running agent only");
    Ok(ExitCode::SUCCESS)
}

fn print_running(folder: &Path, spool: &Value, json: bool, out: &mut impl Write) -> Result<ExitCode> {
    if json {
        writeln!(out, "{}", json!({ "source": "agent", "spool": spool })).context("print")?;
        return Ok(ExitCode::SUCCESS);
    }
    let word = |value: &Value, key: &str| value.get(key).map_or_else(String::new, plain);
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    writeln!(
        out,
        "spool {} of the running agent; epoch {}, epochs kept: {}, facts that wait for the writer: {}",
        folder.display(),
        word(spool, "epoch"),
        word(spool, "epochs"),
        word(spool, "intake_facts"),
    )
    .context("print")?;
    if spool.get("disk_refuses").and_then(Value::as_bool) == Some(true) {
        writeln!(
            out,
            "THE DISK REFUSES WRITES: what cannot be kept is counted and reported as a gap. Look at df -h {}",
            folder.display()
        )
        .context("print")?;
    }
    let mut table = vec![
        [
            "LANE",
            "WAITING",
            "ON DISK",
            "QUOTA",
            "USED",
            "SEGMENTS",
            "HIGHEST",
            "ACKNOWLEDGED",
        ]
        .map(str::to_owned),
    ];
    for lane in spool.get("lanes").and_then(Value::as_array).into_iter().flatten() {
        let (used, quota) = (number(lane, "bytes"), number(lane, "quota_bytes"));
        table.push([
            word(lane, "lane"),
            word(lane, "waiting"),
            bytes(used),
            bytes(quota),
            format!("{} %", used.saturating_mul(100).checked_div(quota).unwrap_or(0)),
            word(lane, "segments"),
            word(lane, "highest"),
            word(lane, "acknowledged"),
        ]);
    }
    print_table(&table, out)?;
    Ok(ExitCode::SUCCESS)
}

fn print_lanes(report: &SpoolReport, out: &mut impl Write) -> Result<()> {
    let mut table = vec![
        [
            "LANE",
            "RECORDS",
            "TOMBSTONES",
            "ON DISK",
            "SEGMENTS",
            "OLDEST",
            "NEWEST",
        ]
        .map(str::to_owned),
    ];
    for lane in Lane::ALL {
        let lanes = || {
            report
                .epochs
                .iter()
                .flat_map(|epoch| &epoch.lanes)
                .filter(|found| found.lane == *lane)
        };
        let sum = |of: fn(&LaneReport) -> u64| lanes().map(of).sum::<u64>();
        table.push([
            lane.to_string(),
            sum(|lane| lane.frames).to_string(),
            sum(|lane| lane.tombstones).to_string(),
            bytes(sum(|lane| lane.bytes)),
            sum(|lane| lane.segments).to_string(),
            lanes()
                .filter_map(|lane| lane.from_time)
                .min()
                .map_or_else(String::new, second),
            lanes()
                .filter_map(|lane| lane.to_time)
                .max()
                .map_or_else(String::new, second),
        ]);
    }
    print_table(&table, out)
}

fn verify(arguments: &SpoolArguments, out: &mut impl Write) -> Result<ExitCode> {
    let (folder, _) = arguments.folder()?;
    let report = inspect::inspect(&folder)?;
    let faults = report.faults();
    let code = if faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if arguments.json {
        writeln!(out, "{}", json!({ "faults": faults, "spool": report })).context("print")?;
        return Ok(code);
    }
    writeln!(out, "spool {}", folder.display()).context("print")?;
    if report.epochs.is_empty() {
        writeln!(out, "there is no epoch in it: nothing waits").context("print")?;
    }
    for epoch in &report.epochs {
        print_epoch(epoch, out)?;
    }
    if report.staged_ticks > 0 {
        writeln!(
            out,
            "waiting for their batch: {} of metrics ({})",
            counted(report.staged_ticks, "tick"),
            bytes(report.staged_bytes)
        )
        .context("print")?;
    }
    if report.set_aside_files > 0 {
        writeln!(
            out,
            "set aside in corrupt/ at earlier starts, because it was no frame: {} ({})",
            counted(report.set_aside_files, "file"),
            bytes(report.set_aside_bytes)
        )
        .context("print")?;
    }
    print_foreign(&report.foreign, out)?;
    let verdict = match faults {
        0 => format!("whole: {} of frames", bytes(report.bytes())),
        faults => counted(faults, "fault"),
    };
    writeln!(out, "{verdict}").context("print")?;
    if faults > 0 {
        writeln!(
            out,
            "Nothing was changed. The agent sets damage aside at its next start, goes on with what is whole, and reports \
             what is gone as gaps: systemctl restart fleetmend-agent. If this comes again, look at the disk: smartctl, \
             dmesg."
        )
        .context("print")?;
    }
    Ok(code)
}

fn print_epoch(epoch: &EpochReport, out: &mut impl Write) -> Result<()> {
    writeln!(out, "epoch {:08} {}", epoch.ordinal, epoch.epoch).context("print")?;
    for lane in &epoch.lanes {
        let numbers = match (lane.first, lane.last) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "nothing".to_owned(),
        };
        write!(out, "  {:<9} {numbers}", lane.lane).context("print")?;
        if lane.first.is_some() {
            write!(
                out,
                ": {}, {}, {} in {}",
                counted(lane.frames, "frame"),
                counted(lane.tombstones, "tombstone"),
                bytes(lane.bytes),
                counted(lane.segments, "segment")
            )
            .context("print")?;
        }
        if let (Some(from), Some(to)) = (lane.from_time, lane.to_time) {
            write!(out, ", {} to {}", second(from), second(to)).context("print")?;
        }
        writeln!(out).context("print")?;
        if lane.torn_bytes > 0 {
            writeln!(
                out,
                "            torn tail: the last {} bytes begin a frame and do not end it; one that is being written, or that \
                 a crash cut short before it counted",
                lane.torn_bytes
            )
            .context("print")?;
        }
        for fault in &lane.faults {
            writeln!(out, "            {}", described(fault)).context("print")?;
        }
        if lane.faults_more > 0 {
            writeln!(out, "            and {} more", counted(lane.faults_more, "fault")).context("print")?;
        }
    }
    print_foreign(&epoch.foreign, out)
}

fn described(fault: &Fault) -> String {
    let place = match &fault.file {
        Some(file) => format!(" {file} at byte {}", fault.offset),
        None => String::new(),
    };
    let numbers = match (fault.first, fault.last) {
        (Some(first), Some(last)) if first == last => format!("; number {first} is gone"),
        (Some(first), Some(last)) => format!("; numbers {first} to {last} are gone"),
        _ => String::new(),
    };
    format!(
        "{}{place}: {}{numbers}",
        fault.kind.as_str().to_uppercase(),
        fault.reason
    )
}

fn print_foreign(names: &[String], out: &mut impl Write) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    writeln!(out, "  not of the spool, and left alone: {}", shown.join(", ")).context("print")
}
