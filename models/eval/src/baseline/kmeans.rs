//! k-means consensus as Netdata documents it: for each metric two centres in a space of differenced, smoothed and
//! lagged values, a model every three hours from the last six, eighteen models kept; a value is anomalous when all
//! of them say so, and the score is the share of metrics that are.

use crate::npy::Array;

const SMOOTH: usize = 3;
const LAGS: usize = 5;
const SIZE: usize = LAGS + 1;
const MODELS: usize = 18;
const TRAIN_H: f64 = 6.0;
const EVERY_H: f64 = 3.0;
const ROUNDS: usize = 1_000;
/// A distance beyond this share of the training range is anomalous.
const BOUND: f64 = 0.99;

type Point = [f64; SIZE];

struct Model {
    centres: [Point; 2],
    least: f64,
    most: f64,
}

/// Share of anomalous metrics in each test window.
pub(super) fn scores(train: &Array, test: &Array, windows_per_day: f64) -> Vec<f64> {
    let hours = |hours: f64| windows(hours * windows_per_day / 24.0).max(2 * SIZE);
    let mut share = vec![0.0; test.len()];
    for column in 0..train.columns {
        let history = train.column(column);
        let models = models(&points(&history), hours(TRAIN_H), hours(EVERY_H));
        let mut series: Vec<f64> = history.iter().rev().take(SMOOTH + SIZE).rev().copied().collect();
        series.extend(test.column(column));
        let points = points(&series);
        let from = points.len().saturating_sub(test.len());
        for (slot, point) in share.iter_mut().zip(points.iter().skip(from)) {
            if !models.is_empty() && models.iter().all(|model| model.anomalous(point)) {
                *slot += 1.0 / train.columns as f64;
            }
        }
    }
    share
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a small positive number of windows"
)]
fn windows(count: f64) -> usize {
    count.round() as usize
}

/// Differenced once, smoothed over three, with five lags.
fn points(series: &[f64]) -> Vec<Point> {
    let difference: Vec<f64> = series
        .iter()
        .zip(series.iter().skip(1))
        .map(|(before, value)| value - before)
        .collect();
    let smooth: Vec<f64> = difference
        .windows(SMOOTH)
        .map(|part| part.iter().sum::<f64>() / SMOOTH as f64)
        .collect();
    smooth
        .windows(SIZE)
        .filter_map(|part| part.try_into().ok())
        .collect()
}

fn models(points: &[Point], length: usize, every: usize) -> Vec<Model> {
    let mut models = Vec::new();
    let mut end = points.len();
    while models.len() < MODELS && end >= length {
        if let Some(part) = points.get(end - length..end) {
            models.push(Model::fit(part));
        }
        end = end.saturating_sub(every);
    }
    models
}

fn distance(a: &Point, b: &Point) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b) * (a - b))
        .sum::<f64>()
        .sqrt()
}

impl Model {
    fn fit(points: &[Point]) -> Self {
        let first = points.first().copied().unwrap_or_default();
        let far = points
            .iter()
            .max_by(|a, b| distance(a, &first).total_cmp(&distance(b, &first)));
        let mut centres = [first, far.copied().unwrap_or(first)];
        for _ in 0..ROUNDS {
            let mut sums = [([0.0; SIZE], 0.0); 2];
            for point in points {
                let [near, far] = &mut sums;
                let sum = if distance(point, &centres[0]) <= distance(point, &centres[1]) {
                    near
                } else {
                    far
                };
                sum.0.iter_mut().zip(point).for_each(|(sum, value)| *sum += value);
                sum.1 += 1.0;
            }
            let before = centres;
            for (centre, (sum, count)) in centres.iter_mut().zip(&sums) {
                if *count > 0.0 {
                    centre
                        .iter_mut()
                        .zip(sum)
                        .for_each(|(slot, sum)| *slot = sum / count);
                }
            }
            if centres == before {
                break;
            }
        }
        let mut model = Self {
            centres,
            least: f64::INFINITY,
            most: f64::NEG_INFINITY,
        };
        for point in points {
            let mean = model.mean_distance(point);
            model.least = model.least.min(mean);
            model.most = model.most.max(mean);
        }
        model
    }

    fn mean_distance(&self, point: &Point) -> f64 {
        (distance(point, &self.centres[0]) + distance(point, &self.centres[1])) / 2.0
    }

    fn anomalous(&self, point: &Point) -> bool {
        let range = self.most - self.least;
        let mean = self.mean_distance(point);
        if range > 0.0 {
            (mean - self.least) / range >= BOUND
        } else {
            mean > self.most + 1e-9
        }
    }
}
