//! Web sites as this host sees them.

use super::table;
use crate::{Lane, TimeMicros, words};

words! {
    /// Three-valued truth about a site: a fault of ours is never reported as a fault of the site.
    pub enum SiteVerdict {
        /// It answered as it should.
        Up = "up",
        /// It did not, and the fault is not ours.
        Down = "down",
        /// It could not be judged: our resolver, network or probe is at fault.
        Unknown = "unknown",
    }
}

table! {
    /// One probe of one site. Phases that were not reached are null.
    pub struct SiteProbe("site_probes", id 6, version 1, Lane::Events) {
        /// When the probe began.
        time: TimeMicros,
        /// Name of the site in the configuration, or what it was discovered as.
        site: String,
        /// Address that was probed.
        url: String,
        /// Verdict.
        verdict: SiteVerdict,
        /// Why, in words.
        reason: String,
        /// Address that was connected to.
        remote_address: Option<String>,
        /// HTTP status of the last answer.
        http_status: Option<u32>,
        /// Redirects followed.
        redirect_count: u32,
        /// Name resolution, in milliseconds.
        dns_ms: Option<f64>,
        /// TCP connect, in milliseconds.
        connect_ms: Option<f64>,
        /// TLS handshake, in milliseconds.
        tls_ms: Option<f64>,
        /// Request to first byte, in milliseconds.
        first_byte_ms: Option<f64>,
        /// All of it, in milliseconds.
        total_ms: Option<f64>,
        /// Bytes of the body that were read.
        body_bytes: Option<u64>,
        /// TLS version, such as `TLSv1.3`.
        tls_version: Option<String>,
        /// When the served certificate ends.
        certificate_not_after: Option<TimeMicros>,
        /// Who issued it.
        certificate_issuer: Option<String>,
        /// What is wrong with it, when something is.
        certificate_fault: Option<String>,
    }
}
