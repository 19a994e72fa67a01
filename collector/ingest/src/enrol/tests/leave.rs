//! Leaving the fleet, and being taken out of it.

use super::*;

async fn enrolled(scene: &Scene) -> (HostKey, Enrolled) {
    let key = HostKey::generate().unwrap();
    let (request, token, facts) = (key.request().unwrap(), scene.token().await, HostFacts::default());
    let secret = token.secret().expose();
    let enrolled = scene
        .enroller
        .enrol(HERE, secret, &request, &facts)
        .await
        .unwrap();
    (key, enrolled)
}

async fn counted(scene: &Scene) -> u64 {
    let control = scene.control.open().await.unwrap();
    let version = scene.enroller.authority().bundle().version;
    let config = EnrolConfig::default();
    let standing = Standing::read(&control, &config, version + 1, TimeMicros::now()).await;
    standing.unwrap().hosts
}

#[tokio::test]
async fn a_host_that_left_is_told_no_more_and_gets_no_certificate_any_more() {
    let scene = Scene::new().await;
    let (key, host) = enrolled(&scene).await;
    let (other, _) = enrolled(&scene).await;
    assert_eq!(counted(&scene).await, 2);
    let peer = host.certificate.peer.clone();
    let mut stolen = peer.clone();
    stolen.key = other.fingerprint();
    let refused = scene.enroller.unenrol(HERE, &stolen, "x").await;
    assert!(
        matches!(refused, Err(Refusal::OtherKey)),
        "nobody takes another host out"
    );
    assert_eq!(counted(&scene).await, 2);

    let closing = scene.enroller.revocations().clone();
    let left = async {
        tokio::join!(
            closing.revoked(&peer),
            scene.enroller.unenrol(HERE, &peer, "sold")
        )
    };
    let left = tokio::time::timeout(PATIENCE, left)
        .await
        .expect("open streams were not told");
    left.1.unwrap();
    scene.enroller.unenrol(HERE, &peer, "again").await.unwrap();
    assert_eq!(counted(&scene).await, 1, "nothing waits for it");
    let removed = scene.enroller.removed_hosts().await.unwrap();
    assert_eq!(removed.into_iter().collect::<Vec<_>>(), [host.host]);
    let hosts = scene.enroller.hosts().await.unwrap();
    let known = hosts.iter().find(|known| known.host == host.host).unwrap();
    assert!(known.removed_at.is_some() && known.revoked_at == known.removed_at);
    let request = key.request().unwrap();
    assert!(matches!(
        scene.enroller.renew(HERE, &peer, &request).await,
        Err(Refusal::HostRevoked)
    ));
    assert!(matches!(
        scene.enroller.recover(HERE, host.host, &request).await,
        Err(Refusal::HostRevoked)
    ));
    let again = scene.ask(&scene.token().await, &key).await.unwrap_err();
    assert!(
        again.message().contains("revoked"),
        "the key is no secret any more: {again}"
    );
    let rows = scene.audit_of("left: sold").await;
    assert_eq!(
        (rows.len(), rows[0].kind.as_str(), rows[0].host),
        (1, "unenrolled", Some(host.host))
    );
}

#[tokio::test]
async fn a_removed_host_stays_out_over_a_restart_and_over_a_restored_database() {
    let scene = Scene::new().await;
    let (_, host) = enrolled(&scene).await;
    let peer = host.certificate.peer.clone();
    for _ in 0..2 {
        assert!(scene.enroller.remove_host(host.host, "sold").await.unwrap());
    }
    assert!(
        !scene
            .enroller
            .remove_host(HostId::random(), "nobody")
            .await
            .unwrap()
    );
    assert_eq!(counted(&scene).await, 0);
    let authority = scene.fleet.authority().clone();
    let pool = scene.control.open().await.unwrap();
    let again = Enroller::open(pool.clone(), authority.clone(), EnrolConfig::default());
    assert!(again.await.unwrap().revocations().current().contains(&peer));

    // As restored from before it enrolled: its certificate is all that is known of it.
    fleetmend_control::query("DELETE FROM ingest_hosts")
        .execute(&pool)
        .await
        .unwrap();
    let restored = Enroller::open(pool, authority, EnrolConfig::default())
        .await
        .unwrap();
    assert!(!restored.revocations().current().contains(&peer));
    restored.unenrol(HERE, &peer, "sold").await.unwrap();
    assert!(restored.revocations().current().contains(&peer));
    assert!(restored.hosts().await.unwrap()[0].removed_at.is_some());
}

#[tokio::test]
async fn every_key_of_the_collector_is_listed_with_its_end() {
    let scene = Scene::new().await;
    scene.still_serves().await;
    let ends = scene.enroller.ends();
    let of = |kind: KeyKind| ends.iter().find(|end| end.of == kind).unwrap();
    for kind in [KeyKind::Listener, KeyKind::Issuing, KeyKind::Root] {
        assert!(of(kind).not_after > Some(TimeMicros::now()), "{kind:?}: {ends:?}");
    }
    for kind in [KeyKind::Online, KeyKind::Bundle] {
        assert!(
            of(kind).not_after.is_none() && !of(kind).key.is_empty(),
            "{kind:?}: {ends:?}"
        );
    }
}
