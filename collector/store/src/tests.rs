//! The store as a whole, on a real disk.

mod commit;
mod compact;
mod damage;
mod query;
mod testbed;
