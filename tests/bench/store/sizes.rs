//! Bytes a sample, on the host metrics that the peers are measured with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use arrow::array::Float64Array;
use collector_store::SeriesSelect;
use fleetmend_event::frame::Stamp;
use fleetmend_event::metric::chunks;
use fleetmend_event::table::{MetricChunk, table_by_id};
use fleetmend_event::{Frame, Lane, MetricFrame, SeriesKey, SeriesSet, Table as _, TimeMicros};
use serde_json::{Value, json};

use super::bed::{self, Bed, time};
use super::load::{Stream, load};
use super::peer::{HOST_NAMES, TOP_NAME, expected_top};
use super::{Found, SEED};
use crate::report::progress;

/// Seconds of a frame: what an agent sends.
const TICKS: usize = 10;
const RUNS: usize = 20;

/// What `hostmetrics.py` made.
pub(super) struct HostMetrics {
    /// Unix second of the first sample.
    pub(super) first: i64,
    /// Samples of each series, one a second.
    pub(super) seconds: usize,
    /// Hosts in the order of their names.
    pub(super) hosts: Vec<HostSeries>,
}

/// The series of one host.
pub(super) struct HostSeries {
    pub(super) name: String,
    pub(super) series: SeriesSet,
    pub(super) values: Vec<Vec<f64>>,
}

impl HostMetrics {
    /// Reads the columns.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let json = |name: &str| -> Result<Value> {
            let path = folder.join(name);
            let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
        };
        let meta = json("meta.json")?;
        let number = |key: &str| meta.get(key).and_then(Value::as_i64).context("read meta.json");
        let (first, last) = (number("first")?, number("last")?);
        let seconds = usize::try_from(last - first + 1)?;
        let series: Vec<(String, BTreeMap<String, String>)> =
            serde_json::from_value(json("series.json")?).context("read the series")?;
        let columns = std::fs::read(folder.join("col")).context("read the columns")?;
        let mut hosts: BTreeMap<String, (Vec<SeriesKey>, Vec<Vec<f64>>)> = BTreeMap::new();
        for ((name, mut labels), bytes) in series.into_iter().zip(columns.chunks(seconds * 8)) {
            let host = labels.remove("instance").context("find a series' host")?;
            labels.remove("job");
            let number = |bytes: &[u8]| bytes.try_into().map_or(f64::NAN, f64::from_le_bytes);
            let (keys, values) = hosts.entry(host).or_default();
            values.push(bytes.chunks(8).map(number).collect());
            keys.push(SeriesKey {
                name,
                unit: String::new(),
                labels,
            });
        }
        let host = |(name, (keys, values)): (String, (Vec<SeriesKey>, Vec<Vec<f64>>))| HostSeries {
            name,
            series: keys.into(),
            values,
        };
        Ok(Self {
            first,
            seconds,
            hosts: hosts.into_iter().map(host).collect(),
        })
    }

    /// Samples of all series.
    pub(super) fn samples(&self) -> u64 {
        let series: usize = self.hosts.iter().map(|host| host.values.len()).sum();
        (series * self.seconds) as u64
    }
}

struct Sender {
    stream: Stream,
    frames: Vec<MetricFrame>,
}

/// Measures.
pub(super) async fn measure(folder: &Path, data: &Path) -> Result<Found> {
    let mut found = Found::default();
    let data = HostMetrics::read(data)?;
    let samples = data.samples();
    progress(format!("store {samples} samples of host metrics"));
    let bed = Bed::open(folder).await?;
    let loaded = load(&bed.store, senders(&data)?, |sender| {
        if sender.frames.is_empty() {
            return Ok(None);
        }
        let rest = sender.frames.split_off(TICKS.min(sender.frames.len()));
        let ticks = std::mem::replace(&mut sender.frames, rest);
        Ok(Some((
            sender.stream.host,
            vec![frame(&mut sender.stream, &ticks)?],
        )))
    })
    .await?;
    let settled = bed.settle().await?;
    bed.close().await?;
    let bed = Bed::open(folder).await?;
    let bytes = bed::note_disk(&mut found, "sizes", &bed)?;
    found.figure("stored_bytes_per_sample", bytes as f64 / samples as f64);
    found.figure(
        "ingest_hostmetrics_samples_per_s",
        samples as f64 / (loaded.took + settled).as_secs_f64(),
    );
    found.condition(
        "sizes",
        json!({"samples": samples, "bytes": bytes, "hosts": data.hosts.len()}),
    );
    check(&bed, &data).await?;
    ask(&mut found, &bed, &data).await?;
    bed.close().await?;
    bed::note_peak(&mut found, "sizes")?;
    Ok(found)
}

