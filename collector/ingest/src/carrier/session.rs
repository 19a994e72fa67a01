//! One stream, from its hello to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::PeerIdentity;
use fleetmend_proto::v1::agent_message::Message as FromAgent;
use fleetmend_proto::v1::collector_message::Message as ToAgent;
use fleetmend_proto::{PROTOCOL_VERSION, host_id, v1};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::Shared;
use crate::enrol::AuditKind;
use crate::listener::Caller;
use crate::live::{LiveHost, Place};
use crate::metrics;
use crate::sink::SinkError;
use crate::validate::{Validated, validate};

/// When an agent may come back after the store was unavailable.
const RETRY_UNAVAILABLE_MS: u32 = 2_000;
/// When an agent may come back after the collector ended.
const RETRY_DRAINED_MS: u32 = 500;
/// When an agent may come back after it skipped a number.
const RETRY_ORDER_MS: u32 = 200;
/// How long an agent that sends what cannot be stored is asked to stay away.
const RETRY_REFUSED_MS: u32 = 300_000;
/// How long a goodbye may wait for the agent to read.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a stream ends.
enum End {
    /// The agent closed it, or the network did.
    Closed,
    /// Nothing came for too long.
    Silent,
    /// The collector ends.
    Draining,
    /// A newer stream of the host took over.
    Superseded,
    /// The host was revoked.
    Revoked,
    /// It spoke out of turn or out of the protocol.
    Refused(String),
    /// Its records cannot be stored now.
    Unavailable(String),
    /// It skipped a number.
    OutOfOrder(String),
}

