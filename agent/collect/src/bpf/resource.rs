//! Family `resource`: waits for processors and disks as histograms, and what TCP sends again, as metrics.
//!
//! Nothing is handed over one by one: every [`READ_TICKS`] seconds the maps are read. The series are cumulative and
//! named as Prometheus names a histogram's, so that `histogram_quantile` works on them:
//!
//! | series | attributes |
//! |---|---|
//! | `system.cpu.run_queue.latency.{bucket,sum,count}` | `le` in seconds |
//! | `system.disk.operation.latency.{bucket,sum,count}` | `disk.io.direction`, `le` |
//! | `system.network.tcp.retransmits` | `network.peer.address`: at most [`PEERS_MAX`], all others are `other` |

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray};
use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::resource::{BUCKETS, HISTOGRAM_WORDS, REMOTE_KEY_BYTES, RemoteKey};
use fleetmend_ebpf::abi::{AbiError, kind_of};
use fleetmend_event::table::{MetricChunk, Table};
use fleetmend_event::{Fact, Lane, MetricFrame, SeriesKey, SeriesSet, TimeMicros};

use super::enrich::Enricher;
use super::error::FamilyError;
use super::family::map_error;
use super::spec::{At, Duty, FamilySpec, Handler, Hook, Maps, Way};

/// Ticks between two readings.
const READ_TICKS: u64 = 10;
/// Remotes whose counts are remembered when readings end early; the map has a quarter of these.
const SEEN_MAX: usize = 4096;
/// Peers that have a series of their own, the first ones that were sent to again.
const PEERS_MAX: usize = 16;
/// What stands for all the others.
const OTHER_PEERS: &str = "other";
/// Address families as sockets have them.
const AF_INET6: u16 = 10;

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Resource,
    table: MetricChunk::NAME,
    table_id: MetricChunk::ID,
    lane: Lane::Metrics,
    duties: &[
        Duty {
            name: "run_queue",
            ways: &[Way {
                name: "scheduler tracepoints",
                hooks: &[
                    Hook::new("on_wakeup", At::BtfTracepoint("sched_wakeup")),
                    Hook::new("on_wakeup_new", At::BtfTracepoint("sched_wakeup_new")),
                    Hook::new("on_switch", At::BtfTracepoint("sched_switch")),
                ],
            }],
        },
        Duty {
            name: "block",
            ways: &[Way {
                name: "tracepoint of completed requests",
                hooks: &[Hook::new(
                    "on_block_complete",
                    At::BtfTracepoint("block_rq_complete"),
                )],
            }],
        },
        Duty {
            name: "tcp",
            ways: &[Way {
                name: "tracepoint of retransmissions",
                hooks: &[Hook::new(
                    "on_retransmit",
                    At::BtfTracepoint("tcp_retransmit_skb"),
                )],
            }],
        },
    ],
    limits: "of two waiting tasks whose pids are 16,384 apart only the later one's wait is measured; requests count from \
             their making, and only where the disk keeps statistics",
    shed: &["waits for processors"],
    prepare: |_, _| {},
    handler: |_| Box::new(Resources::default()),
};

#[derive(Default)]
struct Resources {
    histograms: Option<PerCpuArray<MapData, [u64; HISTOGRAM_WORDS]>>,
    retransmits: Option<BpfHashMap<MapData, [u8; REMOTE_KEY_BYTES], u64>>,
    ticks: u64,
    /// What each remote's count was when it was last read.
    seen: HashMap<[u8; REMOTE_KEY_BYTES], u64>,
    peers: BTreeMap<String, u64>,
    others: u64,
    series: Option<SeriesSet>,
}

impl Handler for Resources {
    fn begin(&mut self, maps: &mut Maps<'_>, _cx: &mut Enricher) -> Result<(), FamilyError> {
        let histograms = PerCpuArray::try_from(maps.take("HISTOGRAM")?).map_err(map_error("HISTOGRAM"))?;
        let retransmits =
            BpfHashMap::try_from(maps.take("RETRANSMITS")?).map_err(map_error("RETRANSMITS"))?;
        self.histograms = Some(histograms);
        self.retransmits = Some(retransmits);
        Ok(())
    }

