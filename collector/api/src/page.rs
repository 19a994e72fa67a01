//! Pages: a cursor holds the place after the last item, not a number of items to skip.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fleetmend_event::TimeMicros;
use serde::Serialize;
use serde_json::Value;

use crate::problem::Problem;

pub(crate) const LIMIT_DEFAULT: usize = 50;
pub(crate) const LIMIT_MAX: usize = 500;
const CURSOR_BYTES_MAX: usize = 256;

/// One page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Page {
    #[schema(value_type = Vec<Object>)]
    pub(crate) items: Vec<Value>,
    pub(crate) next_cursor: Option<String>,
    /// Known losses in the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) gaps: Option<Vec<Value>>,
}

/// The place after an item in a list ordered by time and id, both descending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) time: TimeMicros,
    pub(crate) id: String,
}

impl Cursor {
    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("1 {} {}", self.time.0, self.id))
    }

    pub(crate) fn decode(text: Option<&str>) -> Result<Option<Self>, Problem> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let wrong = || Problem::field("cursor", "is not a cursor that this list gave out");
        if text.len() > CURSOR_BYTES_MAX {
            return Err(wrong());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let plain = String::from_utf8(bytes).map_err(|_| wrong())?;
        let mut parts = plain.splitn(3, ' ');
        match (
            parts.next(),
            parts.next().and_then(|time| time.parse().ok()),
            parts.next(),
        ) {
            (Some("1"), Some(time), Some(id)) => Ok(Some(Self {
                time: TimeMicros(time),
                id: id.to_owned(),
            })),
            _ => Err(wrong()),
        }
    }
}

/// Cuts what was fetched (one more than wanted) to a page.
pub(crate) fn cut<T>(
    mut rows: Vec<T>,
    limit: usize,
    cursor: impl Fn(&T) -> Option<Cursor>,
) -> (Vec<T>, Option<String>) {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more {
        rows.last().and_then(cursor).map(|cursor| cursor.encode())
    } else {
        None
    };
    (rows, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_nonsense_does_not() {
        let cursor = Cursor {
            time: TimeMicros(5),
            id: "a b".to_owned(),
        };
        assert_eq!(Cursor::decode(Some(&cursor.encode())).unwrap(), Some(cursor));
        assert_eq!(Cursor::decode(None).unwrap(), None);
        for wrong in ["x", "====", "MiAzIDQ", "é"] {
            assert!(Cursor::decode(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
