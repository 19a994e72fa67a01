//! What the certificates of this crate have in common: PEM files, validity, serial numbers.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleetmend_event::TimeMicros;
use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{IdentityError, files};

/// How far a certificate's validity begins before it was made, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_hours(1);
const PEM_LINE: usize = 64;

/// Turns rcgen's complaint into ours.
pub(crate) fn make_error(what: &'static str) -> impl Fn(rcgen::Error) -> IdentityError {
    move |error| IdentityError::Make {
        what,
        reason: error.to_string(),
    }
}

/// One PEM section.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(PEM_LINE).unwrap_or((rest, ""));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A PKCS #8 key as PEM.
pub(crate) fn key_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(pem("PRIVATE KEY", pkcs8))
}

/// Reads a PKCS #8 PEM file that must be there and private.
pub(crate) fn read_key_file(path: &Path, what: &'static str) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let text = files::read_private(path)?.ok_or_else(|| missing(path))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|error| IdentityError::Content {
        path: path.to_owned(),
        what,
        reason: error.to_string(),
    })?;
    Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec()))
}

/// The error for a file that must be there.
pub(crate) fn missing(path: &Path) -> IdentityError {
    IdentityError::File {
        action: "find",
        path: path.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}

/// Certificates as PEM, in the order of the chain.
pub(crate) fn chain_pem(chain: &[CertificateDer<'_>]) -> String {
    chain
        .iter()
        .map(|certificate| pem("CERTIFICATE", certificate))
        .collect()
}

/// Reads the certificates of a PEM file, at least one.
pub(crate) fn read_chain_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let wrong = |reason: String| IdentityError::Content {
        path: path.to_owned(),
        what: "certificate (PEM)",
        reason,
    };
    let text = files::read_trusted(path)?.ok_or_else(|| missing(path))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        Err(wrong("there is no certificate in it".to_owned()))
    } else {
        Ok(chain)
    }
}

/// When a certificate (X.509, DER) ends; `None` when it cannot be read.
pub fn not_after(certificate: &[u8]) -> Option<TimeMicros> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    Some(TimeMicros(seconds.saturating_mul(1_000_000)))
}

/// The SubjectPublicKeyInfo of a certificate.
pub(crate) fn spki_of(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.tbs_certificate.subject_pki.raw.to_vec())
}

/// 16 random bytes, positive as an ASN.1 integer.
pub(crate) fn random_serial() -> [u8; 16] {
    let mut serial = [0; 16];
    rand::rng().fill_bytes(&mut serial);
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    serial
}

/// Parameters that all our certificates share. Valid from an hour before `now` until `lifetime` after it.
pub(crate) fn params(common_name: &str, now: TimeMicros, lifetime: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = Duration::from_micros(u64::try_from(now.0).unwrap_or(0));
    let mut params = CertificateParams::default();
    params.not_before = epoch + since_epoch.saturating_sub(BACKDATED);
    params.not_after = epoch + since_epoch.saturating_add(lifetime);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&random_serial()));
    params.use_authority_key_identifier_extension = true;
    params
}

/// Makes `params` those of an authority with at most `below` authorities beneath it.
pub(crate) fn authority(mut params: CertificateParams, below: u8) -> CertificateParams {
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// Makes `params` those of a TLS peer with one `usage` and the name `uri`.
pub(crate) fn peer(
    mut params: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
    uri: &str,
) -> Result<CertificateParams, IdentityError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let uri = uri.try_into().map_err(make_error("a certificate's name"))?;
    params.subject_alt_names.push(SanType::URI(uri));
    Ok(params)
}
