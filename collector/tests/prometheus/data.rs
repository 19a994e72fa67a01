//! Samples that both servers get: counters with resets, gauges with holes, histograms, and what is not a number.

use std::sync::Arc;

use collector_store::FactStore;
use fleetmend_event::metric::{MetricFrame, SeriesKey, SeriesSet};
use fleetmend_event::prometheus_names::{METRIC_NAME, labels_of_json, metric_name};
use fleetmend_event::table::HostInfo;
use fleetmend_event::{Fact, HostId, TimeMicros};

/// First sample, milliseconds since 1970. No query's range begins or ends at one: the releases of Prometheus differ on
/// whether such a sample belongs to the range.
pub(crate) const BEGIN_MS: i64 = 1_700_000_003_456;
/// From sample to sample.
pub(crate) const STEP_MS: i64 = 15_000;
/// Samples of a series without holes: two hours.
pub(crate) const SAMPLES: u32 = 480;
/// End of a series, as both have it.
pub(crate) const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
/// A NaN that is a value.
pub(crate) const NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0001);

/// A whole second after the last sample but one.
pub(crate) const END_S: i64 = (BEGIN_MS + STEP_MS * (SAMPLES as i64 - 1)) / 1_000 - 5;

pub(crate) struct Series {
    pub(crate) host: usize,
    pub(crate) name: &'static str,
    pub(crate) labels: String,
    /// Number of the sample, and its value.
    pub(crate) samples: Vec<(u32, f64)>,
}

pub(crate) const HOSTS: [&str; 3] = ["web-1", "web-2", "db-1"];

pub(crate) fn host_id(host: usize) -> HostId {
    HostId::from_bytes([u8::try_from(host).unwrap() + 1; 16])
}

/// A generator with a fixed seed, so that both and every run have the same.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn unit(&mut self) -> f64 {
        self.next() as f64 / f64::from(u32::MAX >> 1)
    }
}

pub(crate) fn all() -> Vec<Series> {
    let mut dice = Dice(1);
    let mut all = Vec::new();
    for host in 0..HOSTS.len() {
        counters(host, &mut dice, &mut all);
        gauges(host, &mut dice, &mut all);
        histogram(host, &mut dice, &mut all);
        oddities(host, &mut dice, &mut all);
    }
    all
}

