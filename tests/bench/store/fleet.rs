//! Metrics of a fleet: what is taken while compaction runs, and what a day of a hundred hosts is like to ask.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::{Array as _, Float64Array, Int64Array, StringArray};
use collector_store::{Answer, SeriesKey, SeriesSelect, StoredSeries};
use fleetmend_event::{Frame, HostId, Lane, TimeMicros};
use serde_json::json;

use super::bed::{self, Bed, time};
use super::load::{Loaded, Stream, load};
use super::pattern::{Body, KNOWN_LABELS, KNOWN_NAME, Pattern};
use super::{Found, SEED, Size};
use crate::ingest::data::SERIES;
use crate::report::progress;

/// Simulated hours that hosts share.
const PATTERNS: u64 = 4;
/// Seconds of a frame while the rate is measured: what an agent sends.
const SENT_TICKS: usize = 10;
/// Seconds of a frame of the history: what an agent sends that comes back.
const HISTORY_TICKS: usize = 120;
const RUNS: usize = 20;
/// The ten series of a host that a dashboard asks for: eight modes of the CPU and two of memory.
const TEN: [&str; 3] = [
    KNOWN_NAME,
    "system.linux.memory.available",
    "system.linux.memory.dirty",
];
const TOP: usize = 10;

/// A host that sends.
struct Sender {
    stream: Stream,
    number: usize,
    second: i64,
    until: i64,
    pattern: Arc<Pattern>,
}

/// Measures.
pub(super) async fn measure(folder: &Path, size: Size) -> Result<Found> {
    let mut found = Found::default();
    progress("simulate hosts");
    let patterns = (0..PATTERNS).map(|number| Pattern::new(SEED + number).map(Arc::new));
    let patterns: Vec<Arc<Pattern>> = patterns.collect::<Result<_>>()?;
    let first = patterns.first().context("find a pattern")?;
    ensure!(first.count(&TEN) == 10, "{TEN:?} are not ten series");
    rate(&mut found, &folder.join("rate"), size, &patterns).await?;
    let fleet = Fleet::of(size);
    let folder = folder.join("fleet");
    let bed = Bed::open(&folder).await?;
    fleet.fill(&mut found, &bed, &patterns).await?;
    bed::note_disk(&mut found, "fleet", &bed)?;
    bed.close().await?;
    let bed = Bed::open(&folder).await?;
    fleet.check(&bed).await?;
    fleet.ask_host(&mut found, &bed).await?;
    fleet.ask_top(&mut found, &bed).await?;
    bed.close().await?;
    bed::note_peak(&mut found, "fleet")?;
    Ok(found)
}

/// What is acknowledged in a window, and until all of it is compacted.
async fn rate(found: &mut Found, folder: &Path, size: Size, patterns: &[Arc<Pattern>]) -> Result<()> {
    let (hosts, seconds) = (100, size.of(60, 5));
    progress(format!("commit for {seconds} s as fast as it goes"));
    let bed = Bed::open(folder).await?;
    let now = TimeMicros::now().0 / 1_000_000;
    let senders = senders(patterns, 0..hosts, now - 86_400, i64::MAX);
    let end = Instant::now() + Duration::from_secs(seconds);
    let loaded = load(&bed.store, senders, move |sender| {
        if Instant::now() >= end {
            return Ok(None);
        }
        send(sender, SENT_TICKS, Body::AsSent)
    })
    .await?;
    let acknowledged = samples(&loaded, SENT_TICKS);
    let hot = bed.store.stats().hot_rows;
    found.figure("ingest_samples_per_s", acknowledged / loaded.took.as_secs_f64());
    found.figure(
        "ingest_generator_share_of_cores_pct",
        100.0 * loaded.making.as_secs_f64() / loaded.took.as_secs_f64(),
    );
    let settled = bed.settle().await?;
    found.figure(
        "ingest_and_compact_samples_per_s",
        acknowledged / (loaded.took + settled).as_secs_f64(),
    );
    found.condition(
        "ingest",
        json!({"hosts": hosts, "window_s": seconds, "samples": acknowledged, "not_compacted_at_end": hot,
               "batch_s": SENT_TICKS, "settled_after_s": settled.as_secs_f64()}),
    );
    bed.close().await?;
    std::fs::remove_dir_all(folder).with_context(|| format!("delete {}", folder.display()))
}

