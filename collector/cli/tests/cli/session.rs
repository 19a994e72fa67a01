use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use crate::run;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_of_the_environment_log_in() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let environment = |password| {
        [
            ("FLEETMEND_URL", server.url.as_str()),
            ("FLEETMEND_USER", "ada"),
            ("FLEETMEND_PASSWORD", password),
        ]
    };
    assert_eq!(run(home.path(), &environment("right"), &["hosts"]).await.code, 0);
    let wrong = run(home.path(), &environment("wrong"), &["hosts"]).await;
    assert_eq!(wrong.code, 3);
    assert!(wrong.err.contains("FLEETMEND_PASSWORD"), "{}", wrong.err);
    assert!(!home.path().join(".config").exists(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_kept_for_its_owner_and_refreshed_when_it_is_over() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let environment = [("FLEETMEND_PASSWORD", "short")];
    let ran = run(
        home.path(),
        &environment,
        &["login", "--url", &server.url, "--user", "ada"],
    )
    .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let file = home.path().join(".config/fleetmend/session.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // The address comes from the session too.
    for _ in 0..2 {
        let ran = run(home.path(), &[], &["hosts", "--no-probes"]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(
        server.refreshes.load(Ordering::SeqCst),
        1,
        "the refreshed session was kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_session_of_the_same_user_spares_a_login() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let environment = |user| {
        [
            ("FLEETMEND_URL", server.url.as_str()),
            ("FLEETMEND_USER", user),
            ("FLEETMEND_PASSWORD", "right"),
        ]
    };
    let (ada, eve) = (environment("ada"), environment("eve"));
    assert_eq!(run(home.path(), &ada, &["login"]).await.code, 0);
    for _ in 0..2 {
        let ran = run(home.path(), &ada, &["hosts", "--no-probes"]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(server.logins.load(Ordering::SeqCst), 1);
    let other = run(home.path(), &eve, &["hosts", "--no-probes"]).await;
    assert_eq!(other.code, 0, "{}", other.err);
    assert_eq!(server.logins.load(Ordering::SeqCst), 2, "it is not hers");

    // A session that the collector does not know any more is as good as none.
    let file = home.path().join(".config/fleetmend/session.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, kept.replace("\"good\"", "\"ended\"")).unwrap();
    let ran = run(home.path(), &ada, &["hosts", "--no-probes"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(server.logins.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_login_is_tried_once_more_when_the_wait_is_short() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let environment = |password| {
        [
            ("FLEETMEND_URL", server.url.as_str()),
            ("FLEETMEND_USER", "ada"),
            ("FLEETMEND_PASSWORD", password),
        ]
    };
    let ran = run(home.path(), &environment("patient"), &["hosts", "--no-probes"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("once more in 1 s"), "{}", ran.err);
    assert_eq!(server.logins.load(Ordering::SeqCst), 2);
    let locked = run(home.path(), &environment("locked"), &["hosts", "--no-probes"]).await;
    assert_eq!(locked.code, 1, "{}", locked.err);
    assert_eq!(
        server.logins.load(Ordering::SeqCst),
        3,
        "five minutes are not waited"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_web_server_is_told_from_a_collector() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let url = format!("{}/elsewhere", server.url);
    let environment = [("FLEETMEND_URL", url.as_str()), ("FLEETMEND_TOKEN", "good")];
    let ran = run(home.path(), &environment, &["hosts"]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(
        ran.err
            .contains("answered 404 and does not look like a Fleetmend collector"),
        "{}",
        ran.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_not_getting_in_says_what_to_do() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let nobody = run(home.path(), &[("FLEETMEND_URL", &server.url)], &["hosts"]).await;
    assert_eq!(nobody.code, 3);
    assert!(nobody.err.contains("fleetmend login"), "{}", nobody.err);

    let expired = [("FLEETMEND_URL", server.url.as_str()), ("FLEETMEND_TOKEN", "old")];
    let expired = run(home.path(), &expired, &["hosts"]).await;
    assert_eq!(expired.code, 3);
    assert!(expired.err.contains("not logged in"), "{}", expired.err);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let refused = run(
        home.path(),
        &[("FLEETMEND_URL", &url), ("FLEETMEND_TOKEN", "good")],
        &["hosts"],
    )
    .await;
    assert_eq!(refused.code, 4, "{}", refused.err);
    assert!(
        refused.err.contains("nothing listens") && refused.err.contains("FLEETMEND_URL"),
        "{}",
        refused.err
    );

    let https = server.url.replace("http://", "https://");
    let plain = run(
        home.path(),
        &[("FLEETMEND_URL", &https), ("FLEETMEND_TOKEN", "good")],
        &["hosts"],
    )
    .await;
    assert_eq!(plain.code, 4, "{}", plain.err);
    assert!(
        plain.err.contains("TLS") && plain.err.contains("http://"),
        "{}",
        plain.err
    );

    let not_a_url = run(
        home.path(),
        &[("FLEETMEND_URL", "web-1"), ("FLEETMEND_TOKEN", "x")],
        &["hosts"],
    )
    .await;
    assert!(not_a_url.err.contains("is not a URL"), "{}", not_a_url.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_at_the_same_time_spend_a_refresh_token_once() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let login = ["login", "--url", &server.url, "--user", "ada"];
    assert_eq!(
        run(home.path(), &[("FLEETMEND_PASSWORD", "short")], &login)
            .await
            .code,
        0
    );
    let all = (0..6).map(|_| run(home.path(), &[], &["hosts", "--no-probes"]));
    for ran in futures::future::join_all(all).await {
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(server.refreshes.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_to_no_other_machine_in_plain_text() {
    let home = tempfile::tempdir().unwrap();
    for url in [
        "http://192.0.2.1:7780",
        "http://collector.example",
        "http://[2001:db8::1]:7780",
    ] {
        let environment = [
            ("FLEETMEND_URL", url),
            ("FLEETMEND_USER", "ada"),
            ("FLEETMEND_PASSWORD", "right"),
        ];
        let ran = run(home.path(), &environment, &["hosts"]).await;
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(
            ran.err.contains("https://") && ran.err.contains("ssh -L"),
            "{}",
            ran.err
        );
    }
}
