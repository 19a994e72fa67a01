//! sock_diag: the kernel's own table of TCP sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{LISTEN, SocketEntry, TIME_WAIT};

/// `SOCK_DIAG_BY_FAMILY`, `NLMSG_ERROR`, `NLMSG_DONE`, `NLM_F_REQUEST | NLM_F_DUMP`, `NLM_F_DUMP_INTR`.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x301;
const INTERRUPTED: u16 = 0x10;
/// Every state but closed sockets, those that wait for their end, and requests that nobody has accepted.
const STATES: u32 = 0xfff & !(1 << TIME_WAIT) & !(1 << 7) & !(1 << 12);
/// `AF_INET` and `AF_INET6` in a request.
const FAMILIES: [u8; 2] = [2, 10];
const TCP: u8 = 6;
/// Bytes of netlink's header and of an `inet_diag_msg`.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 72;
/// The kernel fills at most so much at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Longest wait for the kernel's answer.
const ANSWER_S: i64 = 5;

/// An open socket to the kernel's table.
#[derive(Debug)]
pub(super) struct Diag(OwnedFd);

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_S))?;
        Ok(Self(socket))
    }

    /// Hands every TCP socket that somebody holds to `take`; says whether the table was read undisturbed.
    pub(super) fn dump(&self, take: &mut dyn FnMut(SocketEntry)) -> io::Result<bool> {
        let mut whole = true;
        for (sequence, family) in (1_u32..).zip(FAMILIES) {
            send(self.0.as_raw_fd(), &request(family, sequence), MsgFlags::empty())?;
            whole &= self.answer(sequence, take)?;
        }
        Ok(whole)
    }

    fn answer(&self, sequence: u32, take: &mut dyn FnMut(SocketEntry)) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut whole = true;
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            if rest.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            while let Some(header) = Header::parse(rest) {
                let body = rest.get(HEADER_BYTES..header.length).unwrap_or_default();
                rest = rest.get(header.length.next_multiple_of(4)..).unwrap_or_default();
                if header.sequence != sequence {
                    continue;
                }
                whole &= header.flags & INTERRUPTED == 0;
                match header.kind {
                    DONE => return Ok(whole),
                    ERROR => return Err(refusal(body)),
                    BY_FAMILY => parse_message(body).into_iter().for_each(&mut *take),
                    _ => {}
                }
            }
        }
    }
}

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let length = usize::try_from(word(bytes, 0)?).ok()?;
        (length >= HEADER_BYTES && length <= bytes.len()).then_some(())?;
        Some(Self {
            length,
            kind: half(bytes, 4)?,
            flags: half(bytes, 6)?,
            sequence: word(bytes, 8)?,
        })
    }
}

fn refusal(body: &[u8]) -> io::Error {
    let error = word(body, 0).map_or(0, u32::cast_signed);
    io::Error::from_raw_os_error(error.saturating_abs())
}

/// `inet_diag_msg`; `None` for a socket that nobody holds.
fn parse_message(body: &[u8]) -> Option<SocketEntry> {
    if body.len() < MESSAGE_BYTES {
        return None;
    }
    let family = *body.first()?;
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let address = |at: usize| {
        let bytes = body.get(at..)?;
        Some(if family == 10 {
            IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?))
        } else {
            IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?))
        })
    };
    let inode = u64::from(word(body, 68)?);
    (inode != 0).then_some(SocketEntry {
        local: SocketAddr::new(address(8)?, port(4)?),
        remote: SocketAddr::new(address(24)?, port(6)?),
        inode,
        listens: *body.get(1)? == LISTEN,
        uid: word(body, 64)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `nlmsghdr` and `inet_diag_req_v2`.
fn request(family: u8, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(STATES.to_ne_bytes());
    bytes.resize(72, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_that_is_cut_or_held_by_nobody_is_none() {
        let mut body = vec![0; MESSAGE_BYTES];
        body[0] = 2;
        body[1] = LISTEN;
        body[4..6].copy_from_slice(&80_u16.to_be_bytes());
        body[8..12].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(parse_message(&body), None, "held by nobody");
        body[68..72].copy_from_slice(&7_u32.to_ne_bytes());
        let entry = parse_message(&body).unwrap();
        assert_eq!(
            (entry.local.to_string().as_str(), entry.inode, entry.listens),
            ("192.0.2.1:80", 7, true)
        );
        for end in 0..MESSAGE_BYTES {
            assert_eq!(parse_message(&body[..end]), None, "{end}");
        }
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut header = length.to_ne_bytes().to_vec();
            header.resize(16, 0);
            assert!(Header::parse(&header).is_none(), "{length}");
        }
    }
}
