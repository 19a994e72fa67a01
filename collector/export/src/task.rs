//! The room as the binary sees it.

use std::sync::Arc;

use fleetmend_control::Control;
use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;

use crate::config::{Endpoint, ExportConfig};
use crate::database::State;
use crate::deliver::{Courier, Encode};
use crate::error::ExportError;
use crate::feed::{Feed, FeedParts, MetricTarget};
use crate::http::{HttpTarget, Outcome, Request};
use crate::otlp::{OtlpLogs, OtlpMetrics};
use crate::record::Records;
use crate::remote_write::RemoteWriter;
use crate::row_feed::{RowFeed, RowFeedParts};
use crate::sample::Samples;
use crate::source::FactSource;
use crate::status::{Gauge, TargetStatus, TestOutcome};
use crate::stream::Ndjson;
use crate::turn::{Turns, take_turns};

/// Skips that a status shows.
const SKIPS_SHOWN: u32 = 20;

/// Export, ready to run.
#[derive(Clone)]
pub struct Export {
    shared: Arc<Shared>,
}

struct Shared {
    state: State,
    /// Whether no other collector has these facts.
    is_alone: bool,
    targets: Vec<Target>,
    /// With the names of their targets; taken by `spawn`.
    feeds: Mutex<Vec<(String, AnyFeed)>>,
}

struct Target {
    name: String,
    kind: &'static str,
    http: Arc<HttpTarget>,
    gauges: Vec<Gauge>,
    /// An empty request, which every receiver of its kind takes.
    test: Request,
}

enum AnyFeed {
    Metrics(Box<Feed>),
    Rows(Box<RowFeed>),
}

/// What making the targets needs.
struct Making {
    state: State,
    source: Arc<dyn FactSource>,
    targets: Vec<Target>,
    feeds: Vec<(String, AnyFeed)>,
}

impl Export {
    /// Prepares every target and reads where each stands.
    ///
    /// # Errors
    /// When a target cannot be used as configured, or the control database refuses.
    pub async fn open(
        config: &ExportConfig,
        control: Control,
        source: Arc<dyn FactSource>,
    ) -> Result<Self, ExportError> {
        crate::metrics::describe();
        let is_alone = source.tells_all();
        let mut making = Making {
            state: State::open(control).await?,
            source,
            targets: Vec::new(),
            feeds: Vec::new(),
        };
        for target in &config.remote_write {
            let writer = Arc::new(RemoteWriter::new(target)?);
            let test = making.test(&target.name, writer.as_ref(), &Samples::default())?;
            making.target(&target.endpoint(), "remote_write", test)?;
            making.metrics(target.endpoint(), writer.clone(), writer).await?;
        }
        for target in &config.otlp {
            let metrics = Arc::new(OtlpMetrics::new(target)?);
            let logs = Arc::new(OtlpLogs::new(target));
            let test = if target.send_metrics {
                making.test(&target.name, metrics.as_ref(), &Samples::default())?
            } else {
                making.test(&target.name, logs.as_ref(), &Records::default())?
            };
            making.target(&target.endpoint(), "otlp", test)?;
            if target.send_metrics {
                making
                    .metrics(target.endpoint(), metrics.clone(), metrics)
                    .await?;
            }
            for table in &target.tables {
                making.rows(target.endpoint(), table, logs.clone()).await?;
            }
        }
        for target in &config.webhook_stream {
            let lines = Arc::new(Ndjson {
                format: target.format,
            });
            let test = making.test(&target.name, lines.as_ref(), &Records::default())?;
            making.target(&target.endpoint(), "webhook_stream", test)?;
            for table in &target.tables {
                making.rows(target.endpoint(), table, lines.clone()).await?;
            }
        }
        making.state.forget_unused().await?;
        Ok(Self {
            shared: Arc::new(Shared {
                state: making.state,
                is_alone,
                targets: making.targets,
                feeds: Mutex::new(making.feeds),
            }),
        })
    }

