//! `backup`: how fast a store is backed up, verified and restored, and how near to a moment.
//!
//! A store is filled through its own commits with events whose arguments nobody can compress, until it holds 10 GiB
//! (`--gib` for another amount), compaction and merges included. It stays open and goes on while it is backed up,
//! encrypted. Its files are deleted before the restore, so that the disk holds two copies at most, and pages of the
//! repository are taken out of the cache before it is read. What is restored is opened and counted: a wrong count
//! fails the benchmark.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collector_store::QueryLimits;
use collector_store::backup::{
    BackupKey, Made, Repository, RestoreTarget, Source, Unwatched, VerifyExtent, back_up, plan, restore,
    verify,
};
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, Source as Probe, TableInfo};
use fleetmend_event::{Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, Table as _, TimeMicros};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::runtime::{Handle, Runtime};

use crate::process::peak_rss_mib;
use crate::report::{Bar, Report, progress};
use crate::store::bed::Bed;

const SEED: u64 = 20_261_121;
const MIB: f64 = 1024.0 * 1024.0;
const GIB: u64 = 1 << 30;
/// Rows of a frame and letters of a row's argument: a frame stays below 256 KiB.
const ROWS: usize = 56;
const LETTERS: usize = 4_096;
/// Frames of one commit.
const FRAMES: usize = 16;
/// Frames between two looks at how much there is.
const LOOK_EVERY: usize = 512;
/// The restored moment may be this far from the asked one.
const MOMENT_S: f64 = 60.0;

