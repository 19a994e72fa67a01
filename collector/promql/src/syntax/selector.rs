//! Selectors and lists of labels.

use super::ast::Selector;
use super::postfix::Cursor;
use super::scan::Kind;
use super::text::{Literal, unquote};
use crate::error::QueryError;
use crate::labels::METRIC_NAME;
use crate::matcher::LabelMatcher;

impl Cursor<'_> {
    pub(crate) fn literal(&mut self, context: &str) -> Result<Literal, QueryError> {
        match self.peek() {
            Some(token) if token.kind == Kind::Text => {
                self.position += 1;
                unquote(token.text).ok_or_else(|| self.fault("invalid escape in quoted string"))
            }
            _ => Err(self.unexpected(context)),
        }
    }

    /// `name{…}`, without what follows it, which cannot select everything.
    pub(crate) fn selector(&mut self, id: usize) -> Result<Selector, QueryError> {
        let selector = self.conditions(id)?;
        if selector.matchers.iter().all(|matcher| matcher.matches("")) {
            return Err(self.fault("vector selector must contain at least one non-empty matcher"));
        }
        Ok(selector)
    }

    /// As [`Cursor::selector`], whatever it would select.
    pub(crate) fn conditions(&mut self, id: usize) -> Result<Selector, QueryError> {
        let at = self.position;
        let mut matchers = Vec::new();
        let name = self.peek().filter(|token| token.kind == Kind::Word);
        self.position += usize::from(name.is_some());
        let name = name.map(|token| LabelMatcher::equal(METRIC_NAME, token.text));
        if self.take("{") {
            while !self.take("}") {
                matchers.push(self.matcher()?);
                if !self.take(",") {
                    self.expect("}", "label matching, expected \",\" or \"}\"")?;
                    break;
                }
            }
        }
        if at == self.position {
            return Err(self.unexpected("expression"));
        }
        let named = name.is_some();
        matchers.extend(name);
        Ok(Selector {
            id,
            named,
            matchers,
            shift: super::ast::Shift::default(),
        })
    }

    fn matcher(&mut self) -> Result<LabelMatcher, QueryError> {
        const CONTEXT: &str = "label matching";
        let quoted = self.peek().is_some_and(|token| token.kind == Kind::Text);
        let name = if quoted {
            let literal = self.literal(CONTEXT)?;
            if self.peek().is_some_and(|token| token.is(",") || token.is("}")) {
                return Ok(LabelMatcher::equal(METRIC_NAME, literal.value));
            }
            literal.value
        } else {
            match self.next() {
                Some(token) if token.kind != Kind::Sign => token.text.to_owned(),
                _ => return Err(self.unexpected(CONTEXT)),
            }
        };
        let op = match self.next() {
            Some(token) if matches!(token.text, "=" | "!=" | "=~" | "!~") => token.text,
            _ => return Err(self.unexpected("label matching, expected an operator")),
        };
        let value = self.literal("label matching, expected string")?;
        LabelMatcher::parse(&name, op, &value.value)
    }

    /// `(a, b)`.
    pub(crate) fn label_list(&mut self) -> Result<Vec<String>, QueryError> {
        const CONTEXT: &str = "grouping opts";
        self.expect("(", CONTEXT)?;
        let mut labels = Vec::new();
        while !self.take(")") {
            let quoted = self.peek().is_some_and(|token| token.kind == Kind::Text);
            labels.push(if quoted {
                self.literal(CONTEXT)?.value
            } else {
                match self.next() {
                    Some(token) if token.kind != Kind::Sign => token.text.to_owned(),
                    _ => return Err(self.unexpected(CONTEXT)),
                }
            });
            if !self.take(",") {
                self.expect(")", CONTEXT)?;
                break;
            }
        }
        Ok(labels)
    }
}
