//! One stream of one host, from its hello to its end.

mod credit;
mod end;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::{HostId, Mark, SpoolEpoch, TimeMicros};
use fleetmend_identity::PeerIdentity;
use fleetmend_proto::v1::agent_message::Message as Up;
use fleetmend_proto::v1::collector_message::Message as Down;
use fleetmend_proto::{PROTOCOL_VERSION, host_id, id_bytes, v1};
use fleetmend_shutdown::CancellationToken;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tonic::{Status, Streaming};

pub(crate) use self::credit::Credit;
pub(crate) use self::end::End;
use self::end::{end_of, refused, text};
use crate::admission::Admitted;
use crate::bases::StreamBases;
use crate::carrier::Shared;
use crate::config::{HELD_MAX, STOP_GRACE};
use crate::enrol::AuditKind;
use crate::hosts::{Arrival, Downward, HostOrderResult, LiveStream, Rivalry};
use crate::listener::OpenCall;
use crate::metered::Meter;
use crate::new_spool;
use crate::quota::Over;
use crate::records::{self, Committer};
use crate::sink::SinkError;

/// How often a host is told the time at most: each answer is signed.
const TIME_EVERY_MIN: Duration = Duration::from_secs(1);

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
    pub(crate) meter: Meter,
    pub(crate) credit: Credit,
    pub(crate) bases: StreamBases,
    /// Until when a host that is over its quota is not read.
    pub(crate) held_until: Option<Instant>,
    pub(crate) _place: (Admitted, OpenCall),
    /// When the host was last answered what time it is.
    pub(crate) told_time: Option<Instant>,
}

