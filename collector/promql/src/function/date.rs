//! Parts of a date, in UTC.

/// Of seconds since 1970.
pub(crate) type DateFunction = fn(i64) -> f64;

const DAY_SECONDS: i64 = 86_400;

/// Seconds beyond which no date is told: the year 292 million.
const SECONDS_BOUND: i64 = i64::MAX / 1000;

pub(crate) fn find(name: &str) -> Option<DateFunction> {
    Some(match name {
        "year" => |seconds| date(seconds).0 as f64,
        "month" => |seconds| date(seconds).1 as f64,
        "day_of_month" => |seconds| date(seconds).2 as f64,
        "day_of_year" => |seconds| {
            let (year, _, _) = date(seconds);
            (days(seconds) - days_before_year(year) + 1) as f64
        },
        // 1970 began on a Thursday.
        "day_of_week" => |seconds| (days(seconds) + 4).rem_euclid(7) as f64,
        "days_in_month" => |seconds| {
            let (year, month, _) = date(seconds);
            days_in_month(year, month) as f64
        },
        "hour" => |seconds| (seconds.rem_euclid(DAY_SECONDS) / 3600) as f64,
        "minute" => |seconds| (seconds.rem_euclid(3600) / 60) as f64,
        _ => return None,
    })
}

/// `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let (year, month, day) = date(seconds);
    let of_day = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn days(seconds: i64) -> i64 {
    seconds
        .clamp(-SECONDS_BOUND, SECONDS_BOUND)
        .div_euclid(DAY_SECONDS)
}

/// Year, month and day of the proleptic Gregorian calendar; the algorithm counts 400-year eras from March of year 0
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn date(seconds: i64) -> (i64, i64, i64) {
    let shifted = days(seconds) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_before_year(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + (before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)) - 477
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
