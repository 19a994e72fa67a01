//! Values of the API as people read them.

use serde_json::Value;

/// A text; empty when there is none.
pub(crate) fn text(value: &Value, name: &str) -> String {
    plain(value.get(name).unwrap_or(&Value::Null))
}

/// Any value on one line.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(plain).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// A value for the eye: of a float the decimals that matter.
pub(crate) fn rounded(value: &Value) -> String {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(float) if float != 0.0 && float.abs() < 1.0 => format!("{float:.4}"),
        Some(float) => format!("{float:.2}"),
        None => plain(value),
    }
}

/// Items of a list.
pub(crate) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A share as percent.
pub(crate) fn percent(value: &Value, name: &str) -> String {
    value
        .get(name)
        .and_then(Value::as_f64)
        .map_or_else(String::new, |share| format!("{:.0} %", share * 100.0))
}

/// Bytes in binary units.
pub(crate) fn bytes(value: &Value, name: &str) -> String {
    let Some(mut amount) = value.get(name).and_then(number) else {
        return String::new();
    };
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{amount:.0} {unit}")
    } else {
        format!("{amount:.1} {unit}")
    }
}

/// A number that may have come as text.
pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// How long ago a time was.
pub(crate) fn ago(value: &Value, name: &str) -> String {
    let Some(time) = moment(value, name) else {
        return String::new();
    };
    let seconds = jiff::Timestamp::now().as_second() - time.as_second();
    match seconds {
        ..0 => "just now".to_owned(),
        0..=99 => format!("{seconds} s ago"),
        100..=5_999 => format!("{} min ago", seconds / 60),
        6_000..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// How long it is until a time, or since.
pub(crate) fn until(value: &Value, name: &str) -> String {
    let Some(time) = moment(value, name) else {
        return String::new();
    };
    let seconds = time.as_second() - jiff::Timestamp::now().as_second();
    if seconds <= 0 {
        return ago(value, name);
    }
    match seconds {
        1..=99 => format!("in {seconds} s"),
        100..=5_999 => format!("in {} min", seconds / 60),
        6_000..=172_799 => format!("in {} h", seconds / 3_600),
        _ => format!("in {} d", seconds / 86_400),
    }
}

/// A time of day, with the date when it is not today.
pub(crate) fn clock(value: &Value, name: &str) -> String {
    let Some(time) = moment(value, name) else {
        return String::new();
    };
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC);
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let form = if utc.date() == today {
        "%H:%M:%S%.3f"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    utc.strftime(form).to_string()
}

/// Date and time, to the second.
pub(crate) fn date(value: &Value, name: &str) -> String {
    moment(value, name).map_or_else(String::new, |time| {
        let utc = time.to_zoned(jiff::tz::TimeZone::UTC);
        utc.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    })
}

fn moment(value: &Value, name: &str) -> Option<jiff::Timestamp> {
    value.get(name)?.as_str()?.parse().ok()
}

/// The first characters of an id: enough to find it again.
pub(crate) fn short(id: &str, wide: bool) -> String {
    // Ids made in the same minute share their beginning; the end tells them apart.
    if wide || id.len() <= 13 {
        id.to_owned()
    } else {
        id.chars().skip(id.chars().count() - 12).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_with_their_units() {
        let value =
            json!({"share": 0.256, "memory": "17179869184", "small": 12, "args": ["ls", "-l"], "none": null});
        assert_eq!(percent(&value, "share"), "26 %");
        assert_eq!(bytes(&value, "memory"), "16.0 GiB");
        assert_eq!(bytes(&value, "small"), "12 B");
        assert_eq!(text(&value, "args"), "ls -l");
        assert_eq!(text(&value, "none"), "");
        let shown = [
            json!(95.89093928404556),
            json!(0.034567),
            json!(0.0),
            json!(-7.5),
            json!(7),
        ];
        assert_eq!(
            shown.map(|value| rounded(&value)),
            ["95.89", "0.0346", "0.00", "-7.50", "7"]
        );
        let time = json!({"until": "2026-01-02T03:04:05.000006Z"});
        assert_eq!(date(&time, "until"), "2026-01-02 03:04:05 UTC");
    }
}