impl Session {
    /// Runs the stream to its end, says goodbye, and writes down what has to be.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let end = match self.begin().await {
            Ok((live, durable)) => self.serve(live, &durable, &token).await,
            Err(end) => end,
        };
        crate::metrics::ended(end.code());
        match &end {
            End::Refused { code, detail } => {
                self.audit(AuditKind::Stream, &format!("{code}: {detail}")).await
            }
            End::Slow { bytes, missing } => {
                let detail =
                    format!("too_slow: {missing} of a message of {bytes} bytes did not come in time");
                self.audit(AuditKind::Stream, &detail).await
            }
            End::NoRoom { bytes } => {
                tracing::warn!(host = %self.host, bytes, "stream is closed: there is no room for its message")
            }
            End::Stuck => {
                self.audit(
                    AuditKind::Stream,
                    "stuck: the host does not take what is sent to it",
                )
                .await
            }
            End::Revoked => {
                self.audit(AuditKind::Stream, "revoked: the live stream was closed")
                    .await
            }
            End::Relative(error) => {
                tracing::warn!(host = %self.host, %error, "stream is closed: a relative frame cannot be read; the host sends it whole")
            }
            End::Sink(error) => {
                tracing::warn!(host = %self.host, %error, "stream is closed: the store cannot take its records")
            }
            end => tracing::info!(host = %self.host, reason = end.code(), "stream of a host ended"),
        }
        if let Some(goodbye) = end.goodbye(self.host) {
            // The host may be gone already; then there is nobody to tell.
            if self.send(Down::Goodbye(goodbye)).await.is_err() {
                tracing::debug!(host = %self.host, "goodbye found nobody");
            }
        }
    }

    /// Waits for the hello, checks who says it, and welcomes the host; what is durable of it goes on with the stream.
    async fn begin(&mut self) -> Result<(LiveStream, Vec<Mark>), End> {
        let first = timeout(self.shared.config.hello_timeout.get(), self.inbound.message()).await;
        let first = first
            .map_err(|_| refused("no_hello", "no hello came in time"))?
            .map_err(|status| end_of(&status, self.meter.fault()))?
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
        let marks = self.shared.sink.marks(self.host);
        let durable = self.in_time(marks).await?;
        self.note_new_spool(&hello, &durable).await?;
        self.meter.welcome();
        if hello.credit {
            self.credit.obeys();
        }
        let credit = self.grant();
        let bases = self.bases.agree(hello.bases);
        let enroller = &self.shared.enroller;
        let time = hello
            .time
            .as_ref()
            .and_then(|question| enroller.time_call(question).ok());
        self.send(Down::Welcome(v1::Welcome {
            protocol: PROTOCOL_VERSION,
            store_epoch: Bytes::copy_from_slice(&self.shared.sink.store_epoch()),
            durable: durable.iter().copied().map(v1::Mark::from).collect(),
            wall_micros: TimeMicros::now().0,
            records_in_flight_max: self.shared.config.frames_in_flight_max,
            credit_bytes: credit,
            time,
            bundle_version: enroller.authority().bundle().version,
            bases,
        }))
        .await?;
        tracing::info!(host = %self.host, address = %self.address, agent = text(&hello.agent_version), "stream of a host is open");
        Ok((live, durable))
    }

    /// Waits for the sink no longer than a commit may take.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, SinkError>>) -> Result<T, End> {
        let after = self.shared.config.commit_timeout.get();
        let done = timeout(after, work).await;
        done.unwrap_or(Err(SinkError::Late { after })).map_err(End::Sink)
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
        self.in_time(commit).await?;
        Ok(())
    }

    async fn serve(&mut self, mut live: LiveStream, durable: &[Mark], token: &CancellationToken) -> End {
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
            clock: live.clock(),
            timeout: shared.config.commit_timeout.get(),
            marks: records::by_stream(durable),
        };
        loop {
            let held_until = self.held_until;
            let held = sleep_until(held_until.unwrap_or_else(Instant::now).into());
            let outcome = tokio::select! {
                biased;
                () = &mut revoked => return End::Revoked,
                () = &mut ended => return End::CertificateEnded,
                () = replaced.cancelled() => return End::Replaced,
                () = token.cancelled() => return End::Stopping,
                Some(message) = live.downward.recv() => self.pass_down(message).await,
                () = held, if held_until.is_some() => self.let_go().await,
                message = timeout(shared.config.silence_max.get(), self.inbound.message()), if held_until.is_none() => match message {
                    Err(_) => return End::Silent,
                    Ok(Err(status)) => return end_of(&status, self.meter.fault()),
                    Ok(Ok(None)) => return End::Gone,
                    Ok(Ok(Some(message))) => {
                        live.heard();
                        // Held until everything that came with the message is durable or refused.
                        let _room = self.meter.take_room();
                        tokio::select! {
                            received = self.receive(message, &live, &mut committer) => received,
                            () = late(token) => Err(End::Stopping),
                        }
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
                live.clocks(TimeMicros(beat.wall_micros), beat.boot_micros);
                match beat.time {
                    Some(question) => self.tell_time(&question).await,
                    None => Ok(()),
                }
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

    /// Answers an agent that asked the time; one that asks all the time is not answered each time.
    async fn tell_time(&mut self, question: &v1::TimeRequest) -> Result<(), End> {
        let now = Instant::now();
        if self
            .told_time
            .is_some_and(|last| now.saturating_duration_since(last) < TIME_EVERY_MIN)
        {
            return Ok(());
        }
        self.told_time = Some(now);
        match self.shared.enroller.time_call(question) {
            Ok(answer) => self.send(Down::Time(answer)).await,
            Err(status) => Err(refused("malformed", status.message())),
        }
    }

    async fn take_records(&mut self, records: v1::Records, committer: &mut Committer<'_>) -> Result<(), End> {
        if let Some(excess) = self.credit.received(length_of(&records.frames)) {
            let detail = format!("{excess} bytes of frames beyond what was granted");
            return Err(refused("credit", &detail));
        }
        if records.bases_cleared {
            self.bases.cleared();
        }
        // Of the frames that stand for themselves: a relative one of some bytes may be long in the store.
        let (mut bytes, mut rows, mut marks) = (0_u64, 0_u64, Vec::new());
        let mut rest = VecDeque::from(records.frames);
        loop {
            let group = self.bases.restore(&mut rest).await?;
            bytes = bytes.saturating_add(length_of(&group));
            let (of_group, reached) = self.take_frames(group, committer).await?;
            self.bases.settled();
            rows = rows.saturating_add(of_group);
            marks.retain(|mark: &Mark| {
                !reached
                    .iter()
                    .any(|next| (next.epoch, next.lane) == (mark.epoch, mark.lane))
            });
            marks.extend(reached);
            if rest.is_empty() {
                break;
            }
        }
        let over = self.shared.quotas.charge(self.host, bytes, rows, Instant::now());
        let credit_bytes = if over.is_none() { self.grant() } else { 0 };
        let acknowledged = v1::Acknowledged {
            marks: marks.into_iter().map(v1::Mark::from).collect(),
            credit_bytes,
            clear_bases: self.bases.take_request(),
        };
        self.send(Down::Acknowledged(acknowledged)).await?;
        match over {
            Some(over) => self.hold(over).await,
            None => Ok(()),
        }
    }

    /// Makes frames durable; how many rows they state, and the marks they reached.
    async fn take_frames(
        &self,
        frames: Vec<Bytes>,
        committer: &mut Committer<'_>,
    ) -> Result<(u64, Vec<Mark>), End> {
        let checked = records::check(frames).await?;
        let rows = checked.frames.iter().map(|frame| u64::from(frame.rows)).sum();
        let committed = committer.commit(checked).await.map_err(End::Sink)?;
        for id in &committed.conflicts {
            tracing::error!(host = %self.host, ?id, "a record came again with other content; the stored one stays");
            let detail = format!(
                "identity_conflict: {} {} {} is stored with other content",
                id.epoch, id.lane, id.sequence
            );
            self.audit(AuditKind::Stream, &detail).await;
        }
        Ok((rows, committed.marks))
    }

    /// Bytes of frames that the host may have sent in all from now on.
    fn grant(&mut self) -> u64 {
        let streams = self.shared.streams.open();
        self.credit.grant(self.shared.budget.credit(streams))
    }

    /// The host sent more than it may: it is not read for a while, or sent away when that would be long.
    async fn hold(&mut self, over: Over) -> Result<(), End> {
        let Over {
            excess,
            wait,
            name_it,
        } = over;
        crate::metrics::held(excess.as_str());
        if name_it {
            tracing::warn!(host = %self.host, quota = excess.as_str(), "host sends more than it may and is held");
            let detail = format!("{}: the host sent more than it may and is held", excess.as_str());
            self.audit(AuditKind::Stream, &detail).await;
        }
        if wait > HELD_MAX {
            return Err(End::Held { excess, wait });
        }
        self.held_until = Some(Instant::now() + wait);
        Ok(())
    }

    /// The host is within its quota again.
    async fn let_go(&mut self) -> Result<(), End> {
        self.held_until = None;
        let bytes = self.grant();
        if self.credit.is_obeyed() {
            self.send(Down::Credit(v1::Credit { bytes })).await?;
        }
        Ok(())
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
        let sent = timeout(
            self.shared.config.answer_timeout.get(),
            self.outgoing.send(Ok(message)),
        )
        .await;
        sent.map_err(|_| End::Stuck)?.map_err(|_| End::Gone)
    }

    async fn audit(&self, kind: AuditKind, detail: &str) {
        self.shared
            .audit
            .refused(kind, self.address.ip(), Some(self.host), detail)
            .await;
    }
}

/// A collector that stops lets a commit end, but not for long: what is not acknowledged comes again.
async fn late(token: &CancellationToken) {
    token.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}

fn length_of(frames: &[Bytes]) -> u64 {
    let bytes = frames.iter().map(Bytes::len).sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn until(moment: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(moment.micros_since(TimeMicros::now())).unwrap_or(0))
}
