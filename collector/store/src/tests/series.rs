//! A host with more series than it may have.

use super::commit::copy_folder;
use super::testbed::{Host, config, folder, open_with};
use crate::StoreConfig;

const SAMPLES: &str = "SELECT count(*) FROM metrics";
const REFUSED: &str =
    "SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE reason = 'series_limit' AND \"table\" = 'metrics'";
const GAPS: &str = "SELECT count(*) FROM gaps";

#[tokio::test]
async fn samples_of_series_beyond_the_limit_are_a_gap_and_the_rest_is_stored() {
    let folder = folder();
    let limited = |folder: &std::path::Path| StoreConfig {
        series_per_host_max: 3,
        ..config(folder)
    };
    let bed = open_with(limited(folder.path())).await;
    let (mut host, mut other) = (Host::new(), Host::new());
    let (few, many) = (host.metrics(3), host.metrics(5));
    bed.store.commit(host.id, vec![few]).await.unwrap();
    assert_eq!((bed.number(SAMPLES).await, bed.number(GAPS).await), (30, 0));
    bed.store.commit(host.id, vec![many.clone()]).await.unwrap();
    assert_eq!(bed.number(SAMPLES).await, 60, "what is known goes on");
    assert_eq!(bed.number(REFUSED).await, 20);
    bed.store.commit(other.id, vec![other.metrics(3)]).await.unwrap();
    assert_eq!(bed.number(SAMPLES).await, 90, "others are others");

    // The same record again is the same, also for a store that has only the rows that were kept.
    bed.store.commit(host.id, vec![many.clone()]).await.unwrap();
    let copy = super::testbed::folder();
    copy_folder(folder.path(), copy.path());
    let again = open_with(limited(copy.path())).await;
    let next = host.metrics(1);
    again.store.commit(host.id, vec![many, next]).await.unwrap();
    assert_eq!((again.number(SAMPLES).await, again.number(GAPS).await), (100, 1));
    again.close().await;
    bed.close().await;
}
