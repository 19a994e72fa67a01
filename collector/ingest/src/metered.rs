//! Between HTTP/2 and the messages of a call: how long a message may be, whether there is room for it, and how
//! long it may take to come.
//!
//! A gRPC message is a flag, a length of four bytes and so many bytes. The bytes of a message are handed on only
//! after its room was taken from the [`Budget`]; while there is none, nothing is read, HTTP/2's window fills, and
//! the host waits. Nothing of the next message is handed on before it is asked for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use crate::budget::{Budget, Room};

/// Longest message before the welcome: a hello with its marks, or a request to renew.
const HELLO_BYTES_MAX: usize = 64 * 1024;
/// A message may take longer than its time by so much for each of its bytes: slow links are slow, not hostile.
const BYTES_PER_S_MIN: u64 = 16 * 1024;
/// Flag and length.
const PREFIX_BYTES: usize = 5;

/// Limits of a message.
#[derive(Debug, Clone)]
pub(crate) struct MessageLimits {
    pub(crate) budget: Budget,
    /// Longest message of a host that was welcomed.
    pub(crate) bytes_max: usize,
    /// From its room to its last byte.
    pub(crate) transfer_timeout: Duration,
    /// How long it may wait for room.
    pub(crate) room_timeout: Duration,
}

/// Why a call was not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A message states more bytes than it may have.
    TooLong { bytes: usize, bytes_max: usize },
    /// A message did not come in time.
    TooSlow { bytes: usize, missing: usize },
    /// There was no room.
    NoRoom { bytes: usize },
}

/// What is known of the messages of one call; a request extension of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    welcomed: bool,
    room: Option<Room>,
    fault: Option<Fault>,
}

impl Meter {
    /// From now on messages may be of full length.
    pub(crate) fn welcome(&self) {
        self.state.lock().welcomed = true;
    }

    /// The room of the message that was read last.
    pub(crate) fn take_room(&self) -> Option<Room> {
        self.state.lock().room.take()
    }

    /// Why the call is not read on, when that is by these limits.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state.lock().fault
    }

    fn bytes_max(&self, of_welcomed: usize) -> usize {
        if self.state.lock().welcomed {
            of_welcomed
        } else {
            HELLO_BYTES_MAX
        }
    }

    fn fail(&self, fault: Fault) -> Status {
        self.state.lock().fault = Some(fault);
        match fault {
            Fault::TooLong { bytes, bytes_max } => Status::out_of_range(format!(
                "message of {bytes} bytes, more than the {bytes_max} allowed"
            )),
            Fault::TooSlow { .. } => Status::deadline_exceeded("a message did not come in time"),
            Fault::NoRoom { .. } => Status::unavailable("the collector has no room for the message"),
        }
    }
}

/// Meters every call of a service.
#[derive(Debug, Clone)]
pub(crate) struct Metered<S> {
    pub(crate) inner: S,
    pub(crate) limits: MessageLimits,
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Metered<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let meter = Meter::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(meter.clone());
        let body = MeteredBody {
            body,
            meter,
            limits: self.limits.clone(),
            held: Bytes::new(),
            at: At::Prefix {
                bytes: [0; PREFIX_BYTES],
                filled: 0,
            },
            deadline: Box::pin(sleep_until(Instant::now())),
        };
        self.inner.call(http::Request::from_parts(parts, Body::new(body)))
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Option<Room>, Fault>> + Send>>;

enum At {
    /// Before or in the prefix of a message.
    Prefix {
        bytes: [u8; PREFIX_BYTES],
        filled: usize,
    },
    /// Behind it, without room.
    Room {
        prefix: [u8; PREFIX_BYTES],
        length: usize,
        waiting: Waiting,
    },
    /// In the message.
    Message { length: usize, missing: usize },
    /// Nothing is read any more.
    Over,
}

struct MeteredBody {
    body: Body,
    meter: Meter,
    limits: MessageLimits,
    /// What was read and not handed on.
    held: Bytes,
    at: At,
    /// Of the message that has begun.
    deadline: Pin<Box<Sleep>>,
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if matches!(this.at, At::Over) {
                return Poll::Ready(None);
            }
            if let At::Room { waiting, .. } = &mut this.at {
                let room = ready!(waiting.as_mut().poll(context));
                return Poll::Ready(Some(this.begin(room).map(Frame::data)));
            }
            if this.held.is_empty() {
                match this.poll_body(context) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => this.held = data,
                        Err(other) => return Poll::Ready(Some(Ok(other))),
                    },
                    other => return other,
                }
                continue;
            }
            match &mut this.at {
                At::Message { length, missing } => {
                    let part = this.held.split_to(this.held.len().min(*missing));
                    *missing = missing.saturating_sub(part.len());
                    this.at = At::after(*length, *missing);
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                At::Prefix { .. } => this.take_prefix()?,
                At::Room { .. } | At::Over => {}
            }
        }
    }
}

