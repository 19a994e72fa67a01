//! How a Rust value becomes a column of an Arrow batch, and comes back.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, PrimitiveArray,
    StringArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float64Type, TimeUnit, UInt32Type, UInt64Type};

use crate::TimeMicros;

/// A batch whose columns are not what the row type expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A column that may not be missing is missing.
    #[error("table {table}: column {column:?} is missing")]
    Missing {
        /// Table being read.
        table: &'static str,
        /// Column that was looked for.
        column: &'static str,
    },
    /// A column has another type than the schema says.
    #[error("column has type {found} where {wanted} was expected")]
    Type {
        /// Type in the schema.
        wanted: String,
        /// Type in the batch.
        found: String,
    },
    /// A null where the schema allows none.
    #[error("column holds a null in row {row} where none is allowed")]
    Null {
        /// Index of the row, from 0.
        row: usize,
    },
    /// A word outside its vocabulary, or an id that is none.
    #[error("row {row}: {reason}")]
    Value {
        /// Index of the row, from 0.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// A type that can be a column.
pub trait Column: Sized {
    /// Arrow type of the column.
    fn data_type() -> DataType;

    /// Whether the column may hold nulls (and may be missing from batches of older schema versions).
    const NULLABLE: bool = false;

    /// The values of one column, in row order.
    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;

    /// The values of `array`, one per row.
    fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError>;

    /// What a row has when its batch lacks the column; `None` when the column may not be missing.
    fn absent() -> Option<Self> {
        None
    }
}

pub(crate) fn downcast<'a, A: Array + 'static>(
    array: &'a dyn Array,
    wanted: &DataType,
) -> Result<&'a A, RowError> {
    array.as_any().downcast_ref::<A>().ok_or_else(|| RowError::Type {
        wanted: wanted.to_string(),
        found: array.data_type().to_string(),
    })
}

macro_rules! primitive_column {
    ($native:ty, $array:ty, $data_type:expr) => {
        impl Column for $native {
            fn data_type() -> DataType {
                $data_type
            }

            fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(<$array>::from(values.copied().collect::<Vec<_>>()))
            }

            fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
                let typed = downcast::<$array>(array, &$data_type)?;
                typed
                    .iter()
                    .enumerate()
                    .map(|(row, value)| value.ok_or(RowError::Null { row }))
                    .collect()
            }
        }

        impl Column for Option<$native> {
            const NULLABLE: bool = true;

            fn data_type() -> DataType {
                $data_type
            }

            fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(<$array>::from(values.copied().collect::<Vec<_>>()))
            }

            fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
                Ok(downcast::<$array>(array, &$data_type)?.iter().collect())
            }

            fn absent() -> Option<Self> {
                Some(None)
            }
        }
    };
}

primitive_column!(bool, BooleanArray, DataType::Boolean);
primitive_column!(i32, Int32Array, DataType::Int32);
primitive_column!(i64, Int64Array, DataType::Int64);
primitive_column!(u32, UInt32Array, DataType::UInt32);
primitive_column!(u64, UInt64Array, DataType::UInt64);
primitive_column!(f64, Float64Array, DataType::Float64);

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl Column for TimeMicros {
    fn data_type() -> DataType {
        time_type()
    }

    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let micros: Vec<i64> = values.map(|time| time.0).collect();
        Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC"))
    }

    fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
        let typed = downcast::<TimestampMicrosecondArray>(array, &time_type())?;
        let row = |(row, value): (usize, Option<i64>)| value.map(TimeMicros).ok_or(RowError::Null { row });
        typed.iter().enumerate().map(row).collect()
    }
}

impl Column for Option<TimeMicros> {
    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        time_type()
    }

    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let micros: Vec<Option<i64>> = values.map(|time| time.map(|time| time.0)).collect();
        Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC"))
    }

    fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
        let typed = downcast::<TimestampMicrosecondArray>(array, &time_type())?;
        Ok(typed.iter().map(|value| value.map(TimeMicros)).collect())
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl Column for String {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
        let typed = downcast::<StringArray>(array, &DataType::Utf8)?;
        let row =
            |(row, value): (usize, Option<&str>)| value.map(str::to_owned).ok_or(RowError::Null { row });
        typed.iter().enumerate().map(row).collect()
    }
}

impl Column for Option<String> {
    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(values.map(Option::as_deref).collect::<StringArray>())
    }

    fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
        let typed = downcast::<StringArray>(array, &DataType::Utf8)?;
        Ok(typed.iter().map(|value| value.map(str::to_owned)).collect())
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

fn list_type(item: DataType) -> DataType {
    DataType::List(item_field(item))
}

fn item_field(item: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", item, true))
}

fn list_of(lengths: Vec<usize>, items: ArrayRef) -> ArrayRef {
    let field = item_field(items.data_type().clone());
    let nulls: Option<NullBuffer> = None;
    Arc::new(ListArray::new(
        field,
        OffsetBuffer::from_lengths(lengths),
        items,
        nulls,
    ))
}

