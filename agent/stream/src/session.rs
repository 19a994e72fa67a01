//! One session: from the hello to whatever ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::{HostId, Mark};
use fleetmend_identity::{LiveIdentity, TrustedTime};
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::carrier_client::CarrierClient;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{MESSAGE_BYTES_MAX, Message as _, PROTOCOL_VERSION, WireError, id_bytes, v1};
use fleetmend_shutdown::CancellationToken;
use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::clock::SessionClock;
use crate::config::{MESSAGE_FRAME_BYTES_MAX, MESSAGE_FRAMES_MAX, SESSION_PROVEN, WELCOME_TIMEOUT};
use crate::connector::Link;
use crate::error::StreamError;
use crate::in_flight::{InFlight, Room};
use crate::pace::Pace;
use crate::relative::Relative;
use crate::source::{FrameSource, SourceLanes, SourceLimit};
use crate::state::{Hint, Order, OrderResult, StreamPhase};
use crate::task::StreamParts;

/// Marks in a hello, the newest: they are for people, the welcome is what counts.
const HELLO_MARKS_MAX: usize = 96;
/// Messages that wait for the connection to take them.
const OUTGOING_MAX: usize = 2;

/// A session that was welcomed.
pub(crate) struct Session<'a, S> {
    parts: &'a mut StreamParts<S>,
    outgoing: mpsc::Sender<v1::AgentMessage>,
    incoming: Streaming<v1::CollectorMessage>,
    in_flight: InFlight,
    link: Link,
    pace: &'a mut Pace,
    relative: &'a mut Relative,
    clock: SessionClock,
}

