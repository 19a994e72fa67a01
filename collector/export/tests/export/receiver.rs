//! A receiver that keeps what it takes, and does wrong when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use collector_export::remote_write::WriteRequest;
use fleetmend_shutdown::{TaskKind, Tasks};
use parking_lot::Mutex;
use prost::Message;

/// What a receiver does with one request instead of taking it.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Answers so, and does not take it.
    Status(u16),
    /// Answers 429 and asks to wait so many seconds.
    TooMany(u64),
    /// Takes nothing and never answers.
    Hang,
    /// Takes it, and breaks off within its answer.
    BreakOff,
    /// Sends the client elsewhere.
    Redirect,
}

/// One request that was taken.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Default)]
struct Shared {
    taken: Vec<Taken>,
    refused: usize,
    faults: VecDeque<Fault>,
    /// Holds for all requests until it is taken away.
    always: Option<Fault>,
    /// Refuses whatever holds a series of this name.
    poison: Option<String>,
}

/// An HTTP server on a port of its own.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Receiver {
    pub(crate) async fn start(tasks: &Tasks) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let app = Router::new().fallback(take).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let token = tasks.token();
        tasks.spawn("receiver", TaskKind::BestEffort, async move {
            tokio::select! {
                served = axum::serve(listener, app) => served,
                () = token.cancelled() => Ok(()),
            }
        });
        Self { url, shared }
    }

    /// Does wrong with the next requests.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.lock().faults.extend(faults);
    }

    /// Does wrong with all requests, or with none any more.
    pub(crate) fn fail_always(&self, fault: Option<Fault>) {
        self.shared.lock().always = fault;
    }

    pub(crate) fn refuse_series(&self, name: &str) {
        self.shared.lock().poison = Some(name.to_owned());
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.shared.lock().taken.clone()
    }

    /// Requests that were not taken.
    pub(crate) fn refused(&self) -> usize {
        self.shared.lock().refused
    }

    /// Faults that were not met yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.shared.lock().faults.len()
    }

    /// Values by labels and time, of remote write; several of one time in the order in which they came.
    pub(crate) fn samples(&self) -> BTreeMap<(String, i64), Vec<f64>> {
        let mut samples: BTreeMap<(String, i64), Vec<f64>> = BTreeMap::new();
        for taken in self.taken() {
            for series in decode(&taken.body).timeseries {
                let labels: Vec<String> = series
                    .labels
                    .iter()
                    .map(|label| format!("{}={}", label.name, label.value))
                    .collect();
                for sample in &series.samples {
                    samples
                        .entry((labels.join(","), sample.timestamp))
                        .or_default()
                        .push(sample.value);
                }
            }
        }
        samples
    }
}

pub(crate) fn decode(body: &[u8]) -> WriteRequest {
    let plain = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    WriteRequest::decode(plain.as_slice()).unwrap()
}

fn is_poisoned(body: &[u8], name: &str) -> bool {
    let mut labels = decode(body)
        .timeseries
        .into_iter()
        .flat_map(|series| series.labels);
    labels.any(|label| label.name == "__name__" && label.value == name)
}

async fn take(
    State(shared): State<Arc<Mutex<Shared>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fault = {
        let mut shared = shared.lock();
        let poisoned = shared
            .poison
            .as_ref()
            .is_some_and(|name| is_poisoned(&body, name));
        let fault = shared.always.clone().or_else(|| shared.faults.pop_front());
        let fault = fault.or(poisoned.then_some(Fault::Status(400)));
        if matches!(fault, None | Some(Fault::BreakOff)) {
            let path = uri.path().to_owned();
            shared.taken.push(Taken { path, headers, body });
        } else {
            shared.refused += 1;
        }
        fault
    };
    match fault {
        None => StatusCode::OK.into_response(),
        Some(Fault::Status(status)) => (StatusCode::from_u16(status).unwrap(), "no\nsir").into_response(),
        Some(Fault::TooMany(seconds)) => (
            StatusCode::TOO_MANY_REQUESTS,
            [("retry-after", seconds.to_string())],
        )
            .into_response(),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::BreakOff) => {
            let broken = std::io::Error::other("broken off");
            let pieces = [Ok(Bytes::from_static(b"par")), Err(broken)];
            Response::new(Body::from_stream(futures::stream::iter(pieces)))
        }
        Some(Fault::Redirect) => (
            StatusCode::TEMPORARY_REDIRECT,
            [("location", "http://127.0.0.1:1/")],
        )
            .into_response(),
    }
}
