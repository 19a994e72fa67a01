//! From the tree into types: a deserialiser that says where it failed, and collects unknown keys on the way.

use std::cell::RefCell;
use std::collections::btree_map;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use crate::conjure::Conjure;
use crate::fault::{Fault, Location};
use crate::tree::{Entry, Node, Place, Value, join};

/// Where unknown keys gather.
#[derive(Default)]
pub(crate) struct Context {
    pub(crate) unknown: RefCell<Vec<Fault>>,
}

/// Stops one attempt to read the tree.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) message: String,
    /// The key path of the innermost node that failed.
    pub(crate) at: Option<String>,
    pub(crate) missing: Option<&'static str>,
}

impl Stop {
    fn within(mut self, node: &Node) -> Self {
        self.at.get_or_insert_with(|| node.path.clone());
        self
    }
}

impl std::error::Error for Stop {}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            message: message.to_string(),
            at: None,
            missing: None,
        }
    }

    /// Without the value, which may be a secret.
    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::custom(format_args!("found {}, wanted {wanted}", kind(&found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let list = expected
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        Self::custom(format_args!(
            "unknown value `{variant}`; it is one of {list}{}",
            hint(variant, expected)
        ))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown key `{field}`{}", hint(field, expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            message: format!("the key `{field}` is missing"),
            at: None,
            missing: Some(field),
        }
    }
}

fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::StructVariant => "a section",
        _ => "something else",
    }
}

/// `; did you mean …?` when a known name is near enough to be a slip of the fingers.
pub(crate) fn hint(given: &str, known: &[&str]) -> String {
    let near = |name: &&&str| edits(given, name);
    let length = given.chars().count();
    // Two letters swapped count as two edits.
    let slips = if length < 3 { 1 } else { (1 + length / 4).max(2) };
    match known.iter().min_by_key(near) {
        Some(name) if edits(given, name) <= slips => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (above, a) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut beside = above + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(right.chars()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            *cell = replaced.min(beside + 1).min(*cell + 1);
            beside = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[derive(Clone, Copy)]
pub(crate) struct Reader<'t> {
    pub(crate) node: &'t Node,
    pub(crate) context: &'t Context,
}

impl<'t> Reader<'t> {
    fn read<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Unsigned(number) => visitor.visit_u64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) | Value::Loose(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items {
                items: items.iter(),
                context: self.context,
            }),
            Value::Table(entries) => visitor.visit_map(Entries::new(entries.iter(), self.context)),
            Value::Conjured => Conjure.deserialize_any(visitor),
        }
    }

    /// What the environment holds is text; here it becomes the number or boolean that is wanted.
    fn read_loose<'de, V: Visitor<'de>>(
        self,
        text: &str,
        wanted: &str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let refused = || Stop::custom(format_args!("found text, wanted {wanted}"));
        match wanted {
            "true or false" => visitor.visit_bool(text.parse().map_err(|_| refused())?),
            "a number" => visitor.visit_f64(text.parse().map_err(|_| refused())?),
            _ => match text.parse::<i64>() {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => visitor.visit_u64(text.parse().map_err(|_| refused())?),
            },
        }
    }

    fn report_unknown(self, entry: &Entry, key: &str, known: &'static [&'static str]) {
        let fault = Fault {
            location: entry.key.locate(),
            key: join(&self.node.path, key),
            message: format!("unknown key{}", hint(key, known)),
        };
        self.context.unknown.borrow_mut().push(fault);
    }
}

macro_rules! scalars {
    ($wanted:literal: $($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            match &self.node.value {
                Value::Loose(text) => self.read_loose(text, $wanted, visitor),
                Value::Conjured => Conjure.$method(visitor),
                _ => self.read(visitor),
            }
            .map_err(|stop| stop.within(self.node))
        })+
    };
}

macro_rules! plain {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            match &self.node.value {
                Value::Conjured => Conjure.$method(visitor),
                _ => self.read(visitor),
            }
            .map_err(|stop| stop.within(self.node))
        })+
    };
}

/// Lists and tables from the environment are written as in TOML.
macro_rules! nested {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            match &self.node.value {
                Value::Loose(text) => match parsed(text, &self.node.place) {
                    Some(node) => Reader { node: &node, context: self.context }.read(visitor),
                    None => self.read(visitor),
                },
                Value::Conjured => Conjure.$method(visitor),
                _ => self.read(visitor),
            }
            .map_err(|mut stop| {
                // A parsed value has no path of its own.
                stop.at = stop.at.filter(|path| !path.is_empty());
                stop.within(self.node)
            })
        })+
    };
}