impl<'a, S: FrameSource> Session<'a, S> {
    /// Says hello and waits for the welcome; the source then stands after what the collector has.
    pub(crate) async fn begin(
        parts: &'a mut StreamParts<S>,
        (pace, relative): (&'a mut Pace, &'a mut Relative),
        link: Link,
        identity: &LiveIdentity,
        time: &Arc<TrustedTime>,
    ) -> Result<Self, StreamError> {
        let mut clock = SessionClock::new(identity.clone(), time.clone());
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let late = StreamError::Late {
            what: "the collector's welcome",
            after: WELCOME_TIMEOUT,
        };
        let offer = relative.offer(Instant::now());
        let hello = hello(parts, identity.current().host(), clock.ask(), offer);
        crate::metrics::egress(pace.charge(hello.encoded_len()));
        outgoing.try_send(hello).map_err(|_| StreamError::Closed)?;
        let mut client = CarrierClient::new(link.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let begin = async {
            let mut incoming = client.stream(ReceiverStream::new(messages)).await?.into_inner();
            let first = incoming.message().await?;
            Ok((incoming, first))
        };
        let answer = timeout(WELCOME_TIMEOUT, begin).await.map_err(|_| late)?;
        let (incoming, first) = answer.map_err(|status| broken(&link, status))?;
        let welcome = match first.and_then(|message| message.message) {
            Some(Down::Welcome(welcome)) => welcome,
            Some(Down::Goodbye(goodbye)) => return Err(farewell(goodbye)),
            _ => {
                return Err(StreamError::Protocol {
                    reason: "its first message is no welcome".to_owned(),
                });
            }
        };
        if welcome.protocol != PROTOCOL_VERSION {
            let reason = format!(
                "it speaks version {}, this agent {PROTOCOL_VERSION}",
                welcome.protocol
            );
            return Err(StreamError::Protocol { reason });
        }
        relative.agree(offer, welcome.bases);
        let durable = marks(welcome.durable)?;
        parts.source.resume(&durable);
        let asked = usize::try_from(welcome.records_in_flight_max).unwrap_or(usize::MAX);
        let window = if asked == 0 { usize::MAX } else { asked }.min(parts.config.frames_in_flight_max);
        let ahead = welcome.wall_micros.saturating_sub(clock.wall().0) / 1_000;
        clock.newest_bundle(welcome.bundle_version);
        if let Some(answer) = welcome.time {
            clock.answered(answer).await;
        }
        let address = link.address().to_owned();
        tracing::info!(
            collector = address,
            window,
            collector_ahead_ms = ahead,
            "stream to the collector is open"
        );
        parts.change(|state| {
            state.collector_ahead_ms = Some(ahead);
            state.frames_in_flight = 0;
        });
        parts.enter(StreamPhase::Connected);
        Ok(Self {
            parts,
            outgoing,
            incoming,
            in_flight: InFlight::new(window, welcome.credit_bytes),
            link,
            pace,
            relative,
            clock,
        })
    }

    /// Sends and receives until the token is cancelled (`Ok`) or the session breaks.
    pub(crate) async fn run(&mut self, token: &CancellationToken) -> Result<(), StreamError> {
        // The first word of a session: the collector tells by it how far the clock of what follows is off.
        self.beat()?;
        let mut heartbeat = interval(self.parts.config.heartbeat.get());
        heartbeat.reset();
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // There may be frames to read, in any lane or in the critical one; after the source ended there never will
        // be.
        let (mut more, mut critical, mut over) = (true, true, false);
        let mut held = false;
        let mut results_over = false;
        let proven = sleep(SESSION_PROVEN);
        tokio::pin!(proven);
        let mut waiting = true;
        loop {
            // Owned, so that nothing of the session is borrowed while the event is handled.
            let outgoing = self.outgoing.clone();
            let wait = self.pace.wait();
            let paused = !wait.is_zero();
            if more && paused && !held {
                crate::metrics::egress_held();
            }
            held = more && paused;
            let open = if paused {
                None
            } else {
                self.in_flight.room(SourceLanes::All)
            };
            let (lanes, room, any) = match open {
                // By itself, so that its messages are short: a collector without room for long ones takes them.
                Some(room) if critical => (SourceLanes::Critical, Some(room), true),
                Some(room) => (SourceLanes::All, Some(room), more),
                None => (
                    SourceLanes::Critical,
                    self.in_flight.room(SourceLanes::Critical),
                    critical,
                ),
            };
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => self.receive(message).await?,
                    Ok(None) => return Err(StreamError::Closed),
                    Err(status) => return Err(broken(&self.link, status)),
                },
                permit = outgoing.reserve_owned(), if any && room.is_some() => {
                    let permit = permit.map_err(|_| StreamError::Closed)?;
                    let Some(room) = room else { continue };
                    let some = self.send_frames(permit, room, lanes).await?;
                    critical = some;
                    more = some || lanes == SourceLanes::Critical && more;
                }
                () = tokio::time::sleep(wait), if more && paused => {}
                alive = self.parts.source.changed(), if !over && (!more || !critical) => {
                    (more, critical) = (true, true);
                    over = !alive;
                }
                result = self.parts.results.recv(), if !results_over => match result {
                    Some(result) => self.answer(result).await?,
                    None => results_over = true,
                },
                () = &mut proven, if waiting => {
                    waiting = false;
                    self.parts.change(|state| state.proven = true);
                }
                _ = heartbeat.tick() => self.beat()?,
            }
        }
    }

    /// Sends the next message of frames; `false` when there was none.
    async fn send_frames(
        &mut self,
        permit: OwnedPermit<v1::AgentMessage>,
        room: Room,
        lanes: SourceLanes,
    ) -> Result<bool, StreamError> {
        let bytes = match lanes {
            SourceLanes::All => MESSAGE_FRAME_BYTES_MAX.min(self.pace.room()),
            SourceLanes::Critical => MESSAGE_FRAME_BYTES_MAX,
        };
        let limit = SourceLimit {
            frames: MESSAGE_FRAMES_MAX.min(room.frames),
            bytes: bytes.min(room.bytes),
            lanes,
        };
        let mut frames = self
            .parts
            .source
            .next_frames(limit)
            .await
            .map_err(StreamError::Source)?;
        if frames.is_empty() {
            return Ok(false);
        }
        let now = Instant::now();
        let bases_cleared = self.relative.take_notice();
        for frame in &mut frames {
            frame.bytes = self.relative.shorten(frame.id.lane, &frame.bytes);
            // A large body takes a millisecond; the rest of the agent need not wait for sixteen.
            tokio::task::yield_now().await;
            self.in_flight.sent(frame.id, now);
            crate::metrics::sent(frame.id.lane, frame.bytes.len());
        }
        let count = frames.len();
        let bytes = frames.iter().map(|frame| frame.bytes.len()).sum();
        crate::metrics::egress(self.pace.charge(bytes));
        self.in_flight.spent(bytes);
        let frames = frames.into_iter().map(|frame| frame.bytes).collect();
        let records = v1::Records {
            frames,
            bases_cleared,
        };
        permit.send(up(Up::Records(records)));
        let in_flight = self.in_flight.len();
        self.parts.change(|state| {
            state.frames_sent = state.frames_sent.saturating_add(count_of(count));
            state.bytes_sent = state.bytes_sent.saturating_add(count_of(bytes));
            state.frames_in_flight = in_flight;
        });
        Ok(true)
    }

    async fn receive(&mut self, message: v1::CollectorMessage) -> Result<(), StreamError> {
        match message.message {
            Some(Down::Acknowledged(acknowledged)) => {
                let marks = marks(acknowledged.marks)?;
                self.parts.source.acknowledge(&marks);
                if acknowledged.clear_bases {
                    self.relative.clear();
                }
                let count = self.in_flight.acknowledge(&marks);
                self.in_flight.grant(acknowledged.credit_bytes);
                crate::metrics::acknowledged(count);
                let in_flight = self.in_flight.len();
                self.parts.change(|state| {
                    state.frames_acknowledged = state.frames_acknowledged.saturating_add(count_of(count));
                    state.frames_in_flight = in_flight;
                    state.proven |= count > 0;
                });
                Ok(())
            }
            Some(Down::Order(order)) => self.take_order(order),
            Some(Down::Time(answer)) => {
                if let Some(ahead) = self.clock.answered(answer).await {
                    self.parts.change(|state| state.collector_ahead_ms = Some(ahead));
                }
                Ok(())
            }
            Some(Down::Goodbye(goodbye)) => Err(farewell(goodbye)),
            Some(Down::Hint(hint)) => {
                let metrics_interval_ms = Some(hint.metrics_interval_ms).filter(|interval| *interval > 0);
                self.parts.hints.send_replace(Hint { metrics_interval_ms });
                Ok(())
            }
            Some(Down::Welcome(_)) => Err(StreamError::Protocol {
                reason: "it welcomed twice".to_owned(),
            }),
            Some(Down::Credit(credit)) => {
                self.in_flight.grant(credit.bytes);
                Ok(())
            }
            // A message of a newer collector.
            None => Ok(()),
        }
    }

    fn take_order(&mut self, order: v1::Order) -> Result<(), StreamError> {
        let order_id = id_bytes("order_id", &order.order_id)?;
        let refusal = match self.parts.orders.try_send(Order {
            order_id,
            envelope: order.envelope,
        }) {
            Ok(()) => {
                crate::metrics::order("taken");
                return Ok(());
            }
            Err(TrySendError::Full(_)) => "too many orders wait on this host",
            Err(TrySendError::Closed(_)) => "nobody takes orders on this host",
        };
        crate::metrics::order("refused");
        let result = v1::OrderResult {
            order_id: order.order_id,
            accepted: false,
            reason: refusal.to_owned(),
        };
        if self.outgoing.try_send(up(Up::OrderResult(result))).is_err() {
            tracing::warn!(
                refusal,
                "an order was refused and the collector could not be told"
            );
        }
        Ok(())
    }

    async fn answer(&mut self, result: OrderResult) -> Result<(), StreamError> {
        let order_id = Bytes::copy_from_slice(&result.order_id);
        let message = up(Up::OrderResult(v1::OrderResult {
            order_id,
            accepted: result.accepted,
            reason: result.reason,
        }));
        let after = self.parts.config.acknowledgement_timeout.get();
        let sent = timeout(after, self.outgoing.send(message)).await;
        sent.map_err(|_| StreamError::Late {
            what: "room in the connection",
            after,
        })?
        .map_err(|_| StreamError::Closed)
    }

    fn beat(&mut self) -> Result<(), StreamError> {
        let after = self.parts.config.acknowledgement_timeout.get();
        if self.in_flight.oldest(Instant::now()) > after {
            return Err(StreamError::Late {
                what: "an acknowledgement",
                after,
            });
        }
        let beat = v1::Heartbeat {
            wall_micros: self.clock.wall().0,
            boot_micros: boot_micros(),
            time: self.clock.due(),
        };
        let beat = up(Up::Heartbeat(beat));
        crate::metrics::egress(self.pace.charge(beat.encoded_len()));
        // A connection that has no room for it is not idle; the acknowledgement's deadline watches over it.
        match self.outgoing.try_send(beat) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(StreamError::Closed),
        }
    }
}