    fn record(&mut self, bytes: &[u8], _cx: &mut Enricher, _out: &mut Vec<Fact>) -> Result<(), AbiError> {
        Err(AbiError::Kind(kind_of(bytes)?))
    }

    fn tick(&mut self, _cx: &mut Enricher, out: &mut Vec<Fact>) {
        if self.ticks.is_multiple_of(READ_TICKS) {
            self.read_retransmits();
            out.push(self.frame().into());
        }
        self.ticks += 1;
    }
}

impl Resources {
    /// Adds what came since the last reading to the peers' sums.
    fn read_retransmits(&mut self) {
        let Some(map) = &self.retransmits else { return };
        let mut now = HashMap::new();
        let mut is_whole = true;
        for entry in map.iter() {
            match entry {
                Ok((key, count)) => {
                    now.insert(key, count);
                }
                Err(_) => is_whole = false,
            }
        }
        self.take_over(now, is_whole);
    }

    /// Adds a reading to the sums. One of a map that changes meanwhile may end early: what it missed comes the next time,
    /// and only what is new of it then.
    fn take_over(&mut self, now: HashMap<[u8; REMOTE_KEY_BYTES], u64>, is_whole: bool) {
        for (key, count) in &now {
            let before = self.seen.get(key).copied().unwrap_or_default();
            // Less than before: the entry had made room for others and came again.
            let more = if *count < before { *count } else { count - before };
            let Some(peer) = peer(key).filter(|_| more > 0) else {
                continue;
            };
            if let Some(sum) = self.peers.get_mut(&peer) {
                *sum += more;
            } else if self.peers.len() < PEERS_MAX {
                self.peers.insert(peer, more);
                self.series = None;
            } else {
                self.others += more;
            }
        }
        if is_whole || self.seen.len() >= SEEN_MAX {
            self.seen = now;
        } else {
            self.seen.extend(now);
        }
    }

    fn frame(&mut self) -> MetricFrame {
        let mut frame = Frame::default();
        let names = [
            ("system.cpu.run_queue.latency", None),
            ("system.disk.operation.latency", Some("read")),
            ("system.disk.operation.latency", Some("write")),
        ];
        for (index, (name, direction)) in (0_u32..).zip(names) {
            let words = self.histogram(index);
            frame.histogram(name, direction, words);
        }
        for (peer, sum) in &self.peers {
            frame.retransmits(peer, *sum);
        }
        frame.retransmits(OTHER_PEERS, self.others);
        let series = self.series.get_or_insert_with(|| frame.keys.into()).clone();
        MetricFrame {
            time: TimeMicros::now(),
            series,
            values: frame.values,
        }
    }

    /// The words of a histogram, all processors together; `None` when they cannot be read.
    fn histogram(&self, index: u32) -> Option<[u64; HISTOGRAM_WORDS]> {
        let each = self.histograms.as_ref()?.get(&index, 0).ok()?;
        let mut sum = [0_u64; HISTOGRAM_WORDS];
        for words in each.iter() {
            for (sum, word) in sum.iter_mut().zip(words) {
                *sum = sum.saturating_add(*word);
            }
        }
        Some(sum)
    }
}

/// The series of one frame with their values, in an order that stays.
#[derive(Default)]
struct Frame {
    keys: Vec<SeriesKey>,
    values: Vec<f64>,
}

