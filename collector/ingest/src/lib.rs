//! (room)

pub mod enrol;
pub mod listener;
