//! Functions that make long values out of short ones.
//!
//! What a function makes of one batch of rows is counted by no pool: a text that is put behind itself twenty times is
//! a million times as long. So every function whose value is longer than its arguments' is asked through a wrapper,
//! which looks first at how much that can be, and refuses more than [`BYTES_MAX`] of one batch as it would refuse more
//! than the memory. Where the bound is far above what is made in the end, as of a replacement that seldom
//! happens, the batch is taken in pieces. `repeat` and its like, whose length stands in a number, are not there at
//! all (`session.rs`).
//!
//! Plans are changed when types are settled and before anything is computed, constants included.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::bounded::widest;

/// Bytes that one function may make of one batch of rows.
const BYTES_MAX: usize = 128 << 20;
/// Bytes of a number or a time among constants.
const SCALAR_BYTES: usize = 16;

/// How long a value can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// As all arguments together.
    Sum,
    /// As its first argument with another one for each of its bytes.
    Product,
}

fn growth_of(function: &str) -> Option<Growth> {
    match function {
        "concat" | "overlay" | "make_array" | "array_concat" | "array_append" | "array_prepend"
        | "array_union" | "arrays_zip" | "map" | "struct" | "named_struct" => Some(Growth::Sum),
        "replace" | "regexp_replace" | "concat_ws" | "array_to_string" | "array_replace"
        | "array_replace_n" | "array_replace_all" => Some(Growth::Product),
        _ => None,
    }
}

/// Changes plans.
#[derive(Debug)]
pub(crate) struct Tame;

impl AnalyzerRule for Tame {
    fn name(&self) -> &'static str {
        "tame"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let tamed = plan.transform_up_with_subqueries(|node| {
            node.map_expressions(|expression| expression.transform_up(|part| Ok(tamed(part))))
        });
        tamed.map(|tamed| tamed.data)
    }
}

fn tamed(expression: Expr) -> Transformed<Expr> {
    match expression {
        Expr::ScalarFunction(call) => match growth_of(call.func.name()) {
            Some(growth) if !call.func.inner().is::<Tamed>() => {
                Transformed::yes(wrapped(call.func, growth, call.args))
            }
            _ => Transformed::no(Expr::ScalarFunction(call)),
        },
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::StringConcat,
            right,
        }) if !is_measured(&left) => {
            let measured = |side: Expr| {
                let same = Arc::new(ScalarUDF::new_from_impl(Same::default()));
                Box::new(wrapped(same, Growth::Sum, vec![side]))
            };
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(
                measured(*left),
                Operator::StringConcat,
                measured(*right),
            )))
        }
        other => Transformed::no(other),
    }
}

fn is_measured(side: &Expr) -> bool {
    matches!(side, Expr::ScalarFunction(call) if call.func.inner().downcast_ref::<Tamed>()
        .is_some_and(|tamed| tamed.inner.inner().is::<Same>()))
}

fn wrapped(inner: Arc<ScalarUDF>, growth: Growth, arguments: Vec<Expr>) -> Expr {
    let tamed = Arc::new(ScalarUDF::new_from_impl(Tamed { inner, growth }));
    Expr::ScalarFunction(ScalarFunction::new_udf(tamed, arguments))
}

/// A function that is looked at before it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tamed {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Tamed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        self.inner.schema_name(arguments)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let most = self.most(&arguments);
        if most <= BYTES_MAX {
            return self.inner.invoke_with_args(arguments);
        }
        let rows = rows_of(&arguments);
        if self.growth == Growth::Sum || rows <= 1 {
            return Err(too_much(self.name(), most));
        }
        let half = rows / 2;
        let first = self.of_rows(&arguments, 0, half)?;
        let second = self.of_rows(&arguments, half, rows.saturating_sub(half))?;
        let made = bytes_of(&first).saturating_add(bytes_of(&second));
        if made > BYTES_MAX {
            return Err(too_much(self.name(), made));
        }
        Ok(ColumnarValue::Array(concat(&[first.as_ref(), second.as_ref()])?))
    }
}

impl Tamed {
    fn of_rows(&self, arguments: &ScalarFunctionArgs, from: usize, rows: usize) -> Result<ArrayRef> {
        let part = |value: &ColumnarValue| match value {
            ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, rows)),
            scalar @ ColumnarValue::Scalar(_) => scalar.clone(),
        };
        let part = ScalarFunctionArgs {
            args: arguments.args.iter().map(part).collect(),
            arg_fields: arguments.arg_fields.clone(),
            number_rows: rows,
            return_field: arguments.return_field.clone(),
            config_options: arguments.config_options.clone(),
        };
        self.invoke_with_args(part)?.into_array(rows)
    }

    /// Bytes that can be made of these arguments.
    fn most(&self, arguments: &ScalarFunctionArgs) -> usize {
        let rows = rows_of(arguments);
        let bytes = |value: &ColumnarValue| match value {
            ColumnarValue::Array(array) => bytes_of(array),
            ColumnarValue::Scalar(scalar) => length_of(scalar).saturating_mul(rows),
        };
        let all = arguments.args.iter().map(bytes).fold(0, usize::saturating_add);
        if self.growth == Growth::Sum {
            return all;
        }
        // A separator comes first; what is searched and replaced in does, too, and is the longer one.
        let lengths = arguments.args.iter().map(|value| match value {
            ColumnarValue::Array(array) => widest(array),
            ColumnarValue::Scalar(scalar) => length_of(scalar),
        });
        let is_separated = self.name() == "concat_ws";
        let (places, longest) = if is_separated {
            let places = rows.saturating_mul(arguments.args.len());
            (places, lengths.into_iter().next().unwrap_or(0))
        } else {
            let places = arguments.args.first().map_or(0, bytes).saturating_add(rows);
            (places, lengths.skip(1).max().unwrap_or(0))
        };
        places.saturating_mul(longest).saturating_add(all)
    }
}

/// Values that are made: of constants, one.
fn rows_of(arguments: &ScalarFunctionArgs) -> usize {
    let is_array = |value: &ColumnarValue| matches!(value, ColumnarValue::Array(_));
    match arguments.args.iter().any(is_array) {
        true => arguments.number_rows,
        false => 1,
    }
}

fn bytes_of(array: &ArrayRef) -> usize {
    let size = array.to_data().get_slice_memory_size();
    size.unwrap_or_else(|_| array.get_array_memory_size())
}

fn length_of(scalar: &ScalarValue) -> usize {
    match scalar {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => text.len(),
        ScalarValue::List(list) => list.get_array_memory_size(),
        ScalarValue::LargeList(list) => list.get_array_memory_size(),
        ScalarValue::Struct(fields) => fields.get_array_memory_size(),
        _ => SCALAR_BYTES,
    }
}

fn too_much(function: &str, bytes: usize) -> DataFusionError {
    DataFusionError::ResourcesExhausted(format!("{function} may make {bytes} bytes of one batch of rows"))
}

/// Gives its argument back: what stands on either side of `||`, so that it is looked at.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Same {
    signature: Signature,
}

impl Default for Same {
    fn default() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Same {
    fn name(&self) -> &'static str {
        "same"
    }

    /// As if it were not there.
    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        Ok(arguments
            .iter()
            .map(|argument| argument.schema_name().to_string())
            .collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let only = arguments.first().cloned();
        only.ok_or_else(|| DataFusionError::Internal("same has one argument".to_owned()))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let only = arguments.arg_fields.first().cloned();
        only.ok_or_else(|| DataFusionError::Internal("same has one argument".to_owned()))
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let only = arguments.args.pop();
        only.ok_or_else(|| DataFusionError::Internal("same has one argument".to_owned()))
    }
}
