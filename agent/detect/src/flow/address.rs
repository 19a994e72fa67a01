//! The other side of a connection.

use std::net::IpAddr;

/// How far away an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// This host.
    Loopback,
    /// A network that is not routed on the internet.
    Private,
    /// The internet.
    Public,
}

/// An address with how far away it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Far {
    pub(crate) ip: IpAddr,
    pub(crate) reach: Reach,
}

impl Far {
    /// Reads an address as the tables have it; `None` when it is none, or stands for any.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let ip = text.parse::<IpAddr>().ok()?.to_canonical();
        if ip.is_unspecified() {
            return None;
        }
        Some(Self { ip, reach: reach(ip) })
    }
}

fn reach(ip: IpAddr) -> Reach {
    let private = match ip {
        _ if ip.is_loopback() => return Reach::Loopback,
        IpAddr::V4(four) => {
            let [first, second, ..] = four.octets();
            // 100.64.0.0/10 is shared behind carriers' translators, RFC 6598.
            four.is_private() || four.is_link_local() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(six) => six.is_unique_local() || six.is_unicast_link_local(),
    };
    if private { Reach::Private } else { Reach::Public }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_far_as_they_are() {
        let of = |text| Far::of(text).map(|far| far.reach);
        assert_eq!(of("127.0.0.9"), Some(Reach::Loopback));
        assert_eq!(of("::1"), Some(Reach::Loopback));
        assert_eq!(of("::ffff:10.1.2.3"), Some(Reach::Private));
        assert_eq!(of("fd00::1"), Some(Reach::Private));
        assert_eq!(of("100.64.0.1"), Some(Reach::Private));
        assert_eq!(of("198.51.100.7"), Some(Reach::Public));
        assert_eq!(of("0.0.0.0"), None);
        assert_eq!(of(""), None);
    }
}