fn senders(patterns: &[Arc<Pattern>], numbers: std::ops::Range<usize>, from: i64, until: i64) -> Vec<Sender> {
    let of_host = |number: usize| {
        let pattern = patterns.get(number % patterns.len().max(1))?.clone();
        Some(Sender {
            stream: Stream::new(SEED, number, Lane::Metrics),
            number,
            second: from,
            until,
            pattern,
        })
    };
    numbers.filter_map(of_host).collect()
}

fn send(sender: &mut Sender, ticks: usize, body: Body) -> Result<Option<(HostId, Vec<Frame>)>> {
    if sender.second >= sender.until {
        return Ok(None);
    }
    let id = sender.stream.take();
    let frame = sender
        .pattern
        .frame(id, sender.number, sender.second, ticks, body)?;
    sender.second += i64::try_from(ticks)?;
    Ok(Some((sender.stream.host, vec![frame])))
}

fn samples(loaded: &Loaded, ticks: usize) -> f64 {
    loaded.frames as f64 * ticks as f64 * f64::from(SERIES)
}

/// Who has how long a history: some hosts a long one, all of them the last part of it.
struct Fleet {
    long_hosts: usize,
    hosts: usize,
    /// Seconds since 1970.
    begin: i64,
    last_part: i64,
    end: i64,
}

impl Fleet {
    fn of(size: Size) -> Self {
        let of = |full: u64, quick: u64| i64::try_from(size.of(full, quick)).unwrap_or(i64::MAX);
        let minute = TimeMicros::now().0 / 60_000_000 * 60;
        let whole = |seconds: i64| (seconds / HISTORY_TICKS as i64).max(1) * HISTORY_TICKS as i64;
        let hosts = usize::try_from(size.of(1_000, 48)).unwrap_or(usize::MAX);
        Self {
            long_hosts: usize::try_from(size.of(100, 8)).unwrap_or(usize::MAX),
            hosts,
            begin: minute - whole(if size.quick { of(0, 3_600) } else { 86_400 }),
            last_part: minute - whole(if size.quick { of(0, 600) } else { 3_600 }),
            end: minute,
        }
    }

    fn stream(number: usize) -> Stream {
        Stream::new(SEED, number, Lane::Metrics)
    }

    async fn fill(&self, found: &mut Found, bed: &Bed, patterns: &[Arc<Pattern>]) -> Result<()> {
        progress(format!(
            "load {} s of {} hosts and {} s of {}",
            self.end - self.begin,
            self.long_hosts,
            self.end - self.last_part,
            self.hosts
        ));
        let until_last = senders(patterns, 0..self.long_hosts, self.begin, self.last_part);
        let make = |sender: &mut Sender| send(sender, HISTORY_TICKS, Body::Quick);
        let long = load(&bed.store, until_last, make).await?;
        let mut all = senders(patterns, 0..self.hosts, self.last_part, self.end);
        let ticks = i64::try_from(HISTORY_TICKS)?;
        for sender in all.iter_mut().take(self.long_hosts) {
            sender.stream.next += u64::try_from((self.last_part - self.begin) / ticks)?;
        }
        let last = load(&bed.store, all, make).await?;
        let settled = bed.settle().await?;
        let count = samples(&long, HISTORY_TICKS) + samples(&last, HISTORY_TICKS);
        let took = long.took + last.took;
        found.figure("history_samples_per_s", count / (took + settled).as_secs_f64());
        found.condition(
            "fleet",
            json!({"samples": count, "hosts": self.hosts, "hosts_with_long_history": self.long_hosts,
                   "long_history_s": self.end - self.begin, "history_of_all_s": self.end - self.last_part,
                   "loaded_in_s": took.as_secs_f64(), "settled_after_s": settled.as_secs_f64(),
                   "batch_s": HISTORY_TICKS,
                   "generator_s": (long.making + last.making).as_secs_f64()}),
        );
        Ok(())
    }

