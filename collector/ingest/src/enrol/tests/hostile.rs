//! Guessed tokens, plain text, huge and malformed messages: each refused, none in the way of others.

use fleetmend_identity::tls::TlsFault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn a_source_that_is_refused_again_and_again_is_held_off() {
    let scene = Scene::with(EnrolConfig {
        refusals_per_minute: 5,
        ..EnrolConfig::default()
    })
    .await;
    let root = scene.fleet.root().fingerprint();
    let key = HostKey::generate().unwrap();
    for _ in 0..5 {
        let guess = EnrolmentToken::new("a:1", root, TokenSecret::generate()).unwrap();
        assert_eq!(
            scene.ask(&guess, &key).await.unwrap_err().code(),
            Code::Unauthenticated
        );
    }
    let good = scene.token().await;
    assert_eq!(
        scene.ask(&good, &key).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
    let elsewhere: IpAddr = "10.9.8.7".parse().unwrap();
    let request = key.request().unwrap();
    let facts = HostFacts::default();
    scene
        .enroller
        .enrol(elsewhere, good.secret().expose(), &request, &facts)
        .await
        .unwrap();
}

#[tokio::test]
async fn plain_text_and_garbage_are_audited_and_stop_nobody_else() {
    let scene = Scene::new().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 600],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(scene.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection was kept open");
        assert!(
            answer.len() < 32,
            "something was served in plain text: {answer:?}"
        );
    }
    let rows = wait_for(
        PATIENCE,
        async || scene.audit_of("not_tls").await.len(),
        |count| *count == 3,
    )
    .await;
    rows.unwrap();
    scene.still_serves().await;
}

#[tokio::test]
async fn a_huge_message_is_refused_and_stops_nobody_else() {
    let scene = Scene::new().await;
    let request = v1::EnrollRequest {
        hostname: "x".repeat(1024 * 1024),
        ..v1::EnrollRequest::default()
    };
    let mut client = EnrolmentClient::new(channel(scene.address, scene.tls()).await);
    assert_eq!(client.enroll(request).await.unwrap_err().code(), Code::OutOfRange);
    scene.still_serves().await;
}

#[tokio::test]
async fn a_malformed_request_and_another_protocol_are_told_what_is_wrong() {
    let scene = Scene::new().await;
    let token = scene.token().await;
    let mut client = EnrolmentClient::new(channel(scene.address, scene.tls()).await);
    let request = v1::EnrollRequest {
        protocol: PROTOCOL_VERSION,
        secret: Bytes::copy_from_slice(token.secret().expose()),
        csr: Bytes::from_static(b"not a request"),
        ..v1::EnrollRequest::default()
    };
    let refusal = client.enroll(request.clone()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(
        refusal.message().contains("certificate signing request"),
        "{refusal}"
    );
    let newer = v1::EnrollRequest {
        protocol: 99,
        ..request
    };
    assert!(
        client
            .enroll(newer)
            .await
            .unwrap_err()
            .message()
            .contains("protocol 1, not 99")
    );
    // The token was not spent by the failed attempts.
    scene.ask(&token, &HostKey::generate().unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_time_is_signed_for_the_nonce_that_was_sent() {
    let scene = Scene::new().await;
    let mut client = EnrolmentClient::new(channel(scene.address, scene.tls()).await);
    let nonce = [9; 16];
    let answer = client
        .time(v1::TimeRequest {
            nonce: Bytes::copy_from_slice(&nonce),
            bundle_version: 1,
        })
        .await
        .unwrap();
    let signed = Signed::from_bytes(answer.into_inner().envelope.as_bytes()).unwrap();
    let time = TrustedTime::system();
    time.observe_answer(&signed, &scene.fleet.authority().anchors(), &nonce)
        .unwrap();
    assert_eq!(time.now().1, fleetmend_identity::TimeSource::Collector);
    let short = client
        .time(v1::TimeRequest {
            nonce: Bytes::from_static(b"short"),
            bundle_version: 1,
        })
        .await;
    assert_eq!(short.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_client_that_pins_another_root_does_not_send_its_secret() {
    let scene = Scene::new().await;
    let other = TestFleet::new().unwrap();
    let tls = tls::client_for_enrolment(other.root().fingerprint(), &TrustedTime::system()).unwrap();
    let stream = TcpStream::connect(scene.address).await.unwrap();
    let error = tokio_rustls::TlsConnector::from(tls)
        .connect(tls::server_name(), stream)
        .await
        .unwrap_err();
    assert_eq!(TlsFault::find(&error), Some(TlsFault::TheirsUnknown));
    scene.still_serves().await;
}

/// What a server says that speaks nothing so old: the alert `protocol_version`, fatal.
const TOO_OLD: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

#[tokio::test]
async fn tls_1_2_is_refused_by_every_listener_and_audited() {
    let scene = Scene::new().await;
    let hello = fleetmend_testkit::hello::tls12_client_hello();
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ended.expect("the connection was kept open").unwrap();
    assert_eq!(answer, TOO_OLD);
    let rows = async || scene.enroller.audit().newest(10).await.unwrap();
    let seen = wait_for(PATIENCE, rows, |rows| {
        rows.iter().any(|row| row.kind == "handshake")
    })
    .await;
    let seen = seen.unwrap();
    assert!(
        seen[0].refused && seen[0].detail.starts_with("tls_incompatible"),
        "{seen:?}"
    );

    for config in [scene.enroller.carrier_tls(), scene.enroller.enrolment_tls()] {
        let mut server = rustls::ServerConnection::new(config.unwrap()).unwrap();
        server.read_tls(&mut hello.as_slice()).unwrap();
        server.process_new_packets().unwrap_err();
        let mut answer = Vec::new();
        server.write_tls(&mut answer).unwrap();
        assert_eq!(answer, TOO_OLD);
    }
    scene.still_serves().await;
}
