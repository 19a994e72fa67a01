//! Bodies of made-up hosts, not compressed: what the dictionary of `fleetmend_event::batch` is trained on.
//!
//! The hosts are others than those of the benchmarks: other seeds, so other devices and other values.

use std::path::PathBuf;

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use fleetmend_event::{batch, tables};

use crate::ingest::data::{Kind, prepare};

const SEED: u64 = 77_000_000;
/// Kinds of bodies, and how many of each: small ones are where a dictionary counts.
const KINDS: [(Kind, u32); 5] = [
    (Kind::Metrics { ticks: 1 }, 6),
    (Kind::Metrics { ticks: 10 }, 4),
    (Kind::Events { rows: 5 }, 20),
    (Kind::Events { rows: 25 }, 20),
    (Kind::Events { rows: 100 }, 5),
];
const HOSTS: u32 = 12;

/// Arguments of `work-samples`.
#[derive(clap::Args)]
pub(crate) struct SampleArguments {
    /// Folder for the files
    folder: PathBuf,
}

/// Writes one file for each body.
pub(crate) fn run(arguments: &SampleArguments) -> Result<()> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let write = |name: String, rows: &RecordBatch| {
        let path = folder.join(name);
        std::fs::write(&path, batch::plain(rows).context("encode a batch")?)
            .with_context(|| format!("write {}", path.display()))
    };
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    for (index, (kind, frames)) in KINDS.into_iter().enumerate() {
        let stocks = runtime.block_on(prepare(kind, HOSTS, frames, SEED))?;
        for (host, stock) in stocks.iter().enumerate() {
            for (number, frame) in stock.frames.iter().enumerate() {
                let rows = frame.batch().context("read a frame")?.context("find its rows")?;
                write(format!("{index}-{host:02}-{number:02}"), &rows)?;
            }
        }
    }
    for table in tables() {
        let none = RecordBatch::new_empty(table.schema.clone());
        write(format!("table-{:02}", table.id), &none)?;
    }
    Ok(())
}
