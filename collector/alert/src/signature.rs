//! The signature of a message: `t=<unix seconds>,v1=<hex of HMAC-SHA256(secret, "<t>.<body>")>`.
//!
//! The time is part of what is signed, so that a message that was recorded cannot be played again later.

use aws_lc_rs::hmac;

/// The value of the header `Fleetmend-Signature`.
pub(crate) fn sign(secret: &str, unix_seconds: i64, body: &[u8]) -> String {
    let tag = tag(secret, unix_seconds, body);
    format!("t={unix_seconds},v1={}", hex::encode(tag.as_ref()))
}

fn tag(secret: &str, unix_seconds: i64, body: &[u8]) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{unix_seconds}.").as_bytes());
    context.update(body);
    context.sign()
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// The header is not of this form.
    #[error("the signature header is not t=…,v1=…")]
    Malformed,
    /// It was signed too long ago, or in the future.
    #[error("the message was not signed just now")]
    Stale,
    /// Another key, or another body.
    #[error("the signature does not match")]
    Mismatch,
}

/// Checks a signature as a receiver would.
///
/// # Errors
/// When it is not a signature of this body with this secret, at most `tolerance_s` old.
pub fn verify(
    secret: &str,
    header: &str,
    body: &[u8],
    now: i64,
    tolerance_s: i64,
) -> Result<(), SignatureFault> {
    let (time, hex_tag) = header.split_once(",v1=").ok_or(SignatureFault::Malformed)?;
    let seconds = time
        .strip_prefix("t=")
        .and_then(|time| time.parse::<i64>().ok())
        .ok_or(SignatureFault::Malformed)?;
    let found = hex::decode(hex_tag).map_err(|_| SignatureFault::Malformed)?;
    if now.abs_diff(seconds) > tolerance_s.unsigned_abs() {
        return Err(SignatureFault::Stale);
    }
    let wanted = tag(secret, seconds, body);
    aws_lc_rs::constant_time::verify_slices_are_equal(wanted.as_ref(), &found)
        .map_err(|_| SignatureFault::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_hmac_sha256_over_time_and_body() {
        let header = sign("key", 1, b"{}");
        // printf '1.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            header,
            "t=1,v1=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
        );
        assert_eq!(verify("key", &header, b"{}", 2, 300), Ok(()));
        assert_eq!(
            verify("key", &header, b"{ }", 2, 300),
            Err(SignatureFault::Mismatch)
        );
        assert_eq!(
            verify("kex", &header, b"{}", 2, 300),
            Err(SignatureFault::Mismatch)
        );
        assert_eq!(
            verify("key", &header, b"{}", 1_000, 300),
            Err(SignatureFault::Stale)
        );
        for wrong in ["", "v1=00", "t=x,v1=00", "t=1,v1=zz"] {
            assert_eq!(
                verify("key", wrong, b"{}", 1, 300),
                Err(SignatureFault::Malformed),
                "{wrong}"
            );
        }
    }
}
