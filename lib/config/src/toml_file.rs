//! TOML with a place for every key and value, and all its syntax errors at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::fault::{Fault, Location};
use crate::tree::{Entry, Node, Place, Value, join};

struct Reader<'t> {
    text: &'t str,
    path: Arc<PathBuf>,
    faults: Vec<Fault>,
}

pub(crate) fn read(text: &str, path: &Arc<PathBuf>, faults: &mut Vec<Fault>) -> Node {
    let mut reader = Reader {
        text,
        path: path.clone(),
        faults: Vec::new(),
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let message = error.message().to_owned();
        let location = reader.locate(&error.span().unwrap_or(0..0));
        // The parser may report one slip at several places of a line; the first one is the cause.
        let line_of = |location: &Location| match location {
            Location::File { line, .. } => *line,
            _ => 0,
        };
        if reader
            .faults
            .iter()
            .any(|known| line_of(&known.location) == line_of(&location))
        {
            continue;
        }
        reader.faults.push(Fault {
            location,
            key: String::new(),
            message,
        });
    }
    let place = Place::Known(reader.locate(&document.span()));
    let value = reader.table(document.into_inner(), "");
    faults.append(&mut reader.faults);
    Node::new(value, place)
}

/// A value as it may stand in an environment variable: `["a", "b"]` or `{ a = 1 }`.
pub(crate) fn read_value(text: &str, location: &Location) -> Option<Node> {
    let value = DeValue::parse(text).ok()?.into_inner();
    let mut reader = Reader {
        text: "",
        path: Arc::new(PathBuf::new()),
        faults: Vec::new(),
    };
    let mut node = Node::new(reader.value(value, ""), Place::Known(location.clone()));
    node.place_all(location);
    reader.faults.is_empty().then_some(node)
}

impl Reader<'_> {
    fn locate(&self, span: &Range<usize>) -> Location {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Location::File {
            path: self.path.clone(),
            line,
            column,
        }
    }

    fn table(&mut self, table: DeTable<'_>, path: &str) -> Value {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let place = Place::Known(self.locate(&key.span()));
            let key = key.into_inner().into_owned();
            let node = self.node(value, &join(path, &key));
            entries.insert(key, Entry { key: place, node });
        }
        Value::Table(entries)
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, path: &str) -> Node {
        let location = self.locate(&value.span());
        let value = match value.into_inner() {
            DeValue::Integer(integer) => self.integer(&integer, path, &location),
            DeValue::Float(float) => match float.as_str().replace('_', "").parse() {
                Ok(number) => Value::Float(number),
                Err(_) => self.refuse("is no number", path, &location),
            },
            other => self.value(other, path),
        };
        Node::new(value, Place::Known(location))
    }

    fn value(&mut self, value: DeValue<'_>, path: &str) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Boolean(flag) => Value::Bool(flag),
            DeValue::Datetime(time) => Value::Text(time.to_string()),
            DeValue::Array(items) => {
                let node = |(index, item)| self.node(item, &format!("{path}[{index}]"));
                Value::List(items.into_iter().enumerate().map(node).collect())
            }
            DeValue::Table(table) => self.table(table, path),
            number => self.node(Spanned::new(0..0, number), path).value,
        }
    }

    fn integer(&mut self, integer: &DeInteger<'_>, path: &str, location: &Location) -> Value {
        let digits = integer.as_str().replace('_', "");
        if let Ok(number) = i64::from_str_radix(&digits, integer.radix()) {
            return Value::Integer(number);
        }
        match u64::from_str_radix(&digits, integer.radix()) {
            Ok(number) => Value::Unsigned(number),
            Err(_) => self.refuse("does not fit into 64 bits", path, location),
        }
    }

    fn refuse(&mut self, message: &str, path: &str, location: &Location) -> Value {
        let fault = Fault {
            location: location.clone(),
            key: path.to_owned(),
            message: message.to_owned(),
        };
        self.faults.push(fault);
        Value::Conjured
    }
}

impl Node {
    fn place_all(&mut self, location: &Location) {
        self.place = Place::Known(location.clone());
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.place_all(location)),
            Value::Table(entries) => {
                for entry in entries.values_mut() {
                    entry.key = Place::Known(location.clone());
                    entry.node.place_all(location);
                }
            }
            _ => {}
        }
    }
}
