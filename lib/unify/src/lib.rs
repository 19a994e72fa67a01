//! No code: depending on this crate gives the whole workspace one feature set. See its Cargo.toml.
