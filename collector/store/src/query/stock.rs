//! Stock: where the tables of queries are read from.
//!
//! The engine, its limits and its dialect are the same for every store; what differs is how a table's rows come.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use fleetmend_event::HostScope;

use super::prune::Prune;
use super::samples::SampleFilter;
use crate::gaps::{Gaps, HostGap, Reach};
use crate::inner::Inner;
use crate::own::OWN_HOST;
use crate::shape::SqlTable;
use crate::view::TableView;

/// Where tables are read from.
#[derive(Debug, Clone)]
pub(crate) enum Stock {
    /// Hot frames and Parquet files of a folder.
    Folder(Arc<Inner>),
    /// Somewhere else.
    Elsewhere(Arc<dyn TableSource>),
}

/// Gives the rows of tables.
pub(crate) trait TableSource: Debug + Send + Sync + 'static {
    /// A plan that gives at least the rows that `scan` wants, each once, with the columns it wants. The engine
    /// applies the filters again.
    fn scan(&self, scan: &Scan<'_>) -> Result<Arc<dyn ExecutionPlan>>;

    /// The latest losses.
    fn gaps(&self) -> &Gaps;
}

/// What a query wants of a table.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    /// Place of the table.
    pub(crate) index: usize,
    pub(crate) table: &'static SqlTable,
    /// Places of the wanted columns in the table's schema; all when there are none.
    pub(crate) projection: Option<&'a Vec<usize>>,
    /// Conditions that all hold for what is wanted.
    pub(crate) filters: &'a [Expr],
    /// What they say of times, hosts and names.
    pub(crate) prune: Arc<Prune>,
    /// The same of metrics, and what they ask of a series.
    pub(crate) filter: Option<Arc<SampleFilter>>,
    /// Streams that are read at once.
    pub(crate) partitions: usize,
}

impl Stock {
    /// Files and hot frames of a table; none where there is no folder.
    pub(crate) fn view(&self, table: usize) -> TableView {
        match self {
            Stock::Folder(inner) => inner.view.table(table),
            Stock::Elsewhere(_) => TableView::default(),
        }
    }

    /// The newest losses of these hosts and of the store that touch what was read.
    pub(crate) fn gaps_touching(&self, reaches: &[Reach], hosts: &HostScope) -> Vec<HostGap> {
        let is_seen = |gap: &HostGap| hosts.sees(gap.host_id) || gap.host_id == OWN_HOST;
        match self {
            Stock::Folder(inner) => inner.gaps_of_hosts(reaches, is_seen),
            Stock::Elsewhere(source) => source.gaps().touching(reaches, Vec::new(), is_seen),
        }
    }
}
