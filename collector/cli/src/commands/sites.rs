//! Sites, and losses.

use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{ago, clock, items, number, short, text};

pub(crate) async fn all(client: &Client, output: &Output) -> Result<(), Failure> {
    let list = client.get("sites", &[]).await?;
    if output.is_json() {
        return output.json(&list);
    }
    let rows = items(&list, "items").iter().map(|site| {
        let last = site.get("last").unwrap_or(&Value::Null);
        let total = last
            .get("total_ms")
            .and_then(number)
            .map_or_else(String::new, |total| format!("{total:.1} ms"));
        vec![
            text(site, "site"),
            text(last, "verdict"),
            text(last, "http_status"),
            total,
            availability(site),
            clock(last, "certificate_not_after"),
            ago(last, "time"),
            short(&text(site, "host_id"), output.is_wide()),
            text(last, "reason"),
        ]
    });
    let header = [
        "SITE",
        "VERDICT",
        "STATUS",
        "TOTAL",
        "UP OF KNOWN",
        "CERTIFICATE UNTIL",
        "PROBED",
        "SEEN FROM",
        "REASON",
    ];
    output.table(&header, rows.collect(), "no site is probed yet")
}

/// Share of the last probes that were up; those that could not be judged do not count.
fn availability(site: &Value) -> String {
    let count = |word: &str| {
        items(site, "verdicts")
            .iter()
            .filter(|verdict| text(verdict, "verdict") == word)
            .count()
    };
    let (up, down) = (count("up"), count("down"));
    if up + down == 0 {
        String::new()
    } else {
        format!("{up} of {}", up + down)
    }
}

pub(crate) async fn gaps(client: &Client, output: &Output) -> Result<(), Failure> {
    let list = client.get("gaps", &[]).await?;
    if output.is_json() {
        return output.json(&list);
    }
    let rows = items(&list, "items").iter().map(|gap| {
        let least = if text(gap, "exactness") == "at_least" {
            "at least "
        } else {
            ""
        };
        vec![
            clock(gap, "time"),
            short(&text(gap, "host_id"), output.is_wide()),
            text(gap, "table"),
            clock(gap, "from_time"),
            clock(gap, "to_time"),
            format!("{least}{}", text(gap, "count")),
            text(gap, "stage"),
            text(gap, "reason"),
        ]
    });
    let header = [
        "NOTICED", "HOST", "TABLE", "FROM", "TO", "COUNT", "STAGE", "REASON",
    ];
    output.table(
        &header,
        rows.collect(),
        "nothing is known to be missing in the last day",
    )
}
