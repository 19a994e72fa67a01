//! The protocol between agent and collector, built from `proto/fleetmend/v1`.
//!
//! Wire types never leave this crate, `identity`, `stream` and `ingest`: everywhere else the nouns of
//! `fleetmend_event` are used. The conversions stand here, so that both ends read a message the same way.

use bytes::Bytes;
use fleetmend_event::relative::Limits;
use fleetmend_event::{HostId, Lane, Mark, Sequence, SpoolEpoch};

/// Types and services of package `fleetmend.v1`.
#[expect(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("fleetmend.v1");
}

pub use prost::Message;

/// Version of the protocol that Hello and Welcome carry.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest message either side accepts, in bytes: sixteen full frames.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 + 64 * 1024;

/// A field of a message that does not hold what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// An id that is not 16 bytes long.
    #[error("{field} must be 16 bytes, not {bytes}")]
    IdLength {
        /// The field.
        field: &'static str,
        /// Bytes it has.
        bytes: usize,
    },
    /// A lane without a meaning.
    #[error("lane {0} is unknown")]
    Lane(i32),
}

/// The 16 bytes of an id field.
///
/// # Errors
/// [`WireError::IdLength`] when there are not 16.
pub fn id_bytes(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], WireError> {
    bytes.try_into().map_err(|_| WireError::IdLength {
        field,
        bytes: bytes.len(),
    })
}

/// A host id field.
///
/// # Errors
/// [`WireError::IdLength`] when it is not 16 bytes.
pub fn host_id(bytes: &[u8]) -> Result<HostId, WireError> {
    id_bytes("host_id", bytes).map(HostId::from_bytes)
}

/// The lane's number on the wire.
pub const fn lane_to_wire(lane: Lane) -> v1::Lane {
    match lane {
        Lane::Critical => v1::Lane::Critical,
        Lane::Events => v1::Lane::Events,
        Lane::Metrics => v1::Lane::Metrics,
    }
}

impl From<Limits> for v1::BodyBases {
    fn from(limits: Limits) -> Self {
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            slots: count(limits.slots),
            plain_bytes: count(limits.plain_bytes),
        }
    }
}

impl From<v1::BodyBases> for Limits {
    fn from(bases: v1::BodyBases) -> Self {
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            slots: size(bases.slots),
            plain_bytes: size(bases.plain_bytes),
        }
    }
}

impl From<Mark> for v1::Mark {
    fn from(mark: Mark) -> Self {
        Self {
            epoch: Bytes::copy_from_slice(mark.epoch.as_bytes()),
            lane: lane_to_wire(mark.lane).into(),
            sequence: mark.sequence.0,
        }
    }
}

impl TryFrom<v1::Mark> for Mark {
    type Error = WireError;

    fn try_from(mark: v1::Mark) -> Result<Self, WireError> {
        let lane = match v1::Lane::try_from(mark.lane) {
            Ok(v1::Lane::Critical) => Lane::Critical,
            Ok(v1::Lane::Events) => Lane::Events,
            Ok(v1::Lane::Metrics) => Lane::Metrics,
            Ok(v1::Lane::Unspecified) | Err(_) => return Err(WireError::Lane(mark.lane)),
        };
        let epoch = SpoolEpoch::from_bytes(id_bytes("epoch", &mark.epoch)?);
        Ok(Self {
            epoch,
            lane,
            sequence: Sequence(mark.sequence),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_comes_back_from_the_wire() {
        for lane in [Lane::Critical, Lane::Events, Lane::Metrics] {
            let mark = Mark {
                epoch: SpoolEpoch::random(),
                lane,
                sequence: Sequence(7),
            };
            assert_eq!(Mark::try_from(v1::Mark::from(mark)), Ok(mark));
        }
    }

    #[test]
    fn mark_without_lane_or_epoch_is_refused() {
        let good = v1::Mark::from(Mark {
            epoch: SpoolEpoch::random(),
            lane: Lane::Events,
            sequence: Sequence(1),
        });
        assert_eq!(
            Mark::try_from(v1::Mark {
                lane: 0,
                ..good.clone()
            }),
            Err(WireError::Lane(0))
        );
        assert!(
            Mark::try_from(v1::Mark {
                epoch: Bytes::from_static(b"short"),
                ..good
            })
            .is_err()
        );
    }
}
