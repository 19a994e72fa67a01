//! An event as rules see it: names and values, each value folded once however many rules look at it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use fleetmend_event::TimeMicros;
use serde_json::{Map, Value};

use super::rule::{FieldId, LogSource, Names};
use super::text::fold;

/// Longest value that rules look at; what is longer is cut.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// A record of a log that is no row of ours, under the names that Sigma gives its fields: of auditd, of a web
/// server's access log, of a program's log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawEvent {
    /// When it was logged.
    pub time: TimeMicros,
    /// Such as `linux`; `None` where the source is not of one product.
    pub product: Option<String>,
    /// Such as `webserver`.
    pub category: Option<String>,
    /// Such as `auditd`, `nginx`.
    pub service: Option<String>,
    /// Fields that the record has; one without a value is left out.
    pub fields: BTreeMap<String, String>,
}

impl RawEvent {
    /// Where it comes from.
    pub fn source(&self) -> LogSource {
        LogSource {
            product: self.product.clone(),
            category: self.category.clone(),
            service: self.service.clone(),
        }
    }
}

/// Names and values of an event. A name may stand more than once; then any of its values may match.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// Adds a value.
    pub(crate) fn add(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds a value where there is one.
    pub(crate) fn add_some(&mut self, name: &'a str, value: Option<impl Into<Cow<'a, str>>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// The fields of a record.
    pub(crate) fn of(record: &'a RawEvent) -> Self {
        let fields = record.fields.iter();
        Self(
            fields
                .map(|(name, value)| (Cow::Borrowed(name.as_str()), Cow::Borrowed(short(value))))
                .collect(),
        )
    }

    /// As JSON, for evidence.
    pub(crate) fn json(&self) -> Value {
        let fields = self.0.iter();
        let map: Map<String, Value> = fields
            .map(|(name, value)| (name.as_ref().to_owned(), Value::from(value.as_ref())))
            .collect();
        Value::Object(map)
    }

    /// The first value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_ref())
    }
}

/// A value with what is computed of it once.
#[derive(Debug)]
pub(crate) struct Slot<'e> {
    /// `None` for a field that no rule names; keywords look at it too.
    pub(crate) field: Option<FieldId>,
    pub(crate) text: &'e str,
    folded: OnceCell<Cow<'e, str>>,
}

impl Slot<'_> {
    pub(crate) fn folded(&self) -> &str {
        self.folded.get_or_init(|| fold(self.text))
    }
}

/// The fields of one event, ready to be matched.
#[derive(Debug)]
pub(crate) struct Slots<'e>(pub(crate) Vec<Slot<'e>>);

impl<'e> Slots<'e> {
    pub(crate) fn new(fields: &'e Fields<'_>, names: &Names) -> Self {
        let slot = |(name, value): &'e (Cow<'_, str>, Cow<'_, str>)| Slot {
            field: names.find(name),
            text: value.as_ref(),
            folded: OnceCell::new(),
        };
        Self(fields.0.iter().map(slot).collect())
    }

    /// Every value of a field.
    pub(crate) fn of(&self, field: FieldId) -> impl Iterator<Item = &Slot<'e>> {
        self.0.iter().filter(move |slot| slot.field == Some(field))
    }
}

/// As much of a value as rules look at.
pub(crate) fn short(value: &str) -> &str {
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    value.get(..end).unwrap_or_default()
}
