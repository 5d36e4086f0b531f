//! How GPUs find each other without MPI: rank 0 leaves the words that NCCL wants in a file that all processes can
//! reach, and removes it when they are together.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::alone;
use crate::data::shard::stable_hash;
use crate::error::{Error, Result};
use crate::train::launch::Launch;

/// Between two looks for the file: what a busy network file system bears.
const LOOK: Duration = Duration::from_millis(50);
const FIRST_LINE: &str = "dreamclear rendezvous 1";

/// The file: the given one, or one among the machine's temporary files where all processes run there.
///
/// # Errors
/// If they run on several machines and no file is given.
pub fn path(launch: &Launch, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None if launch.one_machine => {
            let name = format!("dreamclear-{:016x}.rendezvous", stable_hash(launch.job.as_bytes()));
            Ok(std::env::temp_dir().join(name))
        }
        None => Err(Error::Usage(format!(
            "the {} processes cannot find each other: give --rendezvous FILE, a file that does not exist yet in a \
             folder that all machines share, or start them by `mpirun` with a build that has MPI",
            launch.world
        ))),
    }
}

/// Leaves `words` for the other processes (rank 0).
///
/// # Errors
/// If the file is there already, or cannot be written.
pub fn publish(path: &Path, launch: &Launch, words: &[u8]) -> Result<()> {
    let hex: String = words.iter().map(|b| format!("{b:02x}")).collect();
    let text = format!("{FIRST_LINE}\n{}\n{hex}\n", launch.job);
    // A link appears with all its bytes or not at all, and never replaces what is there.
    let whole = path.with_extension(format!("{}.part", std::process::id()));
    let write = |file: &Path| {
        let mut file = fs::File::create(file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    let linked = write(&whole).and_then(|()| fs::hard_link(&whole, path));
    let _ = fs::remove_file(&whole);
    linked.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => Error::Usage(format!(
            "{} is there already, from a run that is starting or that ended early: remove it, or give another \
             --rendezvous",
            path.display()
        )),
        _ => Error::io("write", path, e),
    })
}

/// Waits for what rank 0 leaves. A file of another launch is not taken for it.
///
/// # Errors
/// If it does not come, or cannot be read.
pub fn fetch(path: &Path, launch: &Launch, patience: Duration) -> Result<Vec<u8>> {
    let start = Instant::now();
    loop {
        match fs::read_to_string(path) {
            Ok(text) => {
                if let Some(words) = of_this_launch(&text, launch) {
                    return Ok(words);
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", path, e)),
        }
        if start.elapsed() > patience {
            return Err(alone(launch.rank, patience, &format!("leave {}", path.display())));
        }
        std::thread::sleep(LOOK);
    }
}

fn of_this_launch(text: &str, launch: &Launch) -> Option<Vec<u8>> {
    let mut lines = text.lines();
    if lines.next()? != FIRST_LINE || lines.next()? != launch.job {
        return None;
    }
    let hex = lines.next()?;
    (0..hex.len() / 2).map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

/// Takes the file away when all have read it (rank 0).
pub fn remove(path: &Path) {
    // Another file system's user may have tidied up; a file that stays is refused by the next run.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::launch::Launcher;

    fn launch(rank: usize, job: &str) -> Launch {
        let launcher = Launcher::Torchrun;
        Launch { rank, world: 2, local_rank: rank, launcher, one_machine: true, job: job.into() }
    }

    #[test]
    fn words_reach_those_who_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meet");
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || fetch(&path, &launch(1, "a"), Duration::from_secs(20)))
        };
        std::thread::sleep(Duration::from_millis(80));
        publish(&path, &launch(0, "a"), &[0, 7, 255]).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), [0, 7, 255]);
        let e = publish(&path, &launch(0, "a"), &[1]).unwrap_err().to_string();
        assert!(e.contains("is there already") && e.contains("remove it"), "{e}");
        remove(&path);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn another_launch_is_not_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meet");
        publish(&path, &launch(0, "yesterday"), &[1]).unwrap();
        let e = fetch(&path, &launch(1, "today"), Duration::from_millis(120)).unwrap_err().to_string();
        assert!(e.contains("rank 1 waited") && e.contains("at least one of them has stopped"), "{e}");
    }

    #[test]
    fn several_machines_need_a_file() {
        let here = launch(0, "a");
        assert_eq!(path(&here, None).unwrap(), path(&launch(1, "a"), None).unwrap());
        assert_ne!(path(&here, None).unwrap(), path(&launch(0, "b"), None).unwrap());
        let e = path(&Launch { one_machine: false, ..here.clone() }, None).unwrap_err().to_string();
        assert!(e.contains("--rendezvous FILE"), "{e}");
        assert_eq!(path(&here, Some(Path::new("/x/y"))).unwrap(), Path::new("/x/y"));
    }
}
