//! What of a query's conditions ClickHouse can apply.
//!
//! What is passed on is necessary, never sufficient: the engine here applies every condition again. So a condition
//! whose meaning might differ between the two is left out: floats (order of NaN), casts, patterns, negations of what
//! is only necessary. Times, hosts and names come from [`Prune`], which knows their forms.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use fleetmend_event::TimeMicros;

use super::ddl::word;
use crate::query::Prune;
use crate::shape::{HOST_ID, SqlTable, TIME};

/// Bytes of conditions that are passed on with one statement: servers take 256 KiB of it by default. What does not
/// fit is applied here.
const CONDITION_BYTES_MAX: usize = 128 << 10;

/// The conditions as ` WHERE …`, or nothing.
pub(super) fn conditions(table: &SqlTable, prune: &Prune, filters: &[Expr]) -> String {
    let mut all = Vec::new();
    let (from, to) = if table.is_metrics() {
        ("to_time", "start_time")
    } else {
        (TIME, TIME)
    };
    if prune.from.0 > i64::MIN {
        all.push(format!("{from} >= {}", time(prune.from)));
    }
    if prune.to.0 < i64::MAX {
        all.push(format!("{to} <= {}", time(prune.to)));
    }
    let mut among = |column: &str, texts: Option<&std::collections::HashSet<String>>| {
        let Some(texts) = texts else { return };
        let mut texts: Vec<&String> = texts.iter().collect();
        texts.sort();
        all.push(one_of(
            column,
            texts.into_iter().map(|text| quoted(text)).collect(),
        ));
    };
    among(HOST_ID, prune.hosts());
    if table.schema.field_with_name("name").is_ok() {
        among("name", prune.names());
    }
    let schema = comparable(table);
    all.extend(filters.iter().filter_map(|filter| condition(filter, &schema)));
    all_of(all)
}

/// The conditions that fit together as ` WHERE …`, each once, or nothing.
pub(super) fn all_of(conditions: Vec<String>) -> String {
    let mut fitting: Vec<String> = Vec::with_capacity(conditions.len());
    let mut bytes = 0_usize;
    for condition in conditions {
        let more = bytes.saturating_add(condition.len());
        if more <= CONDITION_BYTES_MAX && !fitting.contains(&condition) {
            bytes = more;
            fitting.push(condition);
        }
    }
    if fitting.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", fitting.join(" AND "))
    }
}

/// The columns that conditions can be about; a sample's time and value are none of a chunk's.
fn comparable(table: &SqlTable) -> Schema {
    let fields = table.schema.fields().iter();
    let kept = fields.filter(|field| !table.is_metrics() || !matches!(field.name().as_str(), TIME | "value"));
    Schema::new(kept.cloned().collect::<Vec<_>>())
}

/// A time in ClickHouse's words.
pub(super) fn time(time: TimeMicros) -> String {
    format!("fromUnixTimestamp64Micro({}, 'UTC')", time.0)
}

/// A text in ClickHouse's words.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push('\'');
    for letter in text.chars() {
        if matches!(letter, '\'' | '\\') {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted.push('\'');
    quoted
}

/// `column IN (…)`; nothing is among none.
pub(super) fn one_of(column: &str, values: Vec<String>) -> String {
    if values.is_empty() {
        "0".to_owned()
    } else {
        format!("{} IN ({})", word(column), values.join(", "))
    }
}

/// A necessary condition that `filter` makes, where there is one that means the same in both.
fn condition(filter: &Expr, schema: &Schema) -> Option<String> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => match (condition(left, schema), condition(right, schema)) {
                (Some(left), Some(right)) => Some(format!("({left} AND {right})")),
                (left, right) => left.or(right),
            },
            Operator::Or => Some(format!(
                "({} OR {})",
                condition(left, schema)?,
                condition(right, schema)?
            )),
            op => match (column(left, schema), column(right, schema)) {
                (Some(column), None) => compared(column, *op, right),
                (None, Some(column)) => compared(column, op.swap()?, left),
                _ => None,
            },
        },
        Expr::InList(list) if !list.negated => {
            let column = column(&list.expr, schema)?;
            let values = list
                .list
                .iter()
                .map(|value| value_of(column, value))
                .collect::<Option<Vec<_>>>()?;
            Some(one_of(column.0, values))
        }
        Expr::IsNull(inner) => column(inner, schema).map(|(name, _)| format!("isNull({})", word(name))),
        Expr::IsNotNull(inner) => column(inner, schema).map(|(name, _)| format!("isNotNull({})", word(name))),
        _ => None,
    }
}

type Column<'a> = (&'a str, &'a DataType);

