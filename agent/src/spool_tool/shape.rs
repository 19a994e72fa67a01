//! Values as people read them.

use std::io::Write;

use anyhow::{Context, Result};
use fleetmend_event::TimeMicros;
use serde_json::Value;

/// Any value on one line.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number of things, by their name.
pub(super) fn counted(count: u64, thing: &str) -> String {
    if count == 1 {
        format!("1 {thing}")
    } else {
        format!("{count} {thing}s")
    }
}

/// Columns, each as wide as its widest cell.
pub(super) fn print_table<const N: usize>(rows: &[[String; N]], out: &mut impl Write) -> Result<()> {
    let width = |column: usize| {
        let lengths = rows.iter().filter_map(|row| row.get(column));
        lengths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for row in rows {
        let cells = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<0$}", width(column)));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end()).context("print")?;
    }
    Ok(())
}

/// A time to the second.
pub(super) fn second(time: TimeMicros) -> String {
    let whole = TimeMicros(time.0.div_euclid(1_000_000).saturating_mul(1_000_000)).to_string();
    whole.replace(".000000Z", "Z")
}

/// Bytes in binary units.
pub(super) fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| count >> shift > 0);
    match unit {
        Some((name, shift)) => {
            let tenths = (count >> (shift - 10)).saturating_mul(10) >> 10;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(400 << 20), "400.0 MiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(second(TimeMicros(1_800_000_000_999_999)), "2027-01-15T08:00:00Z");
    }
}
