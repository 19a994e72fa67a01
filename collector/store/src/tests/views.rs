//! Views, and the document that lists what there is in SQL.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, Schema};

use super::testbed::{Host, START, exec, folder, open};
use crate::QueryLimits;
use crate::query::VIEWS;
use crate::shape::sql_tables;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/specs/sql.md");
const OFFERED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../web/src/pages/Sql.svelte");
const BEGIN: &str = "<!-- what follows is written by a test of the store: FLEETMEND_WRITE_DOCS=1 -->\n";

#[tokio::test]
async fn view_shows_the_rows_it_is_named_for() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let mut rows = vec![exec(START, 1), exec(START + 1, 2)];
    rows[1].kind = fleetmend_event::table::ProcessEventKind::Exit;
    rows[1].exit_code = Some(3);
    let frame = host.frame(&rows, START, START + 1);
    bed.store.commit(host.id, vec![frame]).await.unwrap();
    assert_eq!(bed.number("SELECT count(*) FROM execs").await, 1);
    assert_eq!(
        bed.number("SELECT count(*) FROM exits WHERE exit_code = 3").await,
        1
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM Execs JOIN exits USING (host_id)")
            .await,
        1
    );
    assert_eq!(
        bed.number("WITH execs AS (SELECT 1 AS n) SELECT count(*) FROM execs WHERE n = 1")
            .await,
        1
    );
    let shown = bed
        .number("SELECT count(*) FROM information_schema.tables WHERE table_name IN ('execs', 'gaps')")
        .await;
    assert_eq!(shown, 2);
    bed.close().await;
}

/// Names and types of columns as a table of Markdown.
fn columns(schema: &Schema) -> String {
    let mut text = "| column | type | |\n|---|---|---|\n".to_owned();
    for field in schema.fields() {
        let kind = match field.data_type() {
            DataType::Utf8 => "text".to_owned(),
            DataType::Timestamp(..) => "time".to_owned(),
            DataType::List(item) if item.data_type().is_string() => "list of text".to_owned(),
            other => other.to_string().to_lowercase(),
        };
        let null = if field.is_nullable() { "may be null" } else { "" };
        writeln!(text, "| `{}` | {kind} | {null} |", field.name()).unwrap();
    }
    text
}

#[tokio::test]
async fn document_lists_every_table_and_view_with_its_columns() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut wanted = String::from("\n## Tables\n");
    for table in sql_tables() {
        write!(
            wanted,
            "\n### `{}`\n\n{}",
            table.info.name,
            columns(&table.schema)
        )
        .unwrap();
    }
    wanted.push_str("\n## Views\n");
    for view in &VIEWS {
        let query = format!("SELECT * FROM {}", view.name);
        let answer = bed
            .store
            .sql(&query, QueryLimits::default())
            .await
            .expect(view.name);
        write!(
            wanted,
            "\n### `{}`\n\n{}\n\n{}",
            view.name,
            view.about,
            columns(&answer.schema)
        )
        .unwrap();
    }
    bed.close().await;
    let held = std::fs::read_to_string(DOCUMENT).unwrap();
    let (prose, listed) = held.split_once(BEGIN).expect("the document has its mark");
    if std::env::var_os("FLEETMEND_WRITE_DOCS").is_some() {
        std::fs::write(DOCUMENT, format!("{prose}{BEGIN}{wanted}")).unwrap();
        return;
    }
    assert_eq!(listed, wanted, "run this test once with FLEETMEND_WRITE_DOCS=1");
}

#[tokio::test]
async fn queries_that_the_dashboard_offers_are_answered() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let page = std::fs::read_to_string(OFFERED).unwrap();
    // Each on a line of its own: a name and the query, in quotes of either kind.
    let queries: Vec<&str> = page
        .lines()
        .filter_map(|line| line.trim().strip_prefix("['")?.strip_suffix("],"))
        .filter_map(|line| line.split_once("', "))
        .map(|(_, quoted)| quoted.trim_matches(['\'', '"']))
        .filter(|text| text.starts_with("select "))
        .collect();
    assert!(queries.len() > 4, "{queries:?}");
    for query in queries {
        bed.store.sql(query, QueryLimits::default()).await.expect(query);
    }
    bed.close().await;
}
