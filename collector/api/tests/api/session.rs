use reqwest::Method;
use serde_json::json;

use crate::testbed::{ADMIN_PASSWORD, Testbed, client_tls};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_gives_tokens_that_say_who_calls() {
    let testbed = Testbed::start().await;
    let session = testbed.login("admin", ADMIN_PASSWORD).await;
    assert_eq!(session["role"], "admin");
    assert_eq!(session["token_type"], "Bearer");
    let me = testbed.get("me", session["access_token"].as_str().unwrap()).await;
    assert_eq!((&me["user"], &me["role"]), (&json!("admin"), &json!("admin")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_wrong_user_look_the_same() {
    let testbed = Testbed::start().await;
    for user in ["admin", "nobody"] {
        let body = json!({ "user": user, "password": "not the password" });
        let (status, problem) = testbed.call(Method::POST, "login", None, Some(body)).await;
        assert_eq!(
            (status, &problem["code"]),
            (401, &json!("wrong-credentials")),
            "{problem}"
        );
        assert_eq!(problem["detail"], "user or password is wrong");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_password_has_to_wait() {
    let testbed = Testbed::start().await;
    let body = || Some(json!({ "user": "viewer", "password": "not the password" }));
    let mut codes = Vec::new();
    for _ in 0..8 {
        let (_, problem) = testbed.call(Method::POST, "login", None, body()).await;
        codes.push(problem["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        codes.iter().filter(|code| *code == "wrong-credentials").count(),
        6,
        "{codes:?}"
    );
    let answer = testbed.send(Method::POST, "login", None, body()).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_holds_once_and_its_second_use_ends_the_session() {
    let testbed = Testbed::start().await;
    let first = testbed.login("admin", ADMIN_PASSWORD).await;
    let refresh = |token: &str| Some(json!({ "refresh_token": token }));
    let spent = first["refresh_token"].as_str().unwrap();
    let (status, second) = testbed.call(Method::POST, "refresh", None, refresh(spent)).await;
    assert_eq!(status, 200, "{second}");
    let access = second["access_token"].as_str().unwrap();
    testbed.get("me", access).await;

    let (status, problem) = testbed.call(Method::POST, "refresh", None, refresh(spent)).await;
    assert_eq!((status, &problem["code"]), (401, &json!("refresh-reused")));
    assert_eq!(testbed.call(Method::GET, "me", Some(access), None).await.0, 401);
    let newest = second["refresh_token"].as_str().unwrap();
    let (status, problem) = testbed.call(Method::POST, "refresh", None, refresh(newest)).await;
    assert_eq!((status, &problem["code"]), (401, &json!("unauthenticated")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_logout_and_with_its_user() {
    let testbed = Testbed::start().await;
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    assert_eq!(
        testbed.call(Method::POST, "logout", Some(&viewer), None).await.0,
        204
    );
    assert_eq!(testbed.call(Method::GET, "me", Some(&viewer), None).await.0, 401);

    let again = testbed.viewer().await;
    assert_eq!(
        testbed
            .call(Method::DELETE, "users/viewer", Some(&admin), None)
            .await
            .0,
        204
    );
    assert_eq!(testbed.call(Method::GET, "me", Some(&again), None).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_a_restart_and_tokens_are_kept_only_as_hashes() {
    let testbed = Testbed::start().await;
    let session = testbed.login("admin", ADMIN_PASSWORD).await;
    let bytes = testbed.control.dump().unwrap();
    for secret in ["access_token", "refresh_token"] {
        let secret = session[secret].as_str().unwrap().as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    let password = ADMIN_PASSWORD.as_bytes();
    assert!(!bytes.windows(password.len()).any(|window| window == password));
    assert!(
        bytes.windows(9).any(|window| window == b"$argon2id"),
        "the database was looked at"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_elsewhere_does_not_lock_a_user_out() {
    let testbed = Testbed::start().await;
    let elsewhere = reqwest::Client::builder()
        .tls_backend_preconfigured(client_tls())
        .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
        .no_proxy()
        .build()
        .unwrap();
    let mut last = 0;
    for _ in 0..8 {
        let guess = elsewhere
            .post(format!("{}/api/v1/login", testbed.url))
            .header("content-type", "application/json")
            .body(json!({ "user": "admin", "password": "not the password" }).to_string());
        last = guess.send().await.unwrap().status().as_u16();
    }
    assert_eq!(last, 429);
    testbed.login("admin", ADMIN_PASSWORD).await;
}
