//! Whether the store knows by how much each row's clock was wrong. Each row of the generator carries the boot clock of
//! its making, which is that of the whole machine.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::central::Central;
use super::super::faults::{JUMPS, Scene};
use super::super::journal::Life;
use super::{number_of, text};
use crate::timeline::Timeline;

/// How exactly the clock of a host must be known. The way to the collector is short, but the machine is busy.
const ERROR_US_MAX: i64 = 2_000_000;
/// A frame holds rows of so long at most: in one during which the clock was set, some rows have the other clock.
const FRAME_US_MAX: i64 = 6_000_000;
/// What tells that the clock was set.
const SET_US_MIN: i64 = 10_000_000;

/// Tables whose rows carry the boot clock, and where.
const TABLES: [(usize, &str, &str, &str); 2] = [
    (0, "units", "description", "result"),
    (1, "findings", "title", "subject"),
];

/// Compares the corrected time of every row with the moment it was made, and notes checks.
pub(super) async fn check(
    scene: &Scene,
    journals: &[Vec<Vec<Life>>],
    zero: i64,
    timeline: &mut Timeline,
) -> Result<Value> {
    let (mut compared, mut error_max, mut straddling) = (0_u64, 0_u64, 0_u64);
    let mut wrong: Vec<String> = Vec::new();
    for (table, name, number, boot) in TABLES {
        let rows = format!(
            "select host_id, try_cast({number} as bigint) as n, abs(cast(time as bigint) - clock_ahead_us - \
             ({zero} + try_cast({boot} as bigint))) as error from {name} where try_cast({boot} as bigint) is not null"
        );
        let good =
            format!("select count(*), coalesce(max(error), 0) from ({rows}) where error <= {ERROR_US_MAX}");
        for row in scene.central.sql(&good).await? {
            compared += number_of(&row, 0);
            error_max = error_max.max(number_of(&row, 1));
        }
        let bad = format!(
            "select host_id, n, coalesce(error, -1) from ({rows}) where error is null or error > {ERROR_US_MAX}"
        );
        for row in scene.central.sql(&bad).await? {
            let host = text(&row, 0);
            let index = scene.fleet.hosts.iter().position(|of| of.id.to_string() == host);
            let lives = index.and_then(|index| journals.get(index));
            if lives.is_some_and(|lives| was_set_nearby(lives, table, number_of(&row, 1))) {
                straddling += 1;
            } else {
                wrong.push(format!("{host} {name} {} by {} µs", text(&row, 1), text(&row, 2)));
            }
        }
    }
    wrong.truncate(10);
    timeline.check(
        format!("the store knows the clock of every row ({compared} compared) {wrong:?}"),
        wrong.is_empty() && compared > 0,
    );
    let seen = seen(&scene.central).await?;
    if scene.count("clock-jumps") > 0 && scene.fleet.shim.is_some() {
        timeline.check(
            format!("rows of every wrong clock are stored {seen:?}"),
            seen.iter().all(|(_, rows)| *rows > 0),
        );
    }
    Ok(json!({
        "rows_compared": compared,
        "error_max_us": error_max,
        "rows_of_frames_in_which_it_was_set": straddling,
        "rows_by_jump": seen.into_iter().map(|(name, rows)| (name.to_owned(), json!(rows))).collect::<Value>(),
    }))
}

/// Whether the host's clock was set around the making of this number.
fn was_set_nearby(journals: &[Vec<Life>], table: usize, number: u64) -> bool {
    journals.iter().any(|lives| {
        let batches = || lives.iter().filter_map(|life| life.batches.get(table)).flatten();
        let of = batches().find(|batch| (batch.first..batch.first + batch.count).contains(&number));
        of.is_some_and(|of| {
            batches().any(|other| {
                (other.boot_us - of.boot_us).abs() < FRAME_US_MAX
                    && (other.setting_us() - of.setting_us()).abs() > SET_US_MIN
            })
        })
    })
}

/// How many rows are stored of each jump.
async fn seen(central: &Central) -> Result<Vec<(&'static str, u64)>> {
    let mut seen = Vec::new();
    for (offset, name) in JUMPS {
        let query =
            format!("select count(*) from units where abs(clock_ahead_us - ({offset})) < {ERROR_US_MAX}");
        let rows = central.sql(&query).await?;
        seen.push((name, rows.first().map_or(0, |row| number_of(row, 0))));
    }
    Ok(seen)
}
