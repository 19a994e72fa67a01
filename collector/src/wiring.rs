//! How the collector is put together: every task, every channel, its capacity and what happens when it is full.
//!
//! ```text
//! agents ═▶ ingest ──commit──▶ store ──live──▶ api ═▶ dashboard, CLI
//!                                ├────SQL────▶ alert ═▶ webhooks
//!                                └──live,SQL─▶ export ═▶ remote write, OTLP, NDJSON
//! ```
//!
//! | channel | capacity | when full |
//! |---|---|---|
//! | store's commit queue | `store.queue_bytes_max` | the stream waits: backpressure to the agent's spool |
//! | live facts to the API | 256 batches | the slowest client skips and is told |
//! | live metrics to an export target | 32 MiB decoded | forgotten: the target is fed from the store, from where it stands |
//! | refused rows to the audit | the store's 1,024 | skipped: who goes on is named later |
//! | messages to an agent | 16 | the order or hint is refused |
//! | answers to orders | 64 | dropped and counted by ingest |
//!
//! The tree of tasks drains from the listeners to the store, so that what was accepted is stored.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use collector_alert::Alerting;
use collector_api::{Accounts, Api, Backends, Certificate, EmbeddedAssets};
use collector_export::Export;
use collector_ingest::enrol::Enroller;
use collector_ingest::{HostOrderResult, Ingest, enrol};
use collector_store::{FactStore, Health};
use fleetmend_control::Control;
use fleetmend_identity::CollectorAuthority;
use fleetmend_shutdown::{TaskKind, Tasks};
use fleetmend_telemetry::{MetricsHandle, Readiness, State, init_logs, install_metrics};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::adapt::{
    AlertAdapter, EnrolmentAdapter, ExportAdapter, ExportsAdapter, FindingAdapter, LiveHostsAdapter,
    OperationsAdapter, RemovedAdapter, SinkAdapter, StoreAdapter, check_expression, name_refused_rows,
    promql_over, pump_live_facts,
};
use crate::config::CollectorConfig;
use crate::{backup, control, descriptors};

/// How long everything has to end in order.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// How long work on blocking threads, such as a compaction, may go on after that.
const ABANDON_AFTER: Duration = Duration::from_secs(2);
/// Answers to orders that wait to be noted.
const ORDER_RESULTS_MAX: usize = 64;
/// Time between two sweeps of the metrics' buffers, and between two looks at alerting.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Builds and runs the collector until a signal.
pub(crate) fn run(path: &Path) -> Result<ExitCode> {
    let config = CollectorConfig::load(path)?;
    init_logs(config.log_format).context("start logging")?;
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(compose(config, path));
    // Work on blocking threads cannot be cancelled, and whatever it does survives a kill.
    runtime.shutdown_timeout(ABANDON_AFTER);
    ended
}

