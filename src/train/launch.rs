//! Which of several training processes this one is, found in the variables that launchers set.
//!
//! | launcher | rank | world | local rank |
//! | --- | --- | --- | --- |
//! | `torchrun` | `RANK` | `WORLD_SIZE` | `LOCAL_RANK` |
//! | `mpirun` (Open MPI) | `OMPI_COMM_WORLD_RANK` | `OMPI_COMM_WORLD_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK` |
//! | `srun` (Slurm) | `SLURM_PROCID` | `SLURM_STEP_NUM_TASKS` | `SLURM_LOCALID` |
//!
//! `mpirun` and `torchrun` themselves run under Slurm now and then, so their variables win over Slurm's.
//! `SLURM_NTASKS` would not do: a batch script has it too, where only one process runs.

use crate::error::{Error, Result};

/// Who started the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, or anything that sets its variables.
    Torchrun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `srun`.
    Slurm,
}

impl Launcher {
    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Torchrun => "torchrun",
            Launcher::OpenMpi => "mpirun",
            Launcher::Slurm => "srun",
        }
    }

    /// Variables of rank, world and local rank.
    fn variables(self) -> [&'static str; 3] {
        match self {
            Launcher::Torchrun => ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
            Launcher::OpenMpi => {
                ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]
            }
            Launcher::Slurm => ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
        }
    }
}

