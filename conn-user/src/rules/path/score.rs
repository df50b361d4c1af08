//! How regular a row of numbers is, as RITA measures it (activecm/rita v5, `analysis/beacons.go`, `calculateStatisticalScore`).
//!
//! Of the intervals between connections, and of the sizes of connections, two things are measured:
//! - *skew* (Bowley's): with the quartiles Q1, Q2, Q3, `1 - |(Q1 + Q3 - 2 Q2) / (Q3 - Q1)|`. People come in bursts; a timer with
//!   a jitter is symmetric. Q1 and Q3 are the medians of the halves, without the number in the middle. It is 1 where Q2 is one of
//!   the others, or they are so close that their places are chance.
//! - *dispersion*: with the median absolute deviation from the median, `1 - MAD / median`, at least 0: a beacon of an hour with a
//!   jitter of a minute is as regular as one of a minute with a jitter of a second.
//!
//! The score is the mean of both. How close is too close RITA says in numbers: less than ten apart, of seconds or bytes. So do we where
//! the median is sixty or more; below, it is a sixth of the median, else bursts within ten seconds would have no skew at all.

/// The score of these numbers, between 0 and 1, and their median. Fewer than three report nothing: 0. Quartiles that are less than
/// `negligible` apart have no skew, nor those that are less than a sixth of the median apart, if that is less. The numbers are used up.
pub(super) fn score(numbers: &mut [u64], negligible: u64) -> (f64, u64) {
    numbers.sort_unstable();
    let typical = numbers.get(numbers.len() / 2).copied().unwrap_or(0);
    if numbers.len() < 3 {
        return (0.0, typical);
    }
    let half = numbers.len() / 2;
    let twice_middle = twice_median(numbers);
    let (low, middle, high) = (
        halved(twice_median(&numbers[..half])),
        halved(twice_middle),
        halved(twice_median(&numbers[numbers.len() - half..])),
    );
    let spread = high - low;
    let is_skewed = middle > low && middle < high && spread >= to_float(negligible).min(middle / 6.0);
    // The quotient of such numbers may be more than 1 by its last digit.
    let skew = if is_skewed { ((low + high - 2.0 * middle) / spread).abs().min(1.0) } else { 0.0 };
    for number in &mut *numbers {
        *number = number.saturating_mul(2).abs_diff(twice_middle);
    }
    numbers.sort_unstable();
    let deviation = halved(twice_median(numbers)) / 2.0;
    let dispersion = if middle > 0.0 { (1.0 - deviation / middle).max(0.0) } else { 0.0 };
    (f64::midpoint(1.0 - skew, dispersion), typical)
}

/// Twice the median of sorted numbers, of which there is one: whole, also where it is between two of them.
fn twice_median(sorted: &[u64]) -> u64 {
    sorted[(sorted.len() - 1) / 2].saturating_add(sorted[sorted.len() / 2])
}

const fn halved(twice: u64) -> f64 {
    to_float(twice) / 2.0
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of months lose less than a microsecond")]
const fn to_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[u64]) -> f64 {
        score(&mut numbers.to_vec(), 10).0
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn worked_examples() {
        assert!(near(of(&[60, 60, 60, 60, 60]), 1.0), "a clock");
        // Halves 56, 58 and 62, 64: quartiles 57, 60, 63, no skew; deviations 0, 2, 2, 4, 4: MAD 2. Dispersion 1 - 2/60.
        assert!(near(of(&[56, 58, 60, 62, 64]), f64::midpoint(1.0, 1.0 - 2.0 / 60.0)));
        // Quartiles 1, 2, 75; deviations 0, 1, 1, 48, 98: MAD 1. Skew 1 - |(76 - 4) / 74|, dispersion 1 - 1/2.
        assert!(near(of(&[1, 1, 2, 50, 100]), f64::midpoint(1.0 - 72.0 / 74.0, 0.5)));
        // An even number: halves 10, 20, 30 and 45, 70, 100, so 20, 37.5, 70; skew 1 - 15/50. Deviations 7.5, 7.5, 17.5, 27.5,
        // 32.5, 62.5: MAD 22.5. Dispersion 1 - 22.5/37.5 = 0.4.
        assert!(near(of(&[10, 20, 30, 45, 70, 100]), 0.55));
        // Two values in turn are symmetric, and far from their median: 70, MAD 30.
        assert!(near(of(&[40, 100, 40, 100, 40, 100]), f64::midpoint(1.0, 1.0 - 30.0 / 70.0)));
        // The median is the first quartile, too: no skew, however far the third is.
        assert!(near(of(&[60, 60, 60, 60, 600, 600]), 1.0));
        assert!(near(of(&[7, 7]), 0.0), "too few");
        assert!(near(of(&[0, 0, 0]), 0.5), "no interval at all is no clock");
    }

    /// Quartiles 56.5, 60, 62 are less than ten apart; of ten times as much they are not, and have a skew of 15/55.
    #[test]
    fn quartiles_that_are_close_have_no_skew() {
        let (close, far) = ([55, 58, 60, 61, 63], [550, 580, 600, 610, 630]);
        let dispersion = 1.0 - 2.0 / 60.0;
        assert!(near(of(&close), f64::midpoint(1.0, dispersion)));
        assert!(near(of(&far), f64::midpoint(1.0 - 15.0 / 55.0, dispersion)));
        // The same in milliseconds, of 0.6 s: a sixth of that is more than 55 ms, and less than the skew of a burst.
        let of_millis = |numbers: &[u64]| score(&mut numbers.to_vec(), 10_000).0;
        assert!(near(of_millis(&far), f64::midpoint(1.0, dispersion)));
        // Quartiles 155, 3000, 50050, MAD 2840.
        let burst = f64::midpoint(1.0 - 44_205.0 / 49_895.0, 160.0 / 3_000.0);
        assert!(near(of_millis(&[150, 160, 3_000, 3_100, 97_000]), burst));
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
