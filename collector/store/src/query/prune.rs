//! What a filter says about which frames and files can matter.

use std::collections::HashSet;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use fleetmend_event::{HostId, TimeMicros};

use crate::chunk::Wanted;
use crate::shape::{HOST_ID, TIME};

/// A necessary condition on rows: what does not meet it is left out before it is read. Times are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prune {
    pub(crate) from: TimeMicros,
    pub(crate) to: TimeMicros,
    hosts: Option<HashSet<String>>,
    names: Option<HashSet<String>>,
}

impl Prune {
    /// What all of `filters` together demand.
    pub(crate) fn of(filters: &[Expr]) -> Self {
        let mut prune = Self {
            from: TimeMicros(i64::MIN),
            to: TimeMicros(i64::MAX),
            hosts: None,
            names: None,
        };
        filters.iter().for_each(|filter| prune.narrow(filter));
        prune
    }

    /// The condition, for these hosts only.
    pub(crate) fn within(mut self, hosts: &HashSet<String>) -> Self {
        self.among(HOST_ID, hosts.clone());
        self
    }

    /// Whether anything between these times can matter.
    pub(crate) fn touches(&self, from: TimeMicros, to: TimeMicros) -> bool {
        from <= self.to && to >= self.from
    }

    /// Whether rows of this host can matter.
    pub(crate) fn wants_host(&self, host: HostId) -> bool {
        self.hosts
            .as_ref()
            .is_none_or(|hosts| hosts.contains(&host.to_string()))
    }

    /// The hosts that can matter, where not all can.
    pub(crate) fn hosts(&self) -> Option<&HashSet<String>> {
        self.hosts.as_ref()
    }

    /// The metrics that can matter, where not all can.
    pub(crate) fn names(&self) -> Option<&HashSet<String>> {
        self.names.as_ref()
    }

    /// The same, for files of metrics.
    pub(crate) fn wanted(&self) -> Wanted {
        let hosts = self.hosts.as_ref();
        Wanted {
            names: self.names.as_ref().map(|names| names.iter().cloned().collect()),
            hosts: hosts.map(|hosts| hosts.iter().filter_map(|host| host.parse().ok()).collect()),
            from: self.from.0,
            to: self.to.0,
        }
    }

    /// Whether a filter bounds the time and says nothing else, so that the bounds say all of it.
    pub(crate) fn is_exact_time(filter: &Expr) -> bool {
        let is_time = |expression: &Expr| column_of(expression) == Some(TIME);
        let bounds = |expression: &Expr| literal_of(expression).and_then(micros_of);
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::And => Self::is_exact_time(left) && Self::is_exact_time(right),
                Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq => {
                    (is_time(left) && bounds(right).is_some()) || (is_time(right) && bounds(left).is_some())
                }
                _ => false,
            },
            Expr::Between(between) => {
                !between.negated
                    && is_time(&between.expr)
                    && bounds(&between.low).is_some()
                    && bounds(&between.high).is_some()
            }
            _ => false,
        }
    }

    fn narrow(&mut self, filter: &Expr) {
        match filter {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::And,
                right,
            }) => {
                self.narrow(left);
                self.narrow(right);
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                if let (Some(column), Some(value)) = (column_of(left), literal_of(right)) {
                    self.compare(column, *op, value);
                } else if let (Some(value), Some(column)) = (literal_of(left), column_of(right))
                    && let Some(op) = op.swap()
                {
                    self.compare(column, op, value);
                }
            }
            Expr::Between(between) if !between.negated => {
                if let Some(column) = column_of(&between.expr) {
                    if let Some(low) = literal_of(&between.low) {
                        self.compare(column, Operator::GtEq, low);
                    }
                    if let Some(high) = literal_of(&between.high) {
                        self.compare(column, Operator::LtEq, high);
                    }
                }
            }
            Expr::InList(list) if !list.negated => {
                let texts: Option<HashSet<String>> = list
                    .list
                    .iter()
                    .map(|item| literal_of(item).and_then(text_of))
                    .collect();
                if let (Some(column), Some(texts)) = (column_of(&list.expr), texts) {
                    self.among(column, texts);
                }
            }
            _ => {}
        }
    }

    fn compare(&mut self, column: &str, op: Operator, value: &ScalarValue) {
        if column == TIME {
            let Some((floor, ceiling)) = micros_of(value) else {
                return;
            };
            match op {
                Operator::Eq => {
                    self.from = self.from.max(floor);
                    self.to = self.to.min(ceiling);
                }
                Operator::Gt => self.from = self.from.max(floor.plus_micros(1)),
                Operator::GtEq => self.from = self.from.max(ceiling),
                Operator::Lt => self.to = self.to.min(ceiling.plus_micros(-1)),
                Operator::LtEq => self.to = self.to.min(floor),
                _ => {}
            }
        } else if op == Operator::Eq
            && let Some(text) = text_of(value)
        {
            self.among(column, HashSet::from([text]));
        }
    }

    fn among(&mut self, column: &str, texts: HashSet<String>) {
        let held = match column {
            HOST_ID => &mut self.hosts,
            "name" => &mut self.names,
            _ => return,
        };
        *held = Some(match held.take() {
            None => texts,
            Some(earlier) => earlier.intersection(&texts).cloned().collect(),
        });
    }
}

