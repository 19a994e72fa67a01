//! Records a page at a time.

use std::collections::BTreeSet;

use collector_export::RecordFormat;
use collector_export::page::{Cursor, RecordsRequest, records_page};
use fleetmend_event::{Fact, HostScope, TimeMicros};
use fleetmend_testkit::wait_for;

use crate::rows::finding;
use crate::testbed::{DEADLINE, Testbed};

fn request(from: Cursor, limit: usize) -> RecordsRequest {
    RecordsRequest {
        table: "findings".to_owned(),
        format: RecordFormat::Ecs,
        host: None,
        scope: HostScope::All,
        from,
        to: TimeMicros::now(),
        limit,
    }
}

/// Titles of all records by pages of `limit`, each cursor carried as text.
async fn read(testbed: &Testbed, limit: usize) -> Vec<String> {
    let mut from = Cursor::at(TimeMicros(0));
    let mut titles = Vec::new();
    loop {
        let page = records_page(testbed.source.as_ref(), request(from, limit))
            .await
            .unwrap();
        assert!(page.records.len() <= limit);
        let told = page.records.iter();
        titles.extend(told.map(|record| record["fleetmend"]["row"]["title"].as_str().unwrap().to_owned()));
        assert!(titles.len() <= 1_000, "it has an end");
        if !page.more {
            return titles;
        }
        from = page.next.to_string().parse().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_each_record_once_also_where_many_are_of_one_moment() {
    let testbed = Testbed::start().await;
    let now = TimeMicros::now();
    for host in testbed.hosts {
        let of_one_moment = |number: u32| {
            let mut finding = finding(number);
            finding.time = now;
            Fact::from(finding)
        };
        let facts: Vec<Fact> = (0..150).map(of_one_moment).collect();
        testbed.store.append_for(host, facts).await.unwrap();
        let facts = vec![Fact::from(finding(150))];
        testbed.store.append_for(host, facts).await.unwrap();
    }
    let all: BTreeSet<String> = (0..=150).map(|number| format!("finding {number}")).collect();
    // What is new is told a little later.
    let whole = wait_for(
        DEADLINE,
        async || read(&testbed, 5_000).await.len(),
        |count| *count == 302,
    );
    whole.await.unwrap();
    for limit in [1, 7, 149, 150, 151, 302] {
        let mut titles = read(&testbed, limit).await;
        assert_eq!(titles.len(), 302, "pages of {limit}");
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.into_iter().collect::<BTreeSet<_>>(), all);
    }
}
