//! Records of the family `credential`: none in this build.

use super::{AbiError, Layout, kind_of};

/// Layouts of the records.
pub const LAYOUTS: &[Layout] = &[];

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    Err(AbiError::Kind(kind_of(bytes)?))
}
