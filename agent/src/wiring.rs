//! How the agent is put together: every task, every channel, its capacity and what happens when it is full.
//!
//! ```text
//! sources (host, units, sites, logs, sensor or second sources, heal) ──facts──▶ hub ──▶ spool ──▶ stream ═▶ collector
//!                                                        │ ├▶ detector (in the hub's thread)
//!                                                        │ └▶ integrity ──facts──▶ hub
//!                                                        └──findings──▶ heal ═▶ healer
//! ```
//!
//! | channel | capacity | when full |
//! |---|---|---|
//! | facts | [`FACTS_MAX`] | sources drop, count, and send a gap row; heal waits |
//! | events to integrity | the room's own | dropped and counted; watched files are scanned soon |
//! | findings to heal | the room's own | dropped and counted; an open finding comes again |
//! | records of the audit log | the room's own | dropped and counted; rules that are written for them miss those |
//! | requests of access logs | [`REQUESTS_MAX`] | dropped and counted; rules miss those |
//! | spool intake | `spool.intake_facts_max` | metrics first, each loss a gap row |
//!
//! [`budget`] measures the agent and moves the pace of the sources, the model and the gate before the spool.
//!
//! The tree of tasks drains from the sources to the spool, so that nothing collected is left behind.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent_collect::bpf::BpfSensor;
use agent_collect::log::AccessRecord;
use agent_collect::process::{Inventory, signs};
use agent_collect::site::Prober;
use agent_collect::source::Rights;
use agent_collect::{FactSink, PaceHandle, Sources, host, log, site, unit};
use agent_detect::Detector;
use agent_detect::sigma::Reloader;
use agent_spool::{Spool, SpoolHandle};
use agent_stream::enrol::keep;
use agent_stream::{Hint, Order, OrderResult, StreamParts, StreamPhase, StreamState, StreamTask};
use anyhow::{Context, Result, bail};
use fleetmend_event::Fact;
use fleetmend_identity::{HostIdentity, LiveIdentity, TrustedTime};
use fleetmend_shutdown::{TaskKind, Tasks};
use fleetmend_telemetry::{Readiness, State, admin, init_logs, install_metrics};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::budget::gate::Gate;
use crate::budget::{self, Begun, Keeper};
use crate::config::AgentConfig;
use crate::hub::Hub;
use crate::sandbox::{SandboxConfig, enter};
use crate::source::{HealSink, SpoolSource};
use crate::status::{StatusBoard, StatusSource};
use crate::trust::FleetBundles;

/// Facts between their sources and the hub: half a second of a storm.
const FACTS_MAX: usize = 8_192;
/// Requests of access logs between their reader and the hub, which takes them with each fact: a second of many.
const REQUESTS_MAX: usize = 4_096;
/// Orders that wait for their addressee.
const ORDERS_MAX: usize = 16;
/// How long everything has to end in order.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Threads of the runtime: it only waits; collecting, detecting and spooling have threads of their own.
const RUNTIME_THREADS: usize = 1;
/// Mode of the admin socket: the agent's user and group.
const ADMIN_SOCKET_MODE: u32 = 0o660;

