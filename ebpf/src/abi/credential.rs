//! Records of the family `credential`: `abi/credential.h`.

use super::layout::record;
use super::{AbiError, Layout};

/// Credentials changed.
pub const KIND_CREDENTIAL: u16 = 64;
/// In place of a call when none is known.
pub const CALL_UNKNOWN: u32 = u32::MAX;

record! {
    /// `credential_record`: credentials changed.
    pub struct CredentialRecord("credential_record", 224) {
        time_ns: u64 = 0, "act.head.time_ns";
        kind: u16 = 8, "act.head.kind";
        flags: u16 = 10, "act.head.flags";
        before_effective: u64 = 104, "before.effective";
        before_permitted: u64 = 112, "before.permitted";
        before_uid: u32 = 120, "before.uid";
        before_euid: u32 = 124, "before.euid";
        before_suid: u32 = 128, "before.suid";
        before_gid: u32 = 132, "before.gid";
        before_egid: u32 = 136, "before.egid";
        before_sgid: u32 = 140, "before.sgid";
        before_groups: u32 = 144, "before.groups";
        before_user_namespace: u32 = 148, "before.user_namespace";
        before_level: u32 = 152, "before.level";
        after_effective: u64 = 160, "after.effective";
        after_permitted: u64 = 168, "after.permitted";
        after_uid: u32 = 176, "after.uid";
        after_euid: u32 = 180, "after.euid";
        after_suid: u32 = 184, "after.suid";
        after_gid: u32 = 188, "after.gid";
        after_egid: u32 = 192, "after.egid";
        after_sgid: u32 = 196, "after.sgid";
        after_groups: u32 = 200, "after.groups";
        after_user_namespace: u32 = 204, "after.user_namespace";
        after_level: u32 = 208, "after.level";
        call: u32 = 216, "call";
    }
}

/// Layouts of the records.
pub const LAYOUTS: &[Layout] = &[CredentialRecord::LAYOUT];

/// Reads bytes as a record.
///
/// # Errors
/// When they are fewer than it has, or of a kind that is not known.
pub fn read(bytes: &[u8]) -> Result<CredentialRecord, AbiError> {
    match super::kind_of(bytes)? {
        KIND_CREDENTIAL => CredentialRecord::parse(bytes),
        other => Err(AbiError::Kind(other)),
    }
}

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    super::check_act(bytes, read)
}
