//! Enrolment tokens: what an operator pastes on a new host.
//!
//! # Format, version 1
//!
//! `fm1.` followed by base64url without padding of: 32 bytes fingerprint of the fleet root, 24 bytes secret,
//! the address `host:port` of the enrolment listener in UTF-8, and the first 4 bytes of SHA-256 over all that,
//! so that a token that was cut or mistyped is told apart from one that was refused.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Address, Fingerprint};

const PREFIX: &str = "fm1.";
const FINGERPRINT_BYTES: usize = 32;
const SECRET_BYTES: usize = 24;
const CHECK_BYTES: usize = 4;

/// A text is not an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error(
        "an enrolment token begins with \"fm1.\"; make one with `fleetmend token create` on the collector"
    )]
    Prefix,
    /// It is damaged.
    #[error("the enrolment token is incomplete or mistyped; copy it again, whole and without spaces")]
    Damaged,
    /// The address in it is none.
    #[error("the address {0:?} is not host:port, with an IPv6 address in brackets")]
    Address(String),
}

/// The one-use secret of a token. The collector keeps only its [`TokenSecret::digest`].
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret([u8; SECRET_BYTES]);

impl TokenSecret {
    /// 192 random bits.
    pub fn generate() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// From its bytes; `None` when they are not 24.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The secret itself, to be sent over the pinned connection and nowhere else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// What the collector stores and looks up. A plain hash is enough: the secret is random, not a password.
    pub fn digest(&self) -> Fingerprint {
        Fingerprint::of_bytes(&self.0)
    }
}

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenSecret(***)")
    }
}

/// Address of the enrolment listener, fingerprint of the root it must prove, and the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    address: String,
    root: Fingerprint,
    secret: TokenSecret,
}

impl EnrolmentToken {
    /// A token for the listener at `address` (`host:port`; an IPv6 address in brackets).
    pub fn new(address: &str, root: Fingerprint, secret: TokenSecret) -> Result<Self, TokenError> {
        let wrong = || TokenError::Address(address.chars().take(64).collect());
        address.parse::<Address>().map_err(|_| wrong())?;
        Ok(Self {
            address: address.to_owned(),
            root,
            secret,
        })
    }

    /// `host:port` of the enrolment listener.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Fingerprint of the fleet root.
    pub fn root(&self) -> Fingerprint {
        self.root
    }

    /// The secret.
    pub fn secret(&self) -> &TokenSecret {
        &self.secret
    }

    /// The token as the operator sees it, once. It is a secret.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        bytes.extend_from_slice(self.root.as_bytes());
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(self.address.as_bytes());
        let check = Fingerprint::of_bytes(&bytes);
        bytes.extend(check.as_bytes().iter().take(CHECK_BYTES));
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())))
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?);
        let split = bytes.len().checked_sub(CHECK_BYTES).ok_or(TokenError::Damaged)?;
        let (content, check) = bytes.split_at_checked(split).ok_or(TokenError::Damaged)?;
        if !Fingerprint::of_bytes(content).as_bytes().starts_with(check) {
            return Err(TokenError::Damaged);
        }
        let (root, rest) = content
            .split_first_chunk::<FINGERPRINT_BYTES>()
            .ok_or(TokenError::Damaged)?;
        let (secret, address) = rest
            .split_first_chunk::<SECRET_BYTES>()
            .ok_or(TokenError::Damaged)?;
        let address = std::str::from_utf8(address).map_err(|_| TokenError::Damaged)?;
        Self::new(address, Fingerprint::from_bytes(*root), TokenSecret(*secret))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> EnrolmentToken {
        let root = Fingerprint::of_bytes(b"root");
        EnrolmentToken::new("collector.example:7443", root, TokenSecret::generate()).unwrap()
    }

    #[test]
    fn a_token_round_trips_and_never_shows_its_secret() {
        let token = token();
        let text = token.expose();
        assert_eq!(text.parse::<EnrolmentToken>().unwrap(), token);
        assert_eq!(format!("  {}\n", *text).parse::<EnrolmentToken>().unwrap(), token);
        let shown = format!("{token:?}");
        assert!(
            shown.contains("***") && !shown.contains(&hex::encode(token.secret.0)),
            "{shown}"
        );
    }

    #[test]
    fn an_ipv6_address_travels_in_a_token() {
        for address in ["[::1]:7443", "[2001:db8::1]:7443"] {
            let made =
                EnrolmentToken::new(address, Fingerprint::of_bytes(b""), TokenSecret::generate()).unwrap();
            let read: EnrolmentToken = made.expose().parse().unwrap();
            assert_eq!(read.address(), address);
        }
    }

    #[test]
    fn a_cut_or_mistyped_token_says_so() {
        let text = token().expose();
        for length in PREFIX.len()..text.len() {
            assert_eq!(
                text[..length].parse::<EnrolmentToken>(),
                Err(TokenError::Damaged),
                "cut at {length}"
            );
        }
        assert_eq!("fm2.abc".parse::<EnrolmentToken>(), Err(TokenError::Prefix));
        for address in ["", "host", ":1", "host:0", "host:x", "::1:5", "ho st:1"] {
            let made = EnrolmentToken::new(address, Fingerprint::of_bytes(b""), TokenSecret::generate());
            assert!(matches!(made, Err(TokenError::Address(_))), "{address}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
            prop_assert!(text.parse::<EnrolmentToken>().is_err());
            let token = format!("{PREFIX}{text}");
            prop_assert!(token.parse::<EnrolmentToken>().is_err());
        }
    }
}
