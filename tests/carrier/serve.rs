//! A listener of a collector, with any service behind it.

use std::convert::Infallible;
use std::net::SocketAddr;

use collector_ingest::enrol::{EnrolConfig, Enroller};
use collector_ingest::listener::{ListenerLimits, TlsAccepting};
use fleetmend_shutdown::{TaskKind, Tasks};
use fleetmend_testkit::TestFleet;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};

/// Serves `service` as the fleet's collector until the tasks end.
pub(super) async fn serve<S>(fleet: &TestFleet, service: S) -> (SocketAddr, Tasks)
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    let file = fleet.folder().join("served.sqlite");
    let pool = fleetmend_control::Control::sqlite(&file).await.unwrap();
    let enroller = Enroller::open(pool, fleet.authority().clone(), EnrolConfig::default())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = fleet.carrier_tls().unwrap();
    let (accepting, incoming) =
        TlsAccepting::new(listener, tls, ListenerLimits::default(), enroller.audit().clone());
    let tasks = Tasks::new();
    let end = tasks.token();
    tasks.spawn("accept", TaskKind::BestEffort, async move {
        accepting.run(end.cancelled()).await;
        Ok::<(), tonic::transport::Error>(())
    });
    let end = tasks.token();
    let serving =
        tonic::transport::Server::builder().serve_with_incoming_shutdown(service, incoming, async move {
            end.cancelled().await;
        });
    tasks.spawn("serve", TaskKind::BestEffort, serving);
    (address, tasks)
}
