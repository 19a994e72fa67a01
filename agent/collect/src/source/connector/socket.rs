//! The socket, joined to the group of process events.
#![expect(
    unsafe_code,
    reason = "no safe wrapper makes a socket of this netlink protocol"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, NetlinkAddr, SockaddrLike, bind, recvfrom, send, setsockopt, sockopt};

use super::message::PROCESSES;

/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// Bytes of the request: netlink's header, the connector's, and the operation.
const REQUEST_BYTES: u32 = 16 + 20 + 4;
/// Larger than any message of the connector.
pub(super) const DATAGRAM_BYTES: usize = 4096;
/// How long the kernel may take to say that it listens.
const ANSWER: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct ConnectorSocket(OwnedFd);

/// The group could not be joined.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub(crate) struct ConnectorError {
    action: &'static str,
    #[source]
    pub(crate) source: io::Error,
}

/// What a look at the socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// A datagram of so many bytes.
    Datagram(usize),
    /// The kernel had no room for one or more.
    Overrun,
    /// Nothing more for now.
    Empty,
}

impl ConnectorSocket {
    /// Joins the group; needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// Which step the kernel refused.
    pub(crate) fn join(buffer_bytes: u32) -> Result<Self, ConnectorError> {
        let failed = |action: &'static str| {
            move |errno: Errno| ConnectorError {
                action,
                source: errno.into(),
            }
        };
        let flags = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the arguments are numbers; the answer is checked before it is used.
        let number = unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_CONNECTOR) };
        if number < 0 {
            return Err(ConnectorError {
                action: "make a socket of the process connector",
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: the number is a descriptor that was made just now and that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        bind(number, &NetlinkAddr::new(0, PROCESSES.0)).map_err(failed("join the process connector"))?;
        let bytes = usize::try_from(buffer_bytes).unwrap_or(usize::MAX);
        // Beyond the system's limit with the right to; without it as much as there may be.
        if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &bytes).map_err(failed("size the connector's socket"))?;
        }
        send(number, &request(), MsgFlags::empty()).map_err(failed("ask the process connector to tell"))?;
        let socket = Self(socket);
        socket.wait_for_answer()?;
        Ok(socket)
    }

    /// The kernel answers whether it listens; one that has no such connector does not answer at all.
    fn wait_for_answer(&self) -> Result<(), ConnectorError> {
        let mut buffer = [0; DATAGRAM_BYTES];
        let begun = std::time::Instant::now();
        let failed = |source| ConnectorError {
            action: "wait for the process connector's answer",
            source,
        };
        while begun.elapsed() < ANSWER {
            match self.receive(&mut buffer).map_err(failed)? {
                Received::Datagram(length) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    let error = datagram
                        .get(16 + 20 + 16..)
                        .and_then(|rest| rest.first_chunk::<4>());
                    if !super::message::Message::is_answer(datagram) {
                        // It tells already.
                        return Ok(());
                    }
                    return match error.map(|error| i32::from_ne_bytes(*error)) {
                        Some(0) => Ok(()),
                        Some(error) => Err(failed(io::Error::from_raw_os_error(error.abs()))),
                        None => Err(failed(io::ErrorKind::InvalidData.into())),
                    };
                }
                Received::Overrun => return Ok(()),
                Received::Empty => self.wait(Duration::from_millis(100)).map_err(failed)?,
            }
        }
        Err(failed(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until there is something, at most so long.
    pub(crate) fn wait(&self, at_most: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes one datagram of the kernel; those of anybody else are passed over.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), buffer) {
                Ok((length, from)) => {
                    if from.is_some_and(|from| from.family().is_some() && from.pid() == 0) {
                        return Ok(Received::Datagram(length));
                    }
                }
                Err(Errno::EAGAIN) => return Ok(Received::Empty),
                Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for ConnectorSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(REQUEST_BYTES.to_ne_bytes());
    bytes.extend(DONE.to_ne_bytes());
    // Flags of the header, its sequence and its port; then the connector's index and value.
    bytes.extend(0_u16.to_ne_bytes());
    for word in [0, 0, PROCESSES.0, PROCESSES.1, 0, 0] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    bytes.extend(4_u16.to_ne_bytes());
    bytes.extend(0_u16.to_ne_bytes());
    bytes.extend(LISTEN.to_ne_bytes());
    bytes
}
