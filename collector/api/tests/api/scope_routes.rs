//! Every route, and whose hosts it tells of: a route that is added has to be named here, and is tried.

use std::collections::BTreeSet;

use collector_api::AlertView;
use fleetmend_event::table::*;
use fleetmend_event::{ActionId, Fact, FindingId, HostId, Lane, TimeMicros};
use reqwest::Method;
use serde_json::{Value, json};

use crate::facts::{finding, host_info, process, step};
use crate::live::Events;
use crate::scope::{SECRET, facts, give, set_group};
use crate::testbed::Testbed;

/// Whom a route tells of which hosts.
enum Bound {
    /// Of those that the caller sees. Each of these is asked after the path.
    Scoped(&'static [&'static str]),
    /// It is about one host, which is not there for who does not see it.
    OfHost,
    /// It is for admins, who see every host.
    Admin,
    /// Of none; or it is tried by another test. Why, in words.
    Apart(&'static str),
}

use Bound::{Admin, Apart, OfHost, Scoped};

const ROUTES: &[(&str, &str, Bound)] = &[
    ("POST", "login", Apart("a session begins")),
    ("POST", "refresh", Apart("a session goes on")),
    ("POST", "logout", Apart("a session ends")),
    ("GET", "me", Apart("the caller alone")),
    ("GET", "openapi.json", Apart("the same for everybody")),
    ("GET", "hosts", Scoped(&["", "?removed=true"])),
    ("GET", "hosts/{host}", OfHost),
    ("GET", "hosts/{host}/probes", OfHost),
    ("GET", "hosts/{host}/sensor", OfHost),
    ("GET", "hosts/{host}/processes", OfHost),
    ("GET", "hosts/{host}/units", OfHost),
    ("GET", "hosts/{host}/models", OfHost),
    ("POST", "hosts/{host}/revoke", Admin),
    ("POST", "hosts/{host}/remove", Admin),
    ("GET", "metrics/names", Scoped(&["?host={host}"])),
    ("GET", "metrics/range", Scoped(&["?host={host}&name=kingfisher"])),
    ("GET", "findings", Scoped(&["", "?host={host}", "?limit=1"])),
    ("GET", "findings/{host}/{finding}", OfHost),
    (
        "GET",
        "actions",
        Scoped(&["", "?host={host}", "?finding={finding}"]),
    ),
    ("GET", "actions/{host}/{action}", OfHost),
    ("GET", "alerts", Scoped(&["", "?host={host}", "?state=firing"])),
    ("GET", "certificates", Scoped(&["", "?expiring_days=30"])),
    ("GET", "sites", Scoped(&["", "?host={host}"])),
    ("GET", "gaps", Scoped(&["", "?host={host}", "?table=findings"])),
    ("POST", "sql", Scoped(&[""])),
    (
        "GET",
        "queries",
        Apart("a viewer's own: a_running_query_is_listed_and_cancelled"),
    ),
    (
        "DELETE",
        "queries/{id}",
        Apart("a viewer's own: a_running_query_is_listed_and_cancelled"),
    ),
    ("GET", "export/targets", Scoped(&[""])),
    ("POST", "export/targets/{name}/test", Admin),
    ("GET", "export/records", Scoped(&["?format=ecs&table=findings"])),
    ("GET", "export/parquet", Scoped(&["?table=findings"])),
    (
        "GET",
        "live",
        Apart("it has no end: a_scoped_user_is_told_live_of_no_other_host"),
    ),
    (
        "POST",
        "live/ticket",
        Apart("it stands for the session, whose bounds the stream takes"),
    ),
    ("GET", "enrolment-tokens", Admin),
    ("POST", "enrolment-tokens", Admin),
    ("DELETE", "enrolment-tokens/{id}", Admin),
    ("GET", "audit", Admin),
    ("GET", "users", Admin),
    ("POST", "users", Admin),
    ("DELETE", "users/{name}", Admin),
    ("PUT", "users/{name}/groups", Admin),
    ("GET", "groups", Admin),
    ("PUT", "groups/{name}", Admin),
    ("DELETE", "groups/{name}", Admin),
    ("GET", "/query", Scoped(&["?query=up"])),
    ("POST", "/query", Scoped(&["?query=up"])),
    ("GET", "/query_range", Scoped(&["?query=up&start=0&end=1&step=1"])),
    (
        "POST",
        "/query_range",
        Scoped(&["?query=up&start=0&end=1&step=1"]),
    ),
    ("GET", "/series", Scoped(&["?match[]=up"])),
    ("POST", "/series", Scoped(&["?match[]=up"])),
    ("GET", "/labels", Scoped(&[""])),
    ("POST", "/labels", Scoped(&[""])),
    ("GET", "/label/{name}/values", Scoped(&[""])),
    ("GET", "/metadata", Scoped(&[""])),
    ("GET", "/rules", Scoped(&["", "?type=alert", "?type=record"])),
    ("GET", "/alerts", Scoped(&[""])),
    ("GET", "/query_exemplars", Apart("there are none")),
    ("POST", "/query_exemplars", Apart("there are none")),
    ("GET", "/format_query", Apart("the caller's own text")),
    ("POST", "/format_query", Apart("the caller's own text")),
    ("GET", "/parse_query", Apart("the caller's own text")),
    ("POST", "/parse_query", Apart("the caller's own text")),
    ("GET", "/status/buildinfo", Apart("the program")),
];