/// The column an expression is, also when the planner casts it to another kind of text or to a unit of time that
/// keeps every microsecond. A coarser unit, a date or a clock elsewhere makes another value of it.
fn column_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Column(column) => Some(column.name()),
        Expr::Cast(cast) if keeps_the_value(cast.field.data_type()) => column_of(&cast.expr),
        _ => None,
    }
}

fn keeps_the_value(cast_to: &DataType) -> bool {
    match cast_to {
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, zone) => {
            matches!(zone.as_deref(), None | Some("UTC" | "+00:00"))
        }
        other => other.is_string(),
    }
}

fn literal_of(expression: &Expr) -> Option<&ScalarValue> {
    match expression {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn text_of(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::Utf8View(Some(text))
        | ScalarValue::LargeUtf8(Some(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The microseconds around a timestamp.
fn micros_of(value: &ScalarValue) -> Option<(TimeMicros, TimeMicros)> {
    let (floor, ceiling) = match value {
        ScalarValue::TimestampSecond(Some(value), _) => {
            (value.checked_mul(1_000_000)?, value.checked_mul(1_000_000)?)
        }
        ScalarValue::TimestampMillisecond(Some(value), _) => {
            (value.checked_mul(1_000)?, value.checked_mul(1_000)?)
        }
        ScalarValue::TimestampMicrosecond(Some(value), _) => (*value, *value),
        ScalarValue::TimestampNanosecond(Some(value), _) => {
            let floor = value.div_euclid(1_000);
            (
                floor,
                floor.saturating_add(i64::from(value.rem_euclid(1_000) > 0)),
            )
        }
        _ => return None,
    };
    Some((TimeMicros(floor), TimeMicros(ceiling)))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{cast, col, lit};

    use super::*;
    use crate::shape::time_type;

    fn micros(value: i64) -> Expr {
        Expr::Literal(
            ScalarValue::TimestampMicrosecond(Some(value), Some("UTC".into())),
            None,
        )
    }

    fn nanos(value: i64) -> Expr {
        Expr::Literal(
            ScalarValue::TimestampNanosecond(Some(value), Some("UTC".into())),
            None,
        )
    }

    fn span(filters: &[Expr]) -> (i64, i64) {
        let prune = Prune::of(filters);
        (prune.from.0, prune.to.0)
    }

    #[test]
    fn time_is_bounded_by_comparisons_of_any_unit_and_side() {
        assert_eq!(
            span(&[col("time").gt_eq(micros(5)), col("time").lt(micros(9))]),
            (5, 8)
        );
        assert_eq!(span(&[micros(5).lt_eq(col("time"))]), (5, i64::MAX));
        assert_eq!(
            span(&[cast(col("time"), time_type()).gt(nanos(5_001))]),
            (6, i64::MAX)
        );
        assert_eq!(span(&[col("time").gt(micros(5))]), (6, i64::MAX));
        assert_eq!(span(&[col("time").lt_eq(nanos(5_001))]), (i64::MIN, 5));
        assert_eq!(span(&[col("time").eq(nanos(5_001))]), (5, 6));
        assert_eq!(
            span(&[col("time")
                .between(micros(1), micros(2))
                .and(col("pid").eq(lit(1)))]),
            (1, 2)
        );
    }

    #[test]
    fn time_cast_to_something_coarser_does_not_prune() {
        for coarser in [
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            DataType::Timestamp(TimeUnit::Microsecond, Some("+02:00".into())),
            DataType::Date32,
        ] {
            let filter = cast(col("time"), coarser).lt_eq(micros(5));
            assert_eq!(Prune::of(&[filter]), Prune::of(&[]));
        }
    }

    #[test]
    fn what_is_not_necessary_does_not_prune() {
        let either = col("time").gt(micros(5)).or(col("name").eq(lit("a")));
        assert_eq!(Prune::of(&[either]), Prune::of(&[]));
        assert_eq!(
            Prune::of(&[col("name").in_list(vec![lit("a")], true)]),
            Prune::of(&[])
        );
        assert_eq!(Prune::of(&[col("name").not_eq(lit("a"))]), Prune::of(&[]));
    }

    #[test]
    fn bounds_say_all_of_a_filter_only_when_it_is_of_the_time_alone() {
        let bound = || col("time").gt(nanos(5_001));
        assert!(Prune::is_exact_time(&bound()));
        assert!(Prune::is_exact_time(
            &bound().and(col("time").between(micros(1), micros(2)))
        ));
        assert!(!Prune::is_exact_time(&bound().and(col("value").gt(lit(1)))));
        assert!(!Prune::is_exact_time(&bound().or(bound())));
        assert!(!Prune::is_exact_time(&col("ingested_at").gt(micros(5))));
        assert!(!Prune::is_exact_time(&col("time").not_eq(micros(5))));
        let coarser = cast(col("time"), DataType::Date32);
        assert!(!Prune::is_exact_time(&coarser.lt(micros(5))));
    }

    #[test]
    fn names_and_hosts_are_intersected() {
        let host = HostId::from_bytes([1; 16]);
        let prune = Prune::of(&[
            col("name").in_list(vec![lit("a"), lit("b")], false),
            col("name").eq(lit("b")),
            col("host_id").eq(lit(host.to_string())),
        ]);
        assert_eq!(prune.names(), Some(&HashSet::from(["b".to_owned()])));
        assert!(prune.wants_host(host) && !prune.wants_host(HostId::from_bytes([2; 16])));
    }
}
