//! Ids: each is a type of its own, so that one cannot stand in for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::words;

/// An id's text was not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be a UUID such as 018f2b6e-7c1a-7d55-9d0e-0a4d6a7f1c11")]
pub struct IdError {
    /// Which id was being read.
    pub kind: &'static str,
}

macro_rules! uuid_id {
    ($(#[$meta:meta])* $name:ident, $kind:literal, $new:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id that no one else has.
            pub fn random() -> Self {
                Self(Uuid::$new())
            }

            /// From its 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Its 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError { kind: $kind })
            }
        }

        $crate::text_column!($name);
    };
}

uuid_id!(
    /// A host, for as long as its key lives. Assigned at enrolment; the SAN of its certificate carries it.
    HostId, "host id", new_v4
);
uuid_id!(
    /// One life of a spool: random, new at every creation and unclean start, so that a wiped, restored or
    /// cloned spool cannot reuse a sequence number.
    SpoolEpoch, "spool epoch", new_v4
);
uuid_id!(
    /// A finding, from its first row to its resolution. Ordered by time of creation.
    FindingId, "finding id", now_v7
);
uuid_id!(
    /// One healing transaction.
    ActionId, "action id", now_v7
);

words! {
    /// Priority class of a record, each with its own ring, quota and numbering. Lower comes first on the wire.
    pub enum Lane {
        /// Findings, actions, credentials, tampering, gaps: shed last.
        Critical = "critical",
        /// Kernel events, processes, units, sites.
        Events = "events",
        /// Metric samples: thinned first.
        Metrics = "metrics",
    }
}

impl Lane {
    /// The byte that stands for the lane in a frame.
    pub const fn code(self) -> u8 {
        match self {
            Lane::Critical => 0,
            Lane::Events => 1,
            Lane::Metrics => 2,
        }
    }

    /// The lane that a byte stands for.
    pub const fn from_code(code: u8) -> Option<Lane> {
        match code {
            0 => Some(Lane::Critical),
            1 => Some(Lane::Events),
            2 => Some(Lane::Metrics),
            _ => None,
        }
    }
}

/// Number of a record within its epoch and lane. The first is 1; none is ever skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The number after this one; saturates at the end of the range, which no spool reaches.
    pub const fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Identity of a record within its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    /// The life of the spool that numbered it.
    pub epoch: SpoolEpoch,
    /// Its lane.
    pub lane: Lane,
    /// Its number.
    pub sequence: Sequence,
}

/// High-water mark: every record of (epoch, lane) up to and including `sequence` is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// The life of the spool.
    pub epoch: SpoolEpoch,
    /// The lane.
    pub lane: Lane,
    /// Highest durable number; 0 when there is none.
    pub sequence: Sequence,
}