/// Builds and runs the agent until a signal.
pub(crate) fn run(path: &Path) -> Result<ExitCode> {
    let config = AgentConfig::load(path)?;
    init_logs(config.log_format).context("start logging")?;
    let identity = identity(&config)?;
    let begun = budget::begin(&config.run_file());
    // The order matters: probes need rights that the sandbox takes, the sandbox needs to be alone, and no input
    // of others is read before it holds.
    let (mut sensor, statuses) = BpfSensor::load(config.bpf.clone());
    let rights = Rights::take(&config.sources, &sensor, &statuses);
    let report = enter(&SandboxConfig::default()).context("enter the sandbox")?;
    info!(
        capabilities = report.capabilities.join(" "),
        calls_denied = report.calls_denied,
        "sandbox"
    );
    let sources = Sources::choose(
        config.sources.clone(),
        rights,
        &mut sensor,
        &statuses,
        &config.process,
        &config.state_dir,
    );
    for status in statuses.iter().chain(&sources.statuses()) {
        info!(
            probe = status.probe,
            state = status.state.as_str(),
            reason = status.reason,
            "probe"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(compose(config, identity, (sensor, sources), begun))
}

fn identity(config: &AgentConfig) -> Result<HostIdentity> {
    let folder = config.identity_dir();
    match HostIdentity::load(&folder).with_context(|| format!("open the identity in {}", folder.display()))? {
        Some(identity) => Ok(identity),
        None => bail!(
            "this host is not enrolled: get a token with `fleetmend token create` and run `fleetmend-agent enroll`"
        ),
    }
}

async fn compose(
    config: AgentConfig,
    identity: HostIdentity,
    (sensor, mut second): (BpfSensor, Sources),
    begun: Begun,
) -> Result<ExitCode> {
    let metrics = install_metrics().context("install metrics")?;
    metrics.build_info("agent", env!("CARGO_PKG_VERSION"));
    crate::status::describe();
    let tasks = Tasks::new();
    let reload = fleetmend_shutdown::listen_for_signals(&tasks).context("listen for signals")?;
    let readiness = Readiness::new(&["stream"]);
    let time = TrustedTime::open(config.time_file()).context("open the trusted time")?;
    let identity = LiveIdentity::new(identity, Some(config.identity_dir()));

    let (spool, recovered) = Spool::open(config.spool.clone()).context("open the spool")?;
    info!(?recovered, "spool opened");
    let handle = spool.handle();
    spool.run(&tasks).context("start the spool")?;

    let hub_tasks = tasks.child("hub");
    let sources = hub_tasks.child("sources");
    let (facts, incoming) = mpsc::channel::<Fact>(FACTS_MAX);
    // The first of all facts: what the healer says of its mode comes after it and wins.
    FactSink::new(facts.clone()).offer(host::host_info(env!("CARGO_PKG_VERSION"), "absent").into());
    let board = StatusBoard::default();
    let sink = Arc::new(HealSink {
        facts: facts.clone(),
        spool: handle.clone(),
    });
    let heal = agent_heal::start(
        config.heal.clone(),
        &sources,
        sink,
        Arc::new(agent_heal::SystemClock),
    );
    let keeper = Keeper::new(config.budget.clone(), begun, FactSink::new(facts.clone()));
    let inventory = Inventory::new(config.process.clone());
    let (eye, control) =
        crate::integrity::start(&config, &sources, &facts, &inventory, &keeper.pace())?.unzip();
    let (web_requests, requests) = mpsc::channel(REQUESTS_MAX);
    let hub = Hub {
        detector: Detector::new(&config.detect, Some(config.findings_file()), &hub_tasks),
        spool: handle.clone(),
        integrity: eye,
        records: second.records(),
        requests,
        suspects: sensor.profile_handle(),
        heal,
        board: board.clone(),
        gate: Gate::new(keeper.step()),
    };
    follow_reload(&tasks, reload, hub.detector.rules());
    hub_tasks.spawn_thread("hub", TaskKind::Critical, move |_token| {
        hub.run(incoming);
        Ok(())
    })?;

    let stream = start_stream(&tasks, &config, &identity, &time, handle.clone())?;
    follow_readiness(&tasks, stream.clone(), readiness.clone());
    let status = StatusSource {
        board,
        sensor: sensor.board(),
        spool: handle,
        stream,
        budget: keeper.states(),
        identity,
    };
    let routes = crate::integrity::routes(control);
    serve_admin(&config, &tasks, metrics, readiness, (status, routes))?;
    start_sources(
        &config,
        &sources,
        (sensor.at_pace(keeper.pace()), second, inventory),
        (facts, web_requests),
        &keeper.pace(),
    )?;
    keeper.spawn(&sources).context("start keeping the budget")?;
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        warn!(%error, "service manager was not told");
    }
    info!("agent is running");
    let end = tasks.wait_for_end().await;
    let report = tasks.drain(DRAIN_DEADLINE).await;
    info!(reason = end.reason, clean = report.is_clean(), "agent ends");
    Ok(if end.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn start_sources(
    config: &AgentConfig,
    sources: &Tasks,
    (sensor, second, inventory): (BpfSensor, Sources, Inventory),
    (facts, web_requests): (mpsc::Sender<Fact>, mpsc::Sender<AccessRecord>),
    pace: &PaceHandle,
) -> Result<()> {
    let sink = FactSink::new(facts.clone());
    host::spawn(
        sources,
        config.collect.host_interval(),
        sink.clone(),
        pace.clone(),
    )
    .context("start host metrics")?;
    unit::spawn(
        sources,
        config.collect.unit_interval(),
        sink.clone(),
        pace.clone(),
    );
    log::spawn(
        sources,
        config.collect.logs.clone(),
        config.logs_dir(),
        sink.clone(),
        pace.clone(),
        web_requests,
    )
    .context("start reading logs")?;
    let prober = Prober::new(config.collect.resolver, config.collect.witness);
    site::spawn(sources, config.collect.sites.clone(), &prober, &sink);
    signs::spawn(sources, facts.clone(), inventory.clone(), pace.clone())
        .context("start looking for signs")?;
    second
        .run(sources, &facts, &inventory, pace)
        .context("start the second sources")?;
    sensor.run(sources, facts, inventory).context("start the sensor")
}

/// Starts the stream and the renewal of the certificate.
fn start_stream(
    tasks: &Tasks,
    config: &AgentConfig,
    identity: &LiveIdentity,
    time: &Arc<TrustedTime>,
    spool: SpoolHandle,
) -> Result<watch::Receiver<StreamState>> {
    let (state, states) = watch::channel(StreamState::default());
    let (orders, incoming_orders) = mpsc::channel(ORDERS_MAX);
    let (order_results, results) = mpsc::channel(ORDERS_MAX);
    let parts = StreamParts {
        config: config.stream.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: SpoolSource::new(spool),
        orders,
        results,
        hints: watch::Sender::new(Hint::default()),
        state,
    };
    refuse_orders(tasks, incoming_orders, order_results);
    let dialer = config.stream.dialer().context("set up stream.proxy")?;
    StreamTask::new(parts, identity.clone(), time)
        .context("prepare the stream")?
        .through(dialer.clone())
        .spawn(tasks);
    let bundles = FleetBundles {
        dialer: dialer.clone(),
        identity: identity.clone(),
        time: time.clone(),
    };
    agent_heal::trust::spawn(tasks, &config.heal.socket, Arc::new(bundles));
    let (identity, time, token) = (identity.clone(), time.clone(), tasks.token());
    let configured = config.stream.collectors.clone();
    tasks.spawn("certificate", TaskKind::BestEffort, async move {
        keep(dialer, configured, identity, time, token.cancelled()).await;
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(states)
}

/// Reads the rules anew on SIGHUP. The sandbox is entered and the probes are loaded once: what else the
/// configuration says needs another start.
fn follow_reload(tasks: &Tasks, mut requests: watch::Receiver<u64>, rules: Reloader) {
    let token = tasks.token();
    tasks.spawn("reload", TaskKind::BestEffort, async move {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                changed = requests.changed() => if changed.is_err() { return Ok(()) },
            }
            rules.request();
            info!(
                "received SIGHUP: the detection rules are read anew; for the rest of the configuration restart the agent"
            );
        }
    });
}

/// No order has an addressee on this agent yet; each is answered, so that its sender knows.
fn refuse_orders(tasks: &Tasks, mut orders: mpsc::Receiver<Order>, results: mpsc::Sender<OrderResult>) {
    tasks.spawn("orders", TaskKind::BestEffort, async move {
        while let Some(order) = orders.recv().await {
            let reason = "this agent takes no orders".to_owned();
            let answered = results
                .send(OrderResult {
                    order_id: order.order_id,
                    accepted: false,
                    reason,
                })
                .await;
            if answered.is_err() {
                break;
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
}

/// Keeps the readiness as the stream is.
fn follow_readiness(tasks: &Tasks, mut states: watch::Receiver<StreamState>, readiness: Readiness) {
    let token = tasks.token();
    tasks.spawn("readiness", TaskKind::BestEffort, async move {
        loop {
            let state = readiness_of(&states.borrow_and_update());
            readiness.set("stream", state);
            tokio::select! {
                () = token.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                changed = states.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    });
}

/// Ready means connected over a connection that proved itself: what is spooled can leave. One that a collector
/// welcomes and then refuses is not ready in between either.
fn readiness_of(state: &StreamState) -> State {
    if state.phase == StreamPhase::Connected && state.proven {
        return State::Ready;
    }
    let otherwise = if state.phase == StreamPhase::Connected {
        "connected, and nothing was acknowledged yet"
    } else {
        "not connected to a collector"
    };
    State::NotReady(state.last_error.as_deref().unwrap_or(otherwise).to_owned())
}

fn serve_admin(
    config: &AgentConfig,
    tasks: &Tasks,
    metrics: fleetmend_telemetry::MetricsHandle,
    readiness: Readiness,
    (status, routes): (StatusSource, axum::Router),
) -> Result<()> {
    let listener = admin::bind_unix(&config.admin_socket, ADMIN_SOCKET_MODE)
        .with_context(|| format!("open the admin socket {}", config.admin_socket.display()))?;
    let show = axum::routing::get(move || async move { axum::Json(status.json()) });
    let router = admin::router(metrics.clone(), readiness)
        .route("/status", show)
        .merge(routes);
    admin::serve(listener, router, metrics, tasks);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcome_alone_makes_nothing_ready() {
        let mut state = StreamState {
            phase: StreamPhase::Connected,
            last_error: Some("the disk is full".to_owned()),
            ..StreamState::default()
        };
        assert!(matches!(readiness_of(&state), State::NotReady(why) if why == "the disk is full"));
        state.proven = true;
        assert!(matches!(readiness_of(&state), State::Ready));
        state.phase = StreamPhase::Waiting;
        assert!(matches!(readiness_of(&state), State::NotReady(_)));
    }
}
