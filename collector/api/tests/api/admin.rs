use reqwest::Method;
use serde_json::json;

use crate::testbed::Testbed;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_taken_back() {
    let testbed = Testbed::start().await;
    let admin = testbed.admin().await;
    let (status, made) = testbed
        .call(
            Method::POST,
            "enrolment-tokens",
            Some(&admin),
            Some(json!({ "uses": 3 })),
        )
        .await;
    assert_eq!(
        (status, &made["uses"], &made["token"]),
        (201, &json!(3), &json!("fm1.secret"))
    );
    let list = testbed.get("enrolment-tokens", &admin).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(
        !list.to_string().contains("fm1.secret"),
        "the list never shows a token"
    );
    assert_eq!(
        testbed
            .call(Method::DELETE, "enrolment-tokens/t0", Some(&admin), None)
            .await
            .0,
        204
    );
    assert_eq!(
        testbed
            .call(Method::DELETE, "enrolment-tokens/t0", Some(&admin), None)
            .await
            .0,
        404
    );
    let trail = testbed.get("audit?limit=4", &admin).await;
    let outcomes: Vec<(&str, &str)> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["outcome"].as_str().unwrap(), row["detail"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes[..3],
        [
            ("failed", "there is no such token"),
            ("allowed", ""),
            ("allowed", "")
        ],
        "what could not be done is not said to be done"
    );
    for wrong in [
        json!({ "uses": 0 }),
        json!({ "uses": 9_999 }),
        json!({ "lifetime_s": 0 }),
    ] {
        assert_eq!(
            testbed
                .call(Method::POST, "enrolment-tokens", Some(&admin), Some(wrong))
                .await
                .0,
            400
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_carried_out_and_stands_in_the_audit_trail() {
    let testbed = Testbed::start().await;
    let admin = testbed.admin().await;
    let path = format!("hosts/{}/revoke", testbed.host);
    let (status, _) = testbed
        .call(
            Method::POST,
            &path,
            Some(&admin),
            Some(json!({ "reason": "stolen" })),
        )
        .await;
    assert_eq!(status, 204);
    assert_eq!(
        *testbed.enrolments.revoked.lock(),
        [(testbed.host, "stolen".to_owned())]
    );

    let first = testbed.get("audit?limit=1", &admin).await;
    assert_eq!(first["items"][0]["action"], "revoke-host");
    assert_eq!(first["items"][0]["actor"], "admin");
    assert_eq!(first["items"][0]["remote_address"], "127.0.0.1");
    let mut actions = vec![first["items"][0]["action"].clone()];
    let mut cursor = first["next_cursor"].clone();
    while let Some(place) = cursor.as_str() {
        let page = testbed
            .get(&format!("audit?limit=1&cursor={place}"), &admin)
            .await;
        actions.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["action"].clone()),
        );
        cursor = page["next_cursor"].clone();
    }
    assert_eq!(
        actions,
        ["revoke-host", "login", "enrol"],
        "both trails, newest first, each entry once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_and_removed_but_never_the_last_admin() {
    let testbed = Testbed::start().await;
    let admin = testbed.admin().await;
    let user = |name: &str, password: &str, role: &str| {
        Some(json!({ "name": name, "password": password, "role": role }))
    };
    let made = testbed
        .call(
            Method::POST,
            "users",
            Some(&admin),
            user("second", "long enough for it", "admin"),
        )
        .await;
    assert_eq!(made.0, 201, "{}", made.1);
    assert!(!made.1.to_string().contains("argon2"));
    let cases = [
        (user("second", "long enough for it", "viewer"), 409),
        (user("third", "short", "viewer"), 400),
        (user("Third!", "long enough for it", "viewer"), 400),
        (user("third", "long enough for it", "root"), 400),
    ];
    for (body, status) in cases {
        assert_eq!(
            testbed.call(Method::POST, "users", Some(&admin), body).await.0,
            status
        );
    }
    assert_eq!(
        testbed
            .call(Method::DELETE, "users/second", Some(&admin), None)
            .await
            .0,
        204
    );
    assert_eq!(
        testbed
            .call(Method::DELETE, "users/admin", Some(&admin), None)
            .await
            .0,
        409
    );
    let names = testbed.get("users", &admin).await;
    let names: Vec<&str> = names["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin", "viewer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_password_ends_the_sessions_of_before() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    testbed
        .accounts
        .set("viewer", "another password entirely", collector_api::Role::Viewer)
        .await
        .unwrap();
    assert_eq!(testbed.call(Method::GET, "me", Some(&token), None).await.0, 401);
    testbed.login("viewer", "another password entirely").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_come_with_the_soonest_end_first() {
    let testbed = Testbed::start().await;
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let list = testbed.get("certificates", &viewer).await;
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{list}");
    assert_eq!(
        (&items[0]["name"], &items[0]["holder"], &items[0]["connected"]),
        (&json!("web-1"), &json!("host"), &json!(true))
    );
    assert_eq!(items[1]["holder"], "collector");
    let soon = testbed.get("certificates?expiring_days=6", &viewer).await;
    assert_eq!(soon["items"].as_array().unwrap().len(), 1);
    let sooner = testbed.get("certificates?expiring_days=4", &viewer).await;
    assert_eq!(sooner["items"], json!([]));
    let path = format!("hosts/{}/revoke", testbed.host);
    let revoked = testbed
        .call(Method::POST, &path, Some(&admin), Some(json!({})))
        .await;
    assert_eq!(revoked.0, 204);
    let list = testbed.get("certificates", &viewer).await;
    assert_eq!(
        list["items"][1]["revoked"], true,
        "a revoked one comes last: {list}"
    );
    let soon = testbed.get("certificates?expiring_days=6", &viewer).await;
    assert_eq!(soon["items"], json!([]), "and is nobody's worry");
    let wrong = testbed
        .call(
            Method::GET,
            "certificates?expiring_days=99999",
            Some(&viewer),
            None,
        )
        .await;
    assert_eq!(wrong.0, 400);
    let unknown = testbed.call(Method::GET, "certificates", None, None).await;
    assert_eq!(unknown.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_revoked_audited_and_listed_only_when_asked_for() {
    let testbed = Testbed::start().await;
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let listed = async |path: &str| {
        let list = testbed.get(path, &viewer).await;
        let items = list["items"].as_array().unwrap().clone();
        let of_host = |host: &&serde_json::Value| host["host_id"] == testbed.host.to_string();
        items.iter().find(of_host).cloned()
    };
    assert_eq!(listed("hosts").await.unwrap()["removed_at"], json!(null));
    let path = format!("hosts/{}/remove", testbed.host);
    let body = Some(json!({"reason": "sold"}));
    let refused = testbed
        .call(Method::POST, &path, Some(&viewer), body.clone())
        .await;
    assert_eq!(refused.0, 403, "a viewer removes nobody");
    for _ in 0..2 {
        let removed = testbed
            .call(Method::POST, &path, Some(&admin), body.clone())
            .await;
        assert_eq!(removed.0, 204, "once more changes nothing");
    }
    assert_eq!(listed("hosts").await, None);
    let shown = listed("hosts?removed=true").await.unwrap();
    assert_eq!(shown["revoked"], true);
    assert!(shown["removed_at"].is_string(), "{shown}");
    assert_eq!(listed("certificates").await, None);
    let one = testbed.get(&format!("hosts/{}", testbed.host), &viewer).await;
    assert!(
        one["removed_at"].is_string(),
        "what it sent can still be looked at: {one}"
    );
    let audit = testbed.get("audit", &admin).await;
    let rows = audit["items"].as_array().unwrap();
    let row = rows.iter().find(|row| row["action"] == "remove-host").unwrap();
    assert_eq!((&row["actor"], &row["detail"]), (&json!("admin"), &json!("sold")));
    let nobody = format!("hosts/{}/remove", "x");
    assert_eq!(
        testbed.call(Method::POST, &nobody, Some(&admin), body).await.0,
        404
    );
}