async fn compose(config: CollectorConfig, path: &Path) -> Result<ExitCode> {
    let metrics = install_metrics().context("install metrics")?;
    metrics.build_info("collector", env!("CARGO_PKG_VERSION"));
    let tasks = Tasks::new();
    let reload = fleetmend_shutdown::listen_for_signals(&tasks).context("listen for signals")?;
    if !config.authority_dir().exists() {
        bail!(
            "there is no fleet in {}: run `fleetmend-collector init` first",
            config.state_dir.display()
        );
    }
    let authority = CollectorAuthority::open(&config.authority_dir()).context("open the collector's keys")?;
    let pool = control::open(&config).await?;
    let readiness = Readiness::new(&["store", "alerting", control::CONDITION]);
    let ready = readiness.clone();

    let opened = collector_store::open(config.store.clone(), pool.clone()).await;
    let store = opened.context("open the store")?;
    store.run(&tasks).context("start the store")?;
    follow_store(store.as_ref(), &readiness, &tasks);

    control::follow(&pool, &readiness, &tasks);
    let rooms = tasks.child("rooms");
    backup::spawn(&config, path, store.clone(), &rooms);
    let reader = StoreAdapter::new(store.clone());
    pump_live_facts(&reader, &rooms);
    let enroller = Enroller::open(pool.clone(), Arc::new(authority), config.enrolment.clone())
        .await
        .context("open enrolment")?;
    let (order_results, results) = mpsc::channel(ORDER_RESULTS_MAX);
    note_order_results(results, &rooms);
    enrol::spawn_alarms(&enroller, Arc::new(FindingAdapter(store.clone())), &rooms);
    let ingest = Ingest::new(
        config.ingest.clone(),
        Arc::new(SinkAdapter(store.clone())),
        enroller.clone(),
        order_results,
    );
    name_refused_rows(store.as_ref(), &ingest, &rooms);
    collector_alert::Rules::load_checked(&config.alert, check_expression).context("read the rules")?;
    let alerting = Alerting::open(config.alert.clone(), pool.clone(), Arc::new(reader.clone()))
        .await
        .context("open alerting")?;
    let (export, facts) = open_export(&config, &pool, &store, &enroller).await?;
    let accounts = Accounts::open(pool).await.context("open the accounts")?;
    let (promql, of_rules) = promql_over(&store, &config.promql, &alerting, rooms.token());
    alerting.evaluate_with(Arc::new(of_rules));
    alerting.end_for_removed(Arc::new(RemovedAdapter(enroller.clone())));
    let backends = Backends {
        promql: Arc::new(promql),
        sql: Arc::new(reader.clone()),
        live: Arc::new(reader),
        hosts: Arc::new(LiveHostsAdapter(ingest.hosts())),
        enrolments: Arc::new(EnrolmentAdapter::new(enroller.clone())),
        alerts: Arc::new(AlertAdapter(alerting.clone())),
        exports: Arc::new(ExportsAdapter::new(export.clone(), facts, rooms.child("export"))),
        operations: Arc::new(OperationsAdapter {
            metrics: metrics.clone(),
            readiness,
        }),
        assets: Arc::new(EmbeddedAssets),
    };
    let api = Api::bind(&config.api, None, accounts, backends)
        .await
        .context("open the API")?;
    info!(address = %api.address(), scheme = api.scheme(), "API and dashboard");
    export.spawn(&rooms);
    alerting.spawn(&rooms);
    follow_alerting(alerting, ready, &rooms);
    reload_certificate(reload, api.certificate(), &tasks);
    api.serve(&rooms);
    start_ingest(&config, &rooms, enroller, &ingest).await?;
    keep_metrics(metrics, &tasks);
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "service manager was not told");
    }
    info!("collector is running");
    let end = tasks.wait_for_end().await;
    let report = tasks.drain(DRAIN_DEADLINE).await;
    info!(reason = end.reason, clean = report.is_clean(), "collector ends");
    Ok(if end.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Export has its place in the control database, and reads the store by way of its adapter.
async fn open_export(
    config: &CollectorConfig,
    control: &Control,
    store: &Arc<dyn FactStore>,
    enroller: &Enroller,
) -> Result<(Export, Arc<ExportAdapter>)> {
    let facts = Arc::new(ExportAdapter::new(store.clone(), Some(enroller.clone())));
    let export = Export::open(&config.export, control.clone(), facts.clone())
        .await
        .context("open export")?;
    Ok((export, facts))
}

async fn start_ingest(
    config: &CollectorConfig,
    rooms: &Tasks,
    enroller: Enroller,
    ingest: &Ingest,
) -> Result<()> {
    let bind = async |address| {
        TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))
    };
    let tasks = rooms.child("ingest");
    enrol::serve(enroller, bind(config.enrolment_listen).await?, &tasks).context("serve enrolment")?;
    ingest
        .serve(bind(config.carrier_listen).await?, &tasks)
        .context("serve the carrier")?;
    info!(carrier = %config.carrier_listen, enrolment = %config.enrolment_listen, "waiting for hosts");
    Ok(())
}

/// A request to reload reads the API's certificate again. Everything else is read once.
fn reload_certificate(mut requests: watch::Receiver<u64>, certificate: Certificate, tasks: &Tasks) {
    let token = tasks.token();
    tasks.spawn("reload", TaskKind::BestEffort, async move {
        while let Some(Ok(())) = token.run_until_cancelled(requests.changed()).await {
            match certificate.reload().await {
                Ok(true) => info!("the API's certificate was read again; other settings wait for a restart"),
                Ok(false) => tracing::warn!(
                    "asked to reload, and api.tls names no certificate; other settings wait for a restart"
                ),
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::error!(
                        error,
                        "the API's new certificate cannot be used; the one before stays"
                    );
                }
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
}

/// No order is sent yet; what hosts answer all the same is in the log.
fn note_order_results(mut results: mpsc::Receiver<HostOrderResult>, tasks: &Tasks) {
    let token = tasks.token();
    tasks.spawn("order results", TaskKind::BestEffort, async move {
        while let Some(Some(result)) = token.run_until_cancelled(results.recv()).await {
            tracing::info!(?result, "order answered");
        }
        Ok::<(), std::convert::Infallible>(())
    });
}

fn follow_store(store: &dyn FactStore, readiness: &Readiness, tasks: &Tasks) {
    let (mut health, readiness, token) = (store.health(), readiness.clone(), tasks.token());
    tasks.spawn("store readiness", TaskKind::BestEffort, async move {
        loop {
            let state = match health.borrow_and_update().clone() {
                Health::Ready => State::Ready,
                Health::NotReady(reason) => State::NotReady(reason),
            };
            readiness.set("store", state);
            tokio::select! {
                () = token.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                changed = health.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    });
}

/// Alerting is the reader that always asks: what stands in its way stands in everybody's.
fn follow_alerting(alerting: Alerting, readiness: Readiness, tasks: &Tasks) {
    let token = tasks.token();
    tasks.spawn("alerting readiness", TaskKind::BestEffort, async move {
        loop {
            let state = alerting.fault().map_or(State::Ready, State::NotReady);
            readiness.set("alerting", state);
            let pause = tokio::time::sleep(UPKEEP_EVERY);
            if token.run_until_cancelled(pause).await.is_none() {
                return Ok::<(), std::convert::Infallible>(());
            }
        }
    });
}

fn keep_metrics(metrics: MetricsHandle, tasks: &Tasks) {
    let token = tasks.token();
    tasks.spawn("metrics upkeep", TaskKind::BestEffort, async move {
        while token
            .run_until_cancelled(tokio::time::sleep(UPKEEP_EVERY))
            .await
            .is_some()
        {
            metrics.upkeep();
        }
        Ok::<(), std::convert::Infallible>(())
    });
}
