//! Configuration, read strictly and whole: a main file, a drop-in folder over it, the environment over both.
//!
//! # Invariants
//! - All faults are reported at once, each with file, line and column (or the variable): syntax, unknown keys,
//!   wrong types, missing keys, and all that [`Validate`] finds of the values that could be read. Where some could
//!   not, it is said that they were not checked further.
//! - An unknown key is a fault, whether or not its struct says `deny_unknown_fields`; the known key that looks
//!   most like it is named. (Below `#[serde(flatten)]` and untagged enums serde hides the keys; avoid them.)
//! - Later wins key by key: files of the drop-in folder by name, then the environment. Tables are merged,
//!   everything else, lists included, is replaced.
//! - `PREFIX_SECTION__KEY=value` sets `section.key`, `PREFIX__KEY` a key at the top; a variable without `__`
//!   is not configuration. Its text becomes what the key wants; a list is written as in TOML.
//! - A fault never repeats the text of a value that was found where another type was wanted: it may be a secret.
//!
//! Nothing runs here; everything is a function of files and environment.

mod conjure;
mod de;
mod error;
mod fault;
mod load;
mod merge;
mod source;
mod toml_file;
mod tree;
mod units;
mod yaml_file;

#[cfg(test)]
mod tests;

pub use error::ConfigFaults;
pub use fault::{Fault, Location};
pub use load::{Validate, load, load_from};
pub use source::Faults;
pub use units::{ByteSize, HumanDuration, Secret};
