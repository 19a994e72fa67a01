//! Which row groups of a file of metrics can matter.

use std::collections::BTreeSet;

use fleetmend_event::HostId;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;

/// A necessary condition on samples. Times are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) names: Option<BTreeSet<String>>,
    pub(crate) hosts: Option<BTreeSet<HostId>>,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Wanted {
    /// Whether anything between these times can matter.
    pub(crate) fn touches(&self, from: i64, to: i64) -> bool {
        from <= self.to && to >= self.from
    }

    /// The samples of a chunk between the times.
    pub(crate) fn cut(&self, mut times: Vec<i64>, mut values: Vec<f64>) -> (Vec<i64>, Vec<f64>) {
        let end = times.partition_point(|time| *time <= self.to);
        times.truncate(end);
        values.truncate(end);
        let first = times.partition_point(|time| *time < self.from);
        times.drain(..first);
        values.drain(..first.min(values.len()));
        (times, values)
    }

    /// Whether a series of this name and host can matter.
    pub(crate) fn wants(&self, name: &str, host: HostId) -> bool {
        self.wants_name(name) && self.wants_host(host)
    }

    /// Whether a series of this name can matter.
    pub(crate) fn wants_name(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Whether a series of this host can matter.
    pub(crate) fn wants_host(&self, host: HostId) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&host))
    }

    /// The row groups that can matter by their statistics. `spans` are the columns of the first and last times.
    pub(crate) fn groups(&self, file: &ParquetMetaData, spans: (&str, &str)) -> Vec<usize> {
        let wanted = |group: &&RowGroupMetaData| self.may_hold(group, spans);
        let groups = (0..).zip(file.row_groups());
        groups
            .filter(|(_, group)| wanted(group))
            .map(|(index, _)| index)
            .collect()
    }

    fn may_hold(&self, group: &RowGroupMetaData, (first, last): (&str, &str)) -> bool {
        let from = bounds(group, first).and_then(|held| micros(held.min_bytes_opt()?));
        let to = bounds(group, last).and_then(|held| micros(held.max_bytes_opt()?));
        if !self.touches(from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX)) {
            return false;
        }
        let texts_of_hosts = !is_sixteen(group);
        let host = |host: &HostId| match texts_of_hosts {
            true => host.to_string().into_bytes(),
            false => host.as_bytes().to_vec(),
        };
        let named = self.names.as_ref().is_none_or(|names| {
            let mut names = names.iter();
            names.any(|name| may_be(group, "name", name.as_bytes()))
        });
        let hosted = self.hosts.as_ref().is_none_or(|hosts| {
            let mut hosts = hosts.iter();
            hosts.any(|of| may_be(group, "host_id", &host(of)))
        });
        named && hosted
    }
}

/// Whether a value can be in a column. A bound that was cut short is still below or above everything.
fn may_be(group: &RowGroupMetaData, column: &str, value: &[u8]) -> bool {
    let Some(held) = bounds(group, column) else {
        return true;
    };
    held.min_bytes_opt().is_none_or(|least| least <= value)
        && held.max_bytes_opt().is_none_or(|most| value <= most)
}

fn bounds<'a>(group: &'a RowGroupMetaData, column: &str) -> Option<&'a Statistics> {
    let of_column = group
        .columns()
        .iter()
        .find(|held| held.column_path().string() == column);
    of_column?.statistics()
}

fn micros(bytes: &[u8]) -> Option<i64> {
    bytes.try_into().map(i64::from_le_bytes).ok()
}

/// Whether hosts stand as their 16 bytes, not as text.
fn is_sixteen(group: &RowGroupMetaData) -> bool {
    let column = group
        .columns()
        .iter()
        .find(|held| held.column_path().string() == "host_id");
    column.is_some_and(|held| held.column_type() == parquet::basic::Type::FIXED_LEN_BYTE_ARRAY)
}