pub(super) struct Session {
    shared: Arc<Shared>,
    caller: Caller,
    peer: Arc<PeerIdentity>,
    host: HostId,
    incoming: Streaming<v1::AgentMessage>,
    outgoing: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        caller: Caller,
        incoming: Streaming<v1::AgentMessage>,
        outgoing: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
    ) -> Result<Self, Status> {
        let peer = caller.peer.clone().ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
        let host = peer.host().ok_or_else(|| Status::permission_denied("the certificate is not a host's"))?;
        Ok(Self { shared, caller, peer, host, incoming, outgoing })
    }

    pub(super) async fn run(mut self) {
        let end = match self.greet().await {
            Ok(place) => {
                tracing::info!(host = %self.host, address = %self.caller.address, "host connected");
                let end = self.serve(&place).await;
                drop(place);
                end
            }
            Err(end) => end,
        };
        self.say_goodbye(end).await;
    }

    async fn greet(&mut self) -> Result<Place, End> {
        let first = timeout(self.shared.config.handshake_timeout(), self.incoming.message()).await;
        let hello = match first {
            Err(_) => return Err(End::Silent),
            Ok(Ok(Some(v1::AgentMessage { message: Some(FromAgent::Hello(hello)) }))) => hello,
            Ok(Ok(Some(_))) => return Err(End::Refused("the first message must be a hello".to_owned())),
            Ok(Ok(None)) => return Err(End::Closed),
            Ok(Err(status)) => return Err(ended_by(&status)),
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(End::Refused(format!("protocol {} is not spoken here, {PROTOCOL_VERSION} is", hello.protocol)));
        }
        if host_id(&hello.host_id).ok() != Some(self.host) {
            return Err(End::Refused("the hello's host id is not the certificate's".to_owned()));
        }
        if self.shared.enroller.revocations().current().contains(&self.peer) {
            return Err(End::Revoked);
        }
        let host = LiveHost {
            host: self.host,
            connected_since: Some(TimeMicros::now()),
            address: self.caller.address,
            agent_version: hello.agent_version.chars().take(64).collect(),
            last_seen: TimeMicros::now(),
            clock_offset_us: None,
        };
        let place = self.shared.live.enter(host, &hello.boot_id);
        if place.clone {
            let detail = "a second machine connects with this host's key: the older stream was closed";
            self.shared.enroller.audit().refused(AuditKind::Clone, self.caller.address.ip(), Some(self.host), detail).await;
            tracing::error!(host = %self.host, "clone alarm: two machines use one host's key");
        }
        let welcome = v1::Welcome {
            protocol: PROTOCOL_VERSION,
            store_epoch: Bytes::copy_from_slice(&self.shared.sink.epoch()),
            durable: self.shared.sink.marks(self.host).into_iter().map(v1::Mark::from).collect(),
            wall_micros: TimeMicros::now().0,
            records_in_flight_max: self.shared.config.records_in_flight_max,
        };
        self.send(ToAgent::Welcome(welcome)).await?;
        Ok(place)
    }

    async fn serve(&mut self, place: &Place) -> End {
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        let revocations = shared.enroller.revocations();
        let draining = self.shared.draining.clone();
        loop {
            let message = tokio::select! {
                biased;
                () = draining.cancelled() => return End::Draining,
                () = place.superseded.cancelled() => return End::Superseded,
                () = revocations.revoked(&peer) => return End::Revoked,
                message = timeout(self.shared.config.silence_max(), self.incoming.message()) => message,
            };
            let message = match message {
                Err(_) => return End::Silent,
                Ok(Ok(None)) => return End::Closed,
                Ok(Ok(Some(message))) => message.message,
                Ok(Err(status)) => return ended_by(&status),
            };
            let outcome = match message {
                Some(FromAgent::Records(records)) => {
                    place.seen(None);
                    self.store(records.frames).await
                }
                Some(FromAgent::Heartbeat(heartbeat)) => {
                    place.seen(Some(heartbeat.wall_micros.saturating_sub(TimeMicros::now().0)));
                    Ok(())
                }
                Some(FromAgent::OrderResult(result)) => {
                    tracing::info!(host = %self.host, accepted = result.accepted, reason = result.reason, "order answered");
                    Ok(())
                }
                Some(FromAgent::Hello(_)) => Err(End::Refused("a second hello".to_owned())),
                None => Err(End::Refused("a message of a kind this collector does not know".to_owned())),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    async fn store(&self, records: Vec<Bytes>) -> Result<(), End> {
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let bytes = records.iter().map(|record| u64::try_from(record.len()).unwrap_or(0)).sum();
        metrics::received(count, bytes);
        // Decompression and validation may take milliseconds: not on the runtime.
        let looked_at = tokio::task::spawn_blocking(move || validate(&records)).await;
        let Validated { frames, gaps, replaced } = match looked_at {
            Ok(Ok(validated)) => validated,
            Ok(Err(error)) => return Err(End::Refused(format!("a record is no frame: {error}"))),
            Err(error) => return Err(End::Unavailable(format!("validation broke: {error}"))),
        };
        for record in &replaced {
            metrics::record_refused(record.reason);
            let detail = format!("record refused: {}", record.detail);
            self.shared.enroller.audit().refused(AuditKind::Stream, self.caller.address.ip(), Some(self.host), &detail).await;
        }
        if !gaps.is_empty() {
            self.shared.sink.record_gaps(self.host, gaps).await.map_err(end_of)?;
        }
        let marks = self.shared.sink.commit(self.host, frames).await.map_err(end_of)?;
        metrics::acknowledged(count);
        let marks = marks.into_iter().map(v1::Mark::from).collect();
        self.send(ToAgent::Acknowledged(v1::Acknowledged { marks })).await
    }

    async fn send(&self, message: ToAgent) -> Result<(), End> {
        let message = v1::CollectorMessage { message: Some(message) };
        match timeout(self.shared.config.silence_max(), self.outgoing.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => Err(End::Silent),
        }
    }

    async fn say_goodbye(self, end: End) {
        let (name, reason, retry_after_ms, retry) = match end {
            End::Closed => ("closed", None, 0, true),
            End::Silent => ("silent", Some("nothing came for too long".to_owned()), RETRY_DRAINED_MS, true),
            End::Draining => ("draining", Some("the collector ends".to_owned()), RETRY_DRAINED_MS, true),
            End::Superseded => ("superseded", Some("a newer stream of this host took over".to_owned()), RETRY_REFUSED_MS, true),
            End::Revoked => ("revoked", Some("this host is revoked; enrol it again with a new key".to_owned()), RETRY_REFUSED_MS, false),
            End::Refused(reason) => ("refused", Some(reason), RETRY_REFUSED_MS, false),
            End::Unavailable(reason) => ("unavailable", Some(reason), RETRY_UNAVAILABLE_MS, true),
            End::OutOfOrder(reason) => ("out_of_order", Some(reason), RETRY_ORDER_MS, true),
        };
        metrics::stream_ended(name);
        tracing::info!(host = %self.host, end = name, reason, "stream ended");
        let Some(reason) = reason else { return };
        if matches!(name, "refused" | "revoked") {
            self.shared.enroller.audit().refused(AuditKind::Stream, self.caller.address.ip(), Some(self.host), &reason).await;
        }
        let goodbye = v1::CollectorMessage { message: Some(ToAgent::Goodbye(v1::Goodbye { reason, retry_after_ms, retry })) };
        if timeout(GOODBYE_TIMEOUT, self.outgoing.send(Ok(goodbye))).await.is_err() {
            tracing::debug!(host = %self.host, "goodbye was not read");
        }
    }
}

fn end_of(error: SinkError) -> End {
    match error {
        SinkError::OutOfOrder(reason) => End::OutOfOrder(reason),
        SinkError::Conflict(reason) => End::Refused(reason),
        SinkError::Unavailable(reason) => End::Unavailable(reason),
    }
}

/// A stream's error: a message that was too large or malformed is the peer's fault, the rest is the network.
fn ended_by(status: &Status) -> End {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::InvalidArgument | tonic::Code::Internal | tonic::Code::ResourceExhausted => {
            End::Refused(format!("the message could not be read: {}", status.message()))
        }
        _ => End::Closed,
    }
}
