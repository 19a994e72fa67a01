use crate::fault::{Fault, Location};
use crate::tree::{Entry, Node, Value};

/// What [`Validate`](crate::Validate) reports to: a key path becomes the place where it was written.
#[derive(Debug)]
pub struct Faults<'t> {
    tree: &'t Node,
    section: String,
    found: Vec<Fault>,
}

impl<'t> Faults<'t> {
    pub(crate) fn new(tree: &'t Node) -> Self {
        Self {
            tree,
            section: String::new(),
            found: Vec::new(),
        }
    }

    /// Reports what is wrong with `key`, relative to the section this is in; list items are `sites[2].url`.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        let key = join(&self.section, key);
        let location = locate(self.tree, &key);
        self.found.push(Fault {
            location,
            key,
            message: message.into(),
        });
    }

    /// Reports `message` unless `holds`.
    pub fn require(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.add(key, message);
        }
    }

    /// Lets a section report with its own keys: `faults.section("spool", |faults| self.spool.validate(faults))`.
    pub fn section(&mut self, key: &str, check: impl FnOnce(&mut Self)) {
        let inner = join(&self.section, key);
        let outer = std::mem::replace(&mut self.section, inner);
        check(self);
        self.section = outer;
    }

    pub(crate) fn into_found(self) -> Vec<Fault> {
        self.found
    }
}

fn join(section: &str, key: &str) -> String {
    if key.is_empty() {
        section.to_owned()
    } else {
        crate::tree::join(section, key)
    }
}

/// The place of a key, or of the nearest section around it that was written.
fn locate(tree: &Node, key: &str) -> Location {
    let mut path = key;
    loop {
        if let Some(node) = tree.find(path) {
            return match &node.value {
                Value::Table(entries) if path != key => first_place(node, entries.values().next()),
                _ => node.place.locate(),
            };
        }
        match path.rfind(['.', '[']) {
            Some(end) => path = path.get(..end).unwrap_or(""),
            None => return Location::Default,
        }
    }
}

fn first_place(section: &Node, first: Option<&Entry>) -> Location {
    match (section.place.locate(), first) {
        (Location::Default, Some(entry)) => entry.key.locate(),
        (location, _) => location,
    }
}
