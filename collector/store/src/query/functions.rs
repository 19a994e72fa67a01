//! Functions of ours in SQL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

/// `label(labels, key)`: one attribute of a JSON object of texts; null where there is none.
pub(crate) fn label() -> ScalarUDF {
    let arguments = vec![DataType::Utf8, DataType::Utf8];
    create_udf(
        "label",
        arguments,
        DataType::Utf8,
        Volatility::Immutable,
        Arc::new(|arguments: &[ColumnarValue]| label_of(arguments)),
    )
}

fn label_of(arguments: &[ColumnarValue]) -> Result<ColumnarValue> {
    let arrays = ColumnarValue::values_to_arrays(arguments)?;
    let texts = arrays
        .iter()
        .map(|array| cast(array, &DataType::Utf8))
        .collect::<Result<Vec<_>, _>>()?;
    let columns: Vec<&StringArray> = texts
        .iter()
        .filter_map(|array| array.as_any().downcast_ref())
        .collect();
    let [labels, keys] = columns.as_slice() else {
        return datafusion::common::exec_err!("label(labels, key) takes two texts");
    };
    // Sorted rows repeat their labels: the last object is parsed once.
    let mut last: Option<(&str, serde_json::Map<String, serde_json::Value>)> = None;
    let mut values: Vec<Option<String>> = Vec::with_capacity(labels.len());
    for (object, key) in labels.iter().zip(keys.iter()) {
        let (Some(object), Some(key)) = (object, key) else {
            values.push(None);
            continue;
        };
        if last.as_ref().is_none_or(|(text, _)| *text != object) {
            last = Some((object, serde_json::from_str(object).unwrap_or_default()));
        }
        let value = last.as_ref().and_then(|(_, parsed)| parsed.get(key));
        values.push(value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    Ok(ColumnarValue::Array(
        Arc::new(StringArray::from(values)) as ArrayRef
    ))
}
