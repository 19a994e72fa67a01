//! A query as the tree that Prometheus' API tells of it.

use serde_json::{Value, json};

use crate::error::QueryError;
use crate::matcher::{LabelMatcher, MatchOp};
use crate::number::fixed;
use crate::syntax::ast::{
    Aggregate, Binary, Call, Card, Edge, Expr, Info, Matching, Node, Selector, Shift, Subquery, Type,
};
use crate::syntax::{self, QueryTimes};

/// The tree of a query, its nodes and their fields as `parse_query` of Prometheus' API has them. Durations that are
/// computed are told as their values, `step()` and `range()` as one second.
pub fn query_tree(text: &str) -> Result<Value, QueryError> {
    let times = QueryTimes {
        start_ms: 0,
        end_ms: 1_000,
        step_ms: 1_000,
    };
    Ok(tree(&syntax::parse(text, &times)?.root))
}

fn tree(expr: &Expr) -> Value {
    match &expr.node {
        Node::Number(value) => json!({ "type": "numberLiteral", "val": fixed(*value) }),
        Node::Text(literal) => json!({ "type": "stringLiteral", "val": literal.value }),
        Node::Paren(inner) => json!({ "type": "parenExpr", "expr": tree(inner) }),
        Node::Negate(inner) => json!({ "type": "unaryExpr", "op": "-", "expr": tree(inner) }),
        Node::Selector(selector) => vector(selector, &selector.matchers),
        Node::Matrix(matrix) => {
            let mut value = vector(&matrix.selector, &matrix.selector.matchers);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("type".to_owned(), json!("matrixSelector"));
                fields.insert("range".to_owned(), json!(matrix.range_ms));
            }
            value
        }
        Node::Subquery(subquery) => of_subquery(subquery),
        Node::Binary(binary) => of_binary(binary),
        Node::Aggregate(aggregate) => of_aggregate(aggregate),
        Node::Call(call) => of_call(call),
        Node::Info(info) => of_info(info),
    }
}

fn vector(selector: &Selector, matchers: &[LabelMatcher]) -> Value {
    let name = matchers
        .last()
        .filter(|_| selector.named)
        .map_or("", |matcher| matcher.value.as_str());
    let shift = &selector.shift;
    json!({
        "type": "vectorSelector",
        "name": name,
        "offset": shift.offset_ms,
        "matchers": matchers.iter().map(condition).collect::<Vec<_>>(),
        "timestamp": timestamp(shift),
        "startOrEnd": shift.at_word,
        "anchored": shift.edge == Edge::Anchored,
        "smoothed": shift.edge == Edge::Smoothed,
    })
}

fn condition(matcher: &LabelMatcher) -> Value {
    let op = match matcher.op {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Regex(_) => "=~",
        MatchOp::NotRegex(_) => "!~",
    };
    json!({ "name": matcher.name, "value": matcher.value, "type": op })
}

/// Where it was written as a number.
fn timestamp(shift: &Shift) -> Option<i64> {
    shift.at_ms.filter(|_| shift.at_word.is_none())
}

fn of_subquery(subquery: &Subquery) -> Value {
    json!({
        "type": "subquery",
        "expr": tree(&subquery.inner),
        "range": subquery.range_ms,
        "offset": subquery.shift.offset_ms,
        "step": subquery.step_ms.unwrap_or_default(),
        "timestamp": timestamp(&subquery.shift),
        "startOrEnd": subquery.shift.at_word,
    })
}

fn of_binary(binary: &Binary) -> Value {
    let vectors = binary.left.gives() == Type::Vector && binary.right.gives() == Type::Vector;
    json!({
        "type": "binaryExpr",
        "op": binary.op.text(),
        "lhs": tree(&binary.left),
        "rhs": tree(&binary.right),
        "matching": vectors.then(|| of_matching(&binary.matching, binary.op.is_set())),
        "bool": binary.as_bool,
    })
}

