//! SQL.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, complain};
use crate::shown::{items, plain, text};

pub(crate) async fn run(
    client: &Client,
    output: &Output,
    query: String,
    rows_max: usize,
) -> Result<(), Failure> {
    let query = if query == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        query
    };
    let answer = client
        .post("sql", json!({ "query": query, "rows_max": rows_max }))
        .await?;
    if output.is_json() {
        return output.json(&answer);
    }
    let names: Vec<String> = items(&answer, "columns")
        .iter()
        .map(|column| text(column, "name"))
        .collect();
    let header: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = items(&answer, "rows").iter().map(|row| {
        row.as_array()
            .map_or_else(Vec::new, |values| values.iter().map(plain).collect())
    });
    output.table(&header, rows.collect(), "no rows")?;
    if answer.get("truncated") == Some(&Value::Bool(true)) {
        complain(&format!(
            "there are more than {rows_max} rows; --rows-max shows more"
        ));
    }
    if !items(&answer, "gaps").is_empty() {
        complain(&"rows of these tables were lost in the last day: see `fleetmend gaps`");
    }
    Ok(())
}