fn counters(host: usize, dice: &mut Dice, all: &mut Vec<Series>) {
    for (method, code) in [("get", "200"), ("get", "500"), ("post", "200"), ("post", "404")] {
        let mut total = 0.0;
        let mut samples = Vec::new();
        for at in 0..SAMPLES {
            total += (dice.unit() * 20.0).floor();
            if dice.next().is_multiple_of(97) {
                total = 0.0;
            }
            if !dice.next().is_multiple_of(23) {
                samples.push((at, total));
            }
        }
        all.push(Series {
            host,
            name: "http.requests_total",
            labels: format!(r#"{{"http.code":"{code}","method":"{method}"}}"#),
            samples,
        });
    }
}

fn gauges(host: usize, dice: &mut Dice, all: &mut Vec<Series>) {
    for cpu in 0..2 {
        for mode in ["idle", "system", "user"] {
            let hole = 100 + 40 * u32::try_from(host).unwrap();
            let samples = (0..SAMPLES)
                .filter(|at| cpu == 0 || !(hole..hole + 45).contains(at))
                .map(|at| (at, dice.unit()))
                .collect();
            all.push(Series {
                host,
                name: "system.cpu.utilization",
                labels: format!(r#"{{"cpu":"{cpu}","cpu.mode":"{mode}"}}"#),
                samples,
            });
        }
    }
    let memory = 4.0 * 1024.0 * 1024.0 * 1024.0;
    let samples = (0..SAMPLES)
        .map(|at| (at, (memory * dice.unit()).floor()))
        .collect();
    all.push(Series {
        host,
        name: "system.memory.usage",
        labels: "{}".to_owned(),
        samples,
    });
}

fn histogram(host: usize, dice: &mut Dice, all: &mut Vec<Series>) {
    let bounds = ["0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"];
    for route in ["/", "/login"] {
        let mut counts = [0.0; 7];
        let mut sum = 0.0;
        let mut rows: Vec<[f64; 7]> = Vec::new();
        let mut sums = Vec::new();
        for _ in 0..SAMPLES {
            for _ in 0..dice.next() % 8 {
                let slot = usize::try_from(dice.next() % 7).unwrap();
                sum += dice.unit();
                counts[slot..].iter_mut().for_each(|count| *count += 1.0);
            }
            rows.push(counts);
            sums.push(sum);
        }
        for (slot, bound) in bounds.iter().enumerate() {
            all.push(Series {
                host,
                name: "http.duration_bucket",
                labels: format!(r#"{{"le":"{bound}","route":"{route}"}}"#),
                samples: (0..SAMPLES).zip(rows.iter().map(|row| row[slot])).collect(),
            });
        }
        for (name, values) in [
            ("http.duration_sum", sums),
            ("http.duration_count", rows.iter().map(|row| row[6]).collect()),
        ] {
            all.push(Series {
                host,
                name,
                labels: format!(r#"{{"route":"{route}"}}"#),
                samples: (0..SAMPLES).zip(values).collect(),
            });
        }
    }
}

fn oddities(host: usize, dice: &mut Dice, all: &mut Vec<Series>) {
    let odd = [f64::INFINITY, f64::NEG_INFINITY, NAN, -0.0, 1e300, -1e-300, 0.1];
    let mut series = |name, labels: &str, samples| {
        all.push(Series {
            host,
            name,
            labels: labels.to_owned(),
            samples,
        });
    };
    let pick = |at: u32| odd[usize::try_from(at / 8).unwrap() % odd.len()];
    series(
        "odd.values",
        r#"{"kind":"any"}"#,
        (0..SAMPLES).map(|at| (at, pick(at))).collect(),
    );
    // A service that comes and goes: its series ends and begins again.
    let comes = |at: &u32| (at / 60).is_multiple_of(2);
    let ends = |at: u32| {
        if (at / 60) % 2 == 1 && at.is_multiple_of(60) {
            Some((at, STALE))
        } else {
            None
        }
    };
    let samples = (0..SAMPLES)
        .filter_map(|at| {
            if comes(&at) {
                Some((at, f64::from(at % 7)))
            } else {
                ends(at)
            }
        })
        .collect();
    series("service.up", r#"{"service":"nginx"}"#, samples);
    let level = (0..SAMPLES)
        .map(|at| (at, f64::from(at % 5) - 2.0 + dice.unit().floor()))
        .collect();
    series("level", r#"{"unit.name":"a b","zone":"eu-1"}"#, level);
    let line = (0..SAMPLES)
        .map(|at| (at, 3.0 * f64::from(at) + dice.unit()))
        .collect();
    series("line", r#"{"zone":"eu-2"}"#, line);
    let slots = (0..SAMPLES).map(|at| (at, f64::from(at / 100))).collect();
    series("version.info", r#"{"version":"1.2.3"}"#, slots);
}

/// Puts them into a store, as the rows that agents send.
pub(crate) async fn fill(store: &dyn FactStore, series: &[Series]) {
    for (host, name) in HOSTS.iter().enumerate() {
        let info = HostInfo {
            time: TimeMicros(BEGIN_MS * 1_000),
            hostname: (*name).to_owned(),
            os: "Debian".to_owned(),
            kernel: "6.1".to_owned(),
            arch: "x86_64".to_owned(),
            cpu_count: 2,
            memory_bytes: 4 << 30,
            boot_time: TimeMicros(0),
            agent_version: "0".to_owned(),
            healing: "absent".to_owned(),
        };
        let mut facts = vec![Fact::from(info)];
        for one in series.iter().filter(|one| one.host == host) {
            facts.extend(frames(one));
        }
        // In some batches, so that series are put together again.
        for facts in facts.chunks(4_000) {
            store.append_for(host_id(host), facts.to_vec()).await.unwrap();
        }
    }
}

/// One series of its own in each frame: where it has no sample there is none, not one that could not be taken.
fn frames(series: &Series) -> impl Iterator<Item = Fact> {
    let set: SeriesSet = Arc::from([SeriesKey {
        name: series.name.to_owned(),
        unit: "1".to_owned(),
        labels: serde_json::from_str(&series.labels).unwrap(),
    }]);
    series.samples.iter().map(move |(at, value)| {
        Fact::from(MetricFrame {
            time: TimeMicros((BEGIN_MS + STEP_MS * i64::from(*at)) * 1_000),
            series: Arc::clone(&set),
            values: vec![*value],
        })
    })
}

/// The labels of a series, its name among them, as the contract has them.
pub(crate) fn labels(series: &Series) -> Vec<(String, String)> {
    let mut labels = labels_of_json(&series.labels, host_id(series.host), Some(HOSTS[series.host]));
    labels.insert(METRIC_NAME.to_owned(), metric_name(series.name).into_owned());
    labels.into_iter().collect()
}