fn from_list<T>(
    array: &dyn Array,
    wanted: &DataType,
    read: impl Fn(&dyn Array) -> Result<Vec<T>, RowError>,
) -> Result<Vec<Vec<T>>, RowError> {
    let list = downcast::<ListArray>(array, wanted)?;
    list.iter()
        .enumerate()
        .map(|(row, value)| read(value.ok_or(RowError::Null { row })?.as_ref()))
        .collect()
}

fn primitives<T: ArrowPrimitiveType>(array: &dyn Array) -> Result<Vec<T::Native>, RowError> {
    let typed = downcast::<PrimitiveArray<T>>(array, &T::DATA_TYPE)?;
    typed
        .iter()
        .enumerate()
        .map(|(row, value)| value.ok_or(RowError::Null { row }))
        .collect()
}

macro_rules! list_column {
    ($native:ty, $item:expr, $build:expr, $read:expr) => {
        impl Column for Vec<$native> {
            fn data_type() -> DataType {
                list_type($item)
            }

            fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                let mut lengths = Vec::new();
                let mut items = Vec::new();
                for value in values {
                    lengths.push(value.len());
                    items.extend(value.iter().cloned());
                }
                list_of(lengths, $build(items))
            }

            fn from_array(array: &dyn Array) -> Result<Vec<Self>, RowError> {
                from_list(array, &list_type($item), $read)
            }
        }
    };
}

list_column!(
    String,
    DataType::Utf8,
    |items: Vec<String>| Arc::new(StringArray::from(items)) as ArrayRef,
    String::from_array
);
list_column!(
    f64,
    DataType::Float64,
    |items: Vec<f64>| Arc::new(Float64Array::from(items)) as ArrayRef,
    |array| { primitives::<Float64Type>(array) }
);
list_column!(
    u32,
    DataType::UInt32,
    |items: Vec<u32>| Arc::new(UInt32Array::from(items)) as ArrayRef,
    |array| { primitives::<UInt32Type>(array) }
);
list_column!(
    u64,
    DataType::UInt64,
    |items: Vec<u64>| Arc::new(UInt64Array::from(items)) as ArrayRef,
    |array| { primitives::<UInt64Type>(array) }
);

/// Makes a type that is `Display` and `FromStr` a text column, itself and as an `Option`.
#[macro_export]
macro_rules! text_column {
    ($name:ty) => {
        impl $crate::column::Column for $name {
            fn data_type() -> arrow::datatypes::DataType {
                arrow::datatypes::DataType::Utf8
            }

            fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> arrow::array::ArrayRef {
                let texts = values.map(ToString::to_string);
                std::sync::Arc::new(arrow::array::StringArray::from_iter_values(texts))
            }

            fn from_array(array: &dyn arrow::array::Array) -> Result<Vec<Self>, $crate::column::RowError> {
                $crate::column::parse_all(<String as $crate::column::Column>::from_array(array)?)
            }
        }

        impl $crate::column::Column for Option<$name> {
            const NULLABLE: bool = true;

            fn data_type() -> arrow::datatypes::DataType {
                arrow::datatypes::DataType::Utf8
            }

            fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> arrow::array::ArrayRef {
                let texts = values.map(|value| value.as_ref().map(ToString::to_string));
                std::sync::Arc::new(texts.collect::<arrow::array::StringArray>())
            }

            fn from_array(array: &dyn arrow::array::Array) -> Result<Vec<Self>, $crate::column::RowError> {
                $crate::column::parse_all_optional(<Option<String> as $crate::column::Column>::from_array(
                    array,
                )?)
            }

            fn absent() -> Option<Self> {
                Some(None)
            }
        }
    };
}

/// Makes a vocabulary a text column.
#[macro_export]
macro_rules! word_column {
    ($name:ty) => {
        $crate::text_column!($name);
    };
}

/// Parses every text of a column.
///
/// # Errors
/// [`RowError::Value`] with the row of the first text that does not parse.
pub fn parse_all<T: std::str::FromStr<Err: std::fmt::Display>>(
    texts: Vec<String>,
) -> Result<Vec<T>, RowError> {
    let parse = |(row, text): (usize, String)| text.parse::<T>().map_err(|error| value_error(row, &error));
    texts.into_iter().enumerate().map(parse).collect()
}

/// Parses every text of a column that may hold nulls.
///
/// # Errors
/// [`RowError::Value`] with the row of the first text that does not parse.
pub fn parse_all_optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    texts: Vec<Option<String>>,
) -> Result<Vec<Option<T>>, RowError> {
    let parse = |(row, text): (usize, Option<String>)| {
        text.map(|text| text.parse::<T>().map_err(|error| value_error(row, &error)))
            .transpose()
    };
    texts.into_iter().enumerate().map(parse).collect()
}

fn value_error(row: usize, error: &dyn std::fmt::Display) -> RowError {
    RowError::Value {
        row,
        reason: error.to_string(),
    }
}
