//! How regular a row of numbers is, as RITA measures it (activecm/rita, `analysis/beacon.go`; described in its
//! documentation as skew and dispersion).
//!
//! Of the intervals between connections, and of the sizes of connections, two things are measured:
//! - *skew* (Bowley's): with the quartiles Q1, Q2, Q3, `1 - |(Q1 + Q3 - 2 Q2) / (Q3 - Q1)|`; 1 where the quartiles are as
//!   good as equal, for then it is undefined. People come in bursts; a timer with a jitter is symmetric.
//! - *dispersion*: with the median absolute deviation from the median, `1 - MAD / limit`, at least 0. For intervals the limit
//!   is the median itself (so that a beacon of an hour with a jitter of a minute is as regular as one of a minute with a
//!   jitter of a second); RITA used to take 30 s.
//!
//! The score is the mean of both.

/// The score of these numbers, between 0 and 1, and their median. Fewer than three tell nothing: 0. The numbers are used up.
pub(super) fn score(numbers: &mut [u64]) -> (f64, u64) {
    numbers.sort_unstable();
    let typical = numbers.get(numbers.len() / 2).copied().unwrap_or(0);
    if numbers.len() < 3 {
        return (0.0, typical);
    }
    let (low, middle, high) = (quantile(numbers, 1), quantile(numbers, 2), quantile(numbers, 3));
    let spread = high - low;
    let skew = if spread > 0.0 && middle > low && middle < high {
        (low + high - 2.0 * middle) / spread
    } else {
        0.0
    };
    for number in &mut *numbers {
        *number = rounded((to_float(*number) - middle).abs());
    }
    numbers.sort_unstable();
    let deviation = quantile(numbers, 2);
    let dispersion = if middle > 0.0 { (1.0 - deviation / middle).max(0.0) } else { 0.0 };
    (f64::midpoint(1.0 - skew.abs(), dispersion), typical)
}

/// A quartile of sorted numbers, between two of them where it falls there (method 7 of Hyndman and Fan).
fn quantile(sorted: &[u64], quarter: usize) -> f64 {
    let place = (sorted.len() - 1) * quarter;
    let (below, rest) = (place / 4, place % 4);
    let low = to_float(sorted[below]);
    let high = to_float(sorted[(below + 1).min(sorted.len() - 1)]);
    low + (high - low) * to_float(rest as u64) / 4.0
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of months lose less than a microsecond")]
const fn to_float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_sign_loss, reason = "it is a distance")]
const fn rounded(distance: f64) -> u64 {
    distance.round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[u64]) -> f64 {
        score(&mut numbers.to_vec()).0
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn worked_examples() {
        assert!(near(of(&[60, 60, 60, 60, 60]), 1.0), "a clock");
        // Quartiles 58, 60, 62; deviations 0, 2, 2, 4, 4: MAD 2. Skew 1, dispersion 1 - 2/60.
        assert!(near(of(&[56, 58, 60, 62, 64]), f64::midpoint(1.0, 1.0 - 2.0 / 60.0)));
        // Quartiles 1, 2, 50; deviations 0, 1, 1, 48, 98: MAD 1. Skew 1 - |(51 - 4) / 49|, dispersion 1 - 1/2.
        assert!(near(of(&[1, 1, 2, 50, 100]), f64::midpoint(1.0 - 47.0 / 49.0, 0.5)));
        assert!(near(of(&[7, 7]), 0.0), "too few");
        assert!(near(of(&[0, 0, 0]), 0.5), "no interval at all is no clock");
    }

    proptest! {
        #[test]
        fn is_a_score(numbers in proptest::collection::vec(any::<u64>(), 0..40)) {
            prop_assert!((0.0..=1.0).contains(&of(&numbers)));
        }

        #[test]
        fn does_not_depend_on_the_order(mut numbers in proptest::collection::vec(0..1_000_000_u64, 3..40)) {
            let before = of(&numbers);
            numbers.reverse();
            prop_assert!(near(before, of(&numbers)));
        }
    }
}
