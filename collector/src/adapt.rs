//! Adapters: each room owns the traits it needs; here they are met by the other rooms.

mod alerts;
mod blame;
mod enrolments;
mod export;
mod exports;
mod findings;
mod host_names;
mod operations;
mod promql;
mod sink;
mod store;

pub(crate) use alerts::AlertAdapter;
pub(crate) use blame::name_refused_rows;
pub(crate) use enrolments::{EnrolmentAdapter, RemovedAdapter};
pub(crate) use export::ExportAdapter;
pub(crate) use exports::ExportsAdapter;
pub(crate) use findings::FindingAdapter;
pub(crate) use operations::OperationsAdapter;
pub(crate) use promql::{PromqlConfig, check_expression, promql_over};
pub(crate) use sink::{LiveHostsAdapter, SinkAdapter};
pub(crate) use store::{StoreAdapter, pump_live_facts};
