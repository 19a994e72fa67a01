use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use collector_api::{ApiConfig, ApiTls};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::testbed::Testbed;

fn certificate(folder: &std::path::Path) -> (ApiTls, rustls::RootCertStore) {
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let tls = ApiTls {
        certificate: folder.join("chain.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&tls.certificate, made.pem()).unwrap();
    std::fs::write(&tls.key, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&tls.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.der().clone()).unwrap();
    (tls, roots)
}

fn client(roots: rustls::RootCertStore) -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = certificate(folder.path());
    let config = ApiConfig {
        tls: Some(tls.clone()),
        ..ApiConfig::default()
    };
    let testbed = Testbed::start_with(config, None).await;
    let port = testbed.url.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/healthz");
    let (_, renewed) = certificate(folder.path());
    assert!(client(renewed.clone()).get(&url).send().await.is_err());
    assert!(testbed.certificate.reload().await.unwrap());
    assert_eq!(
        client(renewed.clone()).get(&url).send().await.unwrap().status(),
        200
    );
    std::fs::write(&tls.certificate, "nothing").unwrap();
    testbed.certificate.reload().await.unwrap_err();
    assert_eq!(client(renewed).get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_the_api_answers_over_it_and_garbage_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, roots) = certificate(folder.path());
    let testbed = Testbed::start_with(
        ApiConfig {
            tls: Some(tls),
            ..ApiConfig::default()
        },
        None,
    )
    .await;
    let address = testbed.url.strip_prefix("https://").unwrap().to_owned();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4_000], b""] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    let client = client(roots);
    let port = address.rsplit(':').next().unwrap();
    let request = client
        .get(format!("https://localhost:{port}/healthz"))
        .timeout(Duration::from_secs(20));
    assert_eq!(request.send().await.unwrap().status(), 200);
    let stranger = testbed
        .http
        .get(format!("https://localhost:{port}/healthz"))
        .send()
        .await;
    assert!(
        stranger.is_err(),
        "a client that does not know the authority does not connect"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_do_not_keep_their_slots() {
    let config = ApiConfig {
        connections_max: 3,
        ..ApiConfig::default()
    };
    let testbed = Testbed::start_with(config, None).await;
    let address = testbed.url.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for said in [&b""[..], b"PRI * HTTP/2", b"GET / HT"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        silent.push(stream);
    }
    let request = testbed
        .http
        .get(format!("{}/healthz", testbed.url))
        .timeout(Duration::from_secs(25));
    assert_eq!(request.send().await.unwrap().status(), 200);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_drains_open_connections() {
    let testbed = Testbed::start().await;
    assert_eq!(
        testbed
            .http
            .get(format!("{}/healthz", testbed.url))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let report = testbed.tasks.drain(Duration::from_secs(20)).await;
    assert!(report.stragglers.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = certificate(folder.path());
    let config = ApiConfig {
        tls: Some(tls),
        ..ApiConfig::default()
    };
    let testbed = Testbed::start_with(config, None).await;
    let address = testbed.url.strip_prefix("https://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(&fleetmend_testkit::hello::tls12_client_hello())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the connection was kept open")
        .unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "the alert protocol_version");
}

/// The API knows its users by their tokens: a host's certificate, of this fleet or of none, opens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_certificate_is_no_login() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, roots) = certificate(folder.path());
    let config = ApiConfig {
        tls: Some(tls),
        ..ApiConfig::default()
    };
    let testbed = Testbed::start_with(config, None).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = format!("spiffe://fleet/host/{}", testbed.host)
        .try_into()
        .unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(name));
    let host = params.self_signed(&key).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![host.der().clone()], key.into())
        .unwrap();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .build()
        .unwrap();
    let port = testbed.url.rsplit(':').next().unwrap();
    for path in ["hosts", "audit", "enrolment-tokens"] {
        let url = format!("https://localhost:{port}/api/v1/{path}");
        assert_eq!(client.get(&url).send().await.unwrap().status(), 401, "{path}");
    }
    let url = format!("https://localhost:{port}/api/v1/hosts/{}/remove", testbed.host);
    assert_eq!(client.post(&url).body("{}").send().await.unwrap().status(), 401);
    assert!(testbed.enrolments.revoked.lock().is_empty());
}
