//! How the rows of a table that is no table of samples lie in a Parquet file. This text is its specification.
//!
//! - Rows are sorted by host, then by time; rows of one host and moment stand in the order in which they came. The
//!   file says so under the key [`SORTED_KEY`]; files without it are of before and sorted by time, then by host. What
//!   else it says of itself is its label (`label.rs`).
//! - A row group has at most [`GROUP_ROWS_MAX`] rows and its pages [`PAGE_ROWS_MAX`]: with the page index a query for
//!   one host and hour reads some thousand rows of each column it names.
//! - Columns that are asked for by single values have a Bloom filter in each row group, no larger than the number of
//!   values in it needs: [`NAMES`].
//! - Words, paths and names are dictionaries. What a dictionary only makes longer is kept as differences (rising
//!   numbers), as its bytes split by place (measurements), or plain (ports; starts of processes, whose low digits
//!   are zero): on a server's events that is a third less than dictionaries everywhere.

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::error::MaintenanceError;
use crate::shape::{RECORD_EPOCH, RECORD_ROW, RECORD_SEQUENCE, SqlTable, TIME};

/// Key of the file's metadata that names the columns it is sorted by.
pub(crate) const SORTED_KEY: &str = "fleetmend.sorted";
/// zstd level of pages: 9 saves 1 % of the bytes of events for twice the time.
const ZSTD_LEVEL: i32 = 3;
/// Rows of a row group.
const GROUP_ROWS_MAX: usize = 128 * 1024;
/// Bytes of a row group: the writer holds one in memory, and long texts make of many rows hundreds of megabytes.
pub(crate) const GROUP_BYTES_MAX: usize = 32 << 20;
/// Rows of a page.
const PAGE_ROWS_MAX: usize = 8 * 1024;
/// Columns whose values name something, of all tables.
const NAMES: [&str; 6] = [
    "pid",
    "finding_id",
    "action_id",
    "container_id",
    "remote_address",
    RECORD_EPOCH,
];
/// How often a Bloom filter is wrong.
const WRONG: f64 = 0.02;
/// Columns that rise, or nearly.
const RISING: [&str; 4] = [TIME, "boot_ns", RECORD_SEQUENCE, RECORD_ROW];
/// Measurements of tables of events: hardly one is like another.
const MEASURED: [&str; 6] = [
    "duration_us",
    "user_us",
    "system_us",
    "rss_bytes_max",
    "bytes_sent",
    "bytes_received",
];
const PORTS: [&str; 2] = ["local_port", "remote_port"];

/// What the writer is told.
pub(crate) fn properties(table: &SqlTable) -> Result<WriterProperties, MaintenanceError> {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(GROUP_BYTES_MAX))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        // The limit of rows is only looked at between two batches of this size.
        .set_write_batch_size(1_024);
    if !table.is_metrics() {
        let sorted = KeyValue::new(SORTED_KEY.to_owned(), sorted_by(table));
        builder = builder.set_key_value_metadata(Some(vec![sorted]));
    }
    for field in table.schema.fields() {
        let (name, path) = (field.name().as_str(), ColumnPath::from(field.name().as_str()));
        if let Some(encoding) = encoding(table.info.name, name) {
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), encoding);
        }
        if NAMES.contains(&name) && !table.is_metrics() {
            builder = builder
                .set_column_bloom_filter_fpp(path.clone(), WRONG)
                .set_column_bloom_filter_max_ndv(path, GROUP_ROWS_MAX as u64);
        }
    }
    Ok(builder.build())
}

/// What a file of this table says under [`SORTED_KEY`].
pub(crate) fn sorted_by(table: &SqlTable) -> String {
    table.sort.join(",")
}

/// How a column's values are kept; none for a dictionary.
fn encoding(table: &str, column: &str) -> Option<Encoding> {
    if RISING.contains(&column) {
        return Some(Encoding::DELTA_BINARY_PACKED);
    }
    // The inventory names the same few processes again and again.
    if table == "process_events" {
        match column {
            "pid" => return Some(Encoding::BYTE_STREAM_SPLIT),
            "start_boot_ns" => return Some(Encoding::PLAIN),
            _ => {}
        }
    }
    if MEASURED.contains(&column) {
        Some(Encoding::BYTE_STREAM_SPLIT)
    } else if PORTS.contains(&column) {
        Some(Encoding::PLAIN)
    } else {
        None
    }
}