    /// Starts one task for each signal of each target, which feeds it whenever it is this collector's turn; a second call
    /// does nothing. A target that does not answer stops nothing else, and a task that ends in error does not end the
    /// process: facts stay in the store.
    pub fn spawn(&self, tasks: &Tasks) {
        // Leases are given up after the feeds kept where they stand.
        let leases = tasks.child("export-leases");
        let tasks = leases.child("export-feeds");
        let mut turns = if self.shared.is_alone {
            Turns::alone(leases)
        } else {
            Turns::shared(self.shared.state.control(), leases)
        };
        for (target, feed) in std::mem::take(&mut *self.shared.feeds.lock()) {
            let (tenure, token) = (turns.at(&target), tasks.token());
            match feed {
                AnyFeed::Metrics(feed) => {
                    tasks.spawn("export-metrics", TaskKind::BestEffort, async move {
                        take_turns(*feed, tenure, token).await;
                        Ok::<(), ExportError>(())
                    });
                }
                AnyFeed::Rows(feed) => {
                    tasks.spawn("export-rows", TaskKind::BestEffort, async move {
                        take_turns(*feed, tenure, token).await;
                        Ok::<(), ExportError>(())
                    });
                }
            }
        }
    }

    /// How every target stands.
    ///
    /// # Errors
    /// When the control database refuses.
    pub async fn status(&self) -> Result<Vec<TargetStatus>, ExportError> {
        let mut all = Vec::new();
        for target in &self.shared.targets {
            all.push(TargetStatus {
                name: target.name.clone(),
                kind: target.kind,
                signals: target.gauges.iter().map(Gauge::status).collect(),
                skips: self.shared.state.skips(&target.name, SKIPS_SHOWN).await?,
            });
        }
        Ok(all)
    }

    /// Sends a target an empty request, once; none when there is no such target.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn test(&self, name: &str) -> Option<TestOutcome> {
        let target = self.shared.targets.iter().find(|target| target.name == name)?;
        Some(match target.http.send(&target.test).await {
            Outcome::Accepted(_) => TestOutcome {
                accepted: true,
                reason: String::new(),
            },
            Outcome::Later { reason, .. } | Outcome::Refused { reason, .. } => TestOutcome {
                accepted: false,
                reason,
            },
        })
    }
}

impl Making {
    fn test<P>(&self, name: &str, encoder: &impl Encode<P>, empty: &P) -> Result<Request, ExportError> {
        encoder.encode(empty).map_err(|reason| ExportError::Target {
            name: name.to_owned(),
            reason,
        })
    }

    fn target(&mut self, endpoint: &Endpoint, kind: &'static str, test: Request) -> Result<(), ExportError> {
        self.targets.push(Target {
            name: endpoint.name.clone(),
            kind,
            http: Arc::new(HttpTarget::new(endpoint)?),
            gauges: Vec::new(),
            test,
        });
        Ok(())
    }

    /// The way to the target that was made last, for one of its signals.
    fn courier(&mut self, endpoint: &Endpoint, signal: &str) -> Result<Courier, ExportError> {
        let target = self.targets.last_mut().ok_or_else(|| ExportError::Target {
            name: endpoint.name.clone(),
            reason: "it was not made".to_owned(),
        })?;
        let gauge = Gauge::new(&endpoint.name, signal);
        target.gauges.push(gauge.clone());
        Ok(Courier::new(
            target.http.clone(),
            gauge,
            endpoint.catch_up_max.get(),
        ))
    }

    async fn metrics(
        &mut self,
        endpoint: Endpoint,
        target: Arc<dyn MetricTarget>,
        encoder: Arc<dyn Encode<Samples>>,
    ) -> Result<(), ExportError> {
        let parts = FeedParts {
            courier: self.courier(&endpoint, "metrics")?,
            endpoint,
            target,
            encoder,
            source: self.source.clone(),
            state: self.state.clone(),
        };
        let name = parts.endpoint.name.clone();
        let feed = AnyFeed::Metrics(Box::new(Feed::open(parts).await?));
        self.feeds.push((name, feed));
        Ok(())
    }

    async fn rows(
        &mut self,
        endpoint: Endpoint,
        table: &str,
        encoder: Arc<dyn Encode<Records>>,
    ) -> Result<(), ExportError> {
        let parts = RowFeedParts {
            courier: self.courier(&endpoint, table)?,
            endpoint,
            table: table.to_owned(),
            encoder,
            source: self.source.clone(),
            state: self.state.clone(),
        };
        let name = parts.endpoint.name.clone();
        let feed = AnyFeed::Rows(Box::new(RowFeed::open(parts).await?));
        self.feeds.push((name, feed));
        Ok(())
    }
}
