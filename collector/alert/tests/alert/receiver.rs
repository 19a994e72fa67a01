//! A receiver of webhooks that can be told to fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use fleetmend_shutdown::{TaskKind, Tasks};
use serde_json::Value;

pub(crate) const SECRET: &str = "a secret both sides know";

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) delivery_id: String,
    pub(crate) signature: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: Value,
}

#[derive(Default)]
struct Inner {
    accepted: Vec<Message>,
    tries: Vec<String>,
    /// Statuses to answer first, in order.
    refuse: VecDeque<u16>,
}

#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    inner: Arc<Mutex<Inner>>,
}

impl Receiver {
    pub(crate) async fn start(tasks: &Tasks) -> Self {
        let inner = Arc::new(Mutex::new(Inner::default()));
        let app = Router::new().route("/hook", post(take)).with_state(inner.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let token = tasks.token();
        tasks.spawn("receiver", TaskKind::BestEffort, async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(token.cancelled_owned())
                .await
        });
        Self { url, inner }
    }

    pub(crate) fn refuse(&self, statuses: &[u16]) {
        self.inner.lock().unwrap().refuse.extend(statuses);
    }

    pub(crate) fn accepted(&self) -> Vec<Message> {
        self.inner.lock().unwrap().accepted.clone()
    }

    /// Delivery ids of every attempt, accepted or not.
    pub(crate) fn tries(&self) -> Vec<String> {
        self.inner.lock().unwrap().tries.clone()
    }
}

async fn take(State(inner): State<Arc<Mutex<Inner>>>, headers: HeaderMap, bytes: Bytes) -> Response {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let mut inner = inner.lock().unwrap();
    inner.tries.push(text("fleetmend-delivery"));
    if let Some(status) = inner.refuse.pop_front() {
        let location = [("location", "http://127.0.0.1:9/elsewhere")];
        return (StatusCode::from_u16(status).unwrap(), location).into_response();
    }
    inner.accepted.push(Message {
        delivery_id: text("fleetmend-delivery"),
        signature: text("fleetmend-signature"),
        body: serde_json::from_slice(&bytes).unwrap(),
        bytes: bytes.to_vec(),
    });
    StatusCode::NO_CONTENT.into_response()
}
