//! Names that certificates carry: the fleet, its hosts and its collectors.

use std::fmt;
use std::str::FromStr;

use fleetmend_event::HostId;
use serde::{Deserialize, Serialize};

/// Longest fleet id or collector name in bytes: a DNS label, so that it can become one.
const LABEL_BYTES_MAX: usize = 63;

/// A text is not a name of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label is empty, too long, or has characters that may not stand in a URI host.
    #[error("{kind} {text:?} must be 1 to 63 of a-z, 0-9 and '-', and neither begin nor end with '-'")]
    Label {
        /// Which name.
        kind: &'static str,
        /// The text, shortened.
        text: String,
    },
    /// A URI is not the name of a fleet member.
    #[error("{text:?} is not spiffe://<fleet>/host/<id> or spiffe://<fleet>/collector/<name>")]
    Uri {
        /// The text, shortened.
        text: String,
    },
}

fn shortened(text: &str) -> String {
    text.chars().take(96).collect()
}

fn label(kind: &'static str, text: &str) -> Result<String, NameError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let inner = !text.starts_with('-') && !text.ends_with('-');
    if !text.is_empty() && text.len() <= LABEL_BYTES_MAX && inner && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(NameError::Label {
            kind,
            text: shortened(text),
        })
    }
}

macro_rules! label_name {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                label($kind, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

label_name!(
    /// The trust domain: everything that one fleet root vouches for.
    FleetId, "fleet id"
);
label_name!(
    /// A collector within its fleet.
    CollectorName, "collector name"
);

/// The name of a fleet member, as the URI in its certificate says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerName {
    /// `spiffe://<fleet>/host/<id>`
    Host {
        /// Its fleet.
        fleet: FleetId,
        /// Its id, assigned at enrolment.
        host: HostId,
    },
    /// `spiffe://<fleet>/collector/<name>`
    Collector {
        /// Its fleet.
        fleet: FleetId,
        /// Its name.
        name: CollectorName,
    },
}

impl PeerName {
    /// The fleet that the name belongs to.
    pub fn fleet(&self) -> &FleetId {
        match self {
            PeerName::Host { fleet, .. } | PeerName::Collector { fleet, .. } => fleet,
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Host { fleet, host } => write!(formatter, "spiffe://{fleet}/host/{host}"),
            PeerName::Collector { fleet, name } => write!(formatter, "spiffe://{fleet}/collector/{name}"),
        }
    }
}

impl FromStr for PeerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Uri {
            text: shortened(text),
        };
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(wrong)?.split('/');
        let (Some(fleet), Some(kind), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let fleet: FleetId = fleet.parse().map_err(|_| wrong())?;
        let parsed = match kind {
            "host" => id
                .parse()
                .map(|host| PeerName::Host { fleet, host })
                .map_err(|_| wrong())?,
            "collector" => id
                .parse()
                .map(|name| PeerName::Collector { fleet, name })
                .map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        // One name has one spelling: an id in capitals or without hyphens is not accepted as the same host.
        if parsed.to_string() == text {
            Ok(parsed)
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_foreign_spellings_are_refused() {
        let host = HostId::random();
        for name in [
            PeerName::Host {
                fleet: "lab-1".parse().unwrap(),
                host,
            },
            PeerName::Collector {
                fleet: "lab-1".parse().unwrap(),
                name: "c1".parse().unwrap(),
            },
        ] {
            assert_eq!(name.to_string().parse::<PeerName>().unwrap(), name);
        }
        let shouted = format!("spiffe://lab/host/{}", host.to_string().to_uppercase());
        let wrong = [
            "",
            "spiffe://",
            "spiffe://lab",
            "spiffe://lab/host/",
            "spiffe://lab/host/x",
            "http://lab/host/1",
        ];
        for text in wrong.into_iter().chain([
            shouted.as_str(),
            "spiffe://Lab/collector/c",
            "spiffe://a/collector/b/c",
        ]) {
            assert!(text.parse::<PeerName>().is_err(), "{text} was accepted");
        }
        for text in ["", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            assert!(text.parse::<FleetId>().is_err(), "{text} was accepted");
        }
    }
}
