//! Addresses as people write them: `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port`.
//!
//! The brackets are what tells the colons of an IPv6 address from the one before the port; an address without
//! them is refused, for it could be read in two ways. A zone (`[fe80::1%eth0]:port`) is allowed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The longest DNS name, a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 253 + 6;

/// Where something listens: a name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without brackets.
    host: String,
    port: u16,
}

/// A text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is none.
    #[error("must be host:port; an IPv6 address stands in brackets, [2001:db8::1]:7444")]
    Malformed,
    /// An IPv6 address without brackets.
    #[error("must have its IPv6 address in brackets: [2001:db8::1]:7444")]
    Bare,
}

impl Address {
    /// The name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IP address, where it is one without a zone.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Malformed)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().map_err(|_| AddressError::Malformed)?;
        if !digits || port == 0 || text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::Malformed);
        }
        let host = match host.strip_prefix('[') {
            Some(rest) => bracketed(rest)?,
            None if host.contains(':') => return Err(AddressError::Bare),
            None => plain(host)?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

fn bracketed(rest: &str) -> Result<&str, AddressError> {
    let host = rest.strip_suffix(']').ok_or(AddressError::Malformed)?;
    let (ip, zone) = host
        .split_once('%')
        .map_or((host, None), |(ip, zone)| (ip, Some(zone)));
    let known = ip.parse::<Ipv6Addr>().is_ok();
    let zoned =
        zone.is_none_or(|zone| !zone.is_empty() && zone.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if known && zoned {
        Ok(host)
    } else {
        Err(AddressError::Malformed)
    }
}

/// A name is not judged further: whoever resolves it knows better.
fn plain(host: &str) -> Result<&str, AddressError> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/@[]?#%\\\"'<>".contains(&byte);
    if !host.is_empty() && host.bytes().all(fits) {
        Ok(host)
    } else {
        Err(AddressError::Malformed)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, host, port) in [
            ("collector.example:7444", "collector.example", 7444),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[::1]:65535", "::1", 65535),
            ("[2001:db8::1]:7443", "2001:db8::1", 7443),
            ("[fe80::1%eth0]:7443", "fe80::1%eth0", 7443),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(
            "[::1]:1".parse::<Address>().unwrap().ip(),
            Some("::1".parse().unwrap())
        );
        assert_eq!("name:1".parse::<Address>().unwrap().ip(), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert_eq!("::1:5".parse::<Address>(), Err(AddressError::Bare));
        assert_eq!("2001:db8::1:7444".parse::<Address>(), Err(AddressError::Bare));
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:+1",
            "host:x",
            "host:65536",
            "ho st:1",
            "[::1]",
            "[::1:1",
            "[name]:1",
            "[127.0.0.1]:1",
            "[::1%]:1",
            "user@host:1",
            "http://host:1",
            "host/path:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text} was accepted");
        }
    }
}
