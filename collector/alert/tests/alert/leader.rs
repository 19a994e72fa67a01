use fleetmend_control::Engine;
use fleetmend_testkit::{TestControl, wait_for};

use crate::testbed::{DEADLINE, Testbed, finding, quick};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_collectors_one_alerts_and_the_other_goes_on_when_it_ends() {
    let control = TestControl::of(Engine::Postgres).unwrap();
    let testbed = Testbed::start_over(control, quick(), |_| String::new()).await;
    testbed.add(vec![finding("first").into()]).await;
    testbed.accepted(1).await;
    let (second, running) = testbed.another().await;
    testbed.add(vec![finding("second").into()]).await;
    testbed.accepted(2).await;
    testbed.settled().await;
    testbed.accepted(3).await;
    let tries = testbed.receiver.tries();
    assert_eq!(tries.len(), 3, "each message once: {tries:?}");
    assert_eq!(second.fault(), None, "it is not its turn");
    // The first ends in order, and gives its turn up.
    testbed.stop().await;
    testbed.add(vec![finding("third").into()]).await;
    let titles = async || {
        let messages = testbed.receiver.accepted();
        messages
            .iter()
            .map(|message| message.body["alert"]["title"].to_string())
            .collect::<Vec<_>>()
    };
    let third = |titles: &Vec<String>| titles.iter().any(|title| title.contains("third"));
    let titles = wait_for(DEADLINE, titles, third).await.unwrap();
    assert_eq!(titles.len(), 4, "{titles:?}");
    running.drain(DEADLINE).await;
}
