//! YAML, whose reader keeps no places. A place is found when a fault needs it, by reading the text again with a
//! walker that fails on purpose exactly there: the error of the reader says where it was.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_norway::Value as Yaml;

use crate::fault::{Fault, Location};
use crate::tree::{Entry, Node, Place, Step, Value, join};

#[derive(Debug)]
pub(crate) struct YamlText {
    path: Arc<PathBuf>,
    text: String,
}

pub(crate) fn read(text: &str, path: &Arc<PathBuf>, faults: &mut Vec<Fault>) -> Node {
    let source = Arc::new(YamlText {
        path: path.clone(),
        text: text.to_owned(),
    });
    let document = serde_norway::from_str::<Yaml>(text).and_then(|mut document| {
        document.apply_merge()?;
        Ok(document)
    });
    let top = Place::Yaml {
        text: source.clone(),
        path: Vec::new(),
        on_key: false,
    };
    match document {
        Ok(document) => {
            let mut reader = Reader { source, faults };
            Node::new(reader.value(document, &mut Vec::new(), ""), top)
        }
        Err(error) => {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let location = Location::File {
                path: path.clone(),
                line,
                column,
            };
            // The reader appends the place to its sentence, and so do we.
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            faults.push(Fault {
                location,
                key: String::new(),
                message,
            });
            Node::empty()
        }
    }
}

struct Reader<'f> {
    source: Arc<YamlText>,
    faults: &'f mut Vec<Fault>,
}

impl Reader<'_> {
    fn place(&self, path: &[Step], on_key: bool) -> Place {
        Place::Yaml {
            text: self.source.clone(),
            path: path.to_vec(),
            on_key,
        }
    }

    fn value(&mut self, value: Yaml, steps: &mut Vec<Step>, path: &str) -> Value {
        match value {
            Yaml::Null => Value::Null,
            Yaml::Bool(flag) => Value::Bool(flag),
            Yaml::String(text) => Value::Text(text),
            Yaml::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), _, _) => Value::Integer(number),
                (None, Some(number), _) => Value::Unsigned(number),
                (None, None, number) => Value::Float(number.unwrap_or(f64::NAN)),
            },
            Yaml::Sequence(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    list.push(self.node(item, Step::Item(index), steps, &format!("{path}[{index}]")));
                }
                Value::List(list)
            }
            Yaml::Mapping(entries) => {
                let mut table = BTreeMap::new();
                for (key, value) in entries {
                    let Yaml::String(key) = key else {
                        self.refuse("has a key that is no text", steps, path);
                        continue;
                    };
                    let node = self.node(value, Step::Key(key.clone()), steps, &join(path, &key));
                    steps.push(Step::Key(key.clone()));
                    let place = self.place(steps, true);
                    steps.pop();
                    table.insert(key, Entry { key: place, node });
                }
                Value::Table(table)
            }
            Yaml::Tagged(_) => {
                self.refuse("has a tag, which nothing here understands", steps, path);
                Value::Conjured
            }
        }
    }

    fn node(&mut self, value: Yaml, step: Step, steps: &mut Vec<Step>, path: &str) -> Node {
        steps.push(step);
        let value = self.value(value, steps, path);
        let place = self.place(steps, false);
        steps.pop();
        Node::new(value, place)
    }

    fn refuse(&mut self, message: &str, steps: &[Step], path: &str) {
        let location = self.source.locate(steps, false);
        self.faults.push(Fault {
            location,
            key: path.to_owned(),
            message: message.to_owned(),
        });
    }
}

impl YamlText {
    pub(crate) fn locate(&self, path: &[Step], on_key: bool) -> Location {
        let walker = Walker { path, on_key };
        let found = walker
            .deserialize(serde_norway::Deserializer::from_str(&self.text))
            .err();
        let place = found.and_then(|error| error.location());
        let (line, column) = place.map_or((0, 0), |place| (place.line(), place.column()));
        Location::File {
            path: self.path.clone(),
            line,
            column,
        }
    }
}

#[derive(Clone, Copy)]
struct Walker<'p> {
    path: &'p [Step],
    on_key: bool,
}

impl<'de> DeserializeSeed<'de> for Walker<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            deserializer.deserialize_any(Here)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Walker<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the way to the place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.path.split_first() else {
            return Ok(());
        };
        let stop = self.on_key && rest.is_empty();
        while let Some(found) = map.next_key_seed(Key { wanted, stop })? {
            if found {
                return map.next_value_seed(Walker {
                    path: rest,
                    on_key: self.on_key,
                });
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Step::Item(wanted), rest)) = self.path.split_first() else {
            return Ok(());
        };
        for _ in 0..*wanted {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(Walker {
            path: rest,
            on_key: self.on_key,
        })?;
        Ok(())
    }
}

/// Fails on whatever it meets: a visitor that expects nothing.
struct Here;

impl Visitor<'_> for Here {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing: this is the place")
    }
}

struct Key<'p> {
    wanted: &'p str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        let found = key == self.wanted;
        if found && self.stop {
            return Err(E::custom("this is the place"));
        }
        Ok(found)
    }
}
