//! Arrow columns as JSON, in the way the contract says: times as RFC 3339, large integers and ids as text.

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::array::{AsArray as _, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use fleetmend_event::TimeMicros;
use serde_json::{Map, Number, Value};

/// Largest integer every JSON reader keeps exact.
const EXACT_MAX: u64 = (1 << 53) - 1;
/// Columns that hold JSON as text.
const JSON_COLUMNS: [&str; 5] = ["factors", "evidence", "before", "after", "labels"];

/// The rows of a batch as objects.
pub(crate) fn objects(batch: &RecordBatch) -> Vec<Map<String, Value>> {
    let schema = batch.schema();
    let mut rows = vec![Map::with_capacity(batch.num_columns()); batch.num_rows()];
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        let parse = JSON_COLUMNS.contains(&field.name().as_str());
        for (row, value) in rows.iter_mut().zip(column(array)) {
            row.insert(field.name().clone(), if parse { parsed(value) } else { value });
        }
    }
    rows
}

/// The rows of a batch as arrays, in the order of its columns.
pub(crate) fn arrays(batch: &RecordBatch) -> Vec<Vec<Value>> {
    let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
    for array in batch.columns() {
        for (row, value) in rows.iter_mut().zip(column(array)) {
            row.push(value);
        }
    }
    rows
}

fn parsed(value: Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        other => other,
    }
}

/// The values of one column.
pub(crate) fn column(array: &ArrayRef) -> Vec<Value> {
    match array.data_type() {
        DataType::Boolean => boolean(array.as_boolean()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => integers(array),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => unsigned(array),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => floats(array),
        DataType::Timestamp(..) => times(array),
        DataType::Utf8 => texts(array.as_string()),
        DataType::LargeUtf8 | DataType::Utf8View => cast_texts(array),
        DataType::Dictionary(_, value) => match cast(array, value) {
            Ok(plain) => column(&plain),
            Err(_) => shown(array),
        },
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            list.iter()
                .map(|item| item.map_or(Value::Null, |item| Value::Array(column(&item))))
                .collect()
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            list.iter()
                .map(|item| item.map_or(Value::Null, |item| Value::Array(column(&item))))
                .collect()
        }
        DataType::Null => vec![Value::Null; array.len()],
        _ => shown(array),
    }
}

fn boolean(array: &BooleanArray) -> Vec<Value> {
    array
        .iter()
        .map(|value| value.map_or(Value::Null, Value::Bool))
        .collect()
}

fn texts(array: &StringArray) -> Vec<Value> {
    array
        .iter()
        .map(|value| value.map_or(Value::Null, Value::from))
        .collect()
}

fn cast_texts(array: &ArrayRef) -> Vec<Value> {
    match cast(array, &DataType::Utf8) {
        Ok(plain) => texts(plain.as_string()),
        Err(_) => shown(array),
    }
}

fn integers(array: &ArrayRef) -> Vec<Value> {
    let Ok(wide) = cast(array, &DataType::Int64) else {
        return shown(array);
    };
    let value = |value: i64| {
        if value.unsigned_abs() > EXACT_MAX {
            Value::String(value.to_string())
        } else {
            Value::from(value)
        }
    };
    wide.as_primitive::<Int64Type>()
        .iter()
        .map(|item| item.map_or(Value::Null, value))
        .collect()
}

fn unsigned(array: &ArrayRef) -> Vec<Value> {
    let Ok(wide) = cast(array, &DataType::UInt64) else {
        return shown(array);
    };
    wide.as_primitive::<UInt64Type>()
        .iter()
        .map(|item| item.map_or(Value::Null, large))
        .collect()
}

/// An unsigned integer as the contract sends it.
pub(crate) fn large(value: u64) -> Value {
    if value > EXACT_MAX {
        Value::String(value.to_string())
    } else {
        Value::from(value)
    }
}

fn floats(array: &ArrayRef) -> Vec<Value> {
    let Ok(wide) = cast(array, &DataType::Float64) else {
        return shown(array);
    };
    wide.as_primitive::<Float64Type>().iter().map(float).collect()
}

/// A float; `null` when it is not finite.
pub(crate) fn float(value: Option<f64>) -> Value {
    value
        .and_then(Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

fn times(array: &ArrayRef) -> Vec<Value> {
    let Ok(micros) = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None)) else {
        return shown(array);
    };
    let time = |value: i64| Value::String(TimeMicros(value).to_string());
    micros
        .as_primitive::<TimestampMicrosecondType>()
        .iter()
        .map(|item| item.map_or(Value::Null, time))
        .collect()
}

/// Whatever else SQL can make (intervals, decimals, structs), as Arrow shows it.
fn shown(array: &ArrayRef) -> Vec<Value> {
    let options = FormatOptions::default();
    let Ok(formatter) = ArrayFormatter::try_new(array.as_ref(), &options) else {
        return vec![Value::Null; array.len()];
    };
    let show = |row: usize| {
        if array.is_null(row) {
            Value::Null
        } else {
            Value::String(formatter.value(row).to_string())
        }
    };
    (0..array.len()).map(show).collect()
}

/// The type of a column as people write it in SQL.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::UInt64 => "bigint unsigned".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::UInt32 => "int unsigned".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::List(item) | DataType::LargeList(item) => format!("{}[]", type_name(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Float64Array, Int64Array, UInt64Array};
    use arrow::datatypes::Int32Type;
    use serde_json::json;

    use super::*;

    fn values(array: impl Array + 'static) -> Value {
        let array: ArrayRef = Arc::new(array);
        Value::Array(column(&array))
    }

    #[test]
    fn integers_beyond_what_json_keeps_exact_are_text() {
        let exact = (1_u64 << 53) - 1;
        assert_eq!(
            values(UInt64Array::from(vec![exact, exact + 1])),
            json!([exact, (exact + 1).to_string()])
        );
        assert_eq!(
            values(Int64Array::from(vec![Some(-5), Some(i64::MIN), None])),
            json!([-5, i64::MIN.to_string(), null])
        );
    }

    #[test]
    fn floats_that_json_cannot_hold_are_null() {
        assert_eq!(
            values(Float64Array::from(vec![1.5, f64::NAN, f64::INFINITY])),
            json!([1.5, null, null])
        );
    }

    #[test]
    fn texts_in_any_encoding_are_texts() {
        let plain = StringArray::from(vec!["a"]);
        let dictionary: DictionaryArray<Int32Type> = ["a"].into_iter().collect();
        let view = cast(&plain, &DataType::Utf8View).unwrap();
        assert_eq!(values(dictionary), json!(["a"]));
        assert_eq!(Value::Array(column(&view)), json!(["a"]));
    }
}