impl At {
    fn after(length: usize, missing: usize) -> Self {
        if missing == 0 {
            At::Prefix {
                bytes: [0; PREFIX_BYTES],
                filled: 0,
            }
        } else {
            At::Message { length, missing }
        }
    }
}

impl MeteredBody {
    /// The next bytes of the call, unless a message that has begun takes too long.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let (bytes, missing) = match &self.at {
            At::Prefix { filled: 0, .. } => return Poll::Pending,
            At::Message { length, missing } => (*length, *missing),
            At::Prefix { .. } | At::Room { .. } | At::Over => (PREFIX_BYTES, PREFIX_BYTES),
        };
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Some(Err(self.meter.fail(Fault::TooSlow { bytes, missing }))))
    }

    /// Takes bytes of the prefix; at its end the message has to fit and to find room.
    fn take_prefix(&mut self) -> Result<(), Status> {
        let At::Prefix { bytes, filled } = &mut self.at else {
            return Ok(());
        };
        if *filled == 0 {
            self.deadline
                .as_mut()
                .reset(Instant::now() + self.limits.transfer_timeout);
        }
        for byte in bytes.iter_mut().skip(*filled) {
            let Some((first, _)) = self.held.split_first() else {
                return Ok(());
            };
            *byte = *first;
            *filled += 1;
            drop(self.held.split_to(1));
        }
        let prefix = *bytes;
        let [_, length @ ..] = prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let bytes_max = self.meter.bytes_max(self.limits.bytes_max);
        if length > bytes_max {
            return Err(self.meter.fail(Fault::TooLong {
                bytes: length,
                bytes_max,
            }));
        }
        let (budget, wait) = (self.limits.budget.clone(), self.limits.room_timeout);
        let waiting = async move {
            let room = timeout(wait, budget.room(length)).await;
            room.map_err(|_| Fault::NoRoom { bytes: length })
        };
        self.at = At::Room {
            prefix,
            length,
            waiting: Box::pin(waiting),
        };
        Ok(())
    }

    /// Keeps the room and hands on the prefix.
    fn begin(&mut self, room: Result<Option<Room>, Fault>) -> Result<Bytes, Status> {
        let room = match room {
            Ok(room) => room,
            Err(fault) => {
                self.at = At::Over;
                return Err(self.meter.fail(fault));
            }
        };
        self.meter.state.lock().room = room;
        let At::Room { prefix, length, .. } = &self.at else {
            return Ok(Bytes::new());
        };
        let slowest = Duration::from_secs(u64::try_from(*length).unwrap_or(u64::MAX) / BYTES_PER_S_MIN);
        let due = Instant::now() + self.limits.transfer_timeout + slowest;
        self.deadline.as_mut().reset(due);
        let prefix = Bytes::copy_from_slice(prefix);
        self.at = At::after(*length, *length);
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests;