fn of_matching(matching: &Matching, is_set: bool) -> Value {
    let card = match matching.card {
        _ if is_set => "many-to-many",
        Card::OneToOne => "one-to-one",
        Card::ManyToOne => "many-to-one",
        Card::OneToMany => "one-to-many",
    };
    json!({
        "card": card,
        "labels": matching.labels,
        "on": matching.on,
        "include": matching.include,
        "fillValues": { "lhs": matching.fill_left, "rhs": matching.fill_right },
    })
}

fn of_aggregate(aggregate: &Aggregate) -> Value {
    json!({
        "type": "aggregation",
        "op": aggregate.op.text(),
        "expr": tree(&aggregate.inner),
        "param": aggregate.parameter.as_ref().map(tree),
        "grouping": aggregate.grouping.labels,
        "without": aggregate.grouping.without,
    })
}

fn of_call(call: &Call) -> Value {
    let arguments = call.arguments.iter().map(tree).collect();
    function((call.function, call.gives), &call.takes, call.variadic, arguments)
}

/// As it was written: without the name of the series that are joined where none is named.
fn of_info(info: &Info) -> Value {
    let selector = &info.selector;
    let written = match selector.matchers.as_slice() {
        [written @ .., _] if !info.keeps_own => written,
        written => written,
    };
    let mut arguments = vec![tree(&info.base)];
    arguments.extend(info.chooses.then(|| vector(selector, written)));
    function(
        ("info", Type::Vector),
        &[Type::Vector, Type::Vector],
        1,
        arguments,
    )
}

fn function((name, gives): (&str, Type), takes: &[Type], variadic: i32, arguments: Vec<Value>) -> Value {
    let kind = |value: Type| match value {
        Type::Vector => "vector",
        Type::Scalar => "scalar",
        Type::Matrix => "matrix",
        Type::Text => "string",
    };
    json!({
        "type": "call",
        "func": {
            "name": name,
            "argTypes": takes.iter().map(|one| kind(*one)).collect::<Vec<_>>(),
            "variadic": variadic,
            "returnType": kind(gives),
        },
        "args": arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_told_as_a_tree() {
        let found = query_tree(r#"sum by (job) (rate(up{env!="dev"}[5m] offset 1m @ end())) > bool 0x10"#);
        let expected = json!({
            "type": "binaryExpr",
            "op": ">",
            "lhs": {
                "type": "aggregation",
                "op": "sum",
                "expr": {
                    "type": "call",
                    "func": {"name": "rate", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"},
                    "args": [{
                        "type": "matrixSelector",
                        "name": "up",
                        "offset": 60_000,
                        "matchers": [
                            {"name": "env", "value": "dev", "type": "!="},
                            {"name": "__name__", "value": "up", "type": "="},
                        ],
                        "timestamp": null,
                        "startOrEnd": "end",
                        "anchored": false,
                        "smoothed": false,
                        "range": 300_000,
                    }],
                },
                "param": null,
                "grouping": ["job"],
                "without": false,
            },
            "rhs": {"type": "numberLiteral", "val": "16"},
            "matching": null,
            "bool": true,
        });
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn matching_and_subqueries_are_told() {
        let found = query_tree("a / on (x) group_left (y) (-b[10m:1m] @ 5)").expect_err("no range there");
        assert_eq!(found.kind(), "bad_data");
        let found = query_tree("a / on (x) group_left (y) max_over_time(b[10m:1m] @ 5)").expect("a query");
        assert_eq!(
            found["matching"],
            json!({"card": "many-to-one", "labels": ["x"], "on": true, "include": ["y"],
                "fillValues": {"lhs": null, "rhs": null}})
        );
        let subquery = &found["rhs"]["args"][0];
        assert_eq!(
            (
                &subquery["type"],
                &subquery["range"],
                &subquery["step"],
                &subquery["timestamp"]
            ),
            (&json!("subquery"), &json!(600_000), &json!(60_000), &json!(5_000))
        );
        let info = query_tree("info(a, {__name__=\"y\"}) or info(a)").expect("a query");
        assert_eq!(info["lhs"]["args"].as_array().map(Vec::len), Some(2));
        assert_eq!(info["rhs"]["args"].as_array().map(Vec::len), Some(1));
        assert_eq!(info["matching"]["card"], "many-to-many");
    }
}