/// Arguments of `backup`.
#[derive(clap::Args)]
pub(crate) struct BackupArguments {
    /// GiB of the store
    #[arg(long)]
    gib: Option<u64>,
    /// Folder for store, repository and target; one below the temporary files when left out
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Measures.
pub(crate) fn run(quick: bool, arguments: &BackupArguments) -> Result<Report> {
    let gib = arguments.gib.unwrap_or(10);
    let wanted = if quick { 64 << 20 } else { gib.saturating_mul(GIB) };
    let parameters = json!({"store_bytes_wanted": wanted, "encrypted": true, "quick": quick});
    let mut report = Report::new("backup", SEED, parameters);
    let mut builder = tempfile::Builder::new();
    builder.prefix("fleetmend-bench-backup-");
    let folder = match &arguments.folder {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    let folder = folder.context("make a folder")?;
    let runtime = Runtime::new().context("start the runtime")?;
    let bench = Bench {
        folder: folder.path().to_owned(),
        runtime: runtime.handle().clone(),
        key: BackupKey::new(&[7; 32]),
    };
    std::fs::create_dir(bench.repository_folder()).context("make the repository's folder")?;
    bench.run(&mut report, wanted)?;
    report.figure(
        "rss_peak_mib",
        peak_rss_mib(std::process::id()).context("read the peak of the memory")?,
        Bar::None,
    );
    Ok(report)
}

struct Bench {
    folder: PathBuf,
    runtime: Handle,
    key: BackupKey,
}

impl Bench {
    fn store_folder(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn repository_folder(&self) -> PathBuf {
        self.folder.join("repository")
    }

    fn repository(&self) -> Result<Repository> {
        Ok(Repository::open_or_create(
            &self.repository_folder(),
            Some(self.key.clone()),
        )?)
    }

    fn back_up(&self) -> Result<Made> {
        let source = Source {
            store: self.store_folder(),
            ..Source::default()
        };
        Ok(back_up(
            &self.repository()?,
            &source,
            false,
            &self.runtime,
            &Unwatched,
        )?)
    }

    fn run(&self, report: &mut Report, wanted: u64) -> Result<()> {
        let bed = self.runtime.block_on(Bed::open(&self.store_folder()))?;
        let mut load = Load::new();
        progress(format_args!("filling a store of {} MiB", wanted >> 20));
        let begun = Instant::now();
        self.runtime.block_on(async {
            while bed.bytes()? < wanted {
                load.commit(&bed, LOOK_EVERY).await?;
            }
            bed.settle().await
        })?;
        report.condition("filled_in_s", json!(begun.elapsed().as_secs()));
        report.condition("tables", bed.tables());
        self.first(report, &bed)?;
        self.more(report, &bed, &mut load)?;
        let asked = self.moment(&bed, &mut load)?;
        let rows = load.rows;
        self.runtime.block_on(bed.close())?;
        std::fs::remove_dir_all(self.store_folder()).context("delete the store")?;
        self.read_back(report)?;
        self.restore(report, rows, asked)
    }

    fn first(&self, report: &mut Report, bed: &Bed) -> Result<()> {
        progress("first backup");
        bed.forget_pages()?;
        let made = self.back_up()?;
        ensure!(
            made.manifest.missing.is_empty(),
            "files are missing: {:?}",
            made.manifest.missing
        );
        let mib = made.manifest.bytes() as f64 / MIB;
        report.condition("store_mib", json!(mib.round()));
        report.condition("parquet_files", json!(made.manifest.parquet_files()));
        report.figure("backup_mib_per_s", mib / made.elapsed.as_secs_f64(), Bar::None);
        report.figure(
            "repository_mib_per_store_mib",
            made.manifest.bytes_added as f64 / MIB / mib,
            Bar::None,
        );
        Ok(())
    }

    /// A minute's worth, half of it before the moment that is asked for later; all of it is compacted and merged with
    /// what was there before the backup has it.
    fn moment(&self, bed: &Bed, load: &mut Load) -> Result<(TimeMicros, u64)> {
        self.runtime.block_on(load.commit(bed, FRAMES))?;
        let at = (TimeMicros::now(), load.rows);
        std::thread::sleep(Duration::from_millis(2));
        self.runtime.block_on(load.commit(bed, FRAMES))?;
        self.runtime.block_on(bed.settle())?;
        self.back_up()?;
        Ok(at)
    }

    /// A minute's worth, and then nothing.
    fn more(&self, report: &mut Report, bed: &Bed, load: &mut Load) -> Result<()> {
        progress("incremental backup");
        self.runtime.block_on(load.commit(bed, 2 * FRAMES))?;
        let made = self.back_up()?;
        report.figure("incremental_s", made.elapsed.as_secs_f64(), Bar::None);
        report.figure(
            "incremental_added_mib",
            made.manifest.bytes_added as f64 / MIB,
            Bar::None,
        );
        let idle = self.back_up()?;
        report.figure("unchanged_s", idle.elapsed.as_secs_f64(), Bar::None);
        report.figure(
            "unchanged_added_bytes",
            idle.manifest.bytes_added as f64,
            Bar::None,
        );
        Ok(())
    }

    fn read_back(&self, report: &mut Report) -> Result<()> {
        progress("verify");
        forget(&self.repository_folder())?;
        let verified = verify(&self.repository()?, VerifyExtent::Everything, &Unwatched)?;
        ensure!(verified.faults == 0, "faults: {:?}", verified.told);
        let mib = verified.bytes_read as f64 / MIB;
        report.figure(
            "verify_mib_per_s",
            mib / verified.elapsed.as_secs_f64(),
            Bar::None,
        );
        Ok(())
    }

    /// Everything, and then the moment between two backups.
    fn restore(&self, report: &mut Report, rows: u64, (asked, rows_then): (TimeMicros, u64)) -> Result<()> {
        let repository = self.repository()?;
        for (to, rows) in [(None, rows), (Some(asked), rows_then)] {
            progress(format_args!(
                "restore, {}",
                if to.is_some() { "a moment" } else { "the newest" }
            ));
            forget(&self.repository_folder())?;
            let target = RestoreTarget {
                store: self.folder.join("restored"),
                ..RestoreTarget::default()
            };
            let chosen = plan(&repository, to)?;
            let restored = restore(&repository, &chosen, &target, &self.runtime, &Unwatched)?;
            let counted = self.runtime.block_on(count(&target.store))?;
            ensure!(counted == rows, "restored {counted} rows of {rows}");
            std::fs::remove_dir_all(&target.store).context("delete what was restored")?;
            let seconds = restored.elapsed.as_secs_f64();
            if let Some(asked) = to {
                let off = asked.micros_since(chosen.lands_at).unsigned_abs() as f64 / 1e6;
                report.figure("moment_off_s", off, Bar::AtMost(MOMENT_S));
                continue;
            }
            report.figure(
                "restore_mib_per_s",
                restored.bytes as f64 / MIB / seconds,
                Bar::None,
            );
            if restored.bytes >= 10 * GIB {
                report.figure("restore_10gib_s", seconds, Bar::None);
            } else {
                report.not_measured(
                    "restore_10gib_s",
                    format_args!("the store had {} MiB", restored.bytes >> 20),
                );
            }
        }
        Ok(())
    }
}

/// Rows of the restored store, opened as any other.
async fn count(folder: &Path) -> Result<u64> {
    let bed = Bed::open(folder).await?;
    // The gap row of the restore is told with it, as it should be.
    let query = "SELECT count(*) AS rows FROM process_events";
    let answer = bed.store.sql(query, QueryLimits::default()).await?;
    ensure!(!answer.gaps.is_empty(), "the restore is not told as a gap");
    let rows = collector_store::to_json_rows(&answer.batches)?;
    let rows = rows
        .first()
        .and_then(|row| row.get("rows")?.as_u64())
        .context("read the count")?;
    bed.close().await?;
    Ok(rows)
}

/// Takes the files below a folder out of the page cache.
fn forget(folder: &Path) -> Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry.context("list a folder")?.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                    .with_context(|| format!("drop the pages of {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// One host that commits events.
struct Load {
    host: HostId,
    epoch: SpoolEpoch,
    next: u64,
    rows: u64,
    random: StdRng,
}

impl Load {
    fn new() -> Self {
        Self {
            host: HostId::from_bytes([0xb5; 16]),
            epoch: SpoolEpoch::from_bytes([0xb6; 16]),
            next: 1,
            rows: 0,
            random: StdRng::seed_from_u64(SEED),
        }
    }

    async fn commit(&mut self, bed: &Bed, frames: usize) -> Result<()> {
        for _ in 0..frames.div_ceil(FRAMES) {
            let frames = (0..FRAMES)
                .map(|_| self.frame())
                .collect::<Result<Vec<Frame>>>()?;
            bed.store.commit(self.host, frames).await.context("commit")?;
            self.rows += (FRAMES * ROWS) as u64;
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<Frame> {
        let now = TimeMicros::now();
        let rows: Vec<ProcessEvent> = (0..ROWS)
            .map(|row| self.event(now.plus_micros(row as i64)))
            .collect();
        let batch = ProcessEvent::to_batch(&rows).context("encode rows")?;
        let id = RecordId {
            epoch: self.epoch,
            lane: Lane::Events,
            sequence: Sequence(self.next),
        };
        self.next += 1;
        let stamp = Stamp {
            wall: now,
            boot_us: 1,
        };
        let span = (now, now.plus_micros(ROWS as i64));
        Frame::of_batch(id, &TableInfo::of::<ProcessEvent>(), &batch, stamp, span).context("encode a frame")
    }

    fn event(&mut self, time: TimeMicros) -> ProcessEvent {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let letter = |_| {
            char::from(
                ALPHABET
                    .get(usize::from(self.random.random::<u8>() % 64))
                    .copied()
                    .unwrap_or(b'A'),
            )
        };
        let argument: String = (0..LETTERS).map(letter).collect();
        ProcessEvent {
            time,
            boot_ns: 1,
            kind: ProcessEventKind::Exec,
            pid: self.random.random_range(1..4_000_000),
            start_boot_ns: 1,
            ppid: 1,
            parent_comm: Some("sh".to_owned()),
            parent_exe: None,
            parent_command_line: None,
            comm: "work".to_owned(),
            exe: Some("/usr/bin/work".to_owned()),
            args: vec![argument],
            args_truncated: false,
            uid: 0,
            gid: 0,
            cgroup: None,
            unit: None,
            container_id: None,
            exit_code: None,
            exit_signal: None,
            duration_us: None,
            user_us: None,
            system_us: None,
            rss_bytes_max: None,
            source: Probe::Ebpf,
            euid: None,
            login_uid: None,
            working_directory: None,
            fileless: None,
        }
    }
}
