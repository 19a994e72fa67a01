//! ClickHouse over TLS: who is trusted, what is said of who is not, and where the password goes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use collector_store::{OpenError, StoreConfig};
use fleetmend_event::HostId;
use tempfile::TempDir;

use crate::hosts::Host;
use crate::scene::{Engines, Scene, config};
use crate::server::Server;

const PASSWORD: &str = "s3cret-\u{fc}";
const HERE: &str = "127.0.0.1";

/// An authority, and what it signed for a server.
struct Authority {
    folder: TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let name = HostId::random().to_string();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let made = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), made.pem()).unwrap();
        Self {
            folder,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key of a server of this name.
    fn sign(&self, name: &str, until: Option<i32>) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        if let Some(year) = until {
            params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let paths = ["certificate", "key"].map(|what| self.folder.path().join(format!("{name}.{what}.pem")));
        std::fs::write(&paths[0], made.pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        let [certificate, key] = paths.map(|path| path.display().to_string());
        (certificate, key)
    }
}

fn write_secret(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A server with a certificate, whose user has a password.
async fn server(authority: &Authority, name: &str, until: Option<i32>) -> Server {
    let (certificate, key) = authority.sign(name, until);
    let file = authority.folder.path().join("password");
    write_secret(&file, PASSWORD, 0o600);
    let password = file.display().to_string();
    Server::start_with(&[
        "--certificate",
        &certificate,
        "--key",
        &key,
        "--user",
        "fleet",
        "--password-file",
        &password,
    ])
    .await
}

fn over_tls(folder: &TempDir, server: &Server, authority: Option<&Path>) -> StoreConfig {
    let mut config = config(folder);
    config.url = format!("clickhouse+https://{HERE}:{}/fleet", server.port());
    config.clickhouse.user = "fleet".to_owned();
    let password = folder.path().join("clickhouse.password");
    write_secret(&password, &format!("{PASSWORD}\n"), 0o600);
    config.clickhouse.password_file = Some(password);
    config.clickhouse.ca_file = authority.map(Path::to_owned);
    config
}

async fn refused(engines: &Engines, config: StoreConfig) -> String {
    let error = engines.open(config).await.unwrap_err();
    assert!(matches!(error, OpenError::Engine(_)), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("s3cret"), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_go_over_tls_to_a_server_that_its_authority_vouches_for() {
    let engines = Engines::start().await;
    let authority = Authority::new();
    let server = server(&authority, HERE, None).await;
    let folder = tempfile::tempdir().unwrap();
    let config = over_tls(&folder, &server, Some(&authority.file()));
    let store = engines.open(config).await.unwrap();
    assert!(!format!("{store:?}").contains("s3cret"));
    let scene = Scene::of(std::sync::Arc::new(store), folder, None);
    let mut host = Host::new();
    scene.commit(host.id, vec![host.execs(3), host.metrics(2)]).await;
    assert_eq!(scene.number("SELECT count(*) FROM process_events").await, 3);
    assert_eq!(scene.number("SELECT count(*) FROM metrics").await, 20);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_nobody_vouches_for_is_refused_and_told_nothing() {
    let engines = Engines::start().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let right = server(&authority, HERE, None).await;
    let ca = authority.file();
    for (who, config) in [
        (
            "another authority",
            over_tls(&folder, &right, Some(&stranger.file())),
        ),
        ("public authorities alone", over_tls(&folder, &right, None)),
    ] {
        let text = refused(&engines, config).await;
        assert!(text.contains("UnknownIssuer"), "{who}: {text}");
        assert!(text.contains("ClickHouse at https://127.0.0.1"), "{who}: {text}");
    }
    let elsewhere = server(&authority, "elsewhere.example", None).await;
    let text = refused(&engines, over_tls(&folder, &elsewhere, Some(&ca))).await;
    assert!(text.contains("not valid for name"), "{text}");
    let expired = server(&authority, HERE, Some(2020)).await;
    let text = refused(&engines, over_tls(&folder, &expired, Some(&ca))).await;
    assert!(text.contains("expired"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_speaks_no_tls_is_refused() {
    let engines = Engines::start().await;
    let authority = Authority::new();
    let plain = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let text = refused(&engines, over_tls(&folder, &plain, Some(&authority.file()))).await;
    assert!(text.contains("cannot be reached"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_secrets_and_authorities_are_looked_at_before_use() {
    let engines = Engines::start().await;
    let folder = tempfile::tempdir().unwrap();
    let plain = Server::start().await;
    let authority = Authority::new();
    let password = folder.path().join("clickhouse.password");
    let of = |authority: &Path| over_tls(&folder, &plain, Some(authority));

    let open = of(&authority.file());
    write_secret(&password, PASSWORD, 0o604);
    let text = refused(&engines, open.clone()).await;
    assert!(
        text.contains("anybody may read it") && text.contains("clickhouse.password"),
        "{text}"
    );
    write_secret(&password, "s3cret\nof two lines", 0o600);
    let text = refused(&engines, open.clone()).await;
    assert!(text.contains("one line"), "{text}");
    write_secret(&password, &"s3cret".repeat(1_000), 0o600);
    let text = refused(&engines, open.clone()).await;
    assert!(text.contains("4096 bytes"), "{text}");
    std::fs::remove_file(&password).unwrap();
    let text = refused(&engines, open).await;
    assert!(text.contains("clickhouse.password"), "{text}");

    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing in here\n").unwrap();
    let text = refused(&engines, of(&empty)).await;
    assert!(
        text.contains("no certificate") && text.contains("empty.pem"),
        "{text}"
    );
}