impl Frame {
    fn push(&mut self, name: String, unit: &str, labels: &[(&str, &str)], value: f64) {
        self.keys.push(SeriesKey {
            name,
            unit: unit.to_owned(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        });
        self.values.push(value);
    }

    fn histogram(&mut self, name: &str, direction: Option<&str>, words: Option<[u64; HISTOGRAM_WORDS]>) {
        let of = |direction| ("disk.io.direction", direction);
        let mut cumulative = 0_u64;
        for bucket in 0..BUCKETS {
            let count = words.and_then(|words| words.get(bucket).copied());
            cumulative = cumulative.saturating_add(count.unwrap_or_default());
            let limit = limit(bucket);
            let mut labels = vec![("le", limit.as_str())];
            labels.extend(direction.map(of));
            self.push(
                format!("{name}.bucket"),
                "1",
                &labels,
                number(words.map(|_| cumulative)),
            );
        }
        let labels: Vec<(&str, &str)> = direction.map(of).into_iter().collect();
        let sum_ns = number(words.and_then(|words| words.last().copied()));
        self.push(format!("{name}.sum"), "s", &labels, sum_ns / 1e9);
        self.push(
            format!("{name}.count"),
            "1",
            &labels,
            number(words.map(|_| cumulative)),
        );
    }

    fn retransmits(&mut self, peer: &str, sum: u64) {
        let labels = [("network.peer.address", peer)];
        self.push(
            "system.network.tcp.retransmits".to_owned(),
            "{segment}",
            &labels,
            number(Some(sum)),
        );
    }
}

/// Upper end of a bucket in seconds.
fn limit(bucket: usize) -> String {
    if bucket + 1 >= BUCKETS {
        return "+Inf".to_owned();
    }
    let micros = 4_u64.saturating_pow(u32::try_from(bucket).unwrap_or(u32::MAX));
    format!("{}", number(Some(micros)) / 1e6)
}

/// A count as metrics have it; NaN when it could not be read.
fn number(count: Option<u64>) -> f64 {
    // Beyond 2^53 a count is rounded, which no count here reaches within a century.
    count.map_or(f64::NAN, |count| count as f64)
}

fn peer(key: &[u8]) -> Option<String> {
    let key = RemoteKey::parse(key).ok()?;
    let address = if key.family == AF_INET6 {
        let address = Ipv6Addr::from(key.address);
        address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
    } else {
        let [a, b, c, d, ..] = key.address;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    Some(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_in_everything() {
        let mut words = [0_u64; HISTOGRAM_WORDS];
        (words[0], words[3], words[BUCKETS - 1], words[BUCKETS]) = (5, 2, 1, 3_000_000_000);
        let mut frame = Frame::default();
        frame.histogram("x", Some("read"), Some(words));
        let value = |label: &str| {
            let at = frame
                .keys
                .iter()
                .position(|key| key.labels.get("le").is_some_and(|le| le == label));
            frame.values[at.unwrap()]
        };
        assert_eq!(
            (value("0.000001"), value("0.000016"), value("0.000064")),
            (5.0, 5.0, 7.0)
        );
        assert_eq!((value("1.048576"), value("+Inf")), (7.0, 8.0));
        assert_eq!(frame.values[BUCKETS..], [3.0, 8.0]);
        assert_eq!(frame.keys.len(), frame.values.len());
    }

    #[test]
    fn what_cannot_be_read_is_not_a_number() {
        let mut frame = Frame::default();
        frame.histogram("x", None, None);
        assert!(frame.values.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn reading_that_ends_early_is_not_counted_twice() {
        let mut resources = Resources::default();
        let mut key = [0; REMOTE_KEY_BYTES];
        key[..4].copy_from_slice(&[192, 0, 2, 7]);
        key[16] = 2;
        let reading = |count| HashMap::from([(key, count)]);
        resources.take_over(reading(5), true);
        resources.take_over(HashMap::new(), false);
        resources.take_over(reading(7), true);
        assert_eq!(resources.peers.get("192.0.2.7"), Some(&7));
        // The entry had made room for others.
        resources.take_over(HashMap::new(), true);
        resources.take_over(reading(2), true);
        assert_eq!(resources.peers.get("192.0.2.7"), Some(&9));
    }

    #[test]
    fn peer_is_an_address_without_its_port() {
        let mut key = [0; REMOTE_KEY_BYTES];
        key[..4].copy_from_slice(&[192, 0, 2, 7]);
        key[16] = 2;
        assert_eq!(peer(&key).as_deref(), Some("192.0.2.7"));
        key[..16].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        key[16] = 10;
        assert_eq!(peer(&key).as_deref(), Some("::1"));
        assert_eq!(peer(&key[..10]), None);
    }
}
