//! Samples of a running time, and whether to believe them.

use std::time::{Duration, Instant};

use crate::error::Result;

/// Relative spread from which on a row is called noisy.
pub const NOISY: f64 = 0.10;

/// No slot takes more samples than this; more tell nothing new.
const MAX_RUNS: usize = 10_000;

/// What remains of a list of times.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Median in seconds.
    pub median: f64,
    /// Minimum in seconds.
    pub min: f64,
    /// Distance of the quartiles relative to the median.
    pub spread: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Stats {
    /// Of at least one time.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(times: &[f64]) -> Self {
        let mut t = times.to_vec();
        t.sort_by(f64::total_cmp);
        let median = quantile(&t, 0.5);
        let spread = (quantile(&t, 0.75) - quantile(&t, 0.25)) / median;
        Stats { median, min: t[0], spread, samples: t.len() }
    }

    /// Whether the samples scatter too much for small differences to mean anything.
    pub fn noisy(&self) -> bool {
        !(self.spread <= NOISY)
    }
}

/// Quantile `q` of sorted numbers, interpolated linearly.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = sorted[(low + 1).min(sorted.len() - 1)];
    sorted[low] + part * (high - sorted[low])
}

/// The median of any numbers; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    if v.is_empty() { f64::NAN } else { quantile(&v, 0.5) }
}

/// Drives everything else out of the caches.
pub struct Flusher {
    memory: Vec<u8>,
}

impl Flusher {
    /// For a last-level cache of this size.
    pub fn new(cache_bytes: usize) -> Self {
        Flusher { memory: vec![1; Self::bytes(cache_bytes)] }
    }

    /// How much memory it sweeps: twice the cache, because a cache does not replace strictly.
    pub fn bytes(cache_bytes: usize) -> usize {
        2 * cache_bytes
    }

    /// Writes to every cache line.
    pub fn flush(&mut self) {
        for line in self.memory.chunks_mut(64) {
            line[0] = line[0].wrapping_add(1);
        }
        std::hint::black_box(&mut self.memory);
    }
}

/// Runs `work` once for nothing, then again and again for `seconds`, at least `min_runs` times, and
/// gives the time of each run. The caches are flushed before each run if there is a flusher.
pub fn sample(
    mut work: impl FnMut() -> Result<()>,
    seconds: f64,
    min_runs: usize,
    flusher: Option<&mut Flusher>,
) -> Result<Vec<f64>> {
    work()?;
    sample_warm(work, seconds, min_runs, flusher)
}

/// [`sample`] without the run for nothing.
pub fn sample_warm(
    mut work: impl FnMut() -> Result<()>,
    seconds: f64,
    min_runs: usize,
    mut flusher: Option<&mut Flusher>,
) -> Result<Vec<f64>> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut times = Vec::new();
    while times.len() < min_runs || (Instant::now() < end && times.len() < MAX_RUNS) {
        if let Some(f) = &mut flusher {
            f.flush();
        }
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_samples() {
        let s = Stats::of(&[4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!(s, Stats { median: 3.0, min: 1.0, spread: 2.0 / 3.0, samples: 5 });
        assert!(s.noisy());
        let calm = Stats::of(&[1.0, 1.01, 1.02, 1.0]);
        assert!(!calm.noisy());
        assert_eq!(Stats::of(&[7.0]).median, 7.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn sampling_warms_up_and_keeps_the_minimum_number_of_runs() {
        let mut runs = 0;
        let mut flusher = Flusher::new(1 << 16);
        let times = sample(
            || {
                runs += 1;
                Ok(())
            },
            1e-9,
            5,
            Some(&mut flusher),
        );
        assert_eq!(times.unwrap().len(), 5);
        assert_eq!(runs, 6);
    }

    #[test]
    fn sampling_stops_at_the_first_error() {
        let failed = sample(|| Err(crate::Error::Interrupted), 1.0, 1, None);
        assert!(matches!(failed, Err(crate::Error::Interrupted)));
    }
}
