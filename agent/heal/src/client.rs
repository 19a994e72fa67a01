//! One connection to the healer.

use std::path::Path;
use std::time::Duration;

use fleetmend_event::healer::{
    HealerReply, HealerRequest, HealerStatus, PROTOCOL_VERSION, decode_message, encode_message, message_len,
};
use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::LinkError;

/// Connecting, the greeting and each write have to be done within this.
const DEADLINE: Duration = Duration::from_secs(10);
/// Replies that wait to be looked at; the healer waits with the next.
const REPLIES_MAX: usize = 64;

/// A connection that was greeted.
#[derive(Debug)]
pub struct Link {
    write: OwnedWriteHalf,
    replies: mpsc::Receiver<Result<HealerReply, LinkError>>,
}

impl Link {
    /// Connects, says hello and gives the healer's status.
    ///
    /// # Errors
    /// When there is no healer, or it refuses us.
    pub async fn open(socket: &Path, tasks: &Tasks) -> Result<(Self, HealerStatus), LinkError> {
        timeout(DEADLINE, Self::greet(socket, tasks))
            .await
            .map_err(|_| LinkError::Slow)?
    }

    async fn greet(socket: &Path, tasks: &Tasks) -> Result<(Self, HealerStatus), LinkError> {
        let refused = |source| LinkError::Connect {
            socket: socket.to_owned(),
            source,
        };
        let stream = UnixStream::connect(socket).await.map_err(refused)?;
        let (mut read, mut write) = stream.into_split();
        // Whoever we turned out to be may have been told before we said a word.
        let hello = encode_message(&HealerRequest::Hello {
            protocol: PROTOCOL_VERSION,
        })?;
        let said = write.write_all(&hello).await;
        let status = match receive(&mut read).await {
            Ok(HealerReply::Status(status)) => status,
            Ok(HealerReply::Refused { reason }) => return Err(LinkError::Refused(reason)),
            Ok(_) => return Err(LinkError::Refused("it did not greet".to_owned())),
            Err(error) => return Err(said.err().map_or(error, LinkError::Io)),
        };
        let (queue, replies) = mpsc::channel(REPLIES_MAX);
        let token = tasks.token();
        tasks.spawn("replies", TaskKind::BestEffort, async move {
            loop {
                let reply = tokio::select! {
                    () = token.cancelled() => break,
                    () = queue.closed() => break,
                    reply = receive(&mut read) => reply,
                };
                let last = reply.is_err();
                if queue.send(reply).await.is_err() || last {
                    break;
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
        Ok((Self { write, replies }, status))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the connection is of no more use.
    ///
    /// # Cancel safety
    /// Not to be dropped half-way: the connection is then of no more use.
    pub async fn send(&mut self, request: &HealerRequest) -> Result<(), LinkError> {
        let bytes = encode_message(request)?;
        timeout(DEADLINE, self.write.write_all(&bytes))
            .await
            .map_err(|_| LinkError::Slow)??;
        Ok(())
    }

    /// The next reply.
    ///
    /// # Errors
    /// When the connection is of no more use.
    ///
    /// # Cancel safety
    /// Loses nothing when dropped.
    pub async fn receive(&mut self) -> Result<HealerReply, LinkError> {
        self.replies.recv().await.unwrap_or(Err(LinkError::Closed))
    }

    /// Whether no reply waits.
    pub fn is_idle(&self) -> bool {
        self.replies.is_empty()
    }
}

async fn receive(read: &mut OwnedReadHalf) -> Result<HealerReply, LinkError> {
    let mut prefix = [0; 4];
    read.read_exact(&mut prefix).await?;
    let mut body = vec![0; message_len(prefix)?];
    read.read_exact(&mut body).await?;
    Ok(decode_message(&body)?)
}