fn senders(data: &HostMetrics) -> Result<Vec<Sender>> {
    let mut senders = Vec::new();
    for (host, number) in data.hosts.iter().zip(0_usize..) {
        let mut frames = Vec::with_capacity(data.seconds);
        for second in 0..data.seconds {
            let value = |values: &Vec<f64>| values.get(second).copied().unwrap_or(f64::NAN);
            frames.push(MetricFrame {
                time: TimeMicros((data.first + i64::try_from(second)?) * 1_000_000),
                series: host.series.clone(),
                values: host.values.iter().map(value).collect(),
            });
        }
        senders.push(Sender {
            stream: Stream::new(SEED, number, Lane::Metrics),
            frames,
        });
    }
    Ok(senders)
}

fn frame(stream: &mut Stream, ticks: &[MetricFrame]) -> Result<Frame> {
    let (first, last) = ticks
        .first()
        .zip(ticks.last())
        .context("make a frame of nothing")?;
    let table = table_by_id(MetricChunk::ID).context("find the table of metrics")?;
    let rows = MetricChunk::to_batch(&chunks(ticks)).context("make a batch")?;
    let id = stream.take();
    let stamp = Stamp {
        wall: last.time,
        boot_us: id.sequence.0,
    };
    Frame::of_batch(id, table, &rows, stamp, (first.time, last.time)).context("encode a frame")
}

/// Every sample of one series of each host is there, bit by bit in sum and number.
async fn check(bed: &Bed, data: &HostMetrics) -> Result<()> {
    for (host, number) in data.hosts.iter().zip(0_usize..) {
        for at in [0, host.values.len() / 2] {
            let (key, values) = host
                .series
                .get(at)
                .zip(host.values.get(at))
                .context("find a series")?;
            let query = format!(
                "SELECT value FROM metrics WHERE host_id = '{}' AND name = '{}' AND labels = '{}' ORDER BY time",
                Stream::new(SEED, number, Lane::Metrics).host,
                key.name,
                key.labels_json(),
            );
            let answer = bed.sql(&query).await?;
            let mut stored = Vec::new();
            for batch in &answer.batches {
                let column = batch.column(0).as_any().downcast_ref::<Float64Array>();
                stored.extend_from_slice(column.context("read the values")?.values());
            }
            ensure!(
                stored == *values,
                "{} of {}: {} values are stored, not the {} that were sent",
                key.name,
                host.name,
                stored.len(),
                values.len()
            );
        }
    }
    Ok(())
}

/// What the peers are asked too.
async fn ask(found: &mut Found, bed: &Bed, data: &HostMetrics) -> Result<()> {
    let names = HOST_NAMES.map(|name| format!("'{name}'")).join(", ");
    let end = data.first + i64::try_from(data.seconds)?;
    let span = format!(
        "time >= to_timestamp_micros({}) AND time < to_timestamp_micros({})",
        data.first * 1_000_000,
        end * 1_000_000
    );
    let host = |number: usize| Stream::new(SEED, number, Lane::Metrics).host;
    let of_host = async |run: usize| {
        let query = format!(
            "SELECT name, labels, time, value FROM metrics WHERE host_id = '{}' AND name IN ({names}) AND {span}",
            host(run % data.hosts.len())
        );
        let rows = bed.sql(&query).await?.rows();
        ensure!(
            rows == 10 * data.seconds,
            "{rows} samples of {}",
            10 * data.seconds
        );
        Ok(())
    };
    let by_sql = time(bed, "host_1h", RUNS, of_host).await?;
    let select = async |run: usize| {
        let micros = |second: i64| TimeMicros(second * 1_000_000 - 1);
        let mut wanted = SeriesSelect::between(micros(data.first), micros(end));
        wanted.names = Some(HOST_NAMES.map(str::to_owned).into());
        wanted.hosts = Some([host(run % data.hosts.len())].into());
        let series = bed.store.select(wanted).await.context("select series")?.series;
        let samples: usize = series.iter().map(|series| series.values.len()).sum();
        ensure!(
            samples == 10 * data.seconds,
            "{samples} samples of {}",
            10 * data.seconds
        );
        Ok(())
    };
    let by_select = time(bed, "host_1h by select", RUNS, select).await?;
    found.figure("query_host_1h_p95_ms", by_sql.p95().max(by_select.p95()));
    found.condition("query_host_1h_sql", by_sql.told());
    found.condition("query_host_1h_select", by_select.told());
    let expected = host(expected_top(data)?).to_string();
    let top = async |_: usize| {
        let query = format!(
            "SELECT host_id, avg(value) AS mean FROM metrics WHERE name = '{TOP_NAME}' AND {span} \
             GROUP BY host_id ORDER BY mean DESC LIMIT 3"
        );
        let rows = collector_store::to_json_rows(&bed.sql(&query).await?.batches)?;
        let first = rows.first().and_then(|row| row.get("host_id")?.as_str());
        ensure!(
            first == Some(&expected),
            "{rows:?} does not begin with {expected}"
        );
        Ok(())
    };
    let times = time(bed, "top3_10_hosts", RUNS, top).await?;
    found.figure("query_top3_10_hosts_p95_ms", times.p95());
    found.condition("query_top3_10_hosts", times.told());
    Ok(())
}
