//! Tiers: what is left of metrics when raw samples are gone.
//!
//! `metrics_5m` and `metrics_1h` have one row per series and window, made from compacted samples: how many, their sum,
//! least and most, the first and the last with their times, how often they fell and by how much they grew, which is what a
//! counter's rate needs. Windows are of the hosts' clocks, like samples, and begin at whole multiples since 1970.
//!
//! # How they are made
//! Compaction marks every day that its samples lie on as *dirty*, in the transaction that registers its files. A dirty
//! day is made anew as a whole, [`StoreConfig::tier_interval_s`] after it was marked first: all raw samples of that day
//! are read, each series once, whatever files they lie in, beside what was made of the day before, and the day's files of
//! both tiers are replaced in the transaction that takes the mark away. So late data corrects what was made before, a kill
//! at any moment leaves the old or the new, and a merge of raw files changes nothing. Of several samples of one time the
//! one taken later counts, a sample that could not be taken does not. A window that is not over keeps its day dirty and is
//! left out until then.
//!
//! Raw samples expire by age and by bytes, and files are damaged: a day may be made when some or all of its samples are
//! gone. A window that was made before and knows of more samples therefore stays as it is (`window.rs`, `renewed`).
//!
//! # How they are read
//! By SQL as tables; by [`Store::select`](crate::Store::select) where raw samples are gone, or where the caller wants
//! windows (`select/coarse.rs`).
//!
//! # Limits
//! Samples of a clock that is more than a day ahead are not summed up. Of a window of which only some samples are left what comes late is not seen. Of a series with more than
//! [`SAMPLES_MAX`] samples a day each half is taken by itself, so that doubled samples across the cut count twice.

mod build;
mod read;
mod window;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use fleetmend_event::table::TableInfo;
use fleetmend_event::{Lane, TimeMicros};
use fleetmend_shutdown::CancellationToken;
use metrics::counter;

use crate::error::MaintenanceError;
use crate::inner::Inner;
use crate::metrics as names;
use crate::shape::time_type;
pub(crate) use read::read_windows;
pub(crate) use window::Window;

pub(crate) const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Length of the longest window.
pub(crate) const LONGEST_MICROS: i64 = 3_600 * 1_000_000;
/// Samples of one series gathered at once.
const SAMPLES_MAX: usize = 4_000_000;
/// Days that one compaction marks at most; a span beyond that is of a clock that was set.
const DAYS_MAX: i64 = 32;
/// How often dirty days are looked for, at least and at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(20);

/// A table of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tier {
    /// Name in SQL.
    pub(crate) name: &'static str,
    /// Length of a window.
    pub(crate) window_micros: i64,
    /// Days it is kept by default.
    pub(crate) age_days: u32,
    /// Number that no table on the wire has.
    id: u16,
}

/// Every tier.
pub(crate) const TIERS: [Tier; 2] = [
    Tier {
        name: "metrics_5m",
        window_micros: 300 * 1_000_000,
        age_days: 180,
        id: 0xfff0,
    },
    Tier {
        name: "metrics_1h",
        window_micros: LONGEST_MICROS,
        age_days: 730,
        id: 0xfff1,
    },
];

/// What the store knows of their tables, in the same order.
pub(crate) fn tables() -> &'static [TableInfo; 2] {
    static TABLES: LazyLock<[TableInfo; 2]> = LazyLock::new(|| TIERS.map(table));
    &TABLES
}

/// The tier of this name.
pub(crate) fn tier_by_name(name: &str) -> Option<&'static Tier> {
    TIERS.iter().find(|tier| tier.name == name)
}

fn table(tier: Tier) -> TableInfo {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    let fields = vec![
        field("time", time_type()),
        field("name", DataType::Utf8),
        field("unit", DataType::Utf8),
        field("labels", DataType::Utf8),
        field("count", DataType::Int64),
        field("sum", DataType::Float64),
        field("min", DataType::Float64),
        field("max", DataType::Float64),
        field("first", DataType::Float64),
        field("first_time", time_type()),
        field("last", DataType::Float64),
        field("last_time", time_type()),
        field("resets", DataType::Int64),
        field("increase", DataType::Float64),
    ];
    TableInfo {
        id: tier.id,
        name: tier.name,
        version: 1,
        lane: Lane::Metrics,
        schema: Arc::new(Schema::new(fields)),
    }
}

/// Days whose tiers samples between these times change: those that they lie on, and the one after, when its first samples
/// may have grown from them. Days after tomorrow are of clocks that are wrong, and are left out.
pub(crate) fn days(from: i64, to: i64) -> impl Iterator<Item = i64> {
    let tomorrow = TimeMicros::now().0.saturating_add(DAY_MICROS);
    let reach = to.saturating_add(LONGEST_MICROS).min(tomorrow);
    let (first, last) = (from.div_euclid(DAY_MICROS), reach.div_euclid(DAY_MICROS));
    let near = (first..=last).take_while(move |day| day.saturating_sub(first) < DAYS_MAX);
    near.chain((last.saturating_sub(first) >= DAYS_MAX).then_some(last))
}

/// Makes dirty days anew until `token` is cancelled.
///
/// # Cancel safety
/// Ends within any step; a day that is half made is made at the next start.
pub(crate) async fn keep(inner: Arc<Inner>, token: CancellationToken) -> Result<(), MaintenanceError> {
    let interval = Duration::from_secs(inner.config.tier_interval_s);
    let work = async {
        loop {
            tokio::time::sleep(interval.clamp(LOOK_EVERY_MIN, LOOK_EVERY)).await;
            if let Err(error) = build::build_due(&inner, interval).await {
                counter!(names::MAINTENANCE_FAILURES, "step" => "tiers").increment(1);
                tracing::warn!(
                    error = crate::commit::chain(&error),
                    "cannot make tiers of metrics; it is tried again"
                );
            }
        }
    };
    tokio::select! {
        biased;
        () = token.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}