fn parsed(text: &str, place: &Place) -> Option<Node> {
    let location = match place {
        Place::Known(location) => location.clone(),
        Place::Yaml { .. } => Location::Default,
    };
    crate::toml_file::read_value(text, &location)
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Stop;

    scalars! { "true or false": deserialize_bool }
    scalars! { "a number": deserialize_f32 deserialize_f64 }
    scalars! { "an integer": deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 }
    plain! { deserialize_any deserialize_char deserialize_str deserialize_string deserialize_bytes
    deserialize_byte_buf deserialize_unit deserialize_identifier }
    nested! { deserialize_seq deserialize_map }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null | Value::Conjured => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|stop| stop.within(self.node))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Table(entries) => {
                let unknown = entries.iter().filter(|(key, _)| !fields.contains(&key.as_str()));
                for (key, entry) in unknown {
                    self.report_unknown(entry, key, fields);
                }
                visitor.visit_map(Entries {
                    known: Some(fields),
                    ..Entries::new(entries.iter(), self.context)
                })
            }
            // An empty section of YAML: all its defaults.
            Value::Null => visitor.visit_map(Entries::new(btree_map::Iter::default(), self.context)),
            Value::Conjured => Conjure.deserialize_struct(name, fields, visitor),
            _ => self.read(visitor),
        }
        .map_err(|stop| stop.within(self.node))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Text(text) | Value::Loose(text) => {
                let unit: StrDeserializer<'_, Stop> = text.as_str().into_deserializer();
                visitor.visit_enum(unit)
            }
            Value::Table(entries) => match entries.iter().next() {
                Some((key, entry)) if entries.len() == 1 => visitor.visit_enum(Variant {
                    key,
                    node: &entry.node,
                    context: self.context,
                }),
                _ => Err(Stop::custom(format_args!(
                    "wanted one of {} as the only key",
                    variants.join(", ")
                ))),
            },
            Value::Conjured => Conjure.deserialize_enum(name, variants, visitor),
            _ => self.read(visitor),
        }
        .map_err(|stop| stop.within(self.node))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }
}

struct Items<'t> {
    items: std::slice::Iter<'t, Node>,
    context: &'t Context,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let context = self.context;
        self.items
            .next()
            .map(|node| seed.deserialize(Reader { node, context }))
            .transpose()
    }
}

struct Entries<'t> {
    entries: btree_map::Iter<'t, String, Entry>,
    /// Where set, other keys were reported and are passed over.
    known: Option<&'static [&'static str]>,
    next: Option<&'t Node>,
    context: &'t Context,
}

impl<'t> Entries<'t> {
    fn new(entries: btree_map::Iter<'t, String, Entry>, context: &'t Context) -> Self {
        Self {
            entries,
            known: None,
            next: None,
            context,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let known = self.known;
        let is_known = |key: &str| known.is_none_or(|known| known.contains(&key));
        let Some((key, entry)) = self.entries.find(|(key, _)| is_known(key)) else {
            return Ok(None);
        };
        self.next = Some(&entry.node);
        let key: StrDeserializer<'_, Stop> = key.as_str().into_deserializer();
        // A bad key of a map is the fault of its entry.
        seed.deserialize(key)
            .map(Some)
            .map_err(|stop| stop.within(&entry.node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let node = self
            .next
            .take()
            .ok_or_else(|| Stop::custom("value asked for before its key"))?;
        seed.deserialize(Reader {
            node,
            context: self.context,
        })
        .map_err(|stop| stop.within(node))
    }
}

struct Variant<'t> {
    key: &'t str,
    node: &'t Node,
    context: &'t Context,
}

impl<'de, 't> EnumAccess<'de> for Variant<'t> {
    type Error = Stop;
    type Variant = Reader<'t>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Reader<'t>), Stop> {
        let key: StrDeserializer<'_, Stop> = self.key.into_deserializer();
        Ok((
            seed.deserialize(key)?,
            Reader {
                node: self.node,
                context: self.context,
            },
        ))
    }
}

impl<'de> VariantAccess<'de> for Reader<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        match self.node.value {
            Value::Null | Value::Conjured => Ok(()),
            _ => Err(Stop::custom("wanted nothing after this value").within(self.node)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Stop> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_struct("", fields, visitor)
    }
}
