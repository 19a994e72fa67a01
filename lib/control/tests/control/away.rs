//! A PostgreSQL that is away, says nothing, comes back, or is another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_control::{Control, ControlConfig, Health, Migrations, query};
use fleetmend_testkit::postgres::Ending;
use fleetmend_testkit::proxy::Fault;
use fleetmend_testkit::{FaultProxy, PostgresServer, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
/// A connection (5 s), a statement (2 s), and room for a slow machine.
const DEADLINE: Duration = Duration::from_secs(30);

const TABLES: Migrations = Migrations {
    room: "away",
    steps: &["CREATE TABLE away_rows (number INTEGER PRIMARY KEY) STRICT;"],
};

async fn through(proxy: &FaultProxy, server: &PostgresServer) -> Control {
    let mut config = ControlConfig::of(format!("postgres://fleetmend@{}/postgres", proxy.address()));
    config.password_file = Some(server.password_file());
    config.statement_timeout = Duration::from_secs(2).into();
    let control = Control::open(&config, "/".as_ref()).await.unwrap();
    control.migrate(&TABLES).await.unwrap();
    control
}

async fn put(control: &Control, number: i64) -> Result<u64, fleetmend_control::ControlError> {
    let insert = query("INSERT INTO away_rows (number) VALUES ($1) ON CONFLICT (number) DO NOTHING");
    insert.bind(number).execute(control).await
}

async fn numbers(control: &Control) -> Vec<i64> {
    let rows = query("SELECT number FROM away_rows ORDER BY number")
        .fetch_all(control)
        .await
        .unwrap();
    rows.iter().map(|row| row.try_get(0).unwrap()).collect()
}

#[tokio::test]
async fn a_server_that_crashed_is_named_and_used_again_when_it_is_back() {
    let server = PostgresServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let control = through(&proxy, &server).await;
    put(&control, 1).await.unwrap();
    // One transaction is under way.
    let mut open = control.begin("away").await.unwrap();
    query("INSERT INTO away_rows (number) VALUES (2)")
        .execute(&mut open)
        .await
        .unwrap();
    server.stop(Ending::Immediate).unwrap();
    let lost = open.commit().await.unwrap_err();
    assert!(lost.is_away(), "{lost:?}");
    let begun = Instant::now();
    let away = put(&control, 3).await.unwrap_err();
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    assert!(away.is_away(), "{away:?}");
    let address = format!("postgres://fleetmend@{}/postgres", proxy.address());
    assert!(away.to_string().contains(&address), "{away}");
    assert!(!away.chain().contains(server.password()), "{}", away.chain());
    let health = control.health();
    assert!(matches!(&*health.borrow(), Health::Away(reason) if reason.contains("cannot be reached")));
    server.restart().unwrap();
    wait_for(
        PATIENCE,
        async || put(&control, 4).await.is_ok(),
        |is_back| *is_back,
    )
    .await
    .unwrap();
    assert_eq!(*health.borrow(), Health::Ready);
    assert_eq!(numbers(&control).await, [1, 4]);
}

#[tokio::test]
async fn a_server_that_says_nothing_holds_nobody_up() {
    let server = PostgresServer::start().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let control = through(&proxy, &server).await;
    for fault in [Fault::Stall, Fault::HoldAnswers] {
        let mut open = control.begin("away").await.unwrap();
        proxy.set(fault);
        let begun = Instant::now();
        let late = query("INSERT INTO away_rows (number) VALUES (5)")
            .execute(&mut open)
            .await
            .unwrap_err();
        assert!(late.is_away(), "{fault:?}: {late:?}");
        drop(open);
        // More than there are connections: none is kept by what never answers.
        for number in 0..3 {
            assert!(
                put(&control, 10 + number).await.unwrap_err().is_away(),
                "{fault:?}"
            );
        }
        assert!(begun.elapsed() < 4 * DEADLINE, "{fault:?}: {:?}", begun.elapsed());
        proxy.set(Fault::None);
        wait_for(
            PATIENCE,
            async || put(&control, 1).await.is_ok(),
            |is_back| *is_back,
        )
        .await
        .unwrap();
    }
    assert!(!numbers(&control).await.contains(&5));
}

#[tokio::test]
async fn a_promoted_standby_behind_the_same_address_has_all_that_was_acknowledged() {
    let server = PostgresServer::start_with(&["wal_level = replica", "max_wal_senders = 4"]).unwrap();
    let standby = server.standby().unwrap();
    server
        .psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
        .unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    let followed = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    let followed = async || server.psql("postgres", followed).unwrap();
    wait_for(PATIENCE, followed, |count| count == "1").await.unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let control = Arc::new(through(&proxy, &server).await);
    let mut acknowledged = Vec::new();
    for number in 0..200 {
        if number == 100 {
            server.stop(Ending::Immediate).unwrap();
            standby.psql("postgres", "SELECT pg_promote(true, 60)").unwrap();
            proxy.retarget(&[standby.address()]);
        }
        match put(&control, number).await {
            Ok(_) => acknowledged.push(number),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    assert!(
        acknowledged.iter().any(|number| *number > 100),
        "the standby took over"
    );
    let kept = numbers(&control).await;
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|number| !kept.contains(number))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn the_certificate_of_the_server_is_checked() {
    let server = PostgresServer::start().unwrap();
    let authority = server.serve_tls().unwrap();
    let port = server.address().port();
    let open = async |host: &str, ca: Option<&std::path::Path>, mode: &str| {
        let mut config = ControlConfig::of(format!("postgres://fleetmend@{host}:{port}/postgres{mode}"));
        config.password_file = Some(server.password_file());
        config.ca_file = ca.map(Into::into);
        let control = Control::open(&config, "/".as_ref()).await?;
        let used =
            query("SELECT CASE WHEN ssl THEN 1 ELSE 0 END FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
        used.fetch_value::<bool>(&control).await
    };
    assert_eq!(open("localhost", Some(&authority), "").await.unwrap(), Some(true));
    assert_eq!(
        open("127.0.0.1", Some(&authority), "?sslmode=verify-ca")
            .await
            .unwrap(),
        Some(true)
    );
    assert_eq!(open("127.0.0.1", None, "").await.unwrap(), Some(false));
    let wrong_name = open("127.0.0.1", Some(&authority), "").await.unwrap_err();
    assert!(wrong_name.is_away(), "{wrong_name:?}");
    let stranger = PostgresServer::start().unwrap();
    let pem = stranger.serve_tls().unwrap();
    let wrong_authority = open("localhost", Some(&pem), "").await.unwrap_err();
    assert!(
        wrong_authority.chain().to_lowercase().contains("certificate"),
        "{}",
        wrong_authority.chain()
    );
}