fn hello<S: FrameSource>(
    parts: &StreamParts<S>,
    host: HostId,
    time: v1::TimeRequest,
    bases: Option<v1::BodyBases>,
) -> v1::AgentMessage {
    up(Up::Hello(v1::Hello {
        protocol: PROTOCOL_VERSION,
        host_id: Bytes::copy_from_slice(host.as_bytes()),
        agent_version: parts.agent_version.clone(),
        epoch: Bytes::copy_from_slice(parts.source.epoch().as_bytes()),
        spooled: parts
            .source
            .spooled()
            .into_iter()
            .rev()
            .take(HELLO_MARKS_MAX)
            .map(v1::Mark::from)
            .collect(),
        boot_id: boot_id(),
        time: Some(time),
        bases,
        credit: true,
    }))
}

fn up(message: Up) -> v1::AgentMessage {
    v1::AgentMessage {
        message: Some(message),
    }
}

fn marks(marks: Vec<v1::Mark>) -> Result<Vec<Mark>, WireError> {
    marks.into_iter().map(Mark::try_from).collect()
}

fn farewell(goodbye: v1::Goodbye) -> StreamError {
    StreamError::Goodbye {
        reason: goodbye.reason,
        retry_after: Duration::from_millis(goodbye.retry_after_ms.into()),
        retry: goodbye.retry,
        self_contained: goodbye.self_contained,
    }
}

fn broken(link: &Link, status: tonic::Status) -> StreamError {
    link.fault(&status).map_or_else(
        || StreamError::call(status),
        |fault| StreamError::Refused { fault },
    )
}

fn count_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The kernel's boot id; empty when it cannot be read.
fn boot_id() -> Bytes {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim())
        .map(|id| Bytes::copy_from_slice(id.as_bytes()))
        .unwrap_or_default()
}

fn boot_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (
        u64::try_from(now.tv_sec).unwrap_or(0),
        u64::try_from(now.tv_nsec).unwrap_or(0),
    );
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}
