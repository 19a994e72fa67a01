//! A fact on its way through the agent, and the buffer that turns facts into batches.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

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
        }

        /// Rows of every table, waiting to be encoded. Bounded by its user: see [`FactBuffer::len`].
        #[derive(Debug, Default)]
        pub struct FactBuffer {
            metrics: Vec<MetricFrame>,
            $($field: Vec<$row>,)+
        }

        impl FactBuffer {
            /// Adds one fact.
            pub fn push(&mut self, fact: Fact) {
                match fact {
                    Fact::Metrics(frame) => self.metrics.push(frame),
                    $(Fact::$variant(row) => self.$field.push(*row),)+
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
                    push_batch(&mut batches, &chunks(&std::mem::take(&mut self.metrics)))?;
                }
                $(if lane == <$row>::LANE && !self.$field.is_empty() {
                    push_batch(&mut batches, &std::mem::take(&mut self.$field))?;
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

impl Fact {
    /// Lane it travels in.
    pub fn lane(&self) -> Lane {
        table_by_id(self.table_id()).map_or(Lane::Events, |table| table.lane)
    }

    /// Name of the table it belongs to.
    pub fn table_name(&self) -> &'static str {
        table_by_id(self.table_id()).map_or("", |table| table.name)
    }

    /// When it became true.
    pub fn time(&self) -> TimeMicros {
        match self {
            Fact::Metrics(frame) => frame.time,
            Fact::ProcessEvent(row) => row.time,
            Fact::NetworkEvent(row) => row.time,
            Fact::ProcessSnapshot(row) => row.time,
            Fact::UnitState(row) => row.time,
            Fact::SiteProbe(row) => row.time,
            Fact::ProbeStatus(row) => row.time,
            Fact::Finding(row) => row.time,
            Fact::Action(row) => row.time,
            Fact::Ledger(row) => row.time,
            Fact::Gap(row) => row.time,
            Fact::HostInfo(row) => row.time,
            Fact::ModelStatus(row) => row.time,
            Fact::FileEvent(row) => row.time,
            Fact::CredentialEvent(row) => row.time,
            Fact::MemoryEvent(row) => row.time,
            Fact::KernelEvent(row) => row.time,
            Fact::SignalEvent(row) => row.time,
            Fact::SensorAccount(row) => row.time,
            Fact::IntegrityEvent(row) => row.time,
            Fact::SyscallProfile(row) => row.time,
            Fact::LogRecord(row) => row.time,
            Fact::AuthEvent(row) => row.time,
        }
    }
}

fn push_batch<T: Table>(
    batches: &mut Vec<(&'static TableInfo, RecordBatch)>,
    rows: &[T],
) -> Result<(), ArrowError> {
    if let Some(table) = table_by_id(T::ID) {
        batches.push((table, T::to_batch(rows)?));
    }
    Ok(())
}
