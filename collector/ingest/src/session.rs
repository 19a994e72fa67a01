//! One stream of one host, from its hello to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_event::{HostId, Mark, SpoolEpoch, TimeMicros};
use fleetmend_identity::PeerIdentity;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{PROTOCOL_VERSION, WireError, host_id, id_bytes, v1};
use fleetmend_shutdown::CancellationToken;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::carrier::Shared;
use crate::config::{OUTGOING_TIMEOUT, REPLACED_RETRY_AFTER, RETRY_AFTER};
use crate::enrol::AuditKind;
use crate::hosts::{Arrival, Downward, HostOrderResult, LiveStream, Rivalry};
use crate::new_spool;
use crate::records::{self, CheckError, Committer};
use crate::sink::SinkError;

/// Longest version and reason that a host may give of itself, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// What leaves the collector.
pub(crate) type Outgoing = mpsc::Sender<Result<v1::CollectorMessage, Status>>;

/// A stream whose hello is awaited.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Arc<PeerIdentity>,
    pub(crate) address: SocketAddr,
    pub(crate) host: HostId,
    pub(crate) outgoing: Outgoing,
    pub(crate) inbound: Streaming<v1::AgentMessage>,
}

/// Why a stream ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The host closed it, or its connection broke.
    Gone,
    /// The host does not take what is sent to it.
    Stuck,
    /// The host said nothing for too long.
    Silent,
    /// A newer stream of the host took over.
    Replaced,
    /// The host was revoked.
    Revoked,
    /// Its certificate has ended; it has another by now.
    CertificateEnded,
    /// The collector stops.
    Stopping,
    /// The store cannot take its records.
    Sink(SinkError),
    /// It broke the rules.
    Refused {
        /// A word for the audit and metrics.
        code: &'static str,
        /// What it did.
        detail: String,
    },
}

