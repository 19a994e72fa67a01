//! The fields of an entry that make a line.

/// Names of the fields that are read; the others are passed over.
const FIELDS: [&str; 12] = [
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_FACILITY",
    "SYSLOG_PID",
    "_COMM",
    "_EXE",
    "_PID",
    "_UID",
    "_SYSTEMD_UNIT",
    "_TRANSPORT",
    "UNIT",
];

/// Most bytes of a value other than the message.
const VALUE_BYTES_MAX: usize = 256;

/// An entry, with the fields that are of use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalEntry {
    /// Number that journald gave it.
    pub seqnum: u64,
    /// When journald took it, in microseconds of the host's clock.
    pub realtime_us: u64,
    /// Whether the message was cut, or could not be read.
    pub truncated: bool,
    /// Fields of it that are damaged or cannot be read.
    pub unreadable: u32,
    pub(super) values: [Option<Value>; FIELDS.len()],
}

pub(super) type Value = std::sync::Arc<[u8]>;

/// Which field a payload is of.
#[derive(Debug, Clone)]
pub(super) enum Field {
    /// One that is not read.
    Other,
    /// One that is, by its place in [`FIELDS`].
    Known(usize, Value),
}

impl Field {
    /// Splits a payload.
    pub(super) fn of(payload: &[u8]) -> Self {
        let mut parts = payload.splitn(2, |byte| *byte == b'=');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            return Self::Other;
        };
        match FIELDS.iter().position(|field| field.as_bytes() == name) {
            None => Self::Other,
            Some(0) => Self::Known(0, value.into()),
            Some(index) => Self::Known(index, value.get(..VALUE_BYTES_MAX).unwrap_or(value).into()),
        }
    }

    /// Whether it is the message: these are not worth remembering.
    pub(super) fn is_message(&self) -> bool {
        matches!(self, Self::Known(0, _))
    }
}

impl JournalEntry {
    pub(super) fn put(&mut self, field: Field) {
        if let Field::Known(index, value) = field
            && let Some(place) = self.values.get_mut(index)
            && place.is_none()
        {
            *place = Some(value);
        }
    }

    /// Bytes of a field, when the entry has it and it is one of those that are read.
    pub fn bytes(&self, field: &str) -> Option<&[u8]> {
        let index = FIELDS.iter().position(|known| *known == field)?;
        self.values.get(index)?.as_deref()
    }

    /// A field as text; what is not UTF-8 is replaced.
    pub fn text(&self, field: &str) -> Option<String> {
        self.bytes(field)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A field as a number.
    pub fn number(&self, field: &str) -> Option<u32> {
        std::str::from_utf8(self.bytes(field)?).ok()?.parse().ok()
    }
}
