//! Frame by frame.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use agent_spool::inspect::{self, Record, Wanted};
use anyhow::{Context, Result};
use fleetmend_event::table::table_by_id;
use fleetmend_event::{Frame, Lane};
use serde_json::{Value, json};

use super::SpoolArguments;
use super::shape::{bytes, second};
use crate::command::tell;

/// What is to be listed.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Only this lane: critical, events or metrics
    #[arg(long)]
    lane: Option<Lane>,
    /// Only epochs whose id or number begins like this
    #[arg(long)]
    epoch: Option<String>,
    /// Only numbers from this one on
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// At most so many frames; 0 for all
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Show the rows, too
    #[arg(long)]
    rows: bool,
}

/// Lists what is wanted.
pub(super) fn dump(arguments: &DumpArguments, out: &mut impl Write) -> Result<ExitCode> {
    let (folder, _) = arguments.spool.folder()?;
    let wanted = Wanted {
        lane: arguments.lane,
        epoch: arguments.epoch.clone(),
        from: arguments.from,
    };
    let limit = if arguments.limit == 0 {
        usize::MAX
    } else {
        arguments.limit
    };
    let (mut shown, mut more, mut outcome) = (0_usize, false, Ok(()));
    inspect::walk(&folder, &wanted, &mut |record| {
        if shown == limit {
            more = true;
            return ControlFlow::Break(());
        }
        shown += 1;
        outcome = if arguments.spool.json {
            writeln!(out, "{}", record_json(&record, arguments.rows))
        } else {
            print_record(&record, arguments.rows, out)
        };
        if outcome.is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    outcome.context("print")?;
    if shown == 0 {
        tell("nothing in the spool is like this; fleetmend-agent spool verify shows what there is");
    }
    if more {
        tell("there is more: --limit 0 shows all, --from N goes on");
    }
    Ok(ExitCode::SUCCESS)
}

fn record_json(record: &Record, with_rows: bool) -> Value {
    match record {
        Record::Frame {
            ordinal,
            file,
            offset,
            frame,
        } => {
            let mut value = json!({
                "kind": "frame", "ordinal": ordinal, "epoch": frame.id.epoch, "lane": frame.id.lane,
                "sequence": frame.id.sequence, "table": table_name(frame), "schema_version": frame.schema_version,
                "tombstone": frame.tombstone, "row_count": frame.rows, "made_at": frame.made_at,
                "made_boot_us": frame.made_boot_us, "from_time": frame.from_time, "to_time": frame.to_time,
                "body_bytes": frame.body.len(), "file": file, "offset": offset,
            });
            if let Value::Object(object) = &mut value
                && with_rows
            {
                match inspect::rows(frame) {
                    Ok(rows) => object.insert("rows".to_owned(), rows.into()),
                    Err(error) => object.insert("rows_error".to_owned(), error.to_string().into()),
                };
            }
            value
        }
        Record::Shed {
            ordinal,
            epoch,
            lane,
            first,
            last,
        } => json!({
            "kind": "tombstones", "ordinal": ordinal, "epoch": epoch, "lane": lane, "first": first, "last": last,
        }),
        Record::Bad {
            ordinal,
            epoch,
            lane,
            file,
            offset,
            bytes,
            reason,
        } => json!({
            "kind": "damage", "ordinal": ordinal, "epoch": epoch, "lane": lane, "file": file, "offset": offset,
            "bytes": bytes, "reason": reason,
        }),
    }
}

fn print_record(record: &Record, with_rows: bool, out: &mut impl Write) -> io::Result<()> {
    match record {
        Record::Frame {
            ordinal,
            offset,
            frame,
            file,
        } => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            writeln!(
                out,
                "{ordinal:08} {:<8} {:>9}  {} to {}  {:<15} {:>5} rows {:>9}  {name} at {offset}",
                frame.id.lane,
                frame.id.sequence.0,
                second(frame.from_time),
                second(frame.to_time),
                table_name(frame),
                frame.rows,
                bytes(u64::try_from(frame.encoded_len()).unwrap_or(u64::MAX)),
            )?;
            match inspect::rows(frame) {
                Ok(rows) if with_rows => rows.iter().try_for_each(|row| writeln!(out, "    {row}")),
                Err(error) if with_rows => writeln!(out, "    its rows cannot be shown: {error}"),
                _ => Ok(()),
            }
        }
        Record::Shed {
            ordinal,
            lane,
            first,
            last,
            ..
        } => writeln!(
            out,
            "{ordinal:08} {lane:<8} {first:>9}  to {last}: tombstones, their records were shed"
        ),
        Record::Bad {
            ordinal,
            lane,
            file,
            offset,
            bytes,
            reason,
            ..
        } => writeln!(
            out,
            "{ordinal:08} {lane:<8}         -  {bytes} bytes at {offset} of {} are no frame: {reason}",
            file.display()
        ),
    }
}

fn table_name(frame: &Frame) -> String {
    table_by_id(frame.table).map_or_else(|| format!("table {}", frame.table), |table| table.name.to_owned())
}
