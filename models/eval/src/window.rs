//! Periods of a series: the window of VUS-PR, and the length of a day.

/// Lags that are looked at, and the longest series for it, as TSB-AD has them.
const LAGS: usize = 400;
const WINDOWS_MAX: usize = 20_000;
const FIRST_LAG: usize = 3;
/// TSB-AD's window where no period is found.
const DEFAULT: usize = 125;

/// TSB-AD's `find_length_rank(series, rank=1)`: the lag of the highest local maximum of the autocorrelation.
/// TSB-AD applies it to the first metric of the whole series, train and test.
pub(crate) fn vus_window(series: &[f64]) -> usize {
    let series = series.get(..WINDOWS_MAX.min(series.len())).unwrap_or_default();
    let correlation = autocorrelation(series, LAGS);
    let from = correlation.get(FIRST_LAG..).unwrap_or_default();
    let peaks = from
        .windows(3)
        .enumerate()
        .filter_map(|(index, three)| match three {
            [before, peak, after] if peak > before && peak > after => Some((index + 1, *peak)),
            _ => None,
        });
    match peaks.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((lag, _)) if (3..=300).contains(&lag) => lag + FIRST_LAG,
        _ => DEFAULT,
    }
}

/// Biased autocorrelation for lags 0 to `lags`.
fn autocorrelation(series: &[f64], lags: usize) -> Vec<f64> {
    let mean = series.iter().sum::<f64>() / series.len().max(1) as f64;
    let centred: Vec<f64> = series.iter().map(|value| value - mean).collect();
    let variance: f64 = centred.iter().map(|value| value * value).sum();
    (0..=lags.min(centred.len().saturating_sub(1)))
        .map(|lag| {
            centred
                .iter()
                .zip(centred.iter().skip(lag))
                .map(|(a, b)| a * b)
                .sum::<f64>()
                / variance
        })
        .collect()
}

/// Windows a day may have: 1 min to 1 h.
const DAYS: [usize; 7] = [1_440, 720, 288, 144, 96, 48, 24];
/// Days that must be there to believe in a period.
const DAYS_MIN: usize = 3;
/// Share of the variance that four harmonics of a day must explain.
const EXPLAINED_MIN: f64 = 0.03;
const HARMONICS: usize = 4;

/// The number of windows in a day, found on the training series alone.
pub(crate) fn windows_per_day(columns: &[Vec<f64>]) -> Option<usize> {
    let candidates = DAYS.iter().map(|day| (*day, explained(columns, *day)));
    let best = candidates.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.1 >= EXPLAINED_MIN).then_some(best.0)
}

/// Mean share of variance explained by the first harmonics of a day of `day` windows, over whole days.
fn explained(columns: &[Vec<f64>], day: usize) -> f64 {
    let mut shares = Vec::new();
    for column in columns {
        let whole = column.len() / day * day;
        if whole < DAYS_MIN * day {
            return 0.0;
        }
        let column = column.get(..whole).unwrap_or_default();
        let mean = column.iter().sum::<f64>() / whole as f64;
        let variance = column
            .iter()
            .map(|value| (value - mean) * (value - mean))
            .sum::<f64>()
            / whole as f64;
        if variance < 1e-9 {
            continue;
        }
        let mut power = 0.0;
        for harmonic in 1..=HARMONICS {
            let step = std::f64::consts::TAU * harmonic as f64 / day as f64;
            let (mut sine, mut cosine) = (0.0, 0.0);
            for (index, value) in column.iter().enumerate() {
                let (s, c) = (step * (index % day) as f64).sin_cos();
                sine += (value - mean) * s;
                cosine += (value - mean) * c;
            }
            power += 2.0 * (sine * sine + cosine * cosine) / (whole as f64 * whole as f64);
        }
        shares.push(power / variance);
    }
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_the_period_of_a_wave_and_the_default_without_one() {
        let wave: Vec<f64> = (0..5_000)
            .map(|index| (f64::from(index) * std::f64::consts::TAU / 40.0).sin())
            .collect();
        assert_eq!(vus_window(&wave), 40);
        assert_eq!(vus_window(&vec![1.0; 5_000]), DEFAULT);
        assert_eq!(vus_window(&[]), DEFAULT);
    }

    #[test]
    fn day_is_found_by_its_harmonics() {
        let daily: Vec<f64> = (0..288 * 5)
            .map(|index| (f64::from(index % 288) / 288.0 * 6.3).sin())
            .collect();
        assert_eq!(windows_per_day(&[daily]), Some(288));
        assert_eq!(windows_per_day(&[vec![0.0; 288 * 5]]), None);
    }
}
