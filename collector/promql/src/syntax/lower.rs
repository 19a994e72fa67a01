//! From the grammar's tree and the tokens to ours. The tree leads, the tokens must follow it to the last.

use promql_parser::parser as grammar;
use promql_parser::parser::value::ValueType;

use super::QueryTimes;
use super::ast::{
    Aggregate, Aggregator, Binary, Call, Card, Edge, Expr, Grouping, Info, Matching, MatrixSelector, Node,
    Op, Query, Selector, Shift, Subquery, Type,
};
use super::duration::{literal_ms, number};
use super::postfix::Cursor;
use super::scan::{Kind, Token};
use crate::annotations::Place;
use crate::error::QueryError;
use crate::labels::METRIC_NAME;
use crate::matcher::LabelMatcher;

struct Lower<'a> {
    cursor: Cursor<'a>,
    selectors: usize,
    /// The next selector is the second argument of `info`, which only chooses labels.
    chooses_labels: bool,
}

pub(crate) fn lower(
    parsed: &grammar::Expr,
    query: &str,
    tokens: &[Token<'_>],
    times: &QueryTimes,
) -> Result<Query, QueryError> {
    let mut lower = Lower {
        cursor: Cursor {
            query,
            tokens,
            position: 0,
            times: *times,
        },
        selectors: 0,
        chooses_labels: false,
    };
    let root = lower.expr(parsed)?;
    if lower.cursor.peek().is_some() {
        return Err(lower.cursor.unexpected("expression"));
    }
    Ok(Query {
        root,
        selectors: lower.selectors,
    })
}

impl Lower<'_> {
    fn expr(&mut self, parsed: &grammar::Expr) -> Result<Expr, QueryError> {
        let at = self
            .cursor
            .peek()
            .map_or(self.cursor.query.len(), |token| token.start);
        // The grammar leaves out a sign that changes nothing; that of a number is part of it.
        if !matches!(parsed, grammar::Expr::NumberLiteral(_)) {
            while self.cursor.take("+") {}
        }
        let node = self.node(parsed)?;
        Ok(Expr {
            place: Place::of(self.cursor.query, at),
            node,
        })
    }

    fn node(&mut self, parsed: &grammar::Expr) -> Result<Node, QueryError> {
        match parsed {
            grammar::Expr::NumberLiteral(_) => self.number(),
            grammar::Expr::StringLiteral(_) => Ok(Node::Text(self.cursor.literal("expression")?)),
            grammar::Expr::Paren(inner) => self.paren(&inner.expr),
            grammar::Expr::Unary(inner) => self.negate(&inner.expr),
            grammar::Expr::VectorSelector(_) => self.selector(),
            grammar::Expr::MatrixSelector(_) => self.matrix(),
            grammar::Expr::Subquery(subquery) => self.subquery(&subquery.expr),
            grammar::Expr::Binary(binary) => self.binary(binary),
            grammar::Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            grammar::Expr::Call(call) => self.call(call),
            grammar::Expr::Extension(_) => Err(self.cursor.unexpected("expression")),
        }
    }

    fn paren(&mut self, inner: &grammar::Expr) -> Result<Node, QueryError> {
        self.cursor.expect("(", "expression")?;
        let inner = Box::new(self.expr(inner)?);
        self.cursor.expect(")", "parenthesized expression")?;
        Ok(Node::Paren(inner))
    }

    fn negate(&mut self, inner: &grammar::Expr) -> Result<Node, QueryError> {
        self.cursor.expect("-", "expression")?;
        Ok(Node::Negate(Box::new(self.expr(inner)?)))
    }

    fn selector(&mut self) -> Result<Node, QueryError> {
        let id = self.new_selector();
        let mut selector = if std::mem::take(&mut self.chooses_labels) {
            if self.cursor.peek().is_some_and(|token| token.kind == Kind::Word) {
                return Err(self
                    .cursor
                    .fault("expected label selectors only, got vector selector instead"));
            }
            self.cursor.conditions(id)?
        } else {
            self.cursor.selector(id)?
        };
        selector.shift = self.cursor.shift()?;
        if selector.shift.edge == Edge::Anchored {
            return Err(self
                .cursor
                .fault("anchored modifier can only be used with range selectors"));
        }
        Ok(Node::Selector(Box::new(selector)))
    }

    fn matrix(&mut self) -> Result<Node, QueryError> {
        let id = self.new_selector();
        let mut selector = self.cursor.selector(id)?;
        self.cursor.expect("[", "range selector")?;
        let range_ms = self.cursor.range()?;
        self.cursor.expect("]", "range selector")?;
        selector.shift = self.cursor.shift()?;
        Ok(Node::Matrix(Box::new(MatrixSelector { selector, range_ms })))
    }

    fn new_selector(&mut self) -> usize {
        self.selectors += 1;
        self.selectors - 1
    }

    fn number(&mut self) -> Result<Node, QueryError> {
        let mut negative = false;
        loop {
            if self.cursor.take("-") {
                negative = !negative;
            } else if !self.cursor.take("+") {
                break;
            }
        }
        let value = match self.cursor.peek() {
            Some(token) if token.kind == Kind::Number => number(token.text),
            Some(token) if token.kind == Kind::Duration => {
                literal_ms(token.text).map(|ms| ms as f64 / 1000.0)
            }
            _ => None,
        };
        let value = value.ok_or_else(|| self.cursor.unexpected("expression"))?;
        self.cursor.position += 1;
        Ok(Node::Number(if negative { -value } else { value }))
    }

    fn subquery(&mut self, inner: &grammar::Expr) -> Result<Node, QueryError> {
        const CONTEXT: &str = "subquery";
        let inner = self.expr(inner)?;
        self.cursor.expect("[", CONTEXT)?;
        let range_ms = self.cursor.range()?;
        self.cursor.expect(":", CONTEXT)?;
        let stepless = self.cursor.peek().is_some_and(|token| token.is("]"));
        let step_ms = if stepless {
            None
        } else {
            Some(self.cursor.range()?)
        };
        self.cursor.expect("]", CONTEXT)?;
        let shift = self.cursor.shift()?;
        if shift.edge != Edge::Plain {
            return Err(self
                .cursor
                .fault("anchored and smoothed modifiers cannot be used with subqueries"));
        }
        Ok(Node::Subquery(Box::new(Subquery {
            inner,
            range_ms,
            step_ms,
            shift,
        })))
    }

    fn binary(&mut self, parsed: &grammar::BinaryExpr) -> Result<Node, QueryError> {
        let left = self.expr(&parsed.lhs)?;
        let op = self.cursor.next().and_then(|token| Op::parse(token.text));
        let expected = Op::parse(&parsed.op.to_string());
        let Some(op) = op.filter(|op| Some(*op) == expected) else {
            self.cursor.position = self.cursor.position.saturating_sub(1);
            return Err(self.cursor.unexpected("binary expression"));
        };
        let as_bool = self.cursor.take_word("bool");
        let matching = self.matching()?;
        let right = self.expr(&parsed.rhs)?;
        let vectors = left.gives() == Type::Vector && right.gives() == Type::Vector;
        if !vectors && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
            return Err(self
                .cursor
                .fault("filling in missing series only allowed between instant vectors"));
        }
        if op.is_set() && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
            return Err(self
                .cursor
                .fault("filling in missing series not allowed for set operators"));
        }
        Ok(Node::Binary(Box::new(Binary {
            op,
            left,
            right,
            as_bool,
            matching,
        })))
    }

    fn matching(&mut self) -> Result<Matching, QueryError> {
        let mut matching = Matching::default();
        if self.cursor.take_word("on") {
            matching.on = true;
            matching.labels = self.cursor.label_list()?;
        } else if self.is_keyword("ignoring") && self.cursor.take_word("ignoring") {
            matching.labels = self.cursor.label_list()?;
        }
        for (word, card) in [("group_left", Card::ManyToOne), ("group_right", Card::OneToMany)] {
            if self.cursor.take_word(word) {
                matching.card = card;
                if self.cursor.peek().is_some_and(|token| token.is("(")) {
                    matching.include = self.cursor.label_list()?;
                }
            }
        }
        for _ in 0..2 {
            if self.is_keyword("fill") && self.cursor.take_word("fill") {
                let value = self.fill_value()?;
                (matching.fill_left, matching.fill_right) = (Some(value), Some(value));
            } else if self.is_keyword("fill_left") && self.cursor.take_word("fill_left") {
                matching.fill_left = Some(self.fill_value()?);
            } else if self.is_keyword("fill_right") && self.cursor.take_word("fill_right") {
                matching.fill_right = Some(self.fill_value()?);
            }
        }
        Ok(matching)
    }

    /// Whether a word that may also name a metric is meant as a keyword here.
    fn is_keyword(&self, word: &str) -> bool {
        let followed = self
            .cursor
            .tokens
            .get(self.cursor.position + 1)
            .is_some_and(|next| next.is("("));
        followed && self.cursor.peek().is_some_and(|token| token.is_word(word))
    }

    fn fill_value(&mut self) -> Result<f64, QueryError> {
        self.cursor.expect("(", "fill value")?;
        let Node::Number(value) = self.number()? else {
            return Err(self.cursor.unexpected("fill value"));
        };
        self.cursor.expect(")", "fill value")?;
        Ok(value)
    }

    fn aggregate(&mut self, parsed: &grammar::AggregateExpr) -> Result<Node, QueryError> {
        let op = self.cursor.next().and_then(|token| Aggregator::parse(token.text));
        let Some(op) = op else {
            return Err(self.cursor.unexpected("aggregation"));
        };
        let mut grouping = self.grouping()?;
        self.cursor.expect("(", "aggregation")?;
        let parameter = match &parsed.param {
            Some(parameter) => {
                let parameter = self.expr(parameter)?;
                self.cursor.expect(",", "aggregation")?;
                Some(parameter)
            }
            None => None,
        };
        if parameter.is_some() != op.has_parameter() {
            let wanted = usize::from(op.has_parameter()) + 1;
            return Err(self.cursor.fault(&format!(
                "wrong number of arguments for aggregate expression, expected {wanted}"
            )));
        }
        let inner = self.expr(&parsed.expr)?;
        self.cursor.expect(")", "aggregation")?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        self.check_parameter(op, parameter.as_ref())?;
        Ok(Node::Aggregate(Box::new(Aggregate {
            op,
            inner,
            parameter,
            grouping: grouping.unwrap_or_default(),
        })))
    }

    fn check_parameter(&self, op: Aggregator, parameter: Option<&Expr>) -> Result<(), QueryError> {
        let wanted = if op == Aggregator::CountValues {
            Type::Text
        } else {
            Type::Scalar
        };
        match parameter {
            Some(expr) if expr.gives() != wanted => {
                let name = if wanted == Type::Text { "string" } else { "scalar" };
                Err(self
                    .cursor
                    .fault(&format!("expected type {name} in aggregation parameter")))
            }
            _ => Ok(()),
        }
    }

    fn grouping(&mut self) -> Result<Option<Grouping>, QueryError> {
        for (word, without) in [("by", false), ("without", true)] {
            if self.cursor.take_word(word) {
                let labels = self.cursor.label_list()?;
                return Ok(Some(Grouping { without, labels }));
            }
        }
        Ok(None)
    }

    fn call(&mut self, parsed: &grammar::Call) -> Result<Node, QueryError> {
        let name = parsed.func.name;
        if !self.cursor.next().is_some_and(|token| token.is_word(name)) {
            self.cursor.position = self.cursor.position.saturating_sub(1);
            return Err(self.cursor.unexpected("function call"));
        }
        self.cursor.expect("(", "function call")?;
        let mut arguments = Vec::with_capacity(parsed.args.args.len());
        for (count, argument) in parsed.args.args.iter().enumerate() {
            if count > 0 {
                self.cursor.expect(",", "function call")?;
            }
            self.chooses_labels = name == "info" && count == 1;
            arguments.push(self.expr(argument)?);
        }
        self.chooses_labels = false;
        self.cursor.expect(")", "function call")?;
        self.check_arguments(&parsed.func, &arguments)?;
        if name == "info" {
            return self.info(arguments);
        }
        Ok(Node::Call(Box::new(Call {
            function: name,
            arguments,
            takes: parsed.func.arg_types.iter().map(|one| kind(*one)).collect(),
            variadic: parsed.func.variadic,
            gives: kind(parsed.func.return_type),
        })))
    }

    fn info(&mut self, arguments: Vec<Expr>) -> Result<Node, QueryError> {
        let mut arguments = arguments.into_iter();
        let base = arguments
            .next()
            .ok_or_else(|| self.cursor.unexpected("function call"))?;
        let chosen = match arguments.next().map(|argument| argument.node) {
            Some(Node::Selector(selector)) if selector.shift == Shift::default() => Some(*selector),
            Some(_) => {
                return Err(self
                    .cursor
                    .fault("expected label selectors only as the second argument of info()"));
            }
            None => None,
        };
        let named = |selector: &Selector| {
            selector
                .matchers
                .iter()
                .any(|matcher| matcher.name == METRIC_NAME)
        };
        let keeps_own = chosen.as_ref().is_none_or(named);
        let chooses = chosen.is_some();
        let mut selector = match chosen {
            Some(selector) => selector,
            None => Selector {
                id: self.new_selector(),
                named: false,
                matchers: Vec::new(),
                shift: Shift::default(),
            },
        };
        if !named(&selector) {
            selector
                .matchers
                .push(LabelMatcher::equal(METRIC_NAME, "target_info"));
        }
        if selector.matchers.iter().all(|matcher| matcher.matches("")) {
            return Err(self
                .cursor
                .fault("vector selector must contain at least one non-empty matcher"));
        }
        Ok(Node::Info(Box::new(Info {
            base,
            selector,
            keeps_own,
            chooses,
        })))
    }

    /// The grammar lets a few calls pass whose arguments are of the wrong type.
    fn check_arguments(&self, function: &grammar::Function, arguments: &[Expr]) -> Result<(), QueryError> {
        for (position, argument) in arguments.iter().enumerate() {
            let wanted = function
                .arg_types
                .get(position)
                .or(function.arg_types.last())
                .map(|wanted| kind(*wanted));
            if wanted.is_some_and(|wanted| wanted != argument.gives()) {
                let text = format!(
                    "wrong type of argument {} in call to function {:?}",
                    position + 1,
                    function.name
                );
                return Err(self.cursor.fault(&text));
            }
            let edge = match &argument.bare().node {
                Node::Matrix(matrix) => matrix.selector.shift.edge,
                _ => Edge::Plain,
            };
            let differences = ["rate", "increase", "delta"].contains(&function.name);
            let counts = ["resets", "changes"].contains(&function.name);
            let (fits, word) = match edge {
                Edge::Plain => (true, ""),
                Edge::Anchored => (differences || counts, "anchored"),
                Edge::Smoothed => (differences, "smoothed"),
            };
            if !fits {
                let also = if edge == Edge::Anchored {
                    "changes, delta, increase, rate, resets"
                } else {
                    "delta, increase, rate"
                };
                return Err(QueryError::bad_data(format!(
                    "{word} modifier can only be used with: {also} - not with {}",
                    function.name
                )));
            }
        }
        Ok(())
    }
}

fn kind(value: ValueType) -> Type {
    match value {
        ValueType::Vector => Type::Vector,
        ValueType::Scalar => Type::Scalar,
        ValueType::Matrix => Type::Matrix,
        ValueType::String => Type::Text,
    }
}
