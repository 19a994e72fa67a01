//! Hosts that leave the fleet while something of them is told.

use fleetmend_event::{Fact, HostId, MetricFrame, SeriesKey, TimeMicros};
use fleetmend_testkit::wait_for;

use crate::testbed::{DEADLINE, Testbed, finding, quick};

const RULE: &str =
    "[[metrics]]\nname = 'hot'\nmetric = 'temperature'\nop = '>'\nvalue = 1.0\nwindow = '1h'\n";

fn hot() -> Fact {
    let series = SeriesKey::new("temperature", "Cel", [("chip", "0")]);
    Fact::from(MetricFrame {
        time: TimeMicros::now(),
        series: vec![series].into(),
        values: vec![90.0],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_of_a_removed_host_end_with_a_reason_and_do_not_come_again() {
    let testbed = Testbed::start_with(quick(), |_| RULE.to_owned()).await;
    let stays = HostId::random();
    testbed.add(vec![hot(), finding("shell").into()]).await;
    testbed.store.append_for(stays, vec![hot()]).await.unwrap();
    let of = async |state: &str| {
        let mut alerts = testbed.alerts().await;
        alerts.retain(|alert| alert.state == state);
        alerts
    };
    wait_for(DEADLINE, async || of("firing").await, |firing| firing.len() == 3)
        .await
        .unwrap();
    testbed.accepted(3).await;

    testbed.left.0.lock().insert(testbed.host);
    let ended = wait_for(DEADLINE, async || of("resolved").await, |ended| ended.len() == 2)
        .await
        .unwrap();
    for alert in &ended {
        assert_eq!(alert.host_id, Some(testbed.host));
        assert!(
            alert.resolved_at.is_some() && alert.summary.contains("removed from the fleet"),
            "{alert:?}"
        );
    }
    let messages = testbed.accepted(5).await;
    let resolved = messages
        .iter()
        .filter(|message| message.body["event"] == "resolved")
        .count();
    assert_eq!(resolved, 2);

    // Its samples are in the window still, and something of it is taken in late.
    testbed.add(vec![finding("another shell").into()]).await;
    testbed
        .store
        .append_for(stays, vec![finding("after it").into()])
        .await
        .unwrap();
    let after =
        |alerts: &Vec<collector_alert::AlertView>| alerts.iter().any(|alert| alert.title == "after it");
    wait_for(DEADLINE, async || of("firing").await, after)
        .await
        .unwrap();
    let firing = of("firing").await;
    assert!(
        firing.len() == 2 && firing.iter().all(|alert| alert.host_id == Some(stays)),
        "{firing:?}"
    );
    assert_eq!(testbed.alerts().await.len(), 4);
}
