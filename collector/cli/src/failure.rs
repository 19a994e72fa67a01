//! What went wrong, with what to do about it, and the exit code that says so to scripts.

use std::error::Error as _;
use std::io;

use serde_json::Value;

/// Why a command ended without its result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not logged in, or not allowed.
    Denied(String),
    /// The collector cannot be reached.
    Unreachable(String),
    /// There is no such thing.
    Absent(String),
    /// Anything else.
    Other(String),
    /// Nobody reads the output any more.
    Pipe,
}

impl Failure {
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Failure::Other(text.into())
    }

    /// Exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Other(_) | Failure::Pipe => 1,
            Failure::Denied(_) => 3,
            Failure::Unreachable(_) => 4,
            Failure::Absent(_) => 5,
        }
    }

    /// From what `url` answered.
    pub(crate) fn of_problem(url: &str, status: u16, problem: &Value) -> Self {
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
        if !text("errorType").is_empty() {
            // Prometheus' API has faults of its own form.
            return Failure::Other(format!("{} ({})", text("error"), text("errorType")));
        }
        if text("code").is_empty() {
            // A collector always says which problem it is.
            return Failure::Unreachable(format!(
                "{url} answered {status} and does not look like a Fleetmend collector, or a proxy before it answered in its \
                 place: check FLEETMEND_URL or --url"
            ));
        }
        let mut detail = text("detail").to_owned();
        if detail.is_empty() {
            detail = format!("the collector answered {status}");
        }
        match (status, text("code")) {
            (401, "wrong-credentials") => {
                Failure::Denied(format!("{detail}; check FLEETMEND_USER and FLEETMEND_PASSWORD"))
            }
            (401, _) => Failure::Denied(format!(
                "not logged in: {detail}. Run `fleetmend login`, or set FLEETMEND_TOKEN"
            )),
            (403, _) => Failure::Denied(detail),
            (404, _) => Failure::Absent(detail),
            (500.., _) => Failure::Other(format!("{detail} (request {})", text("instance"))),
            _ => Failure::Other(detail),
        }
    }

    /// From a request that got no answer.
    pub(crate) fn of_request(url: &str, error: &reqwest::Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>()
                && io.kind() == io::ErrorKind::ConnectionRefused
            {
                return Failure::Unreachable(format!(
                    "nothing listens at {url}: is the collector running there? Set FLEETMEND_URL or --url to another one"
                ));
            }
            causes.push(cause.to_string());
            source = cause.source();
        }
        let chain = causes.join(": ");
        if chain.contains("certificate")
            || chain.contains("tls")
            || chain.contains("TLS")
            || chain.contains("InvalidContentType")
        {
            return Failure::Unreachable(format!(
                "TLS with {url} failed: {chain}. If its certificate is of your own authority, set FLEETMEND_CA to the PEM \
                 file of that; if it speaks plain HTTP on this machine, write http:// in FLEETMEND_URL"
            ));
        }
        if error.is_timeout() {
            return Failure::Unreachable(format!("{url} did not answer in time"));
        }
        let cause = if chain.is_empty() {
            error.to_string()
        } else {
            chain
        };
        Failure::Unreachable(format!("cannot reach {url}: {cause}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Denied(text)
            | Failure::Unreachable(text)
            | Failure::Absent(text)
            | Failure::Other(text) => formatter.write_str(text),
            Failure::Pipe => formatter.write_str("the output was closed"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Pipe,
            _ => Failure::Other(error.to_string()),
        }
    }
}
