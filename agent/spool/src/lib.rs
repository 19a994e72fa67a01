//! The spool: facts become numbered frames that are on disk before they are sent. This text is its
//! specification.
//!
//! # What it promises
//!
//! - A record's identity is (epoch, lane, sequence). Sequences begin at 1 and none is ever skipped. The epoch
//!   is random; it is continued only after a clean stop within the same boot of the kernel, so that a wiped
//!   spool, a restored or cloned disk and a power cut cannot reuse a number.
//! - A frame is handed out for sending only after `fdatasync` of the bytes that hold it.
//! - What waits in memory is lost by kill −9: at most the lane's flush age (events 500 ms, critical 50 ms). A
//!   tick of metrics goes to a **staging** file at once and survives; it is a frame only when its batch is full. While
//!   frames of metrics wait for a disk that refuses, ticks do so too: the numbers before theirs are on no disk. The
//!   next start writes a batch that was staged into the epoch of the run that staged it, under the number and with the
//!   bytes that it would have had: two copies of a disk send one record, and the store takes it once. The original that
//!   runs on knows of no copy, and its batch of that number has further ticks. So what was never handed out of this folder is
//!   sent though the collector has the number; where the content differs the stored one stays, and the collector writes
//!   a gap row over the batch (`identity_conflict`, at least 0). Where the collector has more numbers than lie here,
//!   the run that had staged the batch completed it. A start cannot tell which of the last 8 numbers of metrics that
//!   `sent` notes ahead were handed out, and sends them again.
//! - Loss is a [`Gap`](fleetmend_event::table::Gap) row in the critical lane, and a tombstone in the lane of
//!   the record when it had a number. The spool never stops the agent: on a full disk it counts, writes so into the
//!   room of its reserve, and goes on by itself when there is space again.
//! - Memory is bounded by the intake ([`SpoolConfig::intake_facts_max`]), one batch per lane, and one
//!   entry per segment file. Bodies are read from disk when they are sent.
//!
//! # On disk
//!
//! ```text
//! <folder>/lock                                        flock: one agent at a time
//! <folder>/clean                                       JSON, only while stopped cleanly: boot, epoch, next numbers
//! <folder>/staging                                     frames of single ticks of metrics, numbered as their batch will be
//! <folder>/sent                                        JSON: how far each lane may have been sent; written before it is
//! <folder>/reserve                                     64 KiB that say nothing: room for gap rows on a full disk
//! <folder>/00000003-<epoch>/                           one folder per epoch; the number orders them
//!     events-00000000000000000001.frames               frames back to back (`fleetmend_event::frame`), from number 1
//!     metrics-00000000000000000001-00000000000000000042.shed    numbers 1 to 41 are tombstones; empty file
//!     metrics-<first>-<gap>-<ordinal>-<from>-<next>.thin   aggregates that wait for their gap row
//!     end-<critical>-<events>-<metrics>                numbers that came next when the epoch ended; empty file
//! <folder>/corrupt/00000003-events-…-<offset>          bytes that were no frame, set aside; at most 16 MiB in all
//! ```
//!
//! Segments grow to 8 MiB, those of metrics to 1 MiB (less with a small quota). The version stands in each frame's magic. `clean` is
//! removed, durably, before the first append.
//!
//! # Recovery
//!
//! Every segment is scanned. A frame that is cut short at the end of a lane's last file is a **torn tail** and
//! is cut off. Any other bytes that are no frame of this epoch and lane in rising order are copied to
//! `corrupt/`; the numbers between their neighbours become tombstones, and so do those that are missing at the end of
//! an epoch, whose last numbers are in the mark of a clean stop or in `end-…`. Each writes a gap row.
//! Frames of a file end where the next file of its lane begins: what lies behind is an append that failed. Bad
//! bytes are cut off, and tombstones for holes marked, only when the gap row is durable, and what a killed run left is synced before it is sent. After an unclean
//! stop one more gap row covers the time from the last frame to the start. Blocks that the disk cannot read
//! count as such bytes. What a full or failing disk refuses of the repair is left for the next start, and the
//! folder of a new epoch is made by the first append that finds room: only a folder that cannot be listed or
//! locked keeps the spool from opening.
//!
//! # Room
//!
//! One thread ([`Spool::run`]) owns all writing: it drains the intake, batches by lane, encodes, appends,
//! syncs, sheds and deletes. [`SpoolHandle::append`] never blocks beyond a short lock. [`SpoolReader`] reads on
//! blocking threads and learns of new frames through a `watch`. Full intake: metrics are refused above one
//! half, events above seven eighths, critical facts only when it is full; each refusal is counted and becomes
//! a gap row with stage `collect`.
//!
//! # Pressure
//!
//! Over a lane's quota, acknowledged segments go first; they are kept for [`SpoolConfig::retention`] otherwise, so that
//! a restored collector can be filled again. Then **raw → aggregate → count**:
//!
//! - Metrics that the collector lacks are *thinned* from three quarters of their quota on: the oldest raw segment is
//!   reduced to one sample per series and minute (of cumulative sums the last, of everything else the mean), written
//!   again as new records at the end of the lane, and its numbers become tombstones. A gap row with stage `spool` and
//!   reason `thinned` counts the samples that are gone; those that were kept are not in it. At most two segments of a
//!   mebibyte are thinned a second, frame by frame. The order of writes is in `thin`.
//! - Over the quota nevertheless, the oldest records become tombstones and a gap row with reason `spool_quota` counts
//!   their rows.
//!
//! What was handed to a reader and not acknowledged may be stored already. Until the collector says what it has, it is
//! neither thinned nor shed as long as anything else is there; when nothing is, its gap row says "at least 0". If the
//! collector then says that it lacks them, another row counts them exactly, as long as the run lives that shed them.
//! What is acknowledged is deleted and never made a tombstone: a collector that was restored sees those numbers
//! missing and says so itself.
//!
//! # Thin today
//!
//! Quotas are per lane; there is no rate limit per class inside the critical lane. Which series are cumulative is
//! known by their names. What damage takes off the very end of the epoch that is being written, between two frames,
//! before an unclean stop, or all files of a lane at once, only the `unclean_stop` row stands for. A kill within the
//! few milliseconds between a gap row and its tombstones repeats the row. On a disk that refuses, a gap row may come
//! before what it counts is let go. The reserve is spent by the first gap rows of a full disk: further ones wait in
//! memory, exact, and a kill then leaves only the `unclean_stop` row for these.

mod batcher;
mod clock;
mod completion;
mod config;
mod disk;
mod error;
mod gaps;
mod index;
pub mod inspect;
mod intake;
mod layout;
mod metrics;
mod quota;
mod reader;
mod recovery;
mod reserve;
mod scan;
mod segment;
mod sent;
mod spool;
mod staging;
mod stat;
mod task;
mod thin;

#[cfg(test)]
mod tests;

pub use config::SpoolConfig;
pub use error::{OpenError, ReadError};
pub use reader::{ReadLimit, SpoolReader, SpooledFrame};
pub use recovery::Recovered;
pub use spool::{Spool, SpoolHandle};
pub use stat::{LaneStat, SpoolStat};
