//! (room)

pub mod connector;
pub mod enrol;
