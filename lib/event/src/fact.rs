//! A fact on its way through the agent, and the buffer that turns facts into batches.

use std::borrow::Borrow;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use crate::column::RowError;
use crate::metric::{MetricFrame, chunks};
use crate::table::{
    ActionEvent, AuthEvent, CredentialEvent, FileEvent, Finding, Gap, HostInfo, IntegrityEvent, KernelEvent,
    LedgerEntry, LogRecord, MemoryEvent, MetricChunk, ModelStatus, NetworkEvent, ProbeStatus, ProcessEvent,
    ProcessSnapshot, SensorAccount, SignalEvent, SiteProbe, SyscallProfile, Table, TableInfo, UnitState,
    table_by_id,
};
use crate::{Lane, TimeMicros};

macro_rules! facts {
    ($($variant:ident($row:ty) $field:ident,)+) => {
        /// One row of some table, or one tick of metrics.
        #[derive(Debug, Clone)]
        pub enum Fact {
            /// One tick of metrics.
            Metrics(MetricFrame),
            $(
                #[doc = concat!("A row of [`", stringify!($row), "`].")]
                $variant(Box<$row>),
            )+
        }

        $(impl From<$row> for Fact {
            fn from(row: $row) -> Self {
                Fact::$variant(Box::new(row))
            }
        })+

        impl Fact {
            /// Number of the table it belongs to.
            pub fn table_id(&self) -> u16 {
                match self {
                    Fact::Metrics(_) => MetricChunk::ID,
                    $(Fact::$variant(_) => <$row>::ID,)+
                }
            }

            /// Name of the table it belongs to.
            pub fn table_name(&self) -> &'static str {
                match self {
                    Fact::Metrics(_) => MetricChunk::NAME,
                    $(Fact::$variant(_) => <$row>::NAME,)+
                }
            }

            /// Lane it travels in.
            pub fn lane(&self) -> Lane {
                match self {
                    Fact::Metrics(_) => MetricChunk::LANE,
                    $(Fact::$variant(_) => <$row>::LANE,)+
                }
            }

            /// When it became true.
            pub fn time(&self) -> TimeMicros {
                match self {
                    Fact::Metrics(frame) => frame.time,
                    $(Fact::$variant(row) => row.time,)+
                }
            }

            /// The rows of a batch of `table`; none for a table whose rows are no facts, as those of metrics and their
            /// tiers.
            ///
            /// # Errors
            /// [`RowError`] when the batch is not of the table, or one of its rows holds what this build does not know.
            pub fn from_batch(table: &TableInfo, batch: &RecordBatch) -> Option<Result<Vec<Fact>, RowError>> {
                match table.id {
                    $(<$row>::ID => {
                        let rows = <$row>::from_batch(batch);
                        Some(rows.map(|rows| rows.into_iter().map(Fact::from).collect()))
                    })+
                    _ => None,
                }
            }
        }

        /// Rows of every table, waiting to be encoded. Bounded by its user: see [`FactBuffer::len`].
        #[derive(Debug, Default)]
        pub struct FactBuffer {
            metrics: Vec<MetricFrame>,
            $($field: Vec<Box<$row>>,)+
        }

        impl FactBuffer {
            /// Adds one fact.
            pub fn push(&mut self, fact: Fact) {
                match fact {
                    Fact::Metrics(frame) => self.metrics.push(frame),
                    $(Fact::$variant(row) => self.$field.push(row),)+
                }
            }

            /// Facts of `lane` that wait; a tick of metrics counts as one.
            pub fn len(&self, lane: Lane) -> usize {
                let metrics = if lane == MetricChunk::LANE { self.metrics.len() } else { 0 };
                metrics $(+ if lane == <$row>::LANE { self.$field.len() } else { 0 })+
            }

            /// Takes every row of `lane` out, as at most one batch per table, in order of the tables.
            ///
            /// # Errors
            /// When rows do not form a batch, which would be a fault of a table's declaration.
            pub fn take(&mut self, lane: Lane) -> Result<Vec<(&'static TableInfo, RecordBatch)>, ArrowError> {
                let mut batches = Vec::new();
                if lane == MetricChunk::LANE && !self.metrics.is_empty() {
                    push_batch::<MetricChunk, _>(&mut batches, &chunks(&std::mem::take(&mut self.metrics)))?;
                }
                $(if lane == <$row>::LANE && !self.$field.is_empty() {
                    push_batch::<$row, _>(&mut batches, &std::mem::take(&mut self.$field))?;
                })+
                Ok(batches)
            }
        }
    };
}

facts! {
    ProcessEvent(ProcessEvent) process_events,
    NetworkEvent(NetworkEvent) network_events,
    ProcessSnapshot(ProcessSnapshot) processes,
    UnitState(UnitState) units,
    SiteProbe(SiteProbe) site_probes,
    ProbeStatus(ProbeStatus) probe_status,
    Finding(Finding) findings,
    Action(ActionEvent) actions,
    Ledger(LedgerEntry) ledger,
    Gap(Gap) gaps,
    HostInfo(HostInfo) host_info,
    ModelStatus(ModelStatus) model_status,
    FileEvent(FileEvent) file_events,
    CredentialEvent(CredentialEvent) credential_events,
    MemoryEvent(MemoryEvent) memory_events,
    KernelEvent(KernelEvent) kernel_events,
    SignalEvent(SignalEvent) signal_events,
    SensorAccount(SensorAccount) sensor_accounts,
    IntegrityEvent(IntegrityEvent) integrity_events,
    SyscallProfile(SyscallProfile) syscall_profiles,
    LogRecord(LogRecord) log_records,
    AuthEvent(AuthEvent) auth_events,
}

impl From<MetricFrame> for Fact {
    fn from(frame: MetricFrame) -> Self {
        Fact::Metrics(frame)
    }
}

fn push_batch<T: Table, R: Borrow<T>>(
    batches: &mut Vec<(&'static TableInfo, RecordBatch)>,
    rows: &[R],
) -> Result<(), ArrowError> {
    if let Some(table) = table_by_id(T::ID) {
        batches.push((table, T::to_batch(rows)?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tables;

    #[test]
    fn batches_of_every_table_but_that_of_metrics_are_read_as_facts() {
        for table in tables() {
            let empty = RecordBatch::new_empty(table.schema.clone());
            match Fact::from_batch(table, &empty) {
                Some(rows) => assert!(rows.unwrap().is_empty(), "{}", table.name),
                None => assert_eq!(
                    table.id,
                    MetricChunk::ID,
                    "{} has no line in `facts!`",
                    table.name
                ),
            }
        }
    }
}
