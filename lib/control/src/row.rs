//! Rows of both engines in one form.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};

use crate::ControlError;

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    names: Arc<[String]>,
    cells: Vec<Cell>,
}

/// A value as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// What a column can be read as.
pub trait FromCell<'r>: Sized {
    /// What it is called in an error.
    const KIND: &'static str;

    /// The value, if the cell holds such a one.
    fn from_cell(cell: &'r Cell) -> Option<Self>;
}

/// A column by place (from 0) or by name.
pub trait ColumnKey: std::fmt::Display {
    /// Its place.
    fn place(&self, names: &[String]) -> Option<usize>;
}

impl ColumnKey for usize {
    fn place(&self, _: &[String]) -> Option<usize> {
        Some(*self)
    }
}

impl ColumnKey for &str {
    fn place(&self, names: &[String]) -> Option<usize> {
        names.iter().position(|name| name == self)
    }
}

impl Row {
    /// The value of a column.
    ///
    /// # Errors
    /// When there is no such column, or it holds another kind of value.
    pub fn try_get<'r, T: FromCell<'r>>(&'r self, column: impl ColumnKey) -> Result<T, ControlError> {
        let cell = column.place(&self.names).and_then(|place| self.cells.get(place));
        cell.and_then(T::from_cell).ok_or_else(|| ControlError::Value {
            column: column.to_string(),
            wanted: T::KIND,
        })
    }

    /// Its values in the order of the statement's columns.
    pub(crate) fn into_cells(self) -> Vec<Cell> {
        self.cells
    }

    pub(crate) fn of_sqlite(row: &SqliteRow, names: &mut Option<Arc<[String]>>) -> Result<Self, sqlx::Error> {
        Self::of(row, names, |kind, index| {
            Ok(match kind {
                "INTEGER" | "BOOLEAN" | "INT4" => Cell::Integer(row.try_get_unchecked(index)?),
                "REAL" => Cell::Real(row.try_get_unchecked(index)?),
                "BLOB" => Cell::Bytes(row.try_get_unchecked(index)?),
                "TEXT" => Cell::Text(row.try_get_unchecked(index)?),
                _ => return Err(unknown(index, kind)),
            })
        })
    }

    pub(crate) fn of_postgres(row: &PgRow, names: &mut Option<Arc<[String]>>) -> Result<Self, sqlx::Error> {
        Self::of(row, names, |kind, index| {
            Ok(match kind {
                "INT8" => Cell::Integer(row.try_get(index)?),
                "INT4" => Cell::Integer(i64::from(row.try_get::<i32, _>(index)?)),
                "INT2" => Cell::Integer(i64::from(row.try_get::<i16, _>(index)?)),
                "BOOL" => Cell::Integer(i64::from(row.try_get::<bool, _>(index)?)),
                "FLOAT8" => Cell::Real(row.try_get(index)?),
                "FLOAT4" => Cell::Real(f64::from(row.try_get::<f32, _>(index)?)),
                "TEXT" | "VARCHAR" | "NAME" => Cell::Text(row.try_get(index)?),
                "BYTEA" => Cell::Bytes(row.try_get(index)?),
                _ => return Err(unknown(index, kind)),
            })
        })
    }

    /// A driver's row; `cell` reads a value that is there, by the name of its type and its place.
    fn of<R>(
        row: &R,
        names: &mut Option<Arc<[String]>>,
        cell: impl Fn(&str, usize) -> Result<Cell, sqlx::Error>,
    ) -> Result<Self, sqlx::Error>
    where
        R: sqlx::Row,
        usize: sqlx::ColumnIndex<R>,
    {
        let columns = || row.columns().iter().map(|column| column.name().to_owned());
        let names = names.get_or_insert_with(|| columns().collect());
        let cells = (0..names.len()).map(|index| {
            let raw = row.try_get_raw(index)?;
            if raw.is_null() {
                return Ok(Cell::Null);
            }
            cell(raw.type_info().name(), index)
        });
        let cells = cells.collect::<Result<_, sqlx::Error>>()?;
        Ok(Self {
            names: names.clone(),
            cells,
        })
    }
}

/// NUMERIC is what `sum` of a BIGINT gives: the statement has to cast it.
fn unknown(index: usize, kind: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: index.to_string(),
        source: format!("its type {kind} is none that both engines have; cast it in the statement").into(),
    }
}

impl<'r> FromCell<'r> for i64 {
    const KIND: &'static str = "integer";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        match cell {
            Cell::Integer(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'r> FromCell<'r> for u64 {
    const KIND: &'static str = "count";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        u64::try_from(i64::from_cell(cell)?).ok()
    }
}

impl<'r> FromCell<'r> for u32 {
    const KIND: &'static str = "small count";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        u32::try_from(i64::from_cell(cell)?).ok()
    }
}

impl<'r> FromCell<'r> for u16 {
    const KIND: &'static str = "small count";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        u16::try_from(i64::from_cell(cell)?).ok()
    }
}

impl<'r> FromCell<'r> for bool {
    const KIND: &'static str = "flag";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        i64::from_cell(cell).map(|value| value != 0)
    }
}

impl<'r> FromCell<'r> for f64 {
    const KIND: &'static str = "number";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        match cell {
            Cell::Real(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'r> FromCell<'r> for &'r str {
    const KIND: &'static str = "text";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        match cell {
            Cell::Text(value) => Some(value),
            _ => None,
        }
    }
}

impl<'r> FromCell<'r> for String {
    const KIND: &'static str = "text";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        <&str>::from_cell(cell).map(str::to_owned)
    }
}

impl<'r> FromCell<'r> for Vec<u8> {
    const KIND: &'static str = "bytes";
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        match cell {
            Cell::Bytes(value) => Some(value.clone()),
            _ => None,
        }
    }
}

impl<'r, T: FromCell<'r>> FromCell<'r> for Option<T> {
    const KIND: &'static str = T::KIND;
    fn from_cell(cell: &'r Cell) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}
