//! The store as a whole, on a real disk.

mod commit;
mod query;
mod testbed;
