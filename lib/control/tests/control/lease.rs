//! Leases: one holder at a time, tokens that only rise, loss that is noticed in time.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_control::{BATCH, ControlError, FencingToken, LeaseSet, Leases, query};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::wait_for;

use super::testbed::{ENGINES, Testbed};

const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> Arc<str> {
    text.into()
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_lapses_or_is_given_up() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        let one = Leases::new(control.clone(), "one", LONG);
        let two = Leases::new(testbed.open().await, "two", LONG);
        let first = one.take(&[name("alert")]).await.unwrap();
        assert_eq!(first[0].token, FencingToken(1), "{engine:?}");
        assert!(two.take(&[name("alert")]).await.unwrap().is_empty());
        // Renewed, it keeps its token.
        let again = one.take(&[name("alert"), name("alert")]).await.unwrap();
        assert_eq!((again.len(), again[0].token), (1, FencingToken(1)));
        one.give_up(&again).await.unwrap();
        let second = two.take(&[name("alert")]).await.unwrap();
        assert_eq!(second[0].token, FencingToken(2), "{engine:?}");
        assert!(one.take(&[name("alert")]).await.unwrap().is_empty());
        // What was given up is not given up once more for the new holder.
        one.give_up(&again).await.unwrap();
        let mut transaction = control.begin("alert").await.unwrap();
        second[0].confirm(&mut transaction).await.unwrap();
        let lost = again[0].confirm(&mut transaction).await.unwrap_err();
        assert!(matches!(lost, ControlError::LeaseLost(_)), "{lost}");
    }
}

#[tokio::test]
async fn a_lapsed_lease_goes_to_another_and_its_token_rises() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let one = Leases::new(testbed.open().await, "one", Duration::from_millis(300));
        let two = Leases::new(testbed.open().await, "two", LONG);
        let first = one.take(&[name("alert")]).await.unwrap().remove(0);
        let taken = wait_for(
            PATIENCE,
            async || {
                two.take(&[name("alert")])
                    .await
                    .unwrap()
                    .into_iter()
                    .next()
                    .map(|held| held.token)
            },
            Option::is_some,
        )
        .await
        .unwrap();
        assert_eq!(taken, Some(FencingToken(2)), "{engine:?}");
        // The holder knew before anybody else could have it.
        assert!(!first.holds());
    }
}

#[tokio::test]
async fn of_two_collectors_one_holds_and_the_other_follows_when_it_ends() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let (tasks_one, tasks_two) = (Tasks::new(), Tasks::new());
        let life = Duration::from_secs(30);
        let mut one = Leases::new(testbed.open().await, "one", life).hold("alert", &tasks_one);
        let first = tokio::time::timeout(PATIENCE, one.wait()).await.unwrap().unwrap();
        let short = Duration::from_millis(600);
        let mut two = Leases::new(testbed.open().await, "two", short).hold("alert", &tasks_two);
        assert!(two.held().is_none());
        assert!(one.held().is_some());
        tasks_one.drain(PATIENCE).await;
        assert!(one.held().is_none());
        let second = tokio::time::timeout(PATIENCE, two.wait()).await.unwrap().unwrap();
        assert!(second.token > first.token, "{engine:?}");
        tasks_two.drain(PATIENCE).await;
    }
}

#[tokio::test]
async fn loss_is_told_though_the_lease_was_taken_again() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let (control, tasks) = (testbed.open().await, Tasks::new());
        let life = Duration::from_secs(3);
        let mut tenure = Leases::new(control.clone(), "one", life).hold("alert", &tasks);
        let first = tokio::time::timeout(PATIENCE, tenure.wait())
            .await
            .unwrap()
            .unwrap();
        let mut watching = tenure.clone();
        let lost = watching.lost(&first);
        tokio::pin!(lost);
        // Longer than it would last without a renewal.
        assert!(
            tokio::time::timeout(2 * life, &mut lost).await.is_err(),
            "{engine:?}"
        );
        query("UPDATE control_leases SET expires_at = 0, holder = 'somebody'")
            .execute(&control)
            .await
            .unwrap();
        tokio::time::timeout(PATIENCE, lost).await.unwrap();
        let again = wait_for(
            PATIENCE,
            async || tenure.held().map(|held| held.token),
            |token| token.is_some_and(|token| token > first.token),
        );
        again.await.unwrap();
        tasks.drain(PATIENCE).await;
    }
}

#[tokio::test]
async fn thousands_are_taken_and_renewed_in_a_few_statements() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let set = LeaseSet::new(Leases::new(testbed.open().await, "one", LONG), 3 * BATCH);
        let other = Leases::new(testbed.open().await, "two", LONG);
        let names: Vec<Arc<str>> = (0..3 * BATCH)
            .map(|host| name(&format!("host {host:05}")))
            .collect();
        assert_eq!(other.take(&names[..7]).await.unwrap().len(), 7);
        let mut held = 0;
        for host in &names[..40] {
            held += usize::from(set.get(host).await.unwrap().is_some());
        }
        assert_eq!((held, set.len()), (33, 33), "{engine:?}");
        assert!(set.renew().await.unwrap().is_empty());
        let first = set.get(&names[7]).await.unwrap().unwrap();
        set.give_up(&names[7]).await.unwrap();
        let second = other.take(&names[7..8]).await.unwrap().remove(0);
        assert!(second.token > first.token);
        let rest = Leases::new(testbed.open().await, "three", LONG);
        let taken = rest.take(&names).await.unwrap();
        assert_eq!(taken.len(), 3 * BATCH - 40, "{engine:?}");
    }
}
