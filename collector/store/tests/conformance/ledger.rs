//! What the ledger forgets, and what it does not.

use std::sync::Arc;

use fleetmend_testkit::wait_for;

use crate::hosts::{Host, timed};
use crate::scene::{Engines, PATIENCE};

const EXECS: &str = "SELECT count(*) FROM process_events";
const CLAIMS: &str = "SELECT count(*) FROM ledger_claims";

fn psql(engines: &Arc<Engines>, statement: &str) -> String {
    engines.database.psql(statement).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_claims_stay_as_long_as_their_rows_and_no_longer() {
    let engines = Engines::start().await;
    let one = engines.collector().await;
    let (mut old, mut young) = (Host::number(1), Host::number(2));
    let (of_old, of_young) = (old.execs(2), young.execs(3));
    engines.clickhouse.lock().await.fault("insert_then_fail").await;
    for (host, frame) in [(old.id, &of_old), (young.id, &of_young)] {
        let failed = one
            .store
            .commit_timed(host, timed(vec![frame.clone()]), Vec::new());
        failed.await.unwrap_err();
    }
    engines.clickhouse.lock().await.fault("none").await;
    one.close().await;
    assert_eq!(psql(&engines, CLAIMS), "2", "their collector is gone");
    let host = old.id.to_string();
    let aged = format!(
        "UPDATE ledger_claims SET taken_at = 0 WHERE host = decode(replace('{host}', '-', ''), 'hex')"
    );
    psql(&engines, &aged);

    let other = engines.collector().await;
    let left = wait_for(PATIENCE, async || psql(&engines, CLAIMS), |left| left != "2");
    assert_eq!(left.await.unwrap(), "1");
    let whose = psql(&engines, "SELECT encode(host, 'hex') FROM ledger_claims");
    assert_eq!(
        whose,
        young.id.to_string().replace('-', ""),
        "the young one's rows may be there"
    );
    // Both come back and send what nobody acknowledged.
    for (host, frame) in [(old.id, of_old), (young.id, of_young)] {
        other.store.marks(host).await.unwrap();
        other.commit(host, vec![frame]).await;
    }
    assert_eq!(other.number(EXECS).await, 5);
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_begins_epoch_after_epoch_keeps_the_latest_ones() {
    let engines = Engines::start().await;
    let one = engines.collector().await;
    one.store.marks(Host::number(1).id).await.unwrap();
    one.close().await;
    let epoch = |number: &str| format!("decode(lpad(to_hex({number}), 32, '0'), 'hex')");
    let marks = format!(
        "INSERT INTO ledger_marks (host, epoch, lane, sequence, seen_at) \
         SELECT host, {}, 1, 5, n FROM ledger_leases, generate_series(1, 100) AS n",
        epoch("n")
    );
    // Of epochs with a mark, and of others.
    let claims = format!(
        "INSERT INTO ledger_claims (host, epoch, lane, kind, sequence, digest, taken_at, clock) \
         SELECT host, {}, 1, 0, 5, ''::bytea, (extract(epoch FROM now()) * 1000000)::bigint + n, 0 \
         FROM ledger_leases, generate_series(1, 300) AS n",
        epoch("n")
    );
    psql(&engines, &marks);
    psql(&engines, &claims);

    let other = engines.collector().await;
    let seen = async || {
        let of = |table: &str, where_: &str| {
            psql(
                &engines,
                &format!(
                    "SELECT count(*) || ' from ' || min(encode(epoch, 'hex')) FROM {table} WHERE epoch {where_} \
                     {}",
                    epoch("100")
                ),
            )
        };
        [
            of("ledger_marks", "<="),
            of("ledger_claims", "<="),
            of("ledger_claims", ">"),
        ]
    };
    let latest = |number: u32| format!("64 from {number:032x}");
    // Those without a mark never push out those that have one.
    let wanted = [latest(37), latest(37), latest(237)];
    let left = wait_for(PATIENCE, seen, |left| *left == wanted).await;
    assert_eq!(left.unwrap(), wanted);
    other.close().await;
}