    /// Every sample is there once.
    async fn check(&self, bed: &Bed) -> Result<()> {
        let rows: u64 = bed.store.stats().tables.iter().map(|table| table.rows).sum();
        let long = (self.last_part - self.begin) * i64::try_from(self.long_hosts)?;
        let all = (self.end - self.last_part) * i64::try_from(self.hosts)?;
        let query = format!(
            "SELECT count(value), count(DISTINCT host_id) FROM metrics WHERE name = '{KNOWN_NAME}' \
             AND labels = '{KNOWN_LABELS}'"
        );
        let answer = bed.sql(&query).await?;
        let counts = [integer(&answer, 0, 0)?, integer(&answer, 1, 0)?];
        ensure!(
            counts == [long + all, i64::try_from(self.hosts)?],
            "the known series has {counts:?} samples and hosts of {} and {} ({rows} rows in files)",
            long + all,
            self.hosts
        );
        Ok(())
    }

    /// Ten series of one host over its history, by five minutes, as a dashboard draws them.
    async fn ask_host(&self, found: &mut Found, bed: &Bed) -> Result<()> {
        let names = TEN.map(|name| format!("'{name}'")).join(", ");
        let ask = async |run: usize| {
            let number = (run * 7 + 3) % self.long_hosts;
            let query = format!(
                "SELECT date_bin(INTERVAL '5 minutes', time) AS step, name, labels, avg(value) AS mean, count(*) AS n \
                 FROM metrics WHERE host_id = '{}' AND name IN ({names}) AND time >= {} AND time < {} \
                 GROUP BY step, name, labels ORDER BY name, labels, step",
                Self::stream(number).host,
                moment(self.begin),
                moment(self.end),
            );
            let answer = bed.sql(&query).await?;
            let mut sum = 0;
            for batch in &answer.batches {
                let counts = batch.column(4).as_any().downcast_ref::<Int64Array>();
                sum += counts.context("read the counts")?.values().iter().sum::<i64>();
            }
            let expected = (self.end - self.begin) * 10;
            ensure!(sum == expected, "host {number} has {sum} samples of {expected}");
            Ok(())
        };
        let by_sql = time(bed, "host_24h", RUNS, ask).await?;
        let select = async |run: usize| {
            let number = (run * 11 + 5) % self.long_hosts;
            let mut wanted = self.wanted(self.begin, &TEN);
            wanted.hosts = Some(BTreeSet::from([Self::stream(number).host]));
            let answer = bed.store.select(wanted).await.context("select series")?;
            let samples: usize = answer.series.iter().map(|series| series.times.len()).sum();
            let expected = usize::try_from((self.end - self.begin) * 10)?;
            ensure!(
                answer.series.len() == 10 && samples == expected,
                "host {number} has {} series with {samples} samples of {expected}",
                answer.series.len()
            );
            let known = answer.series.iter().find(|series| is_known(&series.key));
            let known = known.context("find the known series")?;
            let sum: f64 = known.values.iter().sum();
            let expected: f64 = (self.begin..self.end)
                .map(|second| Pattern::known(number, second))
                .sum();
            ensure!(
                (sum - expected).abs() < 1e-3,
                "host {number}: sum {sum} of {expected}"
            );
            Ok(())
        };
        let by_select = time(bed, "host_24h by select", RUNS, select).await?;
        found.figure("query_host_24h_p95_ms", by_sql.p95().max(by_select.p95()));
        found.condition("query_host_24h_sql", by_sql.told());
        found.condition("query_host_24h_select", by_select.told());
        Ok(())
    }

    /// Series of these names from a second to the end.
    fn wanted(&self, from: i64, names: &[&str]) -> SeriesSelect {
        let micros = |second: i64| TimeMicros(second * 1_000_000 - 1);
        let mut wanted = SeriesSelect::between(micros(from), micros(self.end));
        wanted.names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        wanted
    }

