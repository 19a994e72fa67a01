//! Sessions: what a query may see and use.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use fleetmend_event::HostScope;
use parking_lot::Mutex;

use super::answer;
use super::bounded::{Bounded, growing_window};
use super::functions;
use super::interrupt::Interruptible;
use super::prune::Prune;
use super::stock::Stock;
use super::table::FactTable;
use super::tamed::Tame;
use super::views::{self, Planned};
use crate::config::StoreConfig;
use crate::error::QueryError;
use crate::gaps::Reach;
use crate::inner::Inner;
use crate::shape::{sql_tables, table_index_by_name};
use crate::view::{ParquetFile, TableView};

/// Longest text of a query.
const QUERY_BYTES_MAX: usize = 32 << 10;
/// Words and signs of a query. The planner recurses as deep as an expression nests, takes time by the square of
/// that, and cannot be stopped while it plans.
const QUERY_TOKENS_MAX: usize = 2_000;

/// Words and signs that make one type of several. What is made of itself so often has a type of two to that power
/// parts, which the planner goes through one by one, and cannot be stopped.
const TYPES_JOINED_MAX: usize = 16;
const TYPE_JOINERS: [&str; 6] = ["struct", "named_struct", "row", "map", "arrays_zip", "list_zip"];

/// Functions that make a text or a list as long as a number says, in one piece that no memory pool sees.
const AMPLIFIERS: [&str; 7] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "array_resize",
    "range",
    // As a table function it is there: that gives its rows one batch after the other.
    "generate_series",
];

const CATALOG: &str = "fleetmend";
const SCHEMA: &str = "facts";
/// The engine's table of its settings.
const SETTINGS: &str = "df_settings";

/// What one query sees: each table as it was when it was first named, and what was read of it.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) stock: Stock,
    hosts: HostScope,
    /// Tables that were named, by place. Given beforehand when files are merged.
    views: Mutex<HashMap<usize, Arc<TableView>>>,
    reaches: Mutex<Vec<Reach>>,
}

impl Scope {
    /// Everything that the store holds of these hosts.
    pub(crate) fn of_stock(stock: &Stock, hosts: HostScope) -> Arc<Self> {
        Arc::new(Self {
            stock: stock.clone(),
            hosts,
            views: Mutex::default(),
            reaches: Mutex::default(),
        })
    }

    /// Only these files of one table.
    pub(crate) fn of_files(inner: &Arc<Inner>, table: usize, files: Vec<Arc<ParquetFile>>) -> Arc<Self> {
        let view = Arc::new(TableView {
            hot: Vec::new(),
            files,
        });
        Arc::new(Self {
            stock: Stock::Folder(inner.clone()),
            hosts: HostScope::All,
            views: Mutex::new(HashMap::from([(table, view)])),
            reaches: Mutex::default(),
        })
    }

    /// The table at this place.
    pub(crate) fn view(&self, table: usize) -> Arc<TableView> {
        self.views
            .lock()
            .entry(table)
            .or_insert_with(|| Arc::new(self.stock.view(table)))
            .clone()
    }

    /// Whose rows may be seen.
    pub(crate) fn hosts(&self) -> &HostScope {
        &self.hosts
    }

    /// Notes what a scan reads.
    pub(crate) fn note(&self, table: &'static str, prune: &Prune) {
        self.reaches.lock().push(Reach {
            table,
            from: prune.from,
            to: prune.to,
        });
    }

    /// What was read.
    pub(crate) fn reaches(&self) -> Vec<Reach> {
        self.reaches.lock().clone()
    }

    /// Every file of the tables that were named.
    pub(crate) fn files(&self) -> Vec<Arc<ParquetFile>> {
        self.views
            .lock()
            .values()
            .flat_map(|view| view.files.iter().cloned())
            .collect()
    }
}

/// The schema with every table, seen through one scope.
#[derive(Debug)]
struct Facts {
    scope: Arc<Scope>,
    views: Planned,
}