fn column<'a>(expression: &'a Expr, schema: &'a Schema) -> Option<Column<'a>> {
    let Expr::Column(column) = expression else {
        return None;
    };
    let field = schema.field_with_name(column.name()).ok()?;
    let comparable = matches!(
        field.data_type(),
        DataType::Utf8
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Boolean
            | DataType::Timestamp(TimeUnit::Microsecond, _)
    );
    comparable.then(|| (field.name().as_str(), field.data_type()))
}

fn compared(column: Column<'_>, op: Operator, value: &Expr) -> Option<String> {
    let sign = match op {
        Operator::Eq => "=",
        Operator::NotEq => "!=",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => return None,
    };
    Some(format!("{} {sign} {}", word(column.0), value_of(column, value)?))
}

fn value_of((_, data_type): Column<'_>, value: &Expr) -> Option<String> {
    let Expr::Literal(value, _) = value else {
        return None;
    };
    match (data_type, value) {
        (
            DataType::Utf8,
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)),
        ) => Some(quoted(text)),
        (DataType::Boolean, ScalarValue::Boolean(Some(value))) => Some(value.to_string()),
        (DataType::Timestamp(..), ScalarValue::TimestampMicrosecond(Some(micros), _)) => {
            Some(time(TimeMicros(*micros)))
        }
        (DataType::Utf8 | DataType::Boolean | DataType::Timestamp(..), _) => None,
        (_, ScalarValue::Int32(Some(number))) => Some(number.to_string()),
        (_, ScalarValue::Int64(Some(number))) => Some(number.to_string()),
        (_, ScalarValue::UInt32(Some(number))) => Some(number.to_string()),
        (_, ScalarValue::UInt64(Some(number))) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;
    use crate::shape::{sql_tables, table_index_by_name};

    fn of(table: &str, filters: &[Expr]) -> String {
        let table = &sql_tables()[table_index_by_name(table).unwrap()];
        conditions(table, &Prune::of(filters), filters)
    }

    #[test]
    fn what_means_the_same_in_both_is_passed_on() {
        let filter = col("pid").eq(lit(7_u32)).and(col("comm").eq(lit("it's \\")));
        assert_eq!(
            of("process_events", &[filter]),
            r" WHERE (`pid` = 7 AND `comm` = 'it\'s \\')"
        );
        let either = lit(3_u32).lt(col("pid")).or(col("unit").is_null());
        assert_eq!(
            of("process_events", &[either]),
            " WHERE (`pid` > 3 OR isNull(`unit`))"
        );
        let among = col("comm").in_list(vec![lit("a"), lit("b")], false);
        assert_eq!(of("process_events", &[among]), " WHERE `comm` IN ('a', 'b')");
    }

    #[test]
    fn what_might_differ_is_left_out() {
        assert_eq!(of("metrics", &[col("value").gt(lit(0.5))]), "");
        assert_eq!(of("process_events", &[col("comm").like(lit("a%"))]), "");
        assert_eq!(
            of(
                "process_events",
                &[Expr::Not(Box::new(col("pid").eq(lit(7_u32))))]
            ),
            ""
        );
        let half = col("pid").eq(lit(7_u32)).or(col("comm").like(lit("a%")));
        assert_eq!(
            of("process_events", &[half]),
            "",
            "half of an either is not necessary"
        );
    }

    #[test]
    fn statement_stays_short_enough_for_a_server_however_many_hosts_there_are() {
        let among = |hosts: usize| {
            let hosts = (0..hosts).map(|host| lit(format!("{host:036}"))).collect();
            of(
                "process_events",
                &[col("host_id").in_list(hosts, false), col("pid").eq(lit(7_u32))],
            )
        };
        let some = among(3_000);
        assert_eq!(some.matches("`host_id` IN").count(), 1, "once is enough");
        assert!(some.ends_with(" AND `pid` = 7") && some.len() <= CONDITION_BYTES_MAX);
        assert_eq!(
            among(10_000),
            " WHERE `pid` = 7",
            "all hosts are read, and filtered here"
        );
    }

    #[test]
    fn samples_are_looked_for_in_the_chunks_that_may_hold_them() {
        let micros = |value| {
            Expr::Literal(
                ScalarValue::TimestampMicrosecond(Some(value), Some("UTC".into())),
                None,
            )
        };
        let filters = [
            col("time").gt_eq(micros(5)),
            col("time").lt(micros(9)),
            col("name").eq(lit("cpu")),
        ];
        assert_eq!(
            of("metrics", &filters),
            " WHERE to_time >= fromUnixTimestamp64Micro(5, 'UTC') AND start_time <= fromUnixTimestamp64Micro(8, 'UTC') \
             AND `name` IN ('cpu') AND `name` = 'cpu'"
        );
    }
}
