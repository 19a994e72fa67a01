//! The store as a whole, on a real disk.

mod backup;
mod catalogue;
mod clock;
mod commit;
mod compact;
mod damage;
mod events;
mod kill;
mod layout;
mod query;
mod rebuild;
mod rows;
mod scope;
mod select;
mod series;
mod testbed;
mod tier;
mod views;
mod windows;
