//! /proc/PID/net/tcp and tcp6: the same table as text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::{LISTEN, SocketEntry, TIME_WAIT};

/// Bytes of a table that are read: at 150 a socket some hundred thousand.
const TABLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Hands every socket of the table that somebody holds to `take`; says whether it was read to its end.
pub(super) fn read(path: &Path, take: &mut dyn FnMut(SocketEntry)) -> io::Result<bool> {
    let mut table = BufReader::new(File::open(path)?.take(TABLE_BYTES_MAX));
    let mut line = String::new();
    let mut bytes = 0_u64;
    loop {
        line.clear();
        let read = table.read_line(&mut line)?;
        if read == 0 {
            return Ok(bytes < TABLE_BYTES_MAX);
        }
        bytes += u64::try_from(read).unwrap_or(0);
        parse_line(&line).into_iter().for_each(&mut *take);
    }
}

/// `sl local remote state tx:rx tr:when retransmits uid timeout inode …`.
fn parse_line(line: &str) -> Option<SocketEntry> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1).and_then(address)?;
    let remote = fields.next().and_then(address)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    (inode != 0 && state != TIME_WAIT).then_some(SocketEntry {
        local,
        remote,
        inode,
        listens: state == LISTEN,
        uid,
    })
}

/// `0100007F:0050`: words of the address in the machine's byte order, the port in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0";
        let entry = parse_line(line).unwrap();
        assert_eq!(
            (entry.local.to_string().as_str(), entry.inode, entry.uid),
            ("127.0.0.1:8080", 4242, 1000)
        );
        assert!(entry.listens);
        let line = "1: 00000000000000000000000001000000:0016 00000000000000000000000001000000:C350 01 0:0 0:0 0 0 0 7 1";
        let entry = parse_line(line).unwrap();
        assert_eq!(
            (entry.local.to_string().as_str(), entry.listens),
            ("[::1]:22", false)
        );
        for wrong in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            "0: 0100007F:1F90 00000000:0000 06 0:0 0:0 0 0 0 9 1",
            "0: 0100007F:1F90 00000000:0000 01 0:0 0:0 0 0 0 0 1",
            "0: é100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 7 1",
        ] {
            assert_eq!(parse_line(wrong), None, "{wrong}");
        }
    }
}