/// The path as the description has it: those of Prometheus' begin with a slash here.
fn described(path: &str) -> String {
    if path.starts_with('/') {
        format!("/prometheus/api/v1{path}")
    } else {
        format!("/api/v1/{path}")
    }
}

#[test]
fn every_route_says_whose_hosts_it_tells_of() {
    let description: Value = serde_json::from_str(&collector_api::openapi()).unwrap();
    let mounted: BTreeSet<(String, String)> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let named: BTreeSet<(String, String)> = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), described(path)))
        .collect();
    let missing: Vec<_> = mounted.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "say in ROUTES whose hosts these tell of: {missing:?}"
    );
    let stale: Vec<_> = named.difference(&mounted).collect();
    assert!(stale.is_empty(), "these are mounted no more: {stale:?}");
    assert_eq!(named.len(), ROUTES.len(), "a route is named twice");
}

/// A host that the scoped viewer must not hear of, with something in every table that a route reads.
struct Scene {
    testbed: Testbed,
    foreign: HostId,
    finding: FindingId,
    action: ActionId,
    admin: String,
    viewer: String,
}

fn alert(host: HostId, finding_id: FindingId, number: u32, time: TimeMicros) -> AlertView {
    AlertView {
        alert_id: format!("alert-{number:04}"),
        rule: "rule".to_owned(),
        state: "firing".to_owned(),
        severity: "high".to_owned(),
        host_id: Some(host),
        finding_id: Some(finding_id),
        action_id: None,
        subject: String::new(),
        title: "title".to_owned(),
        summary: String::new(),
        value: None,
        started_at: time,
        fired_at: Some(time),
        resolved_at: None,
        changed_at: time,
        deliveries: Vec::new(),
    }
}

