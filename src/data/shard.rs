//! Splitting one batch over many processes without any of them talking to another.

use std::fmt;

use crate::{Error, Result};

/// One process's part of a batch: shard `index` of `count`, counted from 0.
///
/// An input belongs to the shard given by a hash of its name, not by its position: processes
/// that start while files are still arriving then disagree about nothing but the new files. The
/// price is a spread of about the square root of a shard's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Shard { index: 0, count: 1 }
    }
}

impl Shard {
    /// Shard `index` of `count`.
    ///
    /// # Errors
    /// `Error::Usage` unless `index < count`.
    pub fn new(index: u64, count: u64) -> Result<Self> {
        if index < count {
            return Ok(Shard { index, count });
        }
        Err(Error::Usage(format!(
            "shard {index}/{count} does not exist: shards are counted from 0, so with {count} of them give {}",
            if count > 0 { format!("0/{count} to {}/{count}", count - 1) } else { "at least one".into() }
        )))
    }

    /// Reads `I/N` (counted from 0) or `auto` (asks the environment, see [`Shard::from_env`]).
    ///
    /// # Errors
    /// `Error::Usage` naming the text or the variable that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "auto" {
            return Self::from_env(&|name| std::env::var(name).ok());
        }
        let numbers =
            text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        match numbers {
            Some((index, count)) => Self::new(index, count),
            None => Err(Error::Usage(format!("--shard expects `auto` or I/N such as 0/4, found `{text}`"))),
        }
    }

    /// Finds out which part this process is from the variables of its scheduler, looked up by
    /// `get`: Slurm arrays (times `srun` tasks within them), `srun` alone, Open MPI, PMI,
    /// torchrun, and Kubernetes indexed jobs. Without any of them: the whole batch.
    ///
    /// # Errors
    /// `Error::Usage` when a variable is not a number or its partner is missing.
    pub fn from_env(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            match get(name) {
                None => Ok(None),
                Some(text) => text.trim().parse().map(Some).map_err(|_| {
                    Error::Usage(format!("--shard auto: {name} should be a whole number, found `{text}`"))
                }),
            }
        };
        let pair = |rank: &str, size: &str| -> Result<Option<(u64, u64)>> {
            match (number(rank)?, number(size)?) {
                (Some(i), Some(n)) => Ok(Some((i, n))),
                (Some(_), None) => Err(Error::Usage(format!(
                    "--shard auto: {rank} is set but {size} is not; set it, or give --shard I/N"
                ))),
                _ => Ok(None),
            }
        };
        // SLURM_NTASKS is also set in the batch script itself, where only one process runs;
        // the STEP variable exists only under srun.
        let step = match number("SLURM_STEP_NUM_TASKS")? {
            Some(n) => number("SLURM_PROCID")?.map(|i| (i, n)),
            None => None,
        };
        if let Some((id, count)) = pair("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")? {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let stride = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let index = id.saturating_sub(first) / stride;
            let (task, tasks) = step.unwrap_or((0, 1));
            return Self::new(index * tasks + task, count * tasks);
        }
        if let Some((i, n)) = step {
            return Self::new(i, n);
        }
        for (rank, size) in [
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("PMI_RANK", "PMI_SIZE"),
            ("RANK", "WORLD_SIZE"),
            // Kubernetes tells a pod its index but not how many there are.
            ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
        ] {
            if let Some((i, n)) = pair(rank, size)? {
                return Self::new(i, n);
            }
        }
        Ok(Shard::default())
    }

    /// Whether the input of this name is this shard's work.
    pub fn holds(&self, name: &str) -> bool {
        stable_hash(name.as_bytes()) % self.count == self.index
    }

    /// How many shards there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// This shard's number, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// FNV-1a with a final mix (from MurmurHash3): the same on every machine and in every release,
/// which `std`'s hashers do not promise.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for &b in bytes {
        h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(pairs: &[(&str, &str)]) -> Result<Shard> {
        Shard::from_env(&|name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn schedulers_are_recognised() {
        let is = |pairs: &[(&str, &str)], i, n| {
            assert_eq!(env(pairs).unwrap(), Shard::new(i, n).unwrap(), "{pairs:?}")
        };
        is(&[], 0, 1);
        is(
            &[("SLURM_ARRAY_TASK_ID", "5"), ("SLURM_ARRAY_TASK_COUNT", "8"), ("SLURM_ARRAY_TASK_MIN", "1")],
            4,
            8,
        );
        let strided = [
            ("SLURM_ARRAY_TASK_ID", "30"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
            ("SLURM_ARRAY_TASK_MIN", "0"),
            ("SLURM_ARRAY_TASK_STEP", "10"),
        ];
        is(&strided, 3, 4);
        let both = [
            ("SLURM_ARRAY_TASK_ID", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "2"),
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "4"),
        ];
        is(&both, 7, 8);
        is(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")], 0, 1); // a batch script, not srun
        is(&[("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "4")], 2, 4);
        is(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "3")], 1, 3);
        is(&[("RANK", "1"), ("WORLD_SIZE", "2")], 1, 2);
        is(&[("WORLD_SIZE", "2")], 0, 1);
        is(&[("JOB_COMPLETION_INDEX", "4"), ("JOB_COMPLETIONS", "5")], 4, 5);
    }

    #[test]
    fn half_told_environments_and_bad_texts_are_refused_by_name() {
        let e = env(&[("JOB_COMPLETION_INDEX", "4")]).unwrap_err().to_string();
        assert!(e.contains("JOB_COMPLETIONS"), "{e}");
        let e = env(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err().to_string();
        assert!(e.contains("RANK") && e.contains("`x`"), "{e}");
        for text in ["", "3", "4/4", "1/0", "a/b", "-1/2"] {
            assert!(matches!(Shard::parse(text), Err(Error::Usage(_))), "{text}");
        }
        assert_eq!(Shard::parse("1/4").unwrap().to_string(), "1/4");
    }

    #[test]
    fn the_hash_never_changes() {
        // A changed hash would move inputs between shards of a job that is being resumed.
        assert_eq!(stable_hash(b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(stable_hash(b"photos/0001.jpg"), 0xc027_e29f_5189_b56d);
    }

    #[test]
    fn shards_are_balanced() {
        let mut sizes = [0; 8];
        for i in 0..8000 {
            sizes[(stable_hash(format!("img_{i:05}.jpg").as_bytes()) % 8) as usize] += 1;
        }
        assert!(sizes.iter().all(|&n| (880..=1120).contains(&n)), "{sizes:?}");
    }

    proptest! {
        #[test]
        fn every_name_has_exactly_one_shard(name in ".{0,40}", count in 1u64..40) {
            let holders = (0..count).filter(|&i| Shard::new(i, count).unwrap().holds(&name)).count();
            prop_assert_eq!(holders, 1);
        }
    }
}
