//! Medians, and how far to trust them.

/// Resamples behind an interval: its ends then move by less than a percent of its width from one
/// seed to the next.
const RESAMPLES: usize = 2_000;

/// The middle value, or the mean of the two middle ones; NaN of nothing.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

/// Ends of the 95 % confidence interval of the median, by the percentile bootstrap (Efron). The
/// resamples are the same on every call, so that a saved run can be judged again.
#[must_use]
pub fn interval(samples: &[f64]) -> (f64, f64) {
    if samples.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut random = SplitMix(samples.len() as u64);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut resample: Vec<f64> = (0..samples.len())
                .map(|_| samples[random.below(samples.len())])
                .collect();
            resample.sort_by(f64::total_cmp);
            middle(&resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let cut = RESAMPLES * 25 / 1_000;
    (medians[cut], medians[RESAMPLES - 1 - cut])
}

/// `over[i] / under[i]`, for samples that were taken in turns.
#[must_use]
pub fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(a, b)| a / b).collect()
}

/// Nanoseconds a packet beyond a baseline's, of rates a second that were taken in turns.
#[must_use]
pub fn beyond(rates: &[f64], baseline: &[f64]) -> Vec<f64> {
    let pairs = rates.iter().zip(baseline);
    pairs
        .map(|(rate, baseline)| 1e9 / rate - 1e9 / baseline)
        .collect()
}

fn middle(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// SplitMix64 (Steele, Lea and Flood): small, and good enough to choose resamples.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_samples_takes_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_interval_holds_the_median_and_narrows_with_more_samples() {
        let spread = |n: u32| -> Vec<f64> { (0..n).map(|i| f64::from(i % 10)).collect() };
        let (low, high) = interval(&spread(10));
        assert!(low < 4.5 && 4.5 < high && high - low > 2.0, "{low} {high}");
        let (narrow_low, narrow_high) = interval(&spread(1_000));
        assert!(narrow_high - narrow_low < (high - low) / 2.0);
        assert_eq!(interval(&[7.0, 7.0, 7.0]), (7.0, 7.0));
    }

    #[test]
    fn an_interval_covers_the_truth_about_as_often_as_it_says() {
        // Twenty samples each of a uniform distribution with median 0.5.
        let mut random = SplitMix(1);
        let covered = (0..200)
            .filter(|_| {
                let samples: Vec<f64> = (0..20)
                    .map(|_| random.below(1_000_000) as f64 / 1e6)
                    .collect();
                let (low, high) = interval(&samples);
                (low..=high).contains(&0.5)
            })
            .count();
        assert!((180..=200).contains(&covered), "{covered} of 200");
    }
}
