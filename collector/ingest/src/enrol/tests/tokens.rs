//! Tokens under load and in bad hands: a use is taken once, by whoever comes first, and never after the end.

use std::sync::atomic::{AtomicI64, Ordering};

use fleetmend_identity::time::Clocks;

use super::*;

/// As many clients as a rollout has that uses one token.
const CLIENTS: usize = 50;

/// All of them come from one address here.
fn patient() -> EnrolConfig {
    EnrolConfig {
        refusals_per_minute: 1000,
        ..EnrolConfig::default()
    }
}

async fn left(scene: &Scene) -> u32 {
    scene.enroller.tokens().await.unwrap()[0].uses_left
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_won_by_exactly_one_of_fifty_over_the_network() {
    let scene = Scene::with(patient()).await;
    let token = scene.enroller.issue_token("ada", HOUR, 3).await.unwrap();
    for _ in 0..2 {
        scene.ask(&token, &HostKey::generate().unwrap()).await.unwrap();
    }
    assert_eq!(left(&scene).await, 1);
    let keys: Vec<_> = (0..CLIENTS).map(|_| HostKey::generate().unwrap()).collect();
    let answers = futures::future::join_all(keys.iter().map(|key| scene.ask(&token, key))).await;
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(won, 1, "{answers:?}");
    for refusal in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(refusal.message().contains("already used"), "{refusal}");
    }
    assert_eq!(
        (left(&scene).await, scene.enroller.hosts().await.unwrap().len()),
        (0, 3)
    );
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_that_asks_fifty_times_at_once_is_one_host_and_one_use() {
    let scene = Scene::with(patient()).await;
    let token = scene.enroller.issue_token("ada", HOUR, 2).await.unwrap();
    let key = HostKey::generate().unwrap();
    let answers = futures::future::join_all((0..CLIENTS).map(|_| scene.ask(&token, &key))).await;
    let hosts: std::collections::BTreeSet<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().host_id)
        .collect();
    assert_eq!((hosts.len(), left(&scene).await), (1, 1));
    // Another token, weeks later: the key is the host.
    let later = scene.ask(&scene.token().await, &key).await.unwrap();
    assert!(hosts.contains(&later.host_id));
    assert_eq!(scene.enroller.hosts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_taken_back_half_used_enrols_nobody_more_and_is_listed_with_its_creator() {
    let scene = Scene::new().await;
    let token = scene.enroller.issue_token("ada", HOUR, 10).await.unwrap();
    let key = HostKey::generate().unwrap();
    scene.ask(&token, &key).await.unwrap();
    let id = token_id(&token);
    for nobody in [
        "",
        "%",
        "_",
        "' OR 1=1 --",
        &id[..15],
        &id.to_uppercase(),
        &format!("{id}0"),
    ] {
        let hit = nobody != id && scene.enroller.revoke_token(nobody).await.unwrap();
        assert!(!hit, "{nobody:?} took a token back");
    }
    assert!(scene.enroller.revoke_token(&id).await.unwrap());
    let first = scene.enroller.tokens().await.unwrap()[0].clone();
    assert!(
        scene.enroller.revoke_token(&id).await.unwrap(),
        "once more is no error"
    );
    let shown = scene.enroller.tokens().await.unwrap()[0].clone();
    assert_eq!(shown, first, "and does not make it later");
    assert_eq!(
        (shown.created_by.as_str(), shown.uses, shown.uses_left),
        ("ada", 10, 9)
    );
    assert!(shown.revoked_at.is_some());
    let refusal = scene
        .ask(&token, &HostKey::generate().unwrap())
        .await
        .unwrap_err();
    assert!(refusal.message().contains("revoked"), "{refusal}");
    // Not even to the host that used it: its answer may be in other hands.
    assert!(scene.ask(&token, &key).await.is_err());
}

#[derive(Debug, Clone, Default)]
struct Moved(Arc<AtomicI64>);

impl Clocks for Moved {
    fn wall(&self) -> TimeMicros {
        TimeMicros(1_900_000_000_000_000 + self.0.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed).unsigned_abs())
    }

    fn boot_id(&self) -> String {
        "one".to_owned()
    }
}

#[tokio::test]
async fn a_token_holds_until_its_very_end_and_not_after_it() {
    let (control, fleet) = (TestControl::new().unwrap(), TestFleet::new().unwrap());
    let clock = Moved::default();
    let time = TrustedTime::over(Box::new(clock.clone()));
    let authority = fleet.authority().clone();
    let enroller = Enroller::open_with(
        control.open().await.unwrap(),
        authority,
        EnrolConfig::default(),
        time,
    );
    let enroller = enroller.await.unwrap();
    let token = enroller.issue_token("ada", HOUR, 5).await.unwrap();
    let facts = HostFacts::default();
    let ask = async || {
        let request = HostKey::generate().unwrap().request().unwrap();
        let asked = enroller
            .enrol(HERE, token.secret().expose(), &request, &facts)
            .await;
        asked.map(|enrolled| enrolled.host)
    };
    let hour = i64::try_from(HOUR.as_micros()).unwrap();
    clock.0.store(hour - 1, Ordering::Relaxed);
    ask().await.unwrap();
    for after in [hour, hour + 1, i64::MAX / 4] {
        clock.0.store(after, Ordering::Relaxed);
        assert!(
            matches!(ask().await, Err(Refusal::TokenExpired)),
            "{after} µs after"
        );
    }
    // A lifetime beyond all calendars is one that does not end, not one that wraps around.
    clock.0.store(0, Ordering::Relaxed);
    let forever = enroller
        .issue_token("ada", Duration::MAX, u32::MAX)
        .await
        .unwrap();
    let request = HostKey::generate().unwrap().request().unwrap();
    enroller
        .enrol(HERE, forever.secret().expose(), &request, &facts)
        .await
        .unwrap();
}

#[tokio::test]
async fn secrets_of_every_other_length_are_unknown() {
    let scene = Scene::with(patient()).await;
    let token = scene.token().await;
    let good = token.secret().expose();
    let request = HostKey::generate().unwrap().request().unwrap();
    let facts = HostFacts::default();
    for bad in [
        &[][..],
        &good[1..],
        &good[..good.len() - 1],
        &[good, &[0]].concat(),
        &[0; 40_000],
    ] {
        let refused = scene.enroller.enrol(HERE, bad, &request, &facts).await;
        assert!(
            matches!(refused, Err(Refusal::TokenUnknown)),
            "{} bytes",
            bad.len()
        );
    }
    assert_eq!(left(&scene).await, 1);
}
