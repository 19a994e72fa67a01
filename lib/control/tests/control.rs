//! The control database, on both engines.

mod control {
    mod away;
    mod lease;
    mod migrate;
    mod pool;
    mod signal;
    pub(crate) mod testbed;
}
