//! The tree that is evaluated: literals read, times resolved, places known.

use crate::annotations::Place;
use crate::labels::{Labels, METRIC_NAME};
use crate::matcher::LabelMatcher;

pub(crate) use super::text::Literal;

/// A query that was understood.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) root: Expr,
    /// How many selectors there are; each has a number below it.
    pub(crate) selectors: usize,
}

/// What an expression gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Scalar,
    Vector,
    Matrix,
    Text,
}

/// A node with its place.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) place: Place,
    pub(crate) node: Node,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Number(f64),
    Text(Literal),
    Selector(Box<Selector>),
    Matrix(Box<MatrixSelector>),
    Subquery(Box<Subquery>),
    Paren(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Box<Binary>),
    Aggregate(Box<Aggregate>),
    Call(Box<Call>),
    Info(Box<Info>),
}

/// When a selector or subquery looks at the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift {
    /// Instead of the time of the step.
    pub(crate) at_ms: Option<i64>,
    /// How that was written, where it is the query's own `start` or `end`.
    pub(crate) at_word: Option<&'static str>,
    /// Subtracted.
    pub(crate) offset_ms: i64,
    pub(crate) edge: Edge,
}

impl Shift {
    /// The time looked at from a step.
    pub(crate) fn apply(&self, step_ms: i64) -> i64 {
        self.at_ms.unwrap_or(step_ms).saturating_sub(self.offset_ms)
    }
}

/// What is done where a range begins and ends between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Edge {
    #[default]
    Plain,
    Anchored,
    Smoothed,
}

#[derive(Clone, Debug)]
pub(crate) struct Selector {
    /// Number within the query.
    pub(crate) id: usize,
    /// Whether a name stands before the braces. Its condition is the last one.
    pub(crate) named: bool,
    pub(crate) matchers: Vec<LabelMatcher>,
    pub(crate) shift: Shift,
}

#[derive(Clone, Debug)]
pub(crate) struct MatrixSelector {
    pub(crate) selector: Selector,
    pub(crate) range_ms: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Subquery {
    pub(crate) inner: Expr,
    pub(crate) range_ms: i64,
    pub(crate) step_ms: Option<i64>,
    pub(crate) shift: Shift,
}

#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) op: Op,
    pub(crate) left: Expr,
    pub(crate) right: Expr,
    /// Comparison gives 0 or 1 instead of choosing.
    pub(crate) as_bool: bool,
    pub(crate) matching: Matching,
}

/// How the series of two sides find each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matching {
    pub(crate) on: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) card: Card,
    /// Labels taken over from the one side.
    pub(crate) include: Vec<String>,
    pub(crate) fill_left: Option<f64>,
    pub(crate) fill_right: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Card {
    #[default]
    OneToOne,
    ManyToOne,
    OneToMany,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    And,
    Or,
    Unless,
}

impl Op {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "+" => Self::Add,
            "-" => Self::Subtract,
            "*" => Self::Multiply,
            "/" => Self::Divide,
            "%" => Self::Modulo,
            "^" => Self::Power,
            "atan2" => Self::Atan2,
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            ">" => Self::Greater,
            "<" => Self::Less,
            ">=" => Self::GreaterEqual,
            "<=" => Self::LessEqual,
            "and" => Self::And,
            "or" => Self::Or,
            "unless" => Self::Unless,
            _ => return None,
        })
    }

    /// As it is written.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Power => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::GreaterEqual => ">=",
            Self::LessEqual => "<=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    pub(crate) fn compares(self) -> bool {
        matches!(
            self,
            Self::Equal | Self::NotEqual | Self::Greater | Self::Less | Self::GreaterEqual | Self::LessEqual
        )
    }

    pub(crate) fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

/// What an aggregation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregator {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

impl Aggregator {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "count" => Self::Count,
            "min" => Self::Min,
            "max" => Self::Max,
            "group" => Self::Group,
            "stddev" => Self::Stddev,
            "stdvar" => Self::Stdvar,
            "topk" => Self::Topk,
            "bottomk" => Self::Bottomk,
            "count_values" => Self::CountValues,
            "quantile" => Self::Quantile,
            "limitk" => Self::Limitk,
            "limit_ratio" => Self::LimitRatio,
            _ => return None,
        })
    }

    /// As it is written.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::Topk => "topk",
            Self::Bottomk => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
            Self::Limitk => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }

    pub(crate) fn has_parameter(self) -> bool {
        matches!(
            self,
            Self::Topk | Self::Bottomk | Self::CountValues | Self::Quantile | Self::Limitk | Self::LimitRatio
        )
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    pub(crate) op: Aggregator,
    pub(crate) inner: Expr,
    pub(crate) parameter: Option<Expr>,
    pub(crate) grouping: Grouping,
}

/// `by` or `without`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grouping {
    pub(crate) without: bool,
    pub(crate) labels: Vec<String>,
}

/// A call of `info`.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) base: Expr,
    /// Of the info series.
    pub(crate) selector: Selector,
    /// Info series among the base are left as they are.
    pub(crate) keeps_own: bool,
    /// Whether the query says which info series and labels it wants.
    pub(crate) chooses: bool,
}

impl Info {
    /// Conditions on labels that are taken over; without any, all are.
    pub(crate) fn data_matchers(&self) -> impl Iterator<Item = &LabelMatcher> {
        self.selector
            .matchers
            .iter()
            .filter(|matcher| matcher.name != METRIC_NAME)
    }

    /// Whether a series of the base is an info series itself.
    pub(crate) fn keeps(&self, labels: &Labels) -> bool {
        let mut names = self
            .selector
            .matchers
            .iter()
            .filter(|matcher| matcher.name == METRIC_NAME);
        self.keeps_own && names.all(|matcher| matcher.matches(labels.name()))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    pub(crate) arguments: Vec<Expr>,
    /// What it takes.
    pub(crate) takes: Vec<Type>,
    /// How many more or fewer of the last kind, as Prometheus counts it: negative for any number.
    pub(crate) variadic: i32,
    pub(crate) gives: Type,
}

impl Expr {
    /// Without the parentheses around it.
    pub(crate) fn bare(&self) -> &Self {
        let mut expr = self;
        while let Node::Paren(inner) = &expr.node {
            expr = inner;
        }
        expr
    }

    pub(crate) fn gives(&self) -> Type {
        match &self.bare().node {
            Node::Number(_) => Type::Scalar,
            Node::Text(_) => Type::Text,
            Node::Matrix(_) | Node::Subquery(_) => Type::Matrix,
            Node::Selector(_) | Node::Aggregate(_) | Node::Paren(_) | Node::Info(_) => Type::Vector,
            Node::Negate(inner) => inner.gives(),
            Node::Binary(binary) => match (binary.left.gives(), binary.right.gives()) {
                (Type::Scalar, Type::Scalar) => Type::Scalar,
                _ => Type::Vector,
            },
            Node::Call(call) => call.gives,
        }
    }
}
