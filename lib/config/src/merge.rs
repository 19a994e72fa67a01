//! Laying one configuration over another.

use crate::tree::{Entry, Node, Value};

/// Tables are merged key by key; anything else is replaced, and so is its place.
pub(crate) fn merge(under: &mut Node, over: Node) {
    match (&mut under.value, over.value) {
        (Value::Table(below), Value::Table(above)) => {
            for (key, entry) in above {
                match below.get_mut(&key) {
                    Some(Entry { node, key: place }) => {
                        *place = entry.key;
                        merge(node, entry.node);
                    }
                    None => {
                        below.insert(key, entry);
                    }
                }
            }
            if matches!(
                under.place,
                crate::tree::Place::Known(crate::fault::Location::Default)
            ) {
                under.place = over.place;
            }
        }
        // An empty section of YAML, `spool:`, changes nothing.
        (Value::Table(_), Value::Null) => {}
        (slot, value) => {
            *slot = value;
            under.place = over.place;
        }
    }
}