#[async_trait]
impl SchemaProvider for Facts {
    fn table_names(&self) -> Vec<String> {
        sql_tables()
            .iter()
            .map(|table| table.info.name.to_owned())
            .chain(self.views.lock().keys().map(|name| (*name).to_owned()))
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(view) = self.views.lock().get(name) {
            return Ok(Some(view.clone()));
        }
        let table = table_index_by_name(name).and_then(|index| FactTable::new(index, &self.scope));
        Ok(table.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        table_index_by_name(name).is_some() || views::is_view(name)
    }
}

/// What all sessions share: functions, settings, the cache of file footers and the spill folder.
pub(crate) fn base_state(config: &StoreConfig) -> Result<SessionState> {
    let session = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(config.query.threads)
        // Rows are read back by column type: text is plain text everywhere.
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
        .set_str("datafusion.execution.time_zone", "UTC");
    let spill = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![config.spill_folder()]))
        .with_max_temp_directory_size(config.query.spill_bytes_max);
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(spill)
        .build_arc()?;
    let state = SessionStateBuilder::new_with_default_features()
        .with_config(session)
        .with_runtime_env(runtime)
        .with_physical_optimizer_rule(Arc::new(Interruptible))
        .with_physical_optimizer_rule(Arc::new(Bounded))
        .build();
    let context = SessionContext::new_with_state(state);
    context.register_udf(functions::label());
    context.add_analyzer_rule(Arc::new(Tame));
    AMPLIFIERS.iter().for_each(|name| context.deregister_udf(name));
    Ok(context.state())
}

/// A session that sees `scope` and may use so much memory.
pub(crate) fn context(
    base: &SessionState,
    scope: Arc<Scope>,
    memory_bytes_max: usize,
) -> Result<(SessionContext, Planned)> {
    let pool = Arc::new(FairSpillPool::new(memory_bytes_max));
    let runtime = RuntimeEnvBuilder::from_runtime_env(base.runtime_env())
        .with_memory_pool(pool)
        .build_arc()?;
    let views = Planned::default();
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(
        SCHEMA,
        Arc::new(Facts {
            scope,
            views: views.clone(),
        }),
    )?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    let state = SessionStateBuilder::new_from_existing(base.clone())
        .with_catalog_list(Arc::new(catalogs))
        .with_runtime_env(runtime)
        .build();
    Ok((SessionContext::new_with_state(state), views))
}

/// The engine's settings name folders of this machine, and are nobody's question.
fn refuse_settings(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut found = false;
    let visited = plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::TableScan(scan) if scan.table_name.table() == SETTINGS);
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    match visited {
        Ok(_) if !found => Ok(()),
        Ok(_) => Err(QueryError::Refused {
            reason: "the engine's settings are not shown; SHOW TABLES and DESCRIBE say what there is"
                .to_owned(),
        }),
        Err(error) => Err(answer::failure(&error, 0)),
    }
}

/// Refuses a query that is too long to be planned in reasonable time.
pub(crate) fn check_length(query: &str) -> Result<(), QueryError> {
    let invalid = |reason: String| Err(QueryError::Invalid { reason });
    if query.len() > QUERY_BYTES_MAX {
        return invalid(format!(
            "query is longer than the {QUERY_BYTES_MAX} bytes allowed"
        ));
    }
    let tokens = match Tokenizer::new(&GenericDialect {}, query).tokenize() {
        Ok(tokens) => tokens,
        Err(error) => return invalid(format!("SQL error: {error}")),
    };
    let words = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(_)))
        .count();
    if words > QUERY_TOKENS_MAX {
        return invalid(format!(
            "query has more than the {QUERY_TOKENS_MAX} words and signs allowed"
        ));
    }
    let joins_types = |token: &&Token| match token {
        Token::LBrace => true,
        Token::Word(word) => TYPE_JOINERS
            .iter()
            .any(|joiner| word.value.eq_ignore_ascii_case(joiner)),
        _ => false,
    };
    if tokens.iter().filter(joins_types).count() > TYPES_JOINED_MAX {
        return invalid(format!(
            "query makes more than the {TYPES_JOINED_MAX} structs and maps allowed"
        ));
    }
    Ok(())
}

/// The plan of a query; anything else is refused.
pub(crate) async fn plan(
    (context, views): &(SessionContext, Planned),
    query: &str,
    hosts: &HostScope,
) -> Result<LogicalPlan, QueryError> {
    let invalid = |error: DataFusionError| answer::failure(&error, 0);
    views::plan_named(context, query, views).await.map_err(invalid)?;
    let plan = context
        .state()
        .create_logical_plan(query)
        .await
        .map_err(invalid)?;
    let only_queries = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    only_queries
        .verify_plan(&plan)
        .map_err(|error| QueryError::Refused {
            reason: error.find_root().message().into_owned(),
        })?;
    refuse_settings(&plan)?;
    if let Some(name) = growing_window(&plan).map_err(invalid)? {
        return Err(QueryError::Invalid {
            reason: format!(
                "{name} is not answered over a window, row by row: group by what is the same instead"
            ),
        });
    }
    // A plan names files, and measured it counts rows, of every host.
    let is_explained = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
    if is_explained && !hosts.is_all() {
        return Err(QueryError::Refused {
            reason:
                "EXPLAIN is for users who may see every host; run the query itself, or ask an administrator"
                    .to_owned(),
        });
    }
    Ok(plan)
}
