//! A statement and what it is bound to.

use std::borrow::Cow;

use crate::row::{FromCell, Row};
use crate::{ControlError, Executor};

/// A value on its way into a statement. The type stands also where there is no value: PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Numbers, times, flags (0 and 1).
    Integer(Option<i64>),
    /// A number with a fraction.
    Real(Option<f64>),
    /// Text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

/// How much of a statement's rows is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Nothing,
    First,
    All,
}

/// A statement in the words that both engines know, with its values.
#[derive(Debug)]
pub struct Query {
    pub(crate) text: Cow<'static, str>,
    pub(crate) values: Vec<Value>,
    pub(crate) wanted: Wanted,
}

/// What a statement gave.
#[derive(Debug, Default)]
pub struct Answer {
    pub(crate) rows: Vec<Row>,
    pub(crate) affected: u64,
}

/// A statement; its values stand as `$1`, `$2`, …
pub fn query(text: &'static str) -> Query {
    Query::of(Cow::Borrowed(text))
}

/// A statement that was put together by the program. What comes from outside is bound, never written into it.
pub fn composed(text: String) -> Query {
    Query::of(Cow::Owned(text))
}

impl Query {
    fn of(text: Cow<'static, str>) -> Self {
        Self {
            text,
            values: Vec::new(),
            wanted: Wanted::Nothing,
        }
    }

    /// The next value.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// The next values.
    #[must_use]
    pub fn bind_all(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.values.extend(values);
        self
    }

    /// Carries it out and says how many rows it changed.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn execute(self, on: impl Executor) -> Result<u64, ControlError> {
        Ok(on.carry_out(self).await?.affected)
    }

    /// All of its rows; bound them by a `LIMIT`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn fetch_all(mut self, on: impl Executor) -> Result<Vec<Row>, ControlError> {
        self.wanted = Wanted::All;
        Ok(on.carry_out(self).await?.rows)
    }

    /// Its first row, if any.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn fetch_optional(mut self, on: impl Executor) -> Result<Option<Row>, ControlError> {
        self.wanted = Wanted::First;
        Ok(on.carry_out(self).await?.rows.into_iter().next())
    }

    /// Its first row, which has to be there.
    ///
    /// # Errors
    /// [`ControlError::NoRow`] when it is not.
    pub async fn fetch_one(self, on: impl Executor) -> Result<Row, ControlError> {
        self.fetch_optional(on).await?.ok_or(ControlError::NoRow)
    }

    /// The first column of its first row, if there is a row.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn fetch_value<T>(self, on: impl Executor) -> Result<Option<T>, ControlError>
    where
        T: for<'r> FromCell<'r>,
    {
        let row = self.fetch_optional(on).await?;
        row.map(|row| row.try_get(0)).transpose()
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident, $of:ident, $convert:expr;)*) => {
        $(
            impl From<$from> for Value {
                fn from($of: $from) -> Self {
                    Self::$variant(Some($convert))
                }
            }

            impl From<Option<$from>> for Value {
                fn from(value: Option<$from>) -> Self {
                    Self::$variant(value.map(|$of| $convert))
                }
            }
        )*
    };
}

value_from! {
    i64 => Integer, value, value;
    i32 => Integer, value, i64::from(value);
    u32 => Integer, value, i64::from(value);
    u16 => Integer, value, i64::from(value);
    bool => Integer, value, i64::from(value);
    f64 => Real, value, value;
    &str => Text, value, value.to_owned();
    String => Text, value, value;
    &String => Text, value, value.clone();
    &[u8] => Bytes, value, value.to_vec();
    Vec<u8> => Bytes, value, value;
    &Vec<u8> => Bytes, value, value.clone();
}
