//! What every store of facts promises, held against each: in memory, in a folder, and in ClickHouse with PostgreSQL.
//!
//! The engines are real: PostgreSQL from Debian, and ClickHouse's engine behind `clickhouse_server.py`, which speaks as
//! much of its HTTP interface as the store does. `engines.rs`, `faults.rs`, `ledger.rs` and `tls.rs` hold what only a
//! store over other engines can meet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod behaviour;
mod engines;
mod faults;
mod hosts;
mod ledger;
#[path = "../../src/tests/rows.rs"]
mod rows;
mod scene;
mod scope;
mod server;
mod tls;

/// One test of each behaviour for each store.
macro_rules! every_store {
    ($($behaviour:ident),* $(,)?) => {
        every_store!(@of memory: $($behaviour),*);
        every_store!(@of embedded: $($behaviour),*);
        every_store!(@of clickhouse: $($behaviour),*);
    };
    (@of $store:ident: $($behaviour:ident),*) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    let scene = crate::scene::Scene::$store().await;
                    crate::behaviour::$behaviour(&scene).await;
                    scene.close().await;
                }
            )*
        }
    };
}

every_store![
    acknowledged_rows_are_shown_with_what_is_known_of_them,
    record_sent_twice_is_stored_once,
    other_record_under_a_stored_number_is_refused,
    skipped_number_is_refused_until_it_is_declared_lost,
    tombstone_takes_its_number_and_shows_no_rows,
    unreadable_rows_become_a_gap_and_stop_nobody,
    gap_of_a_record_is_stored_once_with_it,
    gap_before_an_epoch_makes_the_epoch_known,
    own_facts_are_stored_and_told,
    reserved_identity_is_refused,
    samples_of_series_beyond_the_limit_are_a_gap,
    series_are_selected_by_name_host_and_time,
    samples_that_are_kept_answer_whatever_resolution_is_asked_for,
    answers_name_the_gaps_that_touch_what_they_read,
    questions_are_answered_and_changes_refused,
    commit_is_all_or_nothing,
    hosts_commit_at_once_and_lose_nothing,
    foreign_host_is_seen_through_no_table,
    losses_of_a_foreign_host_are_not_named,
    series_of_a_foreign_host_are_not_selected,
    nothing_but_questions_over_the_tables_is_answered,
    question_for_more_memory_than_there_is_is_refused,
];
