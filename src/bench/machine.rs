//! What the numbers were measured on.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::device::cpu::simd::Level;

/// Facts about this machine that a speed depends on.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// The processor's name as the system gives it.
    pub cpu: String,
    /// Architecture and operating system, as `x86_64-linux`.
    pub platform: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Vector instructions that our kernels use: `avx512`, `avx2` or `scalar`.
    pub simd: &'static str,
    /// Programs that wanted a processor in the minute before the bench, on average, if known.
    pub load: Option<f64>,
    /// Size of the last-level cache in bytes.
    pub l3_bytes: usize,
    /// When, in UTC, as `2025-01-31T12:00:00Z`.
    pub date: String,
}

impl Machine {
    /// Asks the system.
    pub fn detect() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Machine {
            cpu: cpu_name().unwrap_or_else(|| "unknown processor".into()),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
            simd: Level::best().name(),
            load: load(),
            l3_bytes: last_level_cache().unwrap_or(32 << 20),
            date: utc(now),
        }
    }
}

fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The average of the last minute, where there is Linux.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The largest cache that Linux lists for the first processor.
fn last_level_cache() -> Option<usize> {
    let size = |entry: fs::DirEntry| -> Option<usize> {
        let text = fs::read_to_string(entry.path().join("size")).ok()?;
        let text = text.trim();
        let digits = text.trim_end_matches(['K', 'M']);
        let unit = if text.ends_with('M') { 1 << 20 } else { 1 << 10 };
        Some(digits.parse::<usize>().ok()? * unit)
    };
    fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?.flatten().filter_map(size).max()
}

/// Seconds since 1970 as ISO 8601 (days to a date: Howard Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    // Months count from March, so that the leap day comes last.
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(super::utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(super::utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(super::utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(super::utc(4_102_444_800), "2100-01-01T00:00:00Z");
    }
}
