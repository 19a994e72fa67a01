use std::net::SocketAddr;
use std::sync::Arc;

use fleetmend_event::table::SiteVerdict;
use fleetmend_shutdown::TaskKind;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

fn site(url: String) -> SiteConfig {
    SiteConfig {
        name: "test".into(),
        url,
        interval_s: 1,
        timeout_ms: 900,
        status_expected: Vec::new(),
        body_contains: None,
        ca_file: None,
    }
}

/// Serves `answer` to every connection, until the test ends.
async fn serve(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    tasks.spawn("test server", TaskKind::BestEffort, async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0_u8; 1024];
            let _read = stream.read(&mut request).await?;
            stream.write_all(answer.as_bytes()).await?;
        }
        #[expect(unreachable_code, reason = "gives the future its type")]
        Ok::<(), std::io::Error>(())
    });
    address
}

#[tokio::test]
async fn site_that_answers_is_up_with_every_phase_timed() {
    let address = serve("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let row = Prober::new(None, None)
        .probe(&site(format!("http://{address}/")))
        .await;
    assert_eq!(row.verdict, SiteVerdict::Up, "{}", row.reason);
    assert_eq!((row.http_status, row.body_bytes), (Some(200), Some(5)));
    assert!(row.connect_ms.is_some() && row.first_byte_ms.is_some() && row.total_ms.is_some());
}

#[tokio::test]
async fn server_error_and_missing_text_are_down() {
    let address = serve("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    let row = Prober::new(None, None)
        .probe(&site(format!("http://{address}/")))
        .await;
    assert_eq!((row.verdict, row.http_status), (SiteVerdict::Down, Some(503)));
    let address = serve("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let wanted = SiteConfig {
        body_contains: Some("welcome".into()),
        ..site(format!("http://{address}/"))
    };
    let row = Prober::new(None, None).probe(&wanted).await;
    assert_eq!(row.verdict, SiteVerdict::Down);
    assert!(row.reason.contains("welcome"), "{}", row.reason);
}

#[tokio::test]
async fn refused_connection_is_down() {
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let row = Prober::new(None, None)
        .probe(&site(format!("http://{address}/")))
        .await;
    assert_eq!(
        (row.verdict, row.http_status),
        (SiteVerdict::Down, None),
        "{}",
        row.reason
    );
}

#[tokio::test]
async fn silent_resolver_is_unknown_not_down() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let prober = Prober::new(Some(silent.local_addr().unwrap()), None);
    let row = prober.probe(&site("http://shop.example/".into())).await;
    assert_eq!(row.verdict, SiteVerdict::Unknown, "{}", row.reason);
    assert!(row.reason.contains("our resolver"), "{}", row.reason);
}

#[tokio::test]
async fn server_that_never_answers_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let row = Prober::new(None, None)
        .probe(&site(format!("http://{address}/")))
        .await;
    assert_eq!(row.verdict, SiteVerdict::Down, "{}", row.reason);
    assert!(row.connect_ms.is_some(), "the kernel accepts for the listener");
}

#[tokio::test]
async fn redirect_is_followed() {
    let target = serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: http://{target}/\r\nContent-Length: 0\r\n\r\n");
    let address = serve(Box::leak(answer.into_boxed_str())).await;
    let row = Prober::new(None, None)
        .probe(&site(format!("http://{address}/")))
        .await;
    assert_eq!(
        (row.verdict, row.redirect_count),
        (SiteVerdict::Up, 1),
        "{}",
        row.reason
    );
}

#[tokio::test]
async fn certificate_of_an_unknown_authority_is_a_certificate_fault_with_its_end() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = Tasks::new();
    tasks.spawn("test tls server", TaskKind::BestEffort, async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = acceptor.accept(stream).await?;
        let mut request = [0_u8; 1024];
        let _read = stream.read(&mut request).await?;
        Ok::<(), std::io::Error>(())
    });
    let row = Prober::new(None, None)
        .probe(&site(format!("https://localhost:{port}/")))
        .await;
    assert_eq!(row.verdict, SiteVerdict::Down, "{}", row.reason);
    assert!(row.certificate_fault.is_some() && row.certificate_not_after.is_some());
    assert_eq!(row.tls_version.as_deref(), Some("TLSv1.3"));
}

#[tokio::test]
async fn dead_address_leaves_the_others_their_time() {
    let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = live.local_addr().unwrap().port();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], port))).unwrap();
    let dead = socket.listen(1).unwrap();
    // With its queue full the kernel answers no further connection, like a host that is not there.
    let mut waiting = Vec::new();
    let full = loop {
        let attempt = tokio::net::TcpStream::connect(dead.local_addr().unwrap());
        match tokio::time::timeout(Duration::from_millis(300), attempt).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => break true,
        }
    };
    assert!(full);
    let site = site(format!("http://shop.example:{port}/"));
    let mut row = fetch::empty_row(&site);
    let addresses = [[127, 0, 0, 2].into(), [127, 0, 0, 1].into()];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    let stream = Prober::new(None, None)
        .connect(&addresses, port, deadline, &mut row)
        .await;
    assert_eq!(stream.unwrap().peer_addr().unwrap(), live.local_addr().unwrap());
}
