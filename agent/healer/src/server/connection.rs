//! One connection: requests are read and answered one after the other; followed entries come in between.

use std::convert::Infallible;
use std::time::Duration;

use fleetmend_event::healer::{
    HealerReply, HealerRequest, MessageError, PROTOCOL_VERSION, decode_message, encode_message, message_len,
};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::engine::Healer;
use crate::metrics;

/// The first message has to come within this, and each message wholly within this of its first byte.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(10);
/// A client that asks nothing for this long is gone; the agent asks how things stand each minute.
const IDLE_DEADLINE: Duration = Duration::from_secs(300);
/// A client that does not take an answer within this is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Answers that wait for a client; whoever has one more waits, which slows down that client alone.
const ANSWERS_MAX: usize = 64;

pub(super) struct Connection {
    pub(super) healer: Healer,
    pub(super) tasks: Tasks,
    pub(super) uid: u32,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("could not read from the client")]
    Read(#[from] std::io::Error),
    #[error("client was too slow")]
    Slow,
    #[error("client asked nothing for too long")]
    Idle,
    #[error("client does not take its answers")]
    Gone,
}

impl Connection {
    /// Says why, and closes.
    pub(super) async fn turn_away(&self, stream: UnixStream) {
        let (_, mut write) = stream.into_split();
        let reason = format!(
            "uid {} may not talk to the healer; see allowed_users in its configuration",
            self.uid
        );
        if let Err(fault) = send(&mut write, &HealerReply::Refused { reason }).await {
            tracing::debug!(%fault, "client that was turned away did not listen");
        }
    }

    pub(super) async fn run(self, stream: UnixStream) {
        let (mut read, mut write) = stream.into_split();
        let (answers, mut waiting) = mpsc::channel::<HealerReply>(ANSWERS_MAX);
        let token = self.tasks.token();
        let writing = token.clone();
        self.tasks.spawn("answers", TaskKind::BestEffort, async move {
            loop {
                let reply = tokio::select! {
                    () = writing.cancelled() => break,
                    reply = waiting.recv() => reply,
                };
                let Some(reply) = reply else { break };
                if let Err(fault) = send(&mut write, &reply).await {
                    tracing::debug!(%fault, "connection ended while answering");
                    break;
                }
            }
            Ok::<(), Infallible>(())
        });
        let outcome = tokio::select! {
            () = token.cancelled() => Ok(()),
            outcome = self.converse(&mut read, &answers) => outcome,
        };
        if let Err(fault) = outcome {
            let reason = match fault {
                Fault::Slow => "slow",
                Fault::Idle => "idle",
                Fault::Message(_) | Fault::Read(_) | Fault::Gone => "message",
            };
            metrics::connection_closed(reason);
            tracing::warn!(uid = self.uid, %fault, "connection closed");
            let told = answers.try_send(HealerReply::Refused {
                reason: fault.to_string(),
            });
            if told.is_err() {
                tracing::debug!("client was not told why");
            }
        }
    }

    async fn converse(
        &self,
        read: &mut OwnedReadHalf,
        answers: &mpsc::Sender<HealerReply>,
    ) -> Result<(), Fault> {
        let hello = receive(read, MESSAGE_DEADLINE).await?;
        match hello {
            None => return Ok(()),
            Some(HealerRequest::Hello {
                protocol: PROTOCOL_VERSION,
            }) => {}
            Some(other) => {
                let reason = match other {
                    HealerRequest::Hello { protocol } => {
                        format!("protocol {protocol} is not {PROTOCOL_VERSION}")
                    }
                    _ => "the first message must be hello".to_owned(),
                };
                return answers
                    .send(HealerReply::Refused { reason })
                    .await
                    .map_err(|_| Fault::Gone);
            }
        }
        let mut reply = self.answer(HealerRequest::Status).await;
        let mut following = false;
        loop {
            if let Some(reply) = reply {
                answers.send(reply).await.map_err(|_| Fault::Gone)?;
            }
            let Some(request) = receive(read, IDLE_DEADLINE).await? else {
                return Ok(());
            };
            reply = match request {
                HealerRequest::Follow { .. } if following => Some(HealerReply::Refused {
                    reason: "this connection follows already".to_owned(),
                }),
                HealerRequest::Follow { from_index } => {
                    following = true;
                    self.follow(from_index, answers.clone());
                    None
                }
                request => self.answer(request).await,
            };
        }
    }

    async fn answer(&self, request: HealerRequest) -> Option<HealerReply> {
        let (healer, tasks, uid) = (self.healer.clone(), self.tasks.clone(), self.uid);
        let answered = tokio::task::spawn_blocking(move || answer(&healer, &tasks, uid, request)).await;
        Some(answered.unwrap_or_else(|error| HealerReply::Refused {
            reason: format!("the healer failed: {error}"),
        }))
    }

