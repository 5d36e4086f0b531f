//! A flag that asks long work to stop, and the signal handlers that raise it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// Exit code of a run stopped by Ctrl-C or SIGTERM (128 + SIGINT, what shells expect).
pub const EXIT_INTERRUPTED: i32 = 130;

/// A shared "please stop" flag. Clones see the same flag; raising it is final.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    parent: Option<Arc<AtomicBool>>,
}

impl Cancel {
    /// A flag that nobody has raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag of its own that also counts as raised once this one is: for part of the work.
    pub fn child(&self) -> Self {
        Cancel { flag: Arc::default(), parent: Some(self.flag.clone()) }
    }

    /// Asks everyone who holds a clone (or a child) to stop at the next safe place.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// Whether stopping was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst) || self.parent.as_ref().is_some_and(|p| p.load(Ordering::SeqCst))
    }

    /// `Err(Error::Interrupted)` once stopping was asked for: `cancel.check()?` at safe places.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Raises this flag on Ctrl-C, SIGTERM or SIGHUP. The second signal runs `cleanup` and ends
    /// the process at once with [`EXIT_INTERRUPTED`].
    ///
    /// SIGUSR1 raises it too, however often it comes: that is what `mpirun` hands on to its processes (on SIGTERM it
    /// kills them soon), and what batch systems can send ahead of the end of a job's time.
    ///
    /// # Errors
    /// `Error::Run` if the process already has signal handlers from here or elsewhere.
    pub fn raise_on_signals(&self, cleanup: impl Fn() + Send + 'static) -> Result<()> {
        let flag = self.flag.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                cleanup();
                std::process::exit(EXIT_INTERRUPTED);
            }
            eprintln!("stopping; press Ctrl-C again to exit at once");
        })
        .map_err(|e| Error::Run(format!("cannot listen for Ctrl-C: {e}")))?;
        #[cfg(unix)]
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, self.flag.clone())
            .map_err(|e| Error::Run(format!("cannot listen for SIGUSR1: {e}")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_flag_and_children_inherit_it() {
        let a = Cancel::new();
        let (b, child) = (a.clone(), a.child());
        assert!(a.check().is_ok());
        let sibling = a.child();
        sibling.cancel();
        assert!(sibling.is_cancelled() && !a.is_cancelled() && !child.is_cancelled());
        b.cancel();
        assert!(matches!(a.check(), Err(Error::Interrupted)));
        assert!(child.is_cancelled());
    }
}