impl Session {
    /// Runs the stream to its end, says goodbye, and writes down what has to be.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let end = match self.begin().await {
            Ok((live, hello)) => self.serve(live, &hello, &token).await,
            Err(end) => end,
        };
        crate::metrics::ended(end.code());
        match &end {
            End::Refused { code, detail } => {
                self.audit(AuditKind::Stream, &format!("{code}: {detail}")).await
            }
            End::Revoked => {
                self.audit(AuditKind::Stream, "revoked: the live stream was closed")
                    .await
            }
            End::Sink(error) => {
                tracing::warn!(host = %self.host, %error, "stream is closed: the store cannot take its records")
            }
            end => tracing::info!(host = %self.host, reason = end.code(), "stream of a host ended"),
        }
        if let Some(goodbye) = end.goodbye() {
            // The host may be gone already; then there is nobody to tell.
            if self.send(Down::Goodbye(goodbye)).await.is_err() {
                tracing::debug!(host = %self.host, "goodbye found nobody");
            }
        }
    }

    /// Waits for the hello, checks who says it, and welcomes the host.
    async fn begin(&mut self) -> Result<(LiveStream, v1::Hello), End> {
        let first = timeout(self.shared.config.hello_timeout.get(), self.inbound.message()).await;
        let first = first
            .map_err(|_| refused("no_hello", "no hello came in time"))?
            .map_err(end_of)?
            .ok_or(End::Gone)?;
        let Some(Up::Hello(hello)) = first.message else {
            return Err(refused("no_hello", "the first message is no hello"));
        };
        if hello.protocol != PROTOCOL_VERSION {
            let detail = format!(
                "agent speaks version {}, this collector {PROTOCOL_VERSION}",
                hello.protocol
            );
            return Err(refused("protocol", &detail));
        }
        let claimed = host_id(&hello.host_id)?;
        if claimed != self.host {
            return Err(refused(
                "host_id",
                &format!("the certificate is of {}, the hello says {claimed}", self.host),
            ));
        }
        let arrival = Arrival {
            host: self.host,
            address: self.address,
            agent_version: text(&hello.agent_version),
            epoch: SpoolEpoch::from_bytes(id_bytes("epoch", &hello.epoch)?),
            boot_id: hello.boot_id.iter().copied().take(16).collect(),
        };
        let (live, rivalry) = self.shared.hosts.arrive(arrival);
        if let Rivalry::Clone { other } = rivalry {
            tracing::error!(host = %self.host, address = %self.address, %other, "two agents claim to be one host; the newer stream stays");
            let detail = format!("clone: another live stream came from {other}; it was closed");
            self.audit(AuditKind::Clone, &detail).await;
        }
        let durable = self.shared.sink.marks(self.host);
        self.note_new_spool(&hello, &durable).await?;
        self.send(Down::Welcome(v1::Welcome {
            protocol: PROTOCOL_VERSION,
            store_epoch: Bytes::copy_from_slice(&self.shared.sink.store_epoch()),
            durable: durable.into_iter().map(v1::Mark::from).collect(),
            wall_micros: TimeMicros::now().0,
            records_in_flight_max: self.shared.config.frames_in_flight_max,
        }))
        .await?;
        tracing::info!(host = %self.host, address = %self.address, agent = text(&hello.agent_version), "stream of a host is open");
        Ok((live, hello))
    }

    /// Writes down that what an earlier spool of the host may have held will never come.
    async fn note_new_spool(&self, hello: &v1::Hello, durable: &[Mark]) -> Result<(), End> {
        let epoch = SpoolEpoch::from_bytes(id_bytes("epoch", &hello.epoch)?);
        let spooled = hello.spooled.iter().cloned().map(Mark::try_from);
        let spooled = spooled.collect::<Result<Vec<_>, _>>()?;
        let last = self.shared.sink.last_durable(self.host);
        let Some(gap) = new_spool::gap(epoch, &spooled, durable, last) else {
            return Ok(());
        };
        tracing::warn!(host = %self.host, "host knows nothing of its earlier spools; what they held is a gap");
        let commit = self.shared.sink.commit(self.host, Vec::new(), vec![gap]);
        let done = timeout(self.shared.config.commit_timeout.get(), commit).await;
        done.unwrap_or(Err(SinkError::Late {
            after: self.shared.config.commit_timeout.get(),
        }))
        .map_err(End::Sink)?;
        Ok(())
    }

    async fn serve(&mut self, mut live: LiveStream, _hello: &v1::Hello, token: &CancellationToken) -> End {
        let shared = self.shared.clone();
        let (revocations, peer, replaced) = (
            shared.revocations.clone(),
            self.peer.clone(),
            live.replaced.clone(),
        );
        let mut revoked = std::pin::pin!(revocations.revoked(&peer));
        let mut ended = std::pin::pin!(tokio::time::sleep(until(peer.not_after)));
        let mut committer = Committer {
            sink: shared.sink.as_ref(),
            host: self.host,
            timeout: shared.config.commit_timeout.get(),
            marks: records::marks_of(shared.sink.as_ref(), self.host),
        };
        loop {
            let outcome = tokio::select! {
                biased;
                () = &mut revoked => return End::Revoked,
                () = &mut ended => return End::CertificateEnded,
                () = replaced.cancelled() => return End::Replaced,
                () = token.cancelled() => return End::Stopping,
                Some(message) = live.downward.recv() => self.pass_down(message).await,
                message = timeout(shared.config.silence_max.get(), self.inbound.message()) => match message {
                    Err(_) => return End::Silent,
                    Ok(Err(status)) => return end_of(status),
                    Ok(Ok(None)) => return End::Gone,
                    Ok(Ok(Some(message))) => {
                        live.heard();
                        self.receive(message, &live, &mut committer).await
                    }
                },
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    async fn receive(
        &mut self,
        message: v1::AgentMessage,
        live: &LiveStream,
        committer: &mut Committer<'_>,
    ) -> Result<(), End> {
        match message.message {
            Some(Up::Records(records)) => self.take_records(records, committer).await,
            Some(Up::Heartbeat(beat)) => {
                live.clock(beat.wall_micros.saturating_sub(TimeMicros::now().0) / 1_000);
                Ok(())
            }
            Some(Up::OrderResult(result)) => {
                let order_id = id_bytes("order_id", &result.order_id)?;
                let (accepted, reason) = (result.accepted, text(&result.reason));
                let result = HostOrderResult {
                    host: self.host,
                    order_id,
                    accepted,
                    reason,
                };
                if self.shared.results.try_send(result).is_err() {
                    crate::metrics::result_dropped();
                    tracing::warn!(host = %self.host, "the result of an order had nowhere to go");
                }
                Ok(())
            }
            Some(Up::Hello(_)) => Err(refused("second_hello", "a stream says hello once")),
            // A message of a newer agent.
            None => Ok(()),
        }
    }

    async fn take_records(&mut self, records: v1::Records, committer: &mut Committer<'_>) -> Result<(), End> {
        let checked = records::check(records.frames).await?;
        let committed = committer.commit(checked).await.map_err(End::Sink)?;
        for id in &committed.conflicts {
            tracing::error!(host = %self.host, ?id, "a record came again with other content; the stored one stays");
            let detail = format!(
                "identity_conflict: {} {} {} is stored with other content",
                id.epoch, id.lane, id.sequence
            );
            self.audit(AuditKind::Stream, &detail).await;
        }
        let marks = committed.marks.into_iter().map(v1::Mark::from).collect();
        self.send(Down::Acknowledged(v1::Acknowledged { marks })).await
    }

    async fn pass_down(&self, message: Downward) -> Result<(), End> {
        let message = match message {
            Downward::Order { order_id, envelope } => Down::Order(v1::Order {
                order_id: Bytes::copy_from_slice(&order_id),
                envelope,
            }),
            Downward::MetricsInterval { millis } => Down::Hint(v1::Hint {
                metrics_interval_ms: millis,
            }),
        };
        self.send(message).await
    }

    async fn send(&self, message: Down) -> Result<(), End> {
        let message = v1::CollectorMessage {
            message: Some(message),
        };
        let sent = timeout(OUTGOING_TIMEOUT, self.outgoing.send(Ok(message))).await;
        sent.map_err(|_| End::Stuck)?.map_err(|_| End::Gone)
    }

    async fn audit(&self, kind: AuditKind, detail: &str) {
        self.shared
            .audit
            .refused(kind, self.address.ip(), Some(self.host), detail)
            .await;
    }
}

impl End {
    fn code(&self) -> &'static str {
        match self {
            End::Gone => "gone",
            End::Stuck => "stuck",
            End::Silent => "silent",
            End::Replaced => "replaced",
            End::Revoked => "revoked",
            End::CertificateEnded => "certificate_ended",
            End::Stopping => "stopping",
            End::Sink(_) => "sink",
            End::Refused { code, .. } => code,
        }
    }

    /// What the host is told; nothing when there is nobody to tell.
    fn goodbye(&self) -> Option<v1::Goodbye> {
        let (reason, retry_after, retry) = match self {
            End::Gone | End::Stuck => return None,
            End::Silent => ("nothing was heard for too long".to_owned(), RETRY_AFTER, true),
            End::Replaced => (
                "a newer stream of this host took over".to_owned(),
                REPLACED_RETRY_AFTER,
                true,
            ),
            End::Revoked => ("this host was revoked".to_owned(), Duration::ZERO, false),
            End::CertificateEnded => (
                "the certificate of this stream has ended".to_owned(),
                Duration::ZERO,
                true,
            ),
            End::Stopping => ("the collector is stopping".to_owned(), RETRY_AFTER, true),
            End::Sink(error @ SinkError::Refused { .. }) => (error.to_string(), Duration::ZERO, false),
            End::Sink(error) => (error.to_string(), RETRY_AFTER, true),
            End::Refused { code, detail } => (format!("{code}: {detail}"), Duration::ZERO, false),
        };
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        Some(v1::Goodbye {
            reason,
            retry_after_ms,
            retry,
        })
    }
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        refused("malformed", &error.to_string())
    }
}

impl From<CheckError> for End {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Malformed(error) => refused("malformed", &error.to_string()),
            // A fault of the collector: the host sends the message again.
            CheckError::Unfinished => End::Sink(SinkError::Unavailable {
                reason: error.to_string(),
            }),
        }
    }
}

fn refused(code: &'static str, detail: &str) -> End {
    crate::metrics::refused(code);
    End::Refused {
        code,
        detail: text(detail),
    }
}

/// What broke the inbound stream: the network, or a message that is none.
fn end_of(status: Status) -> End {
    match status.code() {
        // tonic refuses a message by its length before it reads it, and one that does not decode after.
        Code::OutOfRange | Code::ResourceExhausted => refused("too_large", status.message()),
        Code::Internal | Code::InvalidArgument | Code::Unimplemented
            if status.message().contains("decode")
                || status.message().contains("compress")
                || status.message().contains("flag") =>
        {
            refused("malformed", status.message())
        }
        _ => End::Gone,
    }
}

fn text(of_host: &str) -> String {
    of_host
        .chars()
        .filter(|character| !character.is_control())
        .take(TEXT_CHARS_MAX)
        .collect()
}

fn until(moment: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(moment.micros_since(TimeMicros::now())).unwrap_or(0))
}