    fn follow(&self, mut from_index: u64, answers: mpsc::Sender<HealerReply>) {
        let healer = self.healer.clone();
        let token = self.tasks.token();
        self.tasks.spawn("follow", TaskKind::BestEffort, async move {
            let mut next = healer.follow();
            loop {
                let reader = healer.clone();
                let read =
                    tokio::task::spawn_blocking(move || reader.page(from_index).map(|page| page.read()))
                        .await;
                let entries = match read {
                    Ok(Some(Ok(entries))) => entries,
                    Ok(None) => return Ok(()),
                    other => {
                        tracing::error!(?other, "ledger could not be followed");
                        return Ok(());
                    }
                };
                let caught_up = entries.is_empty();
                for (entry, event) in entries {
                    from_index = entry.index.saturating_add(1);
                    if answers
                        .send(HealerReply::Entry {
                            entry,
                            event: event.map(Box::new),
                        })
                        .await
                        .is_err()
                    {
                        return Ok::<(), Infallible>(());
                    }
                }
                if caught_up {
                    tokio::select! {
                        () = token.cancelled() => return Ok(()),
                        () = answers.closed() => return Ok(()),
                        changed = next.changed() => if changed.is_err() { return Ok(()) },
                    }
                }
            }
        });
    }
}

fn answer(healer: &Healer, tasks: &Tasks, uid: u32, request: HealerRequest) -> HealerReply {
    let refused = |reason: String| HealerReply::Refused { reason };
    match request {
        HealerRequest::Propose(proposal) => {
            let (reply, job) = healer.propose(*proposal);
            if let Some(job) = job {
                let worker = healer.clone();
                let started = tasks.spawn_thread("transaction", TaskKind::BestEffort, move |_| {
                    worker.run(job);
                    Ok(())
                });
                if let Err(error) = started {
                    tracing::error!(%error, "no thread for a transaction: the next start brings it to rest");
                }
            }
            reply
        }
        HealerRequest::InstallPolicy { envelope } => match healer.install_policy(envelope.as_bytes()) {
            Ok(()) => HealerReply::Status(healer.status()),
            Err(error) => refused(error.to_string()),
        },
        HealerRequest::AdvanceTrust { bundle } => match healer.advance_trust(bundle.as_bytes()) {
            Ok(()) => HealerReply::Status(healer.status()),
            Err(error) => refused(error.to_string()),
        },
        // Whoever may propose may also ask for quiet; only root of this host may end it.
        HealerRequest::KillSwitch { stopped: false } if uid != 0 => {
            refused("only root may resume acting: fleetmend-healer resume".to_owned())
        }
        HealerRequest::KillSwitch { stopped } => match healer.set_stopped(stopped) {
            Ok(()) => HealerReply::Status(healer.status()),
            Err(error) => refused(format!("the stop switch could not be set: {error}")),
        },
        HealerRequest::Hello { .. } | HealerRequest::Status | HealerRequest::Follow { .. } => {
            HealerReply::Status(healer.status())
        }
    }
}

/// The next message; none when the client closed between two. It has to begin within `idle`.
async fn receive(read: &mut OwnedReadHalf, idle: Duration) -> Result<Option<HealerRequest>, Fault> {
    let mut first = [0; 1];
    let begun = timeout(idle, read.read(&mut first)).await;
    if begun.map_err(|_| Fault::Idle)?? == 0 {
        return Ok(None);
    }
    let whole = async {
        let mut rest = [0; 3];
        read.read_exact(&mut rest).await?;
        let ([a], [b, c, d]) = (first, rest);
        let mut body = vec![0; message_len([a, b, c, d])?];
        read.read_exact(&mut body).await?;
        Ok::<_, Fault>(decode_message(&body)?)
    };
    timeout(MESSAGE_DEADLINE, whole)
        .await
        .map_err(|_| Fault::Slow)?
        .map(Some)
}

async fn send(write: &mut OwnedWriteHalf, reply: &HealerReply) -> Result<(), Fault> {
    let bytes = encode_message(reply)?;
    timeout(WRITE_DEADLINE, write.write_all(&bytes))
        .await
        .map_err(|_| Fault::Slow)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_nothing_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (mut read, _write) = ours.into_split();
        let given_up = timeout(IDLE_DEADLINE * 2, receive(&mut read, IDLE_DEADLINE)).await;
        assert!(matches!(given_up, Ok(Err(Fault::Idle))), "{given_up:?}");
    }
}
