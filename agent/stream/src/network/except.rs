//! What is reached without the proxy.

use std::net::IpAddr;

use fleetmend_identity::Address;

/// Entries that are kept; a longer list is a fault of the configuration.
pub(super) const EXCEPTIONS_MAX: usize = 256;

/// A `no_proxy` list: `*`, names (with everything below them), IP addresses and networks, each with a port if
/// only that one is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    All,
    /// In lower case, without a leading dot.
    Name(String),
    Network(IpAddr, u8),
}

impl Exceptions {
    /// Reads entries.
    ///
    /// # Errors
    /// The place of the first entry that is none.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, usize> {
        if entries.len() > EXCEPTIONS_MAX {
            return Err(EXCEPTIONS_MAX);
        }
        let mut list = Vec::with_capacity(entries.len());
        for (place, entry) in entries.iter().enumerate() {
            list.push(Entry::parse(entry.as_ref().trim()).ok_or(place)?);
        }
        Ok(Self(list))
    }

    /// Whether `address` is reached without the proxy.
    pub fn covers(&self, address: &Address) -> bool {
        self.0.iter().any(|entry| entry.covers(address))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self {
                what: What::All,
                port: None,
            });
        }
        if let Some(what) = network(text) {
            return Some(Self { what, port: None });
        }
        if let Ok(address) = text.parse::<Address>() {
            let what = network(address.host()).or_else(|| name(address.host()))?;
            let port = Some(address.port());
            return Some(Self { what, port });
        }
        let what = name(text)?;
        Some(Self { what, port: None })
    }

    fn covers(&self, address: &Address) -> bool {
        if self.port.is_some_and(|port| port != address.port()) {
            return false;
        }
        match &self.what {
            What::All => true,
            What::Name(name) => {
                let host = address.host().trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            What::Network(network, bits) => address
                .ip()
                .is_some_and(|ip| contains(*network, *bits, ip.to_canonical())),
        }
    }
}

fn name(text: &str) -> Option<What> {
    let name = text.trim_start_matches("*.").trim_start_matches('.');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!name.is_empty() && name.bytes().all(fits)).then(|| What::Name(name.to_ascii_lowercase()))
}

fn network(text: &str) -> Option<What> {
    let (ip, bits) = text
        .split_once('/')
        .map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let ip: IpAddr = ip.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some(What::Network(ip, bits))
}

fn contains(network: IpAddr, bits: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(bits.into()))
                .unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(bits.into()))
                .unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_networks_and_ports_are_excepted() {
        let list = [
            "localhost",
            ".corp.example",
            "10.0.0.0/8",
            "[2001:db8::]/32",
            "c.example:7443",
            "[fd00::1]:1",
            "192.0.2.7",
        ];
        let except = Exceptions::parse(&list).unwrap();
        for covered in [
            "localhost:1",
            "LOCALHOST:1",
            "corp.example:1",
            "a.b.corp.example.:1",
            "10.255.0.1:1",
            "[2001:db8::9]:1",
            "c.example:7443",
            "[fd00::1]:1",
            "192.0.2.7:9",
            "[::ffff:10.1.1.1]:2",
        ] {
            assert!(except.covers(&covered.parse().unwrap()), "{covered}");
        }
        for other in [
            "nolocalhost:1",
            "evilcorp.example:1",
            "11.0.0.1:1",
            "[2001:db9::1]:1",
            "c.example:7444",
            "[fd00::1]:2",
            "192.0.2.8:9",
        ] {
            assert!(!except.covers(&other.parse().unwrap()), "{other}");
        }
        assert!(
            Exceptions::parse(&["*"])
                .unwrap()
                .covers(&"any:1".parse().unwrap())
        );
        assert!(
            Exceptions::parse(&["0.0.0.0/0"])
                .unwrap()
                .covers(&"8.8.8.8:1".parse().unwrap())
        );
        for wrong in ["", ".", "10.0.0.0/33", "a b", "http://x"] {
            assert_eq!(Exceptions::parse(&["ok", wrong]), Err(1), "{wrong}");
        }
    }
}
