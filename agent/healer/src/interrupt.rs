//! Where a transaction may be cut short, as by a power cut: tests stop it at any of these points and start
//! again from what is on the disk.

/// The process is to behave as if it had died here: nothing more is written or undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted at {0}")]
pub struct Interrupted(pub &'static str);

/// Asked at every point of a transaction at which dying makes a difference.
pub trait Interrupt: Send + Sync {
    /// An error ends the transaction here and now.
    ///
    /// # Errors
    /// In tests only.
    fn at(&self, point: &'static str) -> Result<(), Interrupted>;
}

/// What runs outside of tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Never;

impl Interrupt for Never {
    fn at(&self, _point: &'static str) -> Result<(), Interrupted> {
        Ok(())
    }
}

/// Every point, in order.
pub const POINTS: [&str; 9] = [
    "journalled",
    "checked",
    "applying",
    "done-not-journalled",
    "applied",
    "measured",
    "verified",
    "undone",
    "ended",
];
