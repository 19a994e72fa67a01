//! Tables: each is one row type, one Arrow schema and one version, declared once with `table!`.
//!
//! To add a table: declare its row here (in the file of its subject), give it the next free number, add it to
//! [`tables`] and to [`crate::Fact`]. To add a column: append it as an `Option`, raise the version.

mod act;
mod action;
mod finding;
mod gap;
mod host;
mod integrity;
mod log;
mod metric;
mod network;
mod probe;
mod process;
mod profile;
mod sensor;
mod site;

use std::borrow::Borrow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

pub use act::{
    Act, Actor, CredentialEvent, CredentialEventKind, FileEvent, FileEventKind, KernelEvent, KernelEventKind,
    MemoryEvent, MemoryEventKind, PathSource, SignalEvent, SignalEventKind,
};
pub use action::{ActionEvent, ActionStage, LedgerEntry};
pub use finding::{Finding, FindingKind, FindingState, Severity, SubjectKind};
pub use gap::{Exactness, Gap, GapStage};
pub use host::{HostInfo, ModelState, ModelStatus, UnitState};
pub use integrity::{IntegrityChange, IntegrityEvent, IntegrityVerdict};
pub use log::{AuthEvent, AuthEventKind, AuthOutcome, LogRecord};
pub use metric::MetricChunk;
pub use network::{ConnectionOwner, NetworkEvent, NetworkEventKind};
pub use probe::{ProbeState, ProbeStatus};
pub use process::{ProcessEvent, ProcessEventKind, ProcessSnapshot, Source};
pub use profile::SyscallProfile;
pub use sensor::SensorAccount;
pub use site::{SiteProbe, SiteVerdict};

use crate::Lane;
use crate::column::RowError;

/// A row type: a struct whose fields are the columns of one table.
pub trait Table: Sized + Send + Sync + 'static {
    /// Number of the table in frames; never reused.
    const ID: u16;
    /// Name of the table in SQL.
    const NAME: &'static str;
    /// Version of its schema; a column added raises it by one.
    const VERSION: u16;
    /// Lane its records travel in.
    const LANE: Lane;

    /// Its Arrow schema, the columns in the order of declaration.
    fn schema() -> SchemaRef;

    /// One batch of these rows, or of what holds them.
    ///
    /// # Errors
    /// When the columns do not form a batch, which would be a fault of the declaration.
    fn to_batch<R: Borrow<Self>>(rows: &[R]) -> Result<RecordBatch, arrow::error::ArrowError>;

    /// The rows of `batch`. Columns are found by name: unknown ones are left out, missing ones are `None`
    /// where the schema allows nulls.
    ///
    /// # Errors
    /// [`RowError`] when a column is missing, has another type, or holds what its type cannot.
    fn from_batch(batch: &RecordBatch) -> Result<Vec<Self>, RowError>;
}

/// What the store and the wire know of a table.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Number of the table in frames.
    pub id: u16,
    /// Name of the table in SQL.
    pub name: &'static str,
    /// Version of its schema.
    pub version: u16,
    /// Lane its records travel in.
    pub lane: Lane,
    /// Its Arrow schema.
    pub schema: SchemaRef,
}

impl TableInfo {
    /// The description of `T`.
    pub fn of<T: Table>() -> Self {
        Self {
            id: T::ID,
            name: T::NAME,
            version: T::VERSION,
            lane: T::LANE,
            schema: T::schema(),
        }
    }
}

/// Every table, in order of its number.
pub fn tables() -> &'static [TableInfo] {
    static TABLES: std::sync::LazyLock<Vec<TableInfo>> = std::sync::LazyLock::new(|| {
        vec![
            TableInfo::of::<MetricChunk>(),
            TableInfo::of::<ProcessEvent>(),
            TableInfo::of::<NetworkEvent>(),
            TableInfo::of::<ProcessSnapshot>(),
            TableInfo::of::<UnitState>(),
            TableInfo::of::<SiteProbe>(),
            TableInfo::of::<ProbeStatus>(),
            TableInfo::of::<Finding>(),
            TableInfo::of::<ActionEvent>(),
            TableInfo::of::<LedgerEntry>(),
            TableInfo::of::<Gap>(),
            TableInfo::of::<HostInfo>(),
            TableInfo::of::<ModelStatus>(),
            TableInfo::of::<FileEvent>(),
            TableInfo::of::<CredentialEvent>(),
            TableInfo::of::<MemoryEvent>(),
            TableInfo::of::<KernelEvent>(),
            TableInfo::of::<SignalEvent>(),
            TableInfo::of::<SensorAccount>(),
            TableInfo::of::<IntegrityEvent>(),
            TableInfo::of::<SyscallProfile>(),
            TableInfo::of::<LogRecord>(),
            TableInfo::of::<AuthEvent>(),
        ]
    });
    &TABLES
}

/// The table with this number.
pub fn table_by_id(id: u16) -> Option<&'static TableInfo> {
    tables().iter().find(|table| table.id == id)
}

/// The table with this name.
pub fn table_by_name(name: &str) -> Option<&'static TableInfo> {
    tables().iter().find(|table| table.name == name)
}

pub(crate) fn schema_of(fields: Vec<arrow::datatypes::Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

pub(crate) fn column<C: crate::column::Column>(
    batch: &RecordBatch,
    table: &'static str,
    name: &'static str,
) -> Result<Vec<C>, RowError> {
    match batch.column_by_name(name) {
        Some(array) => C::from_array(array.as_ref()),
        None => {
            let absent = || C::absent().ok_or(RowError::Missing { table, column: name });
            (0..batch.num_rows()).map(|_| absent()).collect()
        }
    }
}

/// Declares a row type, its schema and both conversions.
macro_rules! table {
    ($(#[$meta:meta])* pub struct $name:ident($table:literal, id $id:literal, version $version:literal, $lane:expr) {
        $($(#[$fmeta:meta])* $field:ident: $type:ty,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)+ }

        impl $crate::table::Table for $name {
            const ID: u16 = $id;
            const NAME: &'static str = $table;
            const VERSION: u16 = $version;
            const LANE: $crate::Lane = $lane;

            fn schema() -> arrow::datatypes::SchemaRef {
                static SCHEMA: std::sync::LazyLock<arrow::datatypes::SchemaRef> = std::sync::LazyLock::new(|| {
                    $crate::table::schema_of(vec![$(arrow::datatypes::Field::new(
                        stringify!($field),
                        <$type as $crate::column::Column>::data_type(),
                        <$type as $crate::column::Column>::NULLABLE,
                    )),+])
                });
                SCHEMA.clone()
            }

            fn to_batch<R: std::borrow::Borrow<Self>>(
                rows: &[R],
            ) -> Result<arrow::array::RecordBatch, arrow::error::ArrowError> {
                arrow::array::RecordBatch::try_new(Self::schema(), vec![$(
                    <$type as $crate::column::Column>::to_array(rows.iter().map(|row| &<R as std::borrow::Borrow<Self>>::borrow(row).$field))
                ),+])
            }

            fn from_batch(batch: &arrow::array::RecordBatch) -> Result<Vec<Self>, $crate::column::RowError> {
                $(let mut $field = $crate::table::column::<$type>(batch, $table, stringify!($field))?.into_iter();)+
                let mut rows = Vec::with_capacity(batch.num_rows());
                while let ($(Some($field),)+) = ($($field.next(),)+) {
                    rows.push(Self { $($field,)+ });
                }
                Ok(rows)
            }
        }
    };
}
pub(crate) use table;

#[cfg(test)]
mod tests;
