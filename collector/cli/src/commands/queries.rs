//! SQL that runs now.

use crate::args::Queries;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{ago, items, text};

pub(crate) async fn run(client: &Client, output: &Output, command: Option<Queries>) -> Result<(), Failure> {
    if let Some(Queries::Cancel { id }) = command {
        client.delete(&format!("queries/{id}")).await?;
        return output.line(&format!("cancelled query {id}"));
    }
    let list = client.get("queries", &[]).await?;
    if output.is_json() {
        return output.json(&list);
    }
    let rows = items(&list, "items").iter().map(|query| {
        vec![
            text(query, "id"),
            text(query, "user"),
            ago(query, "since"),
            text(query, "state"),
            text(query, "query"),
        ]
    });
    output.table(
        &["ID", "USER", "SINCE", "STATE", "QUERY"],
        rows.collect(),
        "no query runs",
    )
}
