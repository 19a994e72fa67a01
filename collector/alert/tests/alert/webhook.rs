use std::time::Duration;

use collector_alert::verify;
use fleetmend_config::HumanDuration;
use fleetmend_event::TimeMicros;
use fleetmend_testkit::wait_for;

use crate::receiver::SECRET;
use crate::testbed::{DEADLINE, Testbed, finding, quick};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_signed_and_sent_until_it_is_accepted_under_one_id() {
    let testbed = Testbed::start(quick()).await;
    testbed.receiver.refuse(&[500, 302]);
    testbed.add(vec![finding("paged").into()]).await;
    let message = testbed.accepted(1).await.remove(0);
    let now = TimeMicros::now().0 / 1_000_000;
    assert_eq!(
        verify(SECRET, &message.signature, &message.bytes, now, 300),
        Ok(())
    );
    let tries = testbed.receiver.tries();
    assert_eq!(tries.len(), 3, "{tries:?}");
    assert!(tries.iter().all(|id| *id == message.delivery_id), "{tries:?}");
    let delivered = async || testbed.reaches("firing").await.deliveries.remove(0);
    let delivery = wait_for(DEADLINE, delivered, |delivery| delivery.state == "delivered")
        .await
        .unwrap();
    assert_eq!((delivery.attempts, delivery.last_status), (3, Some(204)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_survives_a_restart() {
    let mut testbed = Testbed::start(quick()).await;
    testbed.receiver.refuse(&[503]);
    testbed.add(vec![finding("paged").into()]).await;
    wait_for(
        DEADLINE,
        async || testbed.receiver.tries().len(),
        |tries| *tries >= 1,
    )
    .await
    .unwrap();
    testbed.restart().await;
    let message = testbed.accepted(1).await.remove(0);
    assert_eq!(
        testbed.receiver.tries(),
        [message.delivery_id.clone(), message.delivery_id]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_accepts_is_given_up_and_says_why() {
    let config = collector_alert::AlertConfig {
        give_up_after: HumanDuration(Duration::ZERO),
        ..quick()
    };
    let testbed = Testbed::start(config).await;
    testbed.receiver.refuse(&[410; 20]);
    testbed.add(vec![finding("paged").into()]).await;
    let delivery = async || {
        testbed
            .alerts()
            .await
            .pop()
            .and_then(|mut alert| alert.deliveries.pop())
    };
    let given_up = wait_for(DEADLINE, delivery, |delivery| {
        delivery
            .as_ref()
            .is_some_and(|delivery| delivery.state == "given_up")
    });
    let delivery = given_up.await.unwrap().unwrap();
    assert_eq!(delivery.last_status, Some(410));
    assert!(delivery.last_error.unwrap().contains("410"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_answer_delays_nobody_else() {
    // It takes connections, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = quick();
    config.receivers.push(collector_alert::Receiver {
        name: "silent".to_owned(),
        url: format!("http://{}/", silent.local_addr().unwrap()),
        secret: fleetmend_config::Secret::new(SECRET),
        timeout: HumanDuration::from_secs(300),
        ca: None,
    });
    let testbed = Testbed::start(config).await;
    for count in 1..=3 {
        testbed.add(vec![finding("paged").into()]).await;
        testbed.accepted(count).await;
    }
}