/// One process among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Number of this process, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// Number of this process among those on its machine: which GPU is its own.
    pub local_rank: usize,
    /// Who started it.
    pub launcher: Launcher,
    /// Whether all of them run on this machine, as far as the launcher tells.
    pub one_machine: bool,
    /// Words that processes of one launch share and other launches do not have, as far as the launcher tells.
    pub job: String,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Launch {
    /// Looks the variables up by `get`; `None` where nobody has set any: one process alone.
    ///
    /// # Errors
    /// `Error::Usage` with the variables that are missing, unreadable or at odds with each other.
    pub fn from_variables(get: Lookup) -> Result<Option<Self>> {
        let torchrun = Self::of(Launcher::Torchrun, get)?;
        let mpi = Self::of(Launcher::OpenMpi, get)?;
        if let (Some(a), Some(b)) = (&torchrun, &mpi)
            && (a.rank, a.world) != (b.rank, b.world)
        {
            return Err(Error::Usage(format!(
                "RANK and WORLD_SIZE say rank {} of {}, OMPI_COMM_WORLD_RANK and _SIZE say rank {} of {}: unset \
                 those of the launcher that did not start this process",
                a.rank, a.world, b.rank, b.world
            )));
        }
        match mpi.or(torchrun) {
            Some(found) => Ok(Some(found)),
            // Outside of `srun` (in a batch script, too) a rank alone means nothing.
            None if get("SLURM_STEP_NUM_TASKS").is_none() => Ok(None),
            None => Self::of(Launcher::Slurm, get),
        }
    }

    /// [`Launch::from_variables`] of this process.
    ///
    /// # Errors
    /// As there.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// What one launcher says, if it says anything.
    fn of(launcher: Launcher, get: Lookup) -> Result<Option<Self>> {
        let names = launcher.variables();
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = get(name) else { return Ok(None) };
            text.trim().parse().map(Some).map_err(|_| {
                Error::Usage(format!("{name} should be a whole number, found `{text}`: set it, or unset it"))
            })
        };
        let (rank, world) = match (number(names[0])?, number(names[1])?) {
            (None, None) => return Ok(None),
            (Some(rank), Some(world)) => (rank, world),
            (rank, _) => {
                let [there, missing] = if rank.is_some() { [0, 1] } else { [1, 0] }.map(|i| names[i]);
                return Err(Error::Usage(format!(
                    "{there} is set but {missing} is not: set both (as {} does) to train with several \
                     processes, or unset {there} to train with one",
                    launcher.name()
                )));
            }
        };
        if rank >= world {
            return Err(Error::Usage(format!(
                "{} is {rank} and {} is {world}: ranks are counted from 0, so the last is {}",
                names[0],
                names[1],
                world.saturating_sub(1)
            )));
        }
        // Without a local rank all are on one machine as far as we know.
        let local_rank = number(names[2])?.unwrap_or(rank);
        let told: Vec<String> = match launcher {
            Launcher::Torchrun => {
                &["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"][..]
            }
            Launcher::OpenMpi => &["OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE"][..],
            Launcher::Slurm => &["SLURM_JOB_ID", "SLURM_STEP_ID"][..],
        }
        .iter()
        .map(|name| get(name).unwrap_or_default())
        .collect();
        let one_machine = match launcher {
            Launcher::Torchrun => number("LOCAL_WORLD_SIZE")? == Some(world),
            Launcher::OpenMpi => number("OMPI_COMM_WORLD_LOCAL_SIZE")? == Some(world),
            Launcher::Slurm => number("SLURM_STEP_NUM_NODES")? == Some(1),
        };
        let job = format!("{} {world} {}", launcher.name(), told.join(" "));
        Ok(Some(Launch { rank, world, local_rank, launcher, one_machine, job }))
    }

    /// Which of the GPUs that this process sees is its own. A launcher that shows each process one GPU only has
    /// chosen already.
    pub fn gpu(&self, visible: usize) -> usize {
        if visible == 1 { 0 } else { self.local_rank }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::from_variables(&|name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn launchers_are_recognised() {
        let is = |pairs: &[(&str, &str)], rank, world, local, launcher| {
            let got = found(pairs).unwrap().unwrap();
            assert_eq!((got.rank, got.world, got.local_rank), (rank, world, local), "{pairs:?}");
            assert_eq!(got.launcher, launcher, "{pairs:?}");
        };
        let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "a")];
        is(&torchrun, 5, 8, 1, Launcher::Torchrun);
        is(&[("RANK", "1"), ("WORLD_SIZE", "2")], 1, 2, 1, Launcher::Torchrun);
        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            // What mpirun was started under.
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "2"),
        ];
        is(&mpi, 3, 4, 0, Launcher::OpenMpi);
        is(&[&mpi[..], &[("RANK", "3"), ("WORLD_SIZE", "4")]].concat(), 3, 4, 0, Launcher::OpenMpi);
        let slurm = [("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "6"), ("SLURM_LOCALID", "1")];
        is(&slurm, 2, 6, 1, Launcher::Slurm);
    }

    #[test]
    fn one_process_alone_is_none() {
        assert_eq!(found(&[]).unwrap(), None);
        assert_eq!(found(&[("MASTER_ADDR", "host"), ("LOCAL_RANK", "0")]).unwrap(), None);
        // A batch script, not srun.
        assert_eq!(found(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(), None);
    }

    #[test]
    fn half_set_and_contradictory_variables_are_one_sentence() {
        let refused = |pairs: &[(&str, &str)], words: &[&str]| {
            let e = found(pairs).expect_err(&format!("{pairs:?}"));
            assert!(matches!(e, Error::Usage(_)), "{e:?}");
            let e = e.to_string();
            assert!(words.iter().all(|w| e.contains(w)), "{e}");
        };
        refused(&[("WORLD_SIZE", "2")], &["WORLD_SIZE is set but RANK is not", "torchrun"]);
        refused(&[("RANK", "0")], &["RANK is set but WORLD_SIZE is not"]);
        refused(&[("OMPI_COMM_WORLD_RANK", "0")], &["OMPI_COMM_WORLD_SIZE is not", "mpirun"]);
        refused(&[("SLURM_STEP_NUM_TASKS", "2")], &["SLURM_PROCID is not"]);
        refused(&[("RANK", "two"), ("WORLD_SIZE", "2")], &["RANK", "`two`"]);
        refused(&[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK is 2", "the last is 1"]);
        refused(&[("RANK", "0"), ("WORLD_SIZE", "0")], &["WORLD_SIZE is 0"]);
        let both = [
            ("RANK", "0"),
            ("WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
        ];
        refused(&both, &["rank 0 of 2", "rank 1 of 2", "unset"]);
    }

    #[test]
    fn one_machine_is_known_from_what_launchers_count() {
        let one = |more: &[(&str, &str)]| {
            let pairs = [&[("RANK", "0"), ("WORLD_SIZE", "4")], more].concat();
            found(&pairs).unwrap().unwrap().one_machine
        };
        assert!(one(&[("LOCAL_WORLD_SIZE", "4")]));
        assert!(!one(&[("LOCAL_WORLD_SIZE", "2")]) && !one(&[]));
    }

    #[test]
    fn jobs_are_told_apart() {
        let job = |id| {
            let slurm = [
                ("SLURM_PROCID", "0"),
                ("SLURM_STEP_NUM_TASKS", "2"),
                ("SLURM_JOB_ID", id),
                ("SLURM_STEP_ID", "0"),
            ];
            found(&slurm).unwrap().unwrap().job
        };
        assert_eq!(job("17"), job("17"));
        assert_ne!(job("17"), job("18"));
    }

    #[test]
    fn a_gpu_for_each_process_of_a_machine() {
        let mut launch = found(&[("RANK", "3"), ("WORLD_SIZE", "4")]).unwrap().unwrap();
        assert_eq!((launch.gpu(8), launch.gpu(1)), (3, 0));
        launch.local_rank = 1;
        assert_eq!(launch.gpu(2), 1);
    }
}
