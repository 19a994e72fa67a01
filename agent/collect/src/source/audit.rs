//! The log of auditd, read as it is written: an own parser, records joined to events by their serial, events to rows.
//!
//! ```text
//! tail ──lines──▶ record ──▶ join ──▶ rows ──▶ facts
//!                   └──▶ RecordSender (masked fields, for rules on raw records)
//! ```
//!
//! Format: one record a line, `type=SYSCALL msg=audit(SECONDS.MILLIS:SERIAL): key=value …`, as auditd's RAW and
//! ENRICHED formats write it (audit-userspace, `auditd.conf(5)`, log_format). Values are `"quoted"`, bare, or, where
//! a program chose the bytes, hexadecimal without quotes; `msg='…'` holds the fields of a program's own record.
//!
//! Invariants:
//! - no line, however wrong, ends the reading: what cannot be read is counted, and is a gap;
//! - memory is bounded: bytes of a line, records and bytes of an event, events that are open;
//! - secrets are masked before a record or a row leaves;
//! - the log is read to its end before the file that took its place; a position is the device, the inode, the offset
//!   and the beginning of the file, so that a file that was emptied or whose inode came again is told apart.
//!
//! Limits: a record is believed as auditd wrote it. A crash of the agent may tell the last seconds of the log twice;
//! a clean stop does not. Addresses of the own side of a connection are not in the log.

mod acts;
mod arguments;
mod connections;
mod files;
mod join;
mod position;
mod record;
mod rows;
mod syscalls;
mod tail;
mod task;
mod value;

#[cfg(test)]
mod tests;

pub use join::{AuditEvent, Joiner};
pub use record::{AuditRecord, RecordError};
pub use rows::Translator;
pub(crate) use tail::evidence;
pub(crate) use task::Reader;

/// Where raw records go for rules: bounded, dropped and counted when full.
pub type RecordSender = tokio::sync::mpsc::Sender<AuditRecord>;
