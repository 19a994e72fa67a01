//! The merged configuration before it has types: values that know where they were written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fault::Location;
use crate::yaml_file::YamlText;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    /// Text from the environment, which becomes whatever is wanted of it.
    Loose(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Entry>),
    /// Stands in for a key that is missing or wrong, so that the search for faults can go on.
    Conjured,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Place,
    pub(crate) node: Node,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// The key path, assigned by [`Node::label`] when merging is over; stays when list items are removed.
    pub(crate) path: String,
}

/// Where something was written; for YAML that is found out only when somebody asks.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Known(Location),
    Yaml {
        text: Arc<YamlText>,
        path: Vec<Step>,
        on_key: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Item(usize),
}

impl Place {
    pub(crate) fn locate(&self) -> Location {
        match self {
            Self::Known(location) => location.clone(),
            Self::Yaml { text, path, on_key } => text.locate(path, *on_key),
        }
    }
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl Node {
    pub(crate) fn new(value: Value, place: Place) -> Self {
        Self {
            value,
            place,
            path: String::new(),
        }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Value::Table(BTreeMap::new()), Place::Known(Location::Default))
    }

    /// Gives every node its key path.
    pub(crate) fn label(&mut self, path: &str) {
        path.clone_into(&mut self.path);
        match &mut self.value {
            Value::Table(entries) => {
                for (key, entry) in entries {
                    entry.node.label(&join(path, key));
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.label(&format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn find(&self, path: &str) -> Option<&Node> {
        if self.path == path {
            return Some(self);
        }
        match &self.value {
            Value::Table(entries) => entries.values().find_map(|entry| entry.node.find(path)),
            Value::List(items) => items.iter().find_map(|item| item.find(path)),
            _ => None,
        }
    }

    pub(crate) fn find_mut(&mut self, path: &str) -> Option<&mut Node> {
        if self.path == path {
            return Some(self);
        }
        match &mut self.value {
            Value::Table(entries) => entries.values_mut().find_map(|entry| entry.node.find_mut(path)),
            Value::List(items) => items.iter_mut().find_map(|item| item.find_mut(path)),
            _ => None,
        }
    }

    /// Takes out the node of that path, a key or a list item; false when there is none.
    pub(crate) fn remove(&mut self, path: &str) -> bool {
        match &mut self.value {
            Value::Table(entries) => {
                let before = entries.len();
                entries.retain(|_, entry| entry.node.path != path);
                entries.len() < before || entries.values_mut().any(|entry| entry.node.remove(path))
            }
            Value::List(items) => {
                let before = items.len();
                items.retain(|item| item.path != path);
                items.len() < before || items.iter_mut().any(|item| item.remove(path))
            }
            _ => false,
        }
    }
}