    /// The hosts with the highest mean of one series over the last part.
    async fn ask_top(&self, found: &mut Found, bed: &Bed) -> Result<()> {
        let minutes = (self.end - self.last_part) / 60;
        let ask = async |run: usize| {
            // Another end each time, so that nothing could have been remembered.
            let until = self.end - i64::try_from(run)?.rem_euclid(minutes.min(4)) * 60;
            let query = format!(
                "SELECT host_id, avg(value) AS mean, count(*) AS n FROM metrics WHERE name = '{KNOWN_NAME}' \
                 AND labels = '{KNOWN_LABELS}' AND time >= {} AND time < {} \
                 GROUP BY host_id ORDER BY mean DESC LIMIT {TOP}",
                moment(self.last_part),
                moment(until),
            );
            let answer = bed.sql(&query).await?;
            self.check_top(&answer, until - self.last_part)
        };
        let by_sql = time(bed, "top10", RUNS, ask).await?;
        let select = async |_: usize| {
            let mut wanted = self.wanted(self.last_part, &[KNOWN_NAME]);
            wanted.keep = Some(Arc::new(is_known));
            let answer = bed.store.select(wanted).await.context("select series")?;
            let expected = usize::try_from(self.end - self.last_part)?;
            let mean = |series: &StoredSeries| series.values.iter().sum::<f64>() / series.values.len() as f64;
            let mut means: Vec<(f64, HostId)> = answer
                .series
                .iter()
                .filter(|series| series.times.len() == expected)
                .map(|series| (mean(series), series.key.host))
                .collect();
            means.sort_by(|a, b| b.0.total_cmp(&a.0));
            ensure!(
                means.len() == self.hosts,
                "{} hosts of {}",
                means.len(),
                self.hosts
            );
            let numbers = (0..self.hosts).rev();
            let right = means.iter().zip(numbers).take(TOP);
            for ((_, host), number) in right {
                ensure!(*host == Self::stream(number).host, "{host} is not host {number}");
            }
            Ok(())
        };
        let by_select = time(bed, "top10 by select", RUNS, select).await?;
        found.figure("query_top10_1000_hosts_p95_ms", by_sql.p95().max(by_select.p95()));
        found.condition("query_top10_1000_hosts_sql", by_sql.told());
        found.condition("query_top10_1000_hosts_select", by_select.told());
        Ok(())
    }

    fn check_top(&self, answer: &Answer, seconds: i64) -> Result<()> {
        let offset: f64 = (0..60).map(|second| Pattern::known(0, second)).sum::<f64>() / 60.0;
        ensure!(answer.rows() == TOP.min(self.hosts), "{} rows", answer.rows());
        for row in 0..answer.rows() {
            let number = self.hosts - 1 - row;
            let batch = answer.batches.first().context("read the answer")?;
            let host = batch.column(0).as_any().downcast_ref::<StringArray>();
            let mean = batch.column(1).as_any().downcast_ref::<Float64Array>();
            let (host, mean) = host.zip(mean).context("read the columns")?;
            let (host, mean) = (host.value(row), mean.value(row));
            let expected = Pattern::known(number, 0) + offset;
            let is_right = host == Self::stream(number).host.to_string()
                && (mean - expected).abs() < 1e-6
                && integer(answer, 2, row)? == seconds;
            ensure!(
                is_right,
                "row {row} is {host} with {mean}; expected host {number} with {expected}"
            );
        }
        Ok(())
    }
}

fn is_known(key: &SeriesKey) -> bool {
    key.name == KNOWN_NAME && key.labels == KNOWN_LABELS
}

/// A literal of SQL.
fn moment(second: i64) -> String {
    format!("to_timestamp_micros({})", second * 1_000_000)
}

fn integer(answer: &Answer, column: usize, row: usize) -> Result<i64> {
    let batch = answer.batches.first().context("read an empty answer")?;
    let values = batch.column(column).as_any().downcast_ref::<Int64Array>();
    let values = values.context("read a column of numbers")?;
    ensure!(row < values.len(), "row {row} is missing");
    Ok(values.value(row))
}
