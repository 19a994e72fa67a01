//! The reference of the public data, where it is there.

use std::path::PathBuf;

use crate::random::Pcg64;
use crate::{data, score, window};

#[test]
fn random_scores_on_machine_1_6_give_the_published_vus_pr() {
    let Some(folder) = std::env::var_os("FLEETMEND_DATA") else {
        println!("NOT RUN: FLEETMEND_DATA is not set, so VUS-PR was not compared with the public reference");
        return;
    };
    let datasets = data::find(&PathBuf::from(folder).join("anomaly/smd")).unwrap();
    let series = datasets[0].read("machine-1-6").unwrap();
    let whole: Vec<f64> = series
        .train
        .column(0)
        .into_iter()
        .chain(series.test.column(0))
        .collect();
    assert_eq!(window::vus_window(&whole), 15);
    let mut random = Pcg64::numpy_zero();
    let scores: Vec<f64> = (0..series.test.len()).map(|_| random.uniform()).collect();
    let found = score::vus_pr(&series.label, &scores, 15);
    assert!((found - 0.165_238_476_508_236).abs() < 1e-9, "{found}");
}