fn rare_facts(secret: &Finding, action: ActionId) -> Vec<Fact> {
    let now = TimeMicros::now();
    let unit = UnitState {
        time: now,
        unit: format!("{SECRET}.service"),
        description: String::new(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        sub_state: "running".to_owned(),
        main_pid: 1,
        restart_count: 0,
        result: "success".to_owned(),
    };
    let model = ModelStatus {
        time: now,
        model: SECRET.to_owned(),
        version: "1".to_owned(),
        digest: String::new(),
        state: ModelState::Active,
        reason: String::new(),
        windows: 1,
        fitted_at: None,
        inference_p99_us: None,
        score: None,
    };
    let site = SiteProbe {
        time: now,
        site: SECRET.to_owned(),
        url: format!("https://{SECRET}.example/"),
        verdict: SiteVerdict::Up,
        reason: String::new(),
        remote_address: None,
        http_status: Some(200),
        redirect_count: 0,
        dns_ms: None,
        connect_ms: None,
        tls_ms: None,
        first_byte_ms: None,
        total_ms: None,
        body_bytes: None,
        tls_version: None,
        certificate_not_after: None,
        certificate_issuer: None,
        certificate_fault: None,
    };
    let gap = Gap {
        time: now,
        table: "findings".to_owned(),
        lane: Lane::Critical,
        from_time: now.plus_millis(-1_000),
        to_time: now,
        count: 1,
        exactness: Exactness::Exact,
        stage: GapStage::Spool,
        reason: SECRET.to_owned(),
    };
    vec![
        account(now).into(),
        host_info("observe", now).into(),
        process(7, "S", 1.0, 0).into(),
        secret.clone().into(),
        step(secret, action, 0, ActionStage::Proposed, None).into(),
        unit.into(),
        model.into(),
        site.into(),
        gap.into(),
    ]
}

fn account(time: TimeMicros) -> SensorAccount {
    SensorAccount {
        time,
        family: SECRET.to_owned(),
        seen: 1,
        filtered: 0,
        aggregated: 0,
        delivered: 1,
        ring_full: 0,
        map_full: 0,
        shed: 0,
        evicted: 0,
        runs: 1,
        run_us: 1,
        run_time_sampled: true,
        ring_bytes_peak: 0,
        ring_bytes: 4_096,
    }
}

impl Scene {
    async fn start() -> Self {
        let testbed = Testbed::start().await;
        let (foreign, secret, action) = (HostId::random(), finding(SECRET), ActionId::random());
        testbed.foreign.set(foreign);
        testbed.add(facts("sparrow")).await;
        let rows = facts(SECRET).into_iter().chain(rare_facts(&secret, action));
        testbed.store.append_for(foreign, rows.collect()).await.unwrap();
        let of_foreign = alert(foreign, secret.finding_id, 0, TimeMicros::now());
        testbed.alerts.0.lock().push(of_foreign);
        let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
        set_group(&testbed, &admin, "web", &[testbed.host]).await;
        Self {
            testbed,
            foreign,
            finding: secret.finding_id,
            action,
            admin,
            viewer,
        }
    }

    async fn bind_the_viewer(&self) {
        let given = give(&self.testbed, &self.admin, "viewer", json!(["web"])).await;
        assert_eq!(given.0, 204);
    }

    /// Status and text of an answer to the viewer.
    async fn ask(&self, method: &str, path: &str, query: &str) -> (u16, String) {
        let url = format!("{}{}{query}", self.testbed.url, described(path))
            .replace("{host}", &self.foreign.to_string())
            .replace("{finding}", &self.finding.to_string())
            .replace("{action}", &self.action.to_string())
            .replace("{id}", "7")
            .replace("{name}", "host_id");
        let method: Method = method.parse().unwrap();
        let mut request = self.testbed.http.request(method, url).bearer_auth(&self.viewer);
        if path == "sql" {
            request = request.json(&json!({ "query": "SELECT * FROM findings" }));
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn is_told(&self, text: &str) -> bool {
        text.contains(&self.foreign.to_string()) || text.contains(SECRET)
    }

    /// Asks every route that tells of hosts.
    async fn ask_all(&self, mut judge: impl FnMut(&str, &Bound, u16, &str)) {
        for (method, path, bound) in ROUTES {
            let queries: &[&str] = match bound {
                Scoped(queries) => queries,
                OfHost | Admin => &[""],
                Apart(reason) => {
                    assert!(!reason.is_empty(), "{path}");
                    continue;
                }
            };
            for query in queries {
                let (status, text) = self.ask(method, path, query).await;
                judge(
                    &format!("{method} {path}{query}: {status} {text}"),
                    bound,
                    status,
                    &text,
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_tells_a_scoped_user_of_no_other_host() {
    let scene = Scene::start().await;
    // What is not told to who may hear it shows nothing when it is not told to who may not.
    scene
        .ask_all(|shown, bound, status, text| match bound {
            Admin => assert_eq!(status, 403, "{shown}"),
            _ => assert!(status == 200 && scene.is_told(text), "{shown}"),
        })
        .await;
    scene.bind_the_viewer().await;
    scene
        .ask_all(|shown, bound, status, text| {
            let wanted = match bound {
                Admin => 403,
                OfHost => 404,
                Scoped(_) | Apart(_) => 200,
            };
            assert_eq!(status, wanted, "{shown}");
            // A host that is not there is named as it was asked for.
            let told = match bound {
                OfHost => text.contains(SECRET),
                _ => scene.is_told(text),
            };
            assert!(!told, "{shown}");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_user_is_told_live_of_no_other_host() {
    let scene = Scene::start().await;
    scene.bind_the_viewer().await;
    let url = format!("{}/api/v1/live?tables=findings,metrics", scene.testbed.url);
    let answer = scene.testbed.http.get(url).bearer_auth(&scene.viewer);
    let mut events = Events::of(answer.send().await.unwrap());
    events.next("ready").await;
    let foreign = scene.testbed.store.append_for(scene.foreign, facts(SECRET));
    foreign.await.unwrap();
    scene.testbed.add(facts("sparrow")).await;
    for name in ["row", "metrics"] {
        let told = events.next(name).await.to_string();
        assert!(!scene.is_told(&told) && told.contains("sparrow"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_of_many_hidden_hosts_do_not_end_the_list() {
    let scene = Scene::start().await;
    let now = TimeMicros::now();
    let mut alerts: Vec<AlertView> = (0..500)
        .map(|number| alert(scene.foreign, scene.finding, 999 - number, now))
        .collect();
    alerts.push(alert(scene.testbed.host, scene.finding, 0, now.plus_millis(-1)));
    *scene.testbed.alerts.0.lock() = alerts;
    scene.bind_the_viewer().await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let path = format!("alerts?limit=1&cursor={cursor}");
        let page = scene.testbed.get(&path, &scene.viewer).await;
        seen.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["host_id"], scene.testbed.host.to_string());
}
